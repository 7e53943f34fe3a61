"""Two random resized crops, turned and flipped, with places of their cells.

The crop of `crop` and the rotation of `warp` as one affine map from the pixels
of a view to places in the image; the image is read there once, bilinearly.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcl_jax.augment.colour import standardise
from gcl_jax.augment.crops import sample_box
from gcl_jax.augment.keys import two_views
from gcl_jax.augment.spatial import (
  affine_places,
  sample_bilinear,
  split_key,
  turn,
)
from gcl_jax.augment.warps import check_arrays, recolour

# Least standard deviation that a view of one grey is divided by.
_LEAST_STD = 1e-4


def two_turned_crops(
  keys: jax.Array,
  images: jax.Array,
  *,
  size: tuple[int, int] | tuple[()] = (),
  crop_scale: tuple[float, float] = (0.3, 1.0),
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
  rotation: float = 15.0,
  flip_rows: float = 0.0,
  flip_columns: float = 0.5,
  per_view: bool = False,
  mean: float | Sequence[float] = 0.0,
  std: float | Sequence[float] = 1.0,
  cells: tuple[int, int] | None = None,
  **changes,
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """Two independent crops of every image, resized, turned and flipped.

  A crop lies anywhere in the image (`crops.sample_box`), is turned about its
  own centre, resized to the view and flipped (`turned_places`). Corners of a
  turned crop that lie outside the image repeat its edge. Images are read
  bilinearly without a low-pass filter: a view should not have far fewer pixels
  than its crop. Then pixels change as in `warp`.

  Args:
    keys: keys[B], one per image.
    images: uint8[B, H, W, C].
    size: rows and columns of a view; () for those of the images.
    crop_scale: least and greatest area of the crop, as a share of the image.
    crop_ratio: least and greatest width / height of the crop, relative to the
      image's own; drawn uniformly in the logarithm.
    rotation: greatest angle, in degrees, either way.
    flip_rows: probability of turning the view upside down.
    flip_columns: probability of mirroring left and right.
    per_view: standardise each view and channel by its own mean and standard
      deviation, at least 1e-4, in place of `mean` and `std`.
    mean, std: of the pixels in [0, 1], one number or one per channel.
    cells: (h, w) of a feature grid of the view, such as the map of a network;
      with it the places of its cells are returned as well.
    **changes: brightness, contrast, gamma, saturation, hue, grayscale, blur,
      blur_sigma, noise and noise_sigma of `warp`, 0 by default; blur_sigma in
      shares of the view's height.

  Returns:
    Views float32[B, 2, rows, columns, C]. With `cells` also places
    float32[B, 2, h, w, 2], (row, column) in pixels of the original image, 0
    the centre of the first, affine in the index of the cell.

  Raises:
    ValueError: images of another type or shape; options out of range.
  """
  check_arrays(images)
  view_size = tuple(size) or images.shape[1:3]
  _check_options(view_size, crop_scale, crop_ratio)

  def drawn(key):
    box_key, turn_key = jax.random.split(split_key(key)[0])
    draws = jax.random.uniform(turn_key, (3,))
    flips = draws[1:] < jnp.stack([flip_rows, flip_columns])
    angle = jnp.radians(rotation) * (2 * draws[0] - 1)
    return sample_box(box_key, crop_scale, crop_ratio), angle, flips

  def view(keys):
    maps = jax.vmap(drawn)(keys)

    def places(grid):
      whole = images.shape[1:3]
      return jax.vmap(lambda *of: turned_places(*of, whole, grid))(*maps)

    pixels = sample_bilinear(images, places(view_size)) / 255
    pixels = recolour(keys, pixels, **changes)
    if per_view:
      pixels = _standardised_alone(pixels)
    else:
      pixels = standardise(pixels, mean, std)
    return pixels if cells is None else (pixels, places(cells))

  return two_views(view, keys)


def turned_places(
  box: jax.Array,
  angle: jax.Array,
  flips: jax.Array,
  size: tuple[int, int],
  cells: tuple[int, int],
) -> jax.Array:
  """Places in the image of the cells of a crop that is turned and flipped.

  With the crop's centre c and sides e in pixels of the image, angle a, and F
  mirroring the axes that are flipped, the cell of index k of n along each axis
  lies at

      place = c + R(a) F e ((k + 1/2) / n - 1/2)

  Args:
    box: float32[4], (top, left, height, width) in shares of the image.
    angle: radians; positive turns rows (down) towards columns (right).
    flips: bool[2], whether rows and whether columns are mirrored.
    size: (H, W) of the image.
    cells: (h, w) of a feature grid of the view, or of its pixels.

  Returns:
    float32[h, w, 2], (row, column) in pixels of the image.
  """
  sides = jnp.asarray(size, jnp.float32)
  extent = box[2:] * sides
  middle = box[:2] * sides + (extent - 1) / 2
  signs = jnp.where(flips, -1, 1)
  affine = turn(angle) * (signs * extent / jnp.asarray(cells, jnp.float32))
  return affine_places(middle, affine, cells, cells)


def _standardised_alone(pixels):
  """[B, H, W, C] less its mean over H and W, divided by its deviation."""
  centred = pixels - jnp.mean(pixels, axis=(1, 2), keepdims=True)
  std = jnp.sqrt(jnp.mean(centred**2, axis=(1, 2), keepdims=True))
  return centred / jnp.maximum(std, _LEAST_STD)


def _check_options(size, scale, ratio):
  if len(size) != 2 or min(size) < 1:
    raise ValueError(f"size must be (rows, columns) or (), got {size}")
  if not 0 < scale[0] <= scale[1] <= 1:
    raise ValueError(f"crop_scale must be (low, high) in (0, 1], got {scale}")
  if not 0 < ratio[0] <= ratio[1]:
    raise ValueError(f"crop_ratio must be (low, high) above 0, got {ratio}")
