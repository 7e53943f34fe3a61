"""Tiles of images on a grid of half a tile: cut to train, averaged to predict.

For images larger than a network should see. The last tile of a line lies at
the edge, so that every pixel is in a tile.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax import augment
from gcl_jax.engine.arrays import Regions
from gcl_jax.errors import DataError


class Tiles(NamedTuple):
  """Tiles of images, as `Segmenter.fit` takes prepared images.

  Attributes:
    pixels: uint8[T, h, w, C].
    masks: uint8[T, h, w], their class maps.
    ids: str[T], such as "scan@16,0": the image, and the tile's first row and
      column.
  """

  pixels: Regions
  masks: Regions
  ids: np.ndarray


def corners_of(shape: tuple[int, int], tile: tuple[int, int]) -> np.ndarray:
  """First row and column of every tile of an image, int[T, 2].

  Args:
    shape: (H, W) of the image.
    tile: (h, w) of a tile.

  Raises:
    DataError: the tile does not fit into the image.
  """
  if min(tile) < 1 or any(t > s for s, t in zip(shape, tile, strict=True)):
    raise DataError(
      f"tiles of {tuple(tile)} pixels do not fit into images of {tuple(shape)}"
    )
  starts = [
    [*range(0, length - side, max(1, side // 2)), length - side]
    for length, side in zip(shape, tile, strict=True)
  ]
  return np.array([(top, left) for top in starts[0] for left in starts[1]])


def tiles_of(
  images: Any,
  masks: Any,
  rows: np.ndarray,
  ids: np.ndarray,
  tile: tuple[int, int],
) -> Tiles:
  """All tiles of some images.

  Args:
    images: uint8[N, H, W, C], a memory map too.
    masks: uint8[N, H, W], their class maps.
    rows: int[R], the images to cut.
    ids: str[N].
    tile: (h, w) of a tile, at most (H, W).
  """
  corners = corners_of(images.shape[1:3], tile)
  of = np.repeat(rows, len(corners))
  corners = np.tile(corners, (len(rows), 1))
  names = [
    f"{ids[row]}@{top},{left}"
    for row, (top, left) in zip(of.tolist(), corners.tolist(), strict=True)
  ]
  return Tiles(
    Regions(images, of, corners, tuple(tile)),
    Regions(masks, of, corners, tuple(tile)),
    np.array(names),
  )


def probabilities(
  network: Any, variables: Any, images: jax.Array, tile: tuple[int, int]
) -> jax.Array:
  """Probabilities of the classes, the mean over the tiles that hold a pixel.

  A tile is predicted as if it were a whole image; one after the other, so that
  memory does not grow with their number.

  Args:
    network: `models.unet.unet`.
    variables: params and batch_stats, in evaluation mode.
    images: float32[B, H, W, C], standardised.
    tile: (h, w) of a tile, multiples of the network's stride.

  Returns:
    float32[B, H, W, K].
  """
  corners = corners_of(images.shape[1:3], tile)
  times = np.zeros((*images.shape[1:3], 1), np.float32)
  for top, left in corners:
    times[top : top + tile[0], left : left + tile[1]] += 1

  def of_tile(corner):
    sides = (len(images), *tile, images.shape[3])
    cut = jax.lax.dynamic_slice(images, (0, *corner, 0), sides)
    logits, _ = network.segment(variables, cut)
    return jax.nn.softmax(logits)

  def add(total, corner):
    found, start = of_tile(corner), (0, *corner, 0)
    found += jax.lax.dynamic_slice(total, start, found.shape)
    return jax.lax.dynamic_update_slice(total, found, start), None

  classes = jax.eval_shape(of_tile, corners[0]).shape[-1]
  total = jnp.zeros((*images.shape[:3], classes))
  return jax.lax.scan(add, total, jnp.asarray(corners))[0] / times


def predictor(
  network: Any, mean: float, std: float, tile: Sequence[int] = ()
) -> Callable[[Any, dict], jax.Array]:
  """fn(variables, batch) for a map: the class of every pixel, uint8[B, H, W].

  Args:
    network: `models.unet.unet`.
    mean, std: of the training pixels in [0, 1].
    tile: (h, w) of overlapping tiles; () predicts whole images.
  """

  def one_batch(tree, batch):
    images = augment.normalise(batch["image"], mean, std)
    if len(tile):
      scores = probabilities(network, tree, images, tuple(tile))
    else:
      scores, _ = network.segment(tree, images)
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8)

  return one_batch
