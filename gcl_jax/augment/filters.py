"""Random grayscale, Gaussian blur and Gaussian noise of single images."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax.augment import tints


def finish(
  key: jax.Array,
  pixels: jax.Array,
  *,
  grayscale: float,
  blur: float,
  blur_sigma: tuple[float, float],
  noise: float,
  noise_sigma: float,
) -> jax.Array:
  """Grayscale, blur and noise of one image, in this order.

  Each is drawn independently of the others, and a probability of 0 leaves its
  change out.

  Args:
    key: one key.
    pixels: float32[H, W, C] in [0, 1].
    grayscale: probability of the luminance in all channels; changes nothing
      unless C is 3.
    blur: probability of a Gaussian blur.
    blur_sigma: least and greatest standard deviation of the blur, as a share
      of the image's height; drawn uniformly.
    noise: probability of Gaussian noise, independent for each pixel and
      channel.
    noise_sigma: standard deviation of the noise, in units of the pixels.

  Returns:
    float32[H, W, C] in [0, 1].

  Raises:
    ValueError: blur_sigma that is not (low, high) with 0 <= low <= high.
  """
  low, high = blur_sigma
  if not 0 <= low <= high:
    raise ValueError(f"blur_sigma must be (low, high), 0 or more: {blur_sigma}")
  draws_key, noise_key = jax.random.split(key)
  draws = jax.random.uniform(draws_key, (4,))
  if grayscale:
    grey = tints.grayscale(pixels)
    pixels = jnp.where(draws[0] < grayscale, grey, pixels)
  if blur:
    height = pixels.shape[0]
    sigma = height * (low + draws[2] * (high - low))
    radius = max(1, math.ceil(3 * high * height))
    blurred = gaussian_blur(pixels, sigma, radius)
    pixels = jnp.where(draws[1] < blur, blurred, pixels)
  if noise:
    drawn = noise_sigma * jax.random.normal(noise_key, pixels.shape)
    noisy = jnp.clip(pixels + drawn, 0, 1)
    pixels = jnp.where(draws[3] < noise, noisy, pixels)
  return pixels


def gaussian_blur(
  pixels: jax.Array, sigma: jax.Array, radius: int
) -> jax.Array:
  """Gaussian filter of an image whose edge is repeated outside.

  The kernel exp(-d^2 / (2 sigma^2)), |d| <= radius, divided by its sum, along
  rows and columns: scipy.ndimage.gaussian_filter with mode "nearest".

  Args:
    pixels: float32[H, W, C].
    sigma: standard deviation in pixels, a scalar that may be traced; below
      0.01 the image stays as it is.
    radius: half the width of the kernel in pixels, the same for every sigma.

  Returns:
    float32[H, W, C] in the range of the pixels.
  """
  height, width, _ = pixels.shape
  margins = ((radius, radius), (radius, radius), (0, 0))
  return jnp.einsum(
    "ip,pqc,jq->ijc",
    _band(height, sigma, radius),
    jnp.pad(pixels, margins, mode="edge"),
    _band(width, sigma, radius),
    precision=lax.Precision.HIGHEST,
  )


def _band(side, sigma, radius):
  """float32[side, side + 2 radius]: the kernel of every output in its row."""
  distance = np.arange(side + 2 * radius) - radius - np.arange(side)[:, None]
  near = jnp.asarray(np.abs(distance) <= radius)
  scaled = jnp.asarray(distance, jnp.float32) / jnp.maximum(sigma, 0.01)
  weights = jnp.where(near, jnp.exp(-0.5 * scaled**2), 0)
  return weights / jnp.sum(weights, axis=1, keepdims=True)
