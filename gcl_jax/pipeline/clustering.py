"""PCL's E-step: k-means on the momentum embeddings of the pool."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import Context
from gcl_jax.engine.state import State
from gcl_jax.pipeline import encoders

SMOOTHING = 10  # added to a cluster's size inside the logarithm of phi


def counts_of(config: ConfigDict, pool: int) -> list[int]:
  """PCL's numbers of clusters, with at least two images per cluster."""
  return [max(2, min(count, pool // 2)) for count in config.clusters]


def none_yet(config: ConfigDict, pool: int, total: int) -> dict[str, Any]:
  """Placeholder clusterings of the final shapes, before the first E-step."""
  counts = counts_of(config, pool)
  return dict(
    ready=jnp.float32(0),
    centroids=[jnp.zeros((k, config.head_out)) for k in counts],
    assignments=[jnp.zeros(total, jnp.int32) for _ in counts],
    densities=[jnp.ones(k) for k in counts],
  )


def every_epoch(
  context: Context,
  config: ConfigDict,
  networks: Any,
  pixels: np.ndarray,
  rows: np.ndarray,
  statistics: tuple[float, float],
) -> Callable[[State], tuple]:
  """Callback `on_every` for PCL's E-step: k-means on the momentum embeddings.

  Args:
    context: context of the stage.
    config: `clusters`, `temperature`, `batch_size`, `head_out`.
    networks: has `encoder` and `head`.
    pixels: uint8[N, H, W, C].
    rows: int[P], rows of the pool.
    statistics: mean and standard deviation of the pool's pixels in [0, 1].
  """
  embed = encoders.headed(networks.encoder, networks.head, *statistics)

  def on_every(state: State):
    teacher = state.extra["teacher"]
    tree = {
      "encoder": {
        "params": teacher["params"]["encoder"],
        "batch_stats": teacher["batch_stats"],
      },
      "head": teacher["params"]["head"],
    }
    unit = context.map(
      embed,
      tree,
      {"image": pixels[rows]},
      batch_size=config.batch_size,
      name="pcl/cluster",
      quiet=True,
    )
    clusters = _kmeans(
      unit,
      rows,
      len(pixels),
      counts_of(config, len(rows)),
      config.temperature,
      context.config.seed,
    )
    extra = {**state.extra, "clusters": clusters}
    return state.replace(extra=extra), {}, False

  return on_every


def _kmeans(unit, rows, total, counts, temperature, seed) -> dict[str, Any]:
  """Centroids, assignments and densities of each clustering.

  Density of a cluster of Z members: phi = sum of distances / (Z log(Z + 10)),
  clipped to its 10th and 90th percentile and scaled to mean `temperature`.
  """
  from sklearn import cluster

  centroids, assignments, densities = [], [], []
  for count in counts:
    fitted = cluster.KMeans(count, n_init=1, random_state=seed).fit(unit)
    centre = fitted.cluster_centers_
    centre /= np.linalg.norm(centre, axis=1, keepdims=True) + 1e-12
    distance = np.linalg.norm(unit - centre[fitted.labels_], axis=1)
    members = np.bincount(fitted.labels_, minlength=count)
    spread = np.bincount(fitted.labels_, distance, count)
    phi = spread / np.maximum(members * np.log(members + SMOOTHING), 1e-12)
    phi = np.where(members > 1, phi, phi.max())
    phi = np.clip(phi, *np.percentile(phi, (10, 90)))
    phi = temperature * phi / max(phi.mean(), 1e-12)
    label = np.zeros(total, np.int32)
    label[rows] = fitted.labels_
    centroids.append(jnp.asarray(centre, jnp.float32))
    assignments.append(jnp.asarray(label))
    densities.append(jnp.asarray(np.maximum(phi, 1e-3), jnp.float32))
  return dict(
    ready=jnp.float32(1),
    centroids=centroids,
    assignments=assignments,
    densities=densities,
  )
