"""Luminance, saturation and hue of colour images, as in torchvision.

Images of any other number of channels than 3 have no hue and no saturation:
they are their own luminance, and every change of colour leaves them as they
are.
"""

import jax
import jax.numpy as jnp
from jax import lax

# ITU-R BT.601, as in PIL's conversion to "L".
_WEIGHTS = (0.299, 0.587, 0.114)


def luminance(pixels: jax.Array) -> jax.Array:
  """0.299 R + 0.587 G + 0.114 B.

  Args:
    pixels: float[..., C].

  Returns:
    float[..., 1]; the pixels themselves, float[..., C], unless C is 3.
  """
  if pixels.shape[-1] != 3:
    return pixels
  weights = jnp.asarray(_WEIGHTS, pixels.dtype)
  # On GPUs and TPUs the default precision would round the pixels.
  return jnp.matmul(pixels, weights, precision=lax.Precision.HIGHEST)[..., None]


def saturate(pixels: jax.Array, factor: jax.Array) -> jax.Array:
  """Blends an image with its luminance: Y + factor (pixel - Y), clipped.

  Args:
    pixels: float[..., C] in [0, 1].
    factor: scalar; 0 gives the grayscale image, 1 the image itself.

  Returns:
    float[..., C] in [0, 1]; the pixels themselves unless C is 3.
  """
  if pixels.shape[-1] != 3:
    return pixels
  grey = luminance(pixels)
  return jnp.clip(grey + factor * (pixels - grey), 0, 1)


def grayscale(pixels: jax.Array) -> jax.Array:
  """The luminance in all channels, float[..., C] -> float[..., C]."""
  return jnp.broadcast_to(luminance(pixels), pixels.shape)


def rotate_hue(pixels: jax.Array, turns: jax.Array) -> jax.Array:
  """Rotates the hue of HSV; saturation and value stay as they are.

  Args:
    pixels: float[..., C] in [0, 1].
    turns: scalar, 1 for the full circle: 1/3 makes red green.

  Returns:
    float[..., C] in [0, 1]; the pixels themselves unless C is 3.
  """
  if pixels.shape[-1] != 3:
    return pixels
  value = jnp.max(pixels, axis=-1, keepdims=True)
  chroma = value - jnp.min(pixels, axis=-1, keepdims=True)
  sixths = _sixths(pixels, chroma[..., 0]) + 6 * turns
  # A channel falls from its largest value to its smallest in phases 0 to 1,
  # and rises again in 3 to 4.
  phase = (sixths[..., None] + jnp.asarray([5, 3, 1], pixels.dtype)) % 6
  share = jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
  return value - chroma * share


def _sixths(pixels, chroma):
  """The hue in sixths of the circle, red 0, green 2, blue 4; 0 for grey."""
  red, green, blue = (pixels[..., c] for c in range(3))
  safe = jnp.where(chroma > 0, chroma, 1)
  of_blue = 4 + (red - green) / safe
  of_green = 2 + (blue - red) / safe
  of_red = (green - blue) / safe
  # Not `red == value`: compilers may compute a pixel twice with other rounding,
  # and then no channel equals the maximum.
  largest_red = (red >= green) & (red >= blue)
  return jnp.where(
    largest_red, of_red, jnp.where(green >= blue, of_green, of_blue)
  )
