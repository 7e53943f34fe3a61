"""One stage per arm: an encoder pre-trained on the pool without class maps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import Context
from gcl_jax.engine.state import State, create
from gcl_jax.engine.train import Training, batch_of
from gcl_jax.errors import DataError
from gcl_jax.methods.gcl import arms, rules
from gcl_jax.methods.gcl.branches import SHARED, Contrast, Networks, Pixels
from gcl_jax.methods.gcl.steps import pretrain_step
from gcl_jax.models import heads
from gcl_jax.models.unet import pixel_projection
from gcl_jax.pipeline import label_draws, sampling
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.segmentation import make_unet, views_of
from gcl_jax.pipeline.slice_pretraining import fit, optimizer_of, pool_of


def run(context: Context, arm: str) -> dict[str, Any]:
  """Pre-trains the encoder of one arm.

  Returns:
    `encoder`: {"params", "batch_stats"}, each {"encoder": ...}, no heads.
  """
  images, config = Prepared(context), context.config
  label_draws.check_labels(images, config.segment)
  settings = arms.settings_of(config, arm)
  arrays = {"image": images.pixels}
  for rule in map(rules.parse, settings.labels):
    arrays[rule.text] = rules.values_of(rule, images.table)
  rows_at = sampler(images, settings, config.protocol, config.seed)
  if settings.permute:
    pool = np.flatnonzero(images.pool(config.protocol))
    arrays, rows_at = permuted(arrays, rows_at, pool, config.seed)
  size = images.pixels.shape[1:]
  trained = training(config, settings, size, images.pixel_statistics())
  state = fit(context, trained, images, arrays, rows_at, settings.steps, arm)
  variables = {
    "params": {"encoder": state.params["encoder"]},
    "batch_stats": {"encoder": state.extra["batch_stats"]},
  }
  return {"encoder": jax.tree.map(np.asarray, variables)}


def permuted(
  arrays: dict[str, np.ndarray],
  rows_at: sampling.Sampler,
  pool: np.ndarray,
  seed: int,
) -> tuple[dict[str, np.ndarray], sampling.Sampler]:
  """Gives each slice of the pool the meta labels of another one.

  All labels move together, and batches are drawn by the labels: a batch then
  has the same positive pairs, and the same contradictions between labels, as
  without the permutation, on other slices.

  Args:
    arrays: `image` and the values of every meta label, from `rules.values_of`.
    rows_at: the sampler.
    pool: int[P], the rows that pre-training may see.
    seed: of the permutation.

  Returns:
    The arrays and the sampler of the permuted slices.
  """
  place = np.arange(len(arrays["image"]))
  place[pool] = np.random.default_rng((seed, len(pool))).permutation(pool)
  moved = dict(arrays)
  for name, values in arrays.items():
    if name != "image":  # a slice keeps its own number, the second entry
      moved[name] = values.copy()
      moved[name][place, 0] = values[:, 0]
  return moved, lambda step: place[rows_at(step)]


def training(
  config: ConfigDict,
  settings: ConfigDict,
  shape: tuple[int, ...],
  statistics: tuple,
) -> Training:
  """What an arm trains; the same first encoder for every arm.

  Args:
    config: of the run.
    settings: of the arm, from `arms.settings_of`.
    shape: (H, W, C) of the slices.
    statistics: mean and standard deviation of training pixels in [0, 1].
  """
  contrast = contrast_of(config, settings)
  optimizer = optimizer_of(settings)
  gamma = None
  if settings.pacing:
    first, last = settings.pacing_range

    def gamma(step):
      return first + (last - first) * jnp.minimum(1.0, step / settings.steps)

  step = pretrain_step(
    contrast,
    optimizer,
    views=views_of(settings.views, *statistics),
    mitigator=settings.mitigator,
    level=settings.level,
    norm=settings.norm,
    cagrad_c=settings.cagrad_c,
    gamma=gamma,
  )
  columns = {rule.text: (np.float32, 2) for rule in contrast.rules}
  return Training(
    step,
    initial(contrast, settings, optimizer, shape),
    batch_of(settings.batch_size, image=(np.uint8, *shape), **columns),
  )


def contrast_of(config: ConfigDict, settings: ConfigDict) -> Contrast:
  """Models, meta labels and branches of an arm."""
  network = make_unet(config.unet, 2)  # the decoder is not trained here
  networks = Networks(
    network,
    heads.projection(settings.head_hidden, settings.head_out),
    pixel_projection(network.feature_dim, settings.head_out),
  )
  pixels = None
  if settings.pixel:
    pixels = Pixels(
      settings.pixel,
      settings.pixel_weight,
      int(settings.pixel_start * settings.steps),
      settings.theta,
      settings.rho,
      tuple(settings.pixel_negatives),
    )
  found = tuple(rules.parse(text) for text in settings.labels)
  return Contrast(
    networks, found, settings.temperature, settings.pacing == "hard", pixels
  )


def initial(
  contrast: Contrast,
  settings: ConfigDict,
  optimizer: Any,
  shape: tuple[int, ...],
) -> Callable[[jax.Array], State]:
  """key -> the state before the first step; the same encoder for every arm."""
  unet, image_head, pixel_head = contrast.networks
  names = (SHARED,)
  if settings.heads == "per_label" and contrast.rules:
    names = tuple(rule.text for rule in contrast.rules)

  def init(key):
    for_encoder, for_heads, for_pixels, for_steps = jax.random.split(key, 4)
    variables = unet.init(for_encoder, shape)
    keys = jax.random.split(for_heads, len(names))
    params = {
      "encoder": variables["params"]["encoder"],
      "head": {
        name: image_head.init(key, (unet.feature_dim,))
        for name, key in zip(names, keys, strict=True)
      },
    }
    if contrast.pixels is not None:
      params["pixel_head"] = pixel_head.init(for_pixels, (unet.feature_dim,))
    extra = {"batch_stats": variables["batch_stats"]["encoder"]}
    return create(params, optimizer, for_steps, extra)

  return init


def sampler(
  images: Prepared, settings: ConfigDict, protocol: str, seed: int
) -> sampling.Sampler:
  """The rows of every batch.

  With `patients_per_batch` P, the slices of P patients, each of them in a row,
  so that slices of one patient meet on one device (the pixel branch needs
  that); otherwise any slices of the pool, each once an epoch.

  Raises:
    DataError: fewer slices or patients than a batch needs.
  """
  pool = pool_of(images, settings, protocol)
  size, patients = settings.batch_size, settings.patients_per_batch
  if (count := len(set(images.groups[pool].tolist()))) < patients:
    raise DataError(
      f"the pre-training pool has {count} patients, fewer than the {patients}"
      " of a batch: lower --config.pretrain.patients_per_batch"
    )
  if not patients:
    return sampling.shuffled(pool, size, seed)
  return sampling.by_group(pool, images.groups[pool], size, patients, seed)
