"""Degradations of one fundus photograph: cofe-Net's, and a cataract's haze.

The model is that of the public scripts of cofe-Net (Shen et al., IEEE TMI 2021)
and SCR-Net (Li et al., MICCAI 2022), with lengths as shares of the image
height. A script that keeps the amplitude of spots in pixels makes them dark at
1024. What differs: discs blurred by a nearly flat kernel are drawn as discs
with a soft edge (`soft_disc`), the blur is a box of the kernel's width, and
pixels outside the eye get none but the blur.
"""

import jax
import jax.numpy as jnp

from gcl_jax.augment.colour import stretched
from gcl_jax.augment.degradation_fields import (
  Frame,
  box_blur,
  soft_disc,
  squared_distance,
)
from gcl_jax.augment.fundus_draws import (
  HAS,
  PIXELS,
  SPOTS,
  TINTS,
  WIDEST,
  Fundus,
  Halo,
  Haze,
  Hole,
  Spots,
  deviation_of,
)
from gcl_jax.augment.tints import saturate

# Largest channel, in [0, 1], of what lies outside the eye and inside it.
_OUTSIDE, _INSIDE = 10 / 255, 20 / 255


def apply_one(pixels: jax.Array, drawn: Fundus, where: Frame) -> jax.Array:
  """Degrades one image, or a region of one.

  Illumination, then spots, then blur; or the cataract. Mean intensity, mean
  luminance (contrast) and brightest colour (haze) are those of `pixels`.

  Args:
    pixels: float32[h, w, C] in [0, 1].
    drawn: of `draw_one`.
    where: of the pixels.

  Returns:
    float32[h, w, C] in [0, 1].
  """
  blurred, spotted, lit, hazy = jnp.asarray(HAS)[drawn.kind]
  eye = eye_of(pixels)
  found = jnp.where(lit, _illuminated(pixels, eye, drawn, where), pixels)
  bright = jnp.where(spotted, spot_field(drawn.spots, where), 0)
  found = jnp.clip(found + bright[..., None], 0, 1)
  found = pixels + eye * (found - pixels)
  blur = jnp.where(blurred, drawn.blur, 0) + jnp.where(hazy, drawn.haze.blur, 0)
  sides = jnp.stack([blur, blur]) / where.pixel
  found = box_blur(found, sides, deviation_of(WIDEST) / where.pixel)
  haze = _hazy(found, drawn.haze, where) - found
  return found + jnp.where(hazy, eye * haze, 0)


def eye_of(pixels: jax.Array) -> jax.Array:
  """float32[h, w, 1] in [0, 1]: 1 inside the eye, 0 in the dark round it.

  A ramp of the largest channel from 10 to 20 of 255; the published scripts cut
  at 20. Halo, spots and haze would else brighten the frame round the eye.
  """
  brightest = jnp.max(pixels, axis=-1, keepdims=True)
  return jnp.clip((brightest - _OUTSIDE) / (_INSIDE - _OUTSIDE), 0, 1)


def spot_amplitude(radius: jax.Array) -> jax.Array:
  """Brightness that a spot adds, k (1 - t), from its radius.

  With s = radius in pixels of 512 over 25: k = 1.56 - s and
  t = exp(-(0.5 + s) 0.3 s). It is above 0 for every radius that is drawn.

  Args:
    radius: float[...], share of the image height.

  Returns:
    float[...]: 0.068, 0.142 and 0.203 at 6, 12 and 25 pixels of 512.
  """
  share = radius * PIXELS / 25
  return (1.56 - share) * -jnp.expm1(-(0.5 + share) * 0.3 * share)


def spot_field(spots: Spots, where: Frame) -> jax.Array:
  """float32[h, w]: the brightness that all spots of an image add."""
  shown = jnp.arange(SPOTS) < spots.count
  amplitude = jnp.where(shown, spot_amplitude(spots.radii), 0)
  return sum(
    amplitude[k]
    * soft_disc(
      squared_distance(where, spots.rows[k], spots.columns[k]),
      spots.radii[k] / 2,
      spots.softness[k],
      where.pixel,
    )
    for k in range(SPOTS)
  )


def halo_field(halo: Halo, where: Frame) -> jax.Array:
  """float32[h, w] in [0, 1]: the ring outside the circle."""
  away = squared_distance(where, halo.row, halo.column)
  return 1 - soft_disc(away, halo.radius, halo.softness, where.pixel)


def hole_field(hole: Hole, where: Frame) -> jax.Array:
  """float32[h, w] in [0, 1]: the dark disc."""
  away = squared_distance(where, hole.row, hole.column)
  return soft_disc(away, hole.radius, hole.softness, where.pixel)


def haze_field(haze: Haze, where: Frame) -> jax.Array:
  """float32[h, w]: distance from the clear centre, 1 at the far eye edge."""
  away = jnp.sqrt(squared_distance(where, haze.row, haze.column))
  offset = jnp.hypot(haze.row - 0.5, (haze.column - 0.5) * where.width)
  return jnp.minimum(away / (0.5 + offset), 1)


def _illuminated(pixels, eye, drawn, where):
  """Brightness, contrast, saturation, then halo, then hole."""
  found = jnp.clip(pixels * drawn.colour.brightness, 0, 1)
  found = stretched(found, drawn.colour.contrast)
  found = saturate(found, drawn.colour.saturation)
  tint = jnp.asarray(TINTS, jnp.float32)[drawn.halo.tint]
  if pixels.shape[-1] != 3:
    tint = jnp.mean(tint)
  ring = halo_field(drawn.halo, where)[..., None]
  found = jnp.clip(found + jnp.mean(found) * tint * ring, 0, 1)
  inside = jnp.maximum(jnp.sum(eye), 1) * pixels.shape[-1]
  mean = jnp.sum(found * eye) / inside
  depth = drawn.hole.depth + drawn.hole.slope * mean
  depth = jnp.where(mean > 0.25, depth, 0)
  dark = depth * hole_field(drawn.hole, where)
  return jnp.clip(found - dark[..., None], 0, 1)


def _hazy(blurred, haze, where):
  """0.8 of the blurred image and a panel that grows from a clear centre."""
  panel = jnp.max(blurred, axis=(0, 1)) - blurred
  panel = panel * haze.strength * haze_field(haze, where)[..., None]
  found = jnp.clip(0.8 * blurred + panel, 0, 1)
  found = stretched(found, haze.colour.contrast)
  found = jnp.clip(found * haze.colour.brightness, 0, 1)
  return saturate(found, haze.colour.saturation)
