"""Random resized crops with flips and colour jitter: the views of SimCLR."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.augment.colour import jitter as jittered
from gcl_jax.augment.colour import standardise
from gcl_jax.augment.filters import finish
from gcl_jax.augment.keys import colour_keys, two_views
from gcl_jax.augment.places import cell_centres

# Rejected crops are drawn again this often, as torchvision does, before the
# whole image is taken.
_ATTEMPTS = 10


def two_crops(
  keys: jax.Array, images: jax.Array, **options
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """Two independent crops of every image.

  Args:
    keys: keys[B], one per image.
    images: uint8[B, H, W, C].
    **options: those of `crop`.

  Returns:
    float32[B, 2, H, W, C]; with `cells` also the places float32[B, 2, h, w, 2].
  """
  return two_views(lambda half: crop(half, images, **options), keys)


def crop(
  keys: jax.Array,
  images: jax.Array,
  *,
  crop_scale: tuple[float, float] = (0.2, 1.0),
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
  flip: float = 0.5,
  brightness: float = 0.4,
  contrast: float = 0.4,
  saturation: float = 0.0,
  hue: float = 0.0,
  jitter: float = 0.8,
  grayscale: float = 0.0,
  blur: float = 0.0,
  blur_sigma: tuple[float, float] = (0.0005, 0.009),
  noise: float = 0.0,
  noise_sigma: float = 0.05,
  mean: float | Sequence[float] = 0.1706,
  std: float | Sequence[float] = 0.2112,
  cells: tuple[int, int] | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """A random resized crop, flip and jitter, normalised: SimCLR's recipe.

  Crop, resize to the image's own size and flip are one bilinear resampling
  (`resized_crop`). Then, with probability `jitter`, brightness, contrast,
  saturation and hue change in random order, as in torchvision's ColorJitter;
  then grayscale, blur and noise. The defaults suit images of one channel, where
  saturation, hue and grayscale change nothing. SimCLR's on colour images are
  saturation 0.4, hue 0.1, grayscale 0.2 and blur 0.5.

  Args:
    keys: keys[B], one per image.
    images: uint8[B, H, W, C].
    crop_scale: least and greatest area of the crop, as a share of the image.
    crop_ratio: least and greatest width / height of the crop, relative to the
      image's own; drawn uniformly in the logarithm. For square images this is
      torchvision's RandomResizedCrop.
    flip: probability of a left-right flip.
    brightness: factor drawn from 1 -+ brightness.
    contrast: factor drawn from 1 -+ contrast, about the image's mean.
    saturation: factor drawn from 1 -+ saturation, not below 0, of the distance
      from the luminance; 3 channels only.
    hue: rotation drawn from -+ hue, in turns, at most 0.5; 3 channels only.
    jitter: probability of changing brightness, contrast, saturation and hue.
    grayscale: probability of grayscale; 3 channels only.
    blur: probability of a Gaussian blur.
    blur_sigma: least and greatest standard deviation of the blur, as a share
      of the image's height; drawn uniformly. By default SimCLR's 0.1 to 2 of
      224 pixels.
    noise: probability of Gaussian noise.
    noise_sigma: standard deviation of the noise, for pixels in [0, 1].
    mean, std: of the pixels in [0, 1], one number or one per channel.
    cells: (h, w) of a feature grid of the view, such as the map of a network;
      with it the places of its cells are returned as well.

  Returns:
    float32[B, H, W, C], (pixel / 255 - mean) / std of the changed pixels,
    which are in [0, 1]. With `cells` also float32[B, h, w, 2], the places of
    the cells' centres, (row, column) in pixels of the original image, from the
    box and flip that moved the pixels.

  Raises:
    ValueError: hue or blur_sigma out of range.
  """

  def view(key, image):
    crop_key, flip_key, jitter_key = jax.random.split(key, 3)
    box = sample_box(crop_key, crop_scale, crop_ratio)
    flipped = jax.random.bernoulli(flip_key, flip)
    places = cells and crop_places(box, flipped, image.shape[:2], cells)
    image = resized_crop(image, box, flipped) / 255
    tint_key, finish_key = colour_keys(key)
    image = jittered(
      jitter_key,
      tint_key,
      image,
      brightness=brightness,
      contrast=contrast,
      saturation=saturation,
      hue=hue,
      probability=jitter,
    )
    image = finish(
      finish_key,
      image,
      grayscale=grayscale,
      blur=blur,
      blur_sigma=blur_sigma,
      noise=noise,
      noise_sigma=noise_sigma,
    )
    return image, places

  views, places = jax.vmap(view)(keys, images)
  views = standardise(views, mean, std)
  return views if cells is None else (views, places)


def sample_box(
  key: jax.Array,
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> jax.Array:
  """A random crop, in shares of the image: float32[4].

  Area uniform in `scale`, log(width / height) uniform in log `ratio`,
  position uniform. The first of ten draws that fits is taken, else the whole
  image.

  Args:
    key: one key.
    scale: least and greatest area, in (0, 1].
    ratio: least and greatest width / height, both relative to the image's.

  Returns:
    (top, left, height, width), each in [0, 1].
  """
  draws = jax.random.uniform(key, (2, _ATTEMPTS + 1))
  area = scale[0] + draws[0] * (scale[1] - scale[0])
  low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
  aspect = jnp.exp(low + draws[1] * (high - low))
  height, width = jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)
  # The last pair of draws is the position, its size the one always accepted.
  height, width = height.at[-1].set(1), width.at[-1].set(1)
  first = jnp.argmax((height <= 1) & (width <= 1))
  height, width = height[first], width[first]
  top, left = draws[0, -1] * (1 - height), draws[1, -1] * (1 - width)
  return jnp.stack([top, left, height, width])


def resized_crop(
  image: jax.Array, box: jax.Array, flipped: jax.Array
) -> jax.Array:
  """Enlarges a crop to the size of the image, flipped or not; bilinear.

  Output pixel i lies at box_top H + (i + 1/2) box_height - 1/2 of the input's
  rows (likewise columns), clamped to the image's outermost pixels.

  Args:
    image: [H, W, C], any number type.
    box: float32[4], (top, left, height, width) in shares of the image.
    flipped: bool scalar, whether columns are mirrored.

  Returns:
    float32[H, W, C] in the range of the image.
  """
  top, left, height, width = box
  rows = _weights(image.shape[0], top, height)
  columns = _weights(image.shape[1], left, width)
  columns = jnp.where(flipped, columns[::-1], columns)
  return jnp.einsum(
    "ih,hwc,jw->ijc",
    rows,
    image.astype(jnp.float32),
    columns,
    precision=lax.Precision.HIGHEST,
  )


def crop_places(
  box: jax.Array,
  flipped: jax.Array,
  size: tuple[int, int],
  cells: tuple[int, int],
) -> jax.Array:
  """Places in the image of the feature cells of a resized crop.

  Args:
    box: float32[4], (top, left, height, width) in shares of the image.
    flipped: bool scalar, whether columns are mirrored.
    size: (H, W) of the image and of the view.
    cells: (h, w) of a feature grid of the view; `size` for its pixels.

  Returns:
    float32[h, w, 2], (row, column) in pixels of the image, 0 the centre of the
    first. The outermost may lie up to half a pixel outside the image, where
    `resized_crop` repeats its edge.
  """
  centres = jnp.asarray(cell_centres(size, cells))
  rows = _along(centres[..., 0], box[0], box[2], size[0])
  columns = _along(centres[..., 1], box[1], box[3], size[1])
  columns = jnp.where(flipped, columns[:, ::-1], columns)
  return jnp.stack([rows, columns], axis=-1)


def _along(position, start, extent, size):
  """Pixels of the image along one axis at positions in pixels of the view."""
  return start * size + (position + 0.5) * extent - 0.5


def _weights(size, start, extent):
  """float32[size, size]: bilinear weights of inputs (columns) per output."""
  place = jnp.arange(size)
  centre = _along(place, start, extent, size)
  centre = jnp.clip(centre, 0, size - 1)
  return jnp.maximum(1 - jnp.abs(centre[:, None] - place[None, :]), 0)
