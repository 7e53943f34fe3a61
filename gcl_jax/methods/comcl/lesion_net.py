"""The network of the lesion detector, its training tiles and its pixels."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.augment.filters import gaussian_blur
from gcl_jax.engine.arrays import Regions
from gcl_jax.engine.compile_ahead import Program, step_of
from gcl_jax.engine.train import batch_of
from gcl_jax.pipeline.segmentation import Segmenter, views_of

NO_LESIONS = ("optic_disc",)  # classes of a class map that are no lesions
SPREAD = 1 / 30  # standard deviation of the local mean, as a share of the side
GAIN = 4.0  # of the difference to the local mean


def lesions_of(masks: np.ndarray, classes: Sequence[str]) -> np.ndarray:
  """Where a class map has a lesion of any class.

  Args:
    masks: uint8[N, H, W], 0 = background, i = classes[i - 1].
    classes: names; those of `NO_LESIONS` are none.

  Returns:
    uint8[N, H, W], 1 = lesion.
  """
  kinds = [name not in NO_LESIONS for name in classes]
  return np.array([False, *kinds]).astype(np.uint8)[masks]


def balanced(masks: Regions) -> np.ndarray:
  """Rows of tiles such that about half of them, or more, hold a lesion.

  Tiles with a lesion come again as often as it takes, and every tile once at
  least. Where most tiles hold one, nothing is repeated.

  Args:
    masks: uint8[T, t, t].
  """
  some = np.array([masks[[k]].any() for k in range(len(masks))])
  with_lesion, without = np.flatnonzero(some), np.flatnonzero(~some)
  times = max(1, round(len(without) / max(1, len(with_lesion))))
  return np.concatenate([np.tile(with_lesion, times), without])


def segmenter(config: ConfigDict, mean: Sequence, sd: Sequence) -> Segmenter:
  """The U-Net of the detector and its training.

  Args:
    config: section `detector`.
    mean, sd: of the pixels of `evened` images in [0, 1], one per channel.
  """
  unet = ConfigDict(dict(widths=config.widths, dtype="float32"))
  return Segmenter(config, unet, 2, views_of(config.views, mean, sd))


def programs(
  config: ConfigDict, shape: tuple[int, int, int], statistics: tuple
) -> list[Program]:
  """The training step of the detector and its sweep, from shapes alone.

  Args:
    config: section `detector`.
    shape: (S, S, C) of the images.
    statistics: mean and standard deviation of their pixels.
  """
  made = segmenter(config, *statistics)
  tile = min(config.tile, shape[0])
  tile -= tile % made.network.stride
  fit = step_of("detect", made.training((tile, tile, shape[2])))
  variables = {
    "params": fit.tree.params,
    "batch_stats": fit.tree.extra["batch_stats"],
  }
  function = lesion_probability(made.network, *statistics)
  batch = batch_of(config.batch_size, image=(np.uint8, *shape))
  return [fit, Program("boxes", "map", function, variables, batch)]


def evened(images: jax.Array) -> jax.Array:
  """Images whose local mean is grey: 128 + 4 (x - its Gaussian blur).

  The blur's standard deviation is 1/30 of the side. Lesions are darker or
  brighter than what is round them; colour and brightness of the fundus, which
  differ between patients and cameras, go.

  Args:
    images: uint8[B, S, S, C].

  Returns:
    uint8[B, S, S, C].
  """
  spread = SPREAD * images.shape[1]
  pixels = images.astype(jnp.float32)
  local = jax.vmap(lambda one: gaussian_blur(one, spread, round(3 * spread)))
  found = 128 + GAIN * (pixels - local(pixels))
  return jnp.clip(jnp.round(found), 0, 255).astype(jnp.uint8)


def even_batch(tree: Any, batch: dict) -> jax.Array:
  """`evened` for `Context.map`."""
  return evened(batch["image"])


def lesion_probability(network: Any, mean: Sequence, sd: Sequence) -> Callable:
  """fn(variables, batch) for `Context.map`: uint8[B, S, S], 255 times the
  probability that a pixel belongs to a lesion.

  Args:
    network: `models.unet.unet`, classes no lesion and lesion.
    mean, sd: of `evened` pixels in [0, 1].
  """

  def one_batch(tree, batch):
    pixels = evened(batch["image"])
    side = pixels.shape[1]
    more = -side % network.stride  # a U-Net needs whole cells
    pixels = jnp.pad(pixels, ((0, 0), (0, more), (0, more), (0, 0)), "edge")
    logits, _ = network.segment(tree, augment.normalise(pixels, mean, sd))
    lesion = jax.nn.softmax(logits[:, :side, :side])[..., 1]
    return jnp.round(255 * lesion).astype(jnp.uint8)

  return one_batch
