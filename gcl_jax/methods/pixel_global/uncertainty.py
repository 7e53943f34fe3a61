"""Stage `uncertainty`: how sure the own arm is of the cells of two views.

Two views of evaluation slices, the student's dropout on, as in pre-training:
what the uncertainty of each cell is, and what is known of the cell beside it.
`measure.py` says what it goes along with.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.data import slice_geometry
from gcl_jax.engine.context import Context
from gcl_jax.losses import collapse
from gcl_jax.methods.pixel_global import arms, places, pretrain
from gcl_jax.methods.pixel_global.networks import networks_of
from gcl_jax.pipeline.prepared import Prepared

BATCH = 16  # slices at once
SAMPLED = 16  # cells of a view whose embeddings are kept
# Of the box of what tells look-alike classes apart, in pixels of the stored
# slice, bottom and right excluded.
MARKER = ("marker_top", "marker_left", "marker_bottom", "marker_right")


def run(context: Context) -> dict[str, Any]:
  """Looks at two views of up to `uncertainty.images` evaluation slices.

  Returns:
    `ids`, `groups` str[n]; float32[n, 2, L] of the cells of both views:
    `uncertainty`, `weight`, `gap` |S(P) - P| and `error`, the mean distance d
    of the matched pairs (nan without); `matches`, `classes` int[n, 2, L], the
    class `places.OUTSIDE` beyond the slice; `place` float32[n, 2, L, 2];
    `marker` float32[n, 2], its share inside the view, nan without marker;
    `border` float32[h, w]; `collapse`: `spread` and `effective_rank` of pixel
    embeddings, and `deviation` float32[D] of their dimensions; `pictures`:
    `at` int[p] positions, their `views`, and `index` and `found` of pairs.
    Without a pixel branch of matched cells, `ids` alone, empty.
  """
  images, config = Prepared(context), context.config
  settings = arms.settings_of(config, arms.OWN)
  if settings.pixel_branch != "consistency":
    return {"ids": np.array([], str)}
  rows = places.spread_rows(
    images.groups, np.flatnonzero(images.evaluation), config.uncertainty.images
  )
  cells = pretrain.cells_of(settings, images.pixels.shape[1:])
  found = context.map(
    looks(config, settings, cells, images.pixel_statistics()),
    context.load(arms.OWN),
    {"image": images.pixels[rows], "row": rows.astype(np.int32)},
    batch_size=BATCH,
    name="uncertainty",
  )
  embeddings = found.pop("embeddings")
  embeddings = embeddings.reshape(-1, embeddings.shape[-1])
  grid = found["place"].reshape(len(rows), 2, *cells, 2)
  at = np.linspace(
    0, len(rows) - 1, min(config.uncertainty.pictures, len(rows))
  )
  at = at.astype(int)
  pictures = {name: found.pop(name)[at] for name in ("views", "index", "found")}
  return found | {
    "ids": images.ids[rows],
    "groups": images.groups[rows],
    "border": np.asarray(augment.border_distance(grid)),
    "classes": places.classes_at(images.masks[rows], found["place"]),
    "marker": places.share_inside(grid, markers(images, rows, config)),
    "collapse": {
      **jax.device_get(monitors(embeddings)),
      "deviation": embeddings.std(axis=0),
    },
    "pictures": {"at": at, **pictures},
  }


@jax.jit
def monitors(embeddings: jax.Array) -> dict[str, jax.Array]:
  """`spread` and `effective_rank` of embeddings float32[N, D]."""
  return {
    "spread": collapse.spread(embeddings),
    "effective_rank": collapse.effective_rank(embeddings),
  }


def looks(
  config: ConfigDict,
  settings: ConfigDict,
  cells: tuple[int, int],
  statistics: tuple,
) -> Callable[[Any, dict], dict]:
  """fn(artifact of the own arm, batch) for a map: facts of both views' cells.

  The batch holds `image` uint8[B, H, W, C] and `row` int32[B], the slice's row
  in the data set, which with `config.seed` decides views and dropout.

  Args:
    config: of the run.
    settings: of the own arm.
    cells: (h, w) of the pixel branch's map.
    statistics: mean and standard deviation of the training pixels.
  """
  networks = networks_of(config, settings)
  options = pretrain.views_of(settings.views, *statistics)

  def one_batch(tree, batch):
    key = jax.random.key(config.seed)
    keys = augment.sample_keys(key, 0, batch["row"])
    views, where = augment.two_turned_crops(
      keys, batch["image"], cells=cells, **options
    )
    each = pretrain.forward(networks, settings, tree, views, where, keys)
    facts = [_facts(one) for one in each]
    found = jax.tree.map(lambda *both: jnp.stack(both, axis=1), *facts)
    size = (*where.shape[:2], -1, 2)
    return found | {"views": views, "place": where.reshape(size)}

  return one_batch


def _facts(one: pretrain.View) -> dict[str, jax.Array]:
  """What is kept of one view's forward pass."""
  matches = jnp.sum(one.found, axis=-1)
  targets = jax.vmap(lambda table, at: table[at])(one.targets, one.index)
  distance = 2 - 2 * jnp.einsum("bld,blkd->blk", one.moved, targets)
  total = jnp.sum(jnp.where(one.found, distance, 0.0), axis=-1)
  sampled = np.linspace(0, one.projected.shape[1] - 1, SAMPLED).astype(int)
  return {
    "uncertainty": one.uncertainty,
    "weight": one.weights,
    "gap": one.gap,
    "error": jnp.where(matches > 0, total / jnp.maximum(matches, 1), jnp.nan),
    "matches": matches,
    "embeddings": one.projected[:, sampled],
    "index": one.index,
    "found": one.found,
  }


def markers(
  images: Prepared, rows: np.ndarray, config: ConfigDict
) -> np.ndarray:
  """Edges of the markers' boxes in pixels of the prepared slices.

  Args:
    images: the prepared slices; without the columns `MARKER` there is none.
    rows: int[n].
    config: of the run.

  Returns:
    float64[n, 4], top, left, bottom, right; nan where there is no marker.
  """
  if not all(name in images.table for name in MARKER):
    return np.full((len(rows), 4), np.nan)
  target, size = tuple(config.preprocess.spacing), config.preprocess.size
  boxes = np.stack([images.table[name][rows] for name in MARKER], axis=-1)
  corners = boxes.astype(float).reshape(-1, 2, 2) - 0.5  # edges of pixels
  moved = [
    slice_geometry.moved(
      corners[k],
      images.stored_shape(row),
      slice_geometry.spacing_of(images.table, row),
      target or None,
      tuple(size),
    )
    for k, row in enumerate(rows)
  ]
  return np.stack(moved).reshape(-1, 4)
