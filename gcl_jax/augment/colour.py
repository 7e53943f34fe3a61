"""Random brightness, contrast, gamma, saturation and hue; normalisation."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcl_jax.augment.tints import luminance, rotate_hue, saturate


def normalise(
  images: jax.Array,
  mean: float | Sequence[float],
  std: float | Sequence[float],
) -> jax.Array:
  """uint8[..., H, W, C] -> float32, (pixel / 255 - mean) / std.

  Args:
    images: uint8[..., C].
    mean, std: of the pixels in [0, 1], one number or one per channel.
  """
  return standardise(images.astype(jnp.float32) / 255, mean, std)


def standardise(
  pixels: jax.Array,
  mean: float | Sequence[float],
  std: float | Sequence[float],
) -> jax.Array:
  """(pixels - mean) / std of float32[..., C], one number or one per channel."""
  mean, std = (jnp.asarray(x, jnp.float32) for x in (mean, std))
  return (pixels - mean) / std


def stretched(pixels: jax.Array, factor: jax.Array) -> jax.Array:
  """Contrast about the mean luminance: mean + factor (pixel - mean), clipped.

  Args:
    pixels: float32[H, W, C] in [0, 1].
    factor: scalar; 0 gives the mean everywhere, 1 the image itself.

  Returns:
    float32[H, W, C] in [0, 1].
  """
  centre = jnp.mean(luminance(pixels))
  return jnp.clip(centre + factor * (pixels - centre), 0, 1)


def jitter(
  key: jax.Array,
  tint_key: jax.Array,
  pixels: jax.Array,
  *,
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
  probability: float,
) -> jax.Array:
  """Four changes of one image in random order: torchvision's ColorJitter.

  Args:
    key: one key, of brightness, contrast and the probability.
    tint_key: one key, of saturation, hue and their places in the order.
    pixels: float32[H, W, C] in [0, 1].
    brightness: factor drawn from 1 -+ brightness.
    contrast: factor drawn from 1 -+ contrast, about the mean luminance.
    saturation: factor drawn from max(0, 1 - saturation) to 1 + saturation.
    hue: rotation drawn from -+ hue, in turns, at most 0.5.
    probability: of all four; otherwise the image stays as it is.

  Returns:
    float32[H, W, C] in [0, 1]. Saturation and hue change nothing unless C is
    3; a strength of 0 of one of these two leaves it out.

  Raises:
    ValueError: hue outside [0, 0.5].
  """
  draws = jax.random.uniform(key, (4,))
  light = 1 + brightness * (2 * draws[0] - 1)
  strength = 1 + contrast * (2 * draws[1] - 1)

  def brighten(pixels):
    return jnp.clip(pixels * light, 0, 1)

  def stretch(pixels):
    return stretched(pixels, strength)

  tints = _tints(tint_key, pixels, saturation, hue)
  if tints:
    changed = _shuffled(pixels, [brighten, stretch], draws[2] >= 0.5, tints)
  else:  # both orders at once: the same bits as before there were tints
    one_way, other_way = stretch(brighten(pixels)), brighten(stretch(pixels))
    changed = jnp.where(draws[2] < 0.5, one_way, other_way)
  return jnp.where(draws[3] < probability, changed, pixels)


def intensities(
  key: jax.Array,
  tint_key: jax.Array,
  pixels: jax.Array,
  *,
  brightness: float,
  contrast: float,
  gamma: float,
  saturation: float,
  hue: float,
) -> jax.Array:
  """Five changes of one image, in the order of the arguments.

  Args:
    key: one key, of brightness, contrast and gamma.
    tint_key: one key, of saturation and hue.
    pixels: float32[H, W, C] in [0, 1].
    brightness: factor drawn from 1 -+ brightness.
    contrast: factor drawn from 1 -+ contrast, about the mean of all pixels.
    gamma: exponent drawn from 1 / (1 + gamma) to 1 + gamma, uniformly in its
      logarithm.
    saturation, hue: as in `jitter`.

  Returns:
    float32[H, W, C] in [0, 1]; a strength of 0 leaves its change out.

  Raises:
    ValueError: hue outside [0, 0.5].
  """
  draws = 2 * jax.random.uniform(key, (3,)) - 1
  if brightness:
    pixels = jnp.clip(pixels * (1 + brightness * draws[0]), 0, 1)
  if contrast:
    centre = jnp.mean(pixels)
    pixels = centre + (1 + contrast * draws[1]) * (pixels - centre)
    pixels = jnp.clip(pixels, 0, 1)
  if gamma:
    pixels = pixels ** jnp.exp(math.log1p(gamma) * draws[2])
  for change, _ in _tints(tint_key, pixels, saturation, hue):
    pixels = change(pixels)
  return pixels


def _tints(key, pixels, saturation, hue):
  """Pairs (change of the pixels, share in [0, 1)) of saturation and hue."""
  if not 0 <= hue <= 0.5:
    raise ValueError(f"hue must be in [0, 0.5] turns, got {hue}")
  if pixels.shape[-1] != 3:
    return []
  draws = jax.random.uniform(key, (4,))
  least = max(0.0, 1 - saturation)
  factor = least + draws[0] * (1 + saturation - least)
  turns = hue * (2 * draws[1] - 1)
  pairs = []
  if saturation:
    pairs.append((lambda pixels: saturate(pixels, factor), draws[2]))
  if hue:
    pairs.append((lambda pixels: rotate_hue(pixels, turns), draws[3]))
  return pairs


def _shuffled(pixels, pair, swapped, tints):
  """Applies a pair of changes, swapped or not, with tints put anywhere."""
  first = swapped.astype(jnp.int32)
  order = jnp.stack([first, 1 - first])
  for _, share in tints:
    order = _inserted(order, share)
  changes = pair + [change for change, _ in tints]
  for turn in range(len(changes)):
    options = jnp.stack([change(pixels) for change in changes])
    pixels = options[jnp.argmax(order == turn)]
  return pixels


def _inserted(order, share):
  """Turns int[n + 1] of n changes and a new one, put anywhere among them."""
  turn = jnp.floor(share * (len(order) + 1)).astype(order.dtype)
  return jnp.append(order + (order >= turn), turn)
