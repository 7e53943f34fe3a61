"""Warped views of images, with label maps that follow them.

Two warps of one image correspond where their places (`warp_places`) agree.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcl_jax.augment.colour import intensities, standardise
from gcl_jax.augment.filters import finish
from gcl_jax.augment.keys import colour_keys
from gcl_jax.augment.spatial import (
  sample_bilinear,
  sample_nearest,
  split_key,
  warp_places,
)


def two_warps(
  keys: jax.Array, images: jax.Array, **options
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """Two independent warps of every image.

  View v is drawn with the key fold_in(key of the image, v).

  Args:
    keys: keys[B], one per image.
    images: uint8[B, H, W, C].
    **options: those of `warp`.

  Returns:
    float32[B, 2, H, W, C]; with `cells` also the places float32[B, 2, h, w, 2].
  """
  views = [
    warp(
      jax.vmap(lambda key, v=view: jax.random.fold_in(key, v))(keys),
      images,
      **options,
    )
    for view in range(2)
  ]
  pixels = jnp.stack([view[0] for view in views], axis=1)
  if options.get("cells") is None:
    return pixels
  return pixels, jnp.stack([view[2] for view in views], axis=1)


def warp(
  keys: jax.Array,
  images: jax.Array,
  masks: jax.Array | None = None,
  *,
  brightness: float = 0.0,
  contrast: float = 0.0,
  gamma: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  grayscale: float = 0.0,
  blur: float = 0.0,
  blur_sigma: tuple[float, float] = (0.0005, 0.009),
  noise: float = 0.0,
  noise_sigma: float = 0.05,
  mean: float | Sequence[float] = 0.0,
  std: float | Sequence[float] = 1.0,
  cells: tuple[int, int] | None = None,
  **spatial,
) -> tuple[jax.Array | None, ...]:
  """One random warp of every image and of its label map.

  Pixels in [0, 1] are changed by factor, by contrast about the view's mean,
  by exponent, in saturation and in hue, in this order, and clipped to [0, 1]
  after each; then by grayscale, blur and noise. A strength or probability of 0
  leaves its change out. Images do not depend on whether masks are given.

  Args:
    keys: keys[B], one per image.
    images: uint8[B, H, W, C].
    masks: int[B, H, W] of any integer type, or None.
    brightness: factor drawn from 1 -+ brightness.
    contrast: factor drawn from 1 -+ contrast.
    gamma: exponent drawn from 1 / (1 + gamma) to 1 + gamma, uniformly in its
      logarithm.
    saturation, hue, grayscale, blur, blur_sigma, noise, noise_sigma: as in
      `crop`; saturation and hue without its probability.
    mean, std: of the pixels in [0, 1], one number or one per channel.
    cells: (h, w) of a feature grid of the view, such as the map of a network;
      with it the places of its cells are returned as well.
    **spatial: the options of `warp_places`.

  Returns:
    Images float32[B, H, W, C], (pixel - mean) / std of the changed pixels;
    masks as they were given, moved, or None. With `cells` a third:
    float32[B, h, w, 2], the places of the cells' centres, (row, column) in
    pixels of the original image, from the map that moved the pixels.

  Raises:
    ValueError: arrays of other shapes or types; options out of range.
  """
  check_arrays(images, masks)
  places = warp_places(keys, images.shape[1:3], **spatial)
  views = recolour(
    keys,
    sample_bilinear(images, places) / 255,
    brightness=brightness,
    contrast=contrast,
    gamma=gamma,
    saturation=saturation,
    hue=hue,
    grayscale=grayscale,
    blur=blur,
    blur_sigma=blur_sigma,
    noise=noise,
    noise_sigma=noise_sigma,
  )
  views = standardise(views, mean, std)
  moved = None if masks is None else sample_nearest(masks, places)
  if cells is None:
    return views, moved
  of_cells = warp_places(keys, images.shape[1:3], cells=cells, **spatial)
  return views, moved, of_cells


def recolour(
  keys: jax.Array,
  views: jax.Array,
  *,
  brightness: float = 0.0,
  contrast: float = 0.0,
  gamma: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  grayscale: float = 0.0,
  blur: float = 0.0,
  blur_sigma: tuple[float, float] = (0.0005, 0.009),
  noise: float = 0.0,
  noise_sigma: float = 0.05,
) -> jax.Array:
  """The photometric changes of `warp`, which describes the options.

  Args:
    keys: keys[B], those that drew the views.
    views: float32[B, H, W, C], pixels in [0, 1].

  Returns:
    float32[B, H, W, C] in [0, 1].

  Raises:
    ValueError: hue or blur_sigma out of range.
  """

  def one(key, pixels):
    tint_key, finish_key = colour_keys(key)
    pixels = intensities(
      split_key(key)[2],
      tint_key,
      pixels,
      brightness=brightness,
      contrast=contrast,
      gamma=gamma,
      saturation=saturation,
      hue=hue,
    )
    return finish(
      finish_key,
      pixels,
      grayscale=grayscale,
      blur=blur,
      blur_sigma=blur_sigma,
      noise=noise,
      noise_sigma=noise_sigma,
    )

  return jax.vmap(one)(keys, views)


def check_arrays(images: jax.Array, masks: jax.Array | None = None) -> None:
  """Raises a ValueError unless images are uint8[B, H, W, C], masks int."""
  if images.ndim != 4 or images.dtype != jnp.uint8:
    raise ValueError(
      f"images must be uint8[B, H, W, C], got {images.dtype}{images.shape}"
    )
  if masks is None:
    return
  integer = jnp.issubdtype(masks.dtype, jnp.integer)
  if masks.shape != images.shape[:3] or not integer:
    raise ValueError(
      f"masks must be int{list(images.shape[:3])} for images of shape "
      f"{images.shape}, got {masks.dtype}{masks.shape}"
    )
