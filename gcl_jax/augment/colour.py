"""Random changes of brightness, contrast and gamma, and normalisation."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


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


def jitter(
  key: jax.Array,
  pixels: jax.Array,
  *,
  brightness: float,
  contrast: float,
  probability: float,
) -> jax.Array:
  """Brightness and contrast of one image, changed in random order.

  Args:
    key: one key.
    pixels: float32[H, W, C] in [0, 1].
    brightness: factor drawn from 1 -+ brightness.
    contrast: factor drawn from 1 -+ contrast, about the mean luminance.
    probability: of changing both; otherwise the image stays as it is.

  Returns:
    float32[H, W, C] in [0, 1].
  """
  draws = jax.random.uniform(key, (4,))
  light = 1 + brightness * (2 * draws[0] - 1)
  strength = 1 + contrast * (2 * draws[1] - 1)

  def brighten(pixels):
    return jnp.clip(pixels * light, 0, 1)

  def stretch(pixels):
    centre = jnp.mean(_luminance(pixels))
    return jnp.clip(centre + strength * (pixels - centre), 0, 1)

  one_way, other_way = stretch(brighten(pixels)), brighten(stretch(pixels))
  changed = jnp.where(draws[2] < 0.5, one_way, other_way)
  return jnp.where(draws[3] < probability, changed, pixels)


def intensities(
  key: jax.Array,
  pixels: jax.Array,
  *,
  brightness: float,
  contrast: float,
  gamma: float,
) -> jax.Array:
  """Brightness, contrast and gamma of one image, changed in this order.

  Args:
    key: one key.
    pixels: float32[H, W, C] in [0, 1].
    brightness: factor drawn from 1 -+ brightness.
    contrast: factor drawn from 1 -+ contrast, about the mean of all pixels.
    gamma: exponent drawn from 1 / (1 + gamma) to 1 + gamma, uniformly in its
      logarithm.

  Returns:
    float32[H, W, C] in [0, 1]; a strength of 0 leaves its change out.
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
  return pixels


def _luminance(pixels):
  if pixels.shape[-1] != 3:
    return pixels
  return pixels @ jnp.asarray([0.299, 0.587, 0.114])
