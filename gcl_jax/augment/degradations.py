"""Low quality made on the device: photographs of the fundus, and radiographs.

    from gcl_jax.augment import degradations, sample_keys

    keys = sample_keys(key, step, batch["index"])
    images = degradations.degrade(keys, batch["image"], probability=0.5)

What is drawn depends on the key of an image alone, not on its size or on the
batch; lengths are shares of the image height. An image degraded at 1024 pixels
and made smaller looks like the small image degraded.

Family `fundus`: each image has one of eight kinds, each as probable: the seven
combinations of blur, spots and illumination (with halo and hole) of cofe-Net,
or a cataract's haze. The publications do not say how the two are mixed; so one
image in eight is a cataract, and each of the three parts is in half of all.
Family `xray` is our own: exposure, noise, blur, veil, grid, and three pairs of
them, each as probable.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.augment import (
  fundus_degradations,
  fundus_draws,
  xray_degradations,
)
from gcl_jax.augment.degradation_fields import frame
from gcl_jax.augment.fundus_draws import Fundus
from gcl_jax.augment.xray_degradations import XRay

Degradation = Fundus | XRay
# Names of the kinds of each family, in the order of `Degradation.kind`.
KINDS = {
  "fundus": fundus_draws.KINDS,
  "xray": xray_degradations.KINDS,
}


def draw(
  keys: jax.Array, family: str = "fundus", spots: bool | None = None
) -> Degradation:
  """Draws what degrades each image.

  Args:
    keys: keys[B], one per image.
    family: "fundus" or "xray".
    spots: True draws among the kinds of `fundus` that have spots, False among
      those that have none, None among all.

  Returns:
    `Fundus` or `XRay`, its arrays with a leading B.

  Raises:
    ValueError: an unknown family, or `spots` with another one than fundus.
  """
  if family not in KINDS:
    raise ValueError(
      f"family must be one of {', '.join(KINDS)}, got {family!r}"
    )
  keys = jax.vmap(_split)(keys)[:, 0]
  if family == "fundus":
    return jax.vmap(lambda key: fundus_draws.draw_one(key, spots))(keys)
  if spots is not None:
    raise ValueError(f"family {family!r} has no spots")
  return jax.vmap(xray_degradations.draw_one)(keys)


def apply(
  images: jax.Array,
  drawn: Degradation,
  *,
  corner: jax.Array | None = None,
  size: tuple[int, int] | None = None,
) -> jax.Array:
  """Degrades images by what was drawn for them.

  Images may be regions of larger ones: with `corner` and `size` they get the
  fields that the whole images would. Statistics of an image (its mean, the mean
  inside the eye, its brightest colour) are then those of the region, and a blur
  mirrors it at its edges.

  Args:
    images: [B, h, w, C], uint8, or float from 0 to 255.
    drawn: of `draw`.
    corner: float[B, 2], (row, column) of the upper left pixel in the whole
      image; None for the upper left one of the image.
    size: (H, W) of the whole images; None for (h, w).

  Returns:
    float32[B, h, w, C] from 0 to 255.

  Raises:
    ValueError: images of another shape.
  """
  if images.ndim != 4:
    raise ValueError(f"images must be [B, h, w, C], got {images.shape}")
  fundus = isinstance(drawn, Fundus)
  family = fundus_degradations if fundus else xray_degradations
  shape = images.shape[1:3]
  whole = tuple(size or shape)
  if corner is None:
    corner = jnp.zeros((len(images), 2))

  def one(image, drawn, corner):
    pixels = image.astype(jnp.float32) / 255
    return family.apply_one(pixels, drawn, frame(shape, corner, whole)) * 255

  return jax.vmap(one)(images, drawn, corner)


def degrade(
  keys: jax.Array,
  images: jax.Array,
  *,
  family: str = "fundus",
  spots: bool | None = None,
  probability: float = 1.0,
  corner: jax.Array | None = None,
  size: tuple[int, int] | None = None,
) -> jax.Array:
  """Draws and applies; an image stays as it is with 1 - `probability`.

  The degradation of an image is that of `draw` with the same key, whatever the
  probability.

  Args:
    keys: keys[B], one per image.
    images: [B, h, w, C], uint8, or float from 0 to 255.
    family, spots: of `draw`.
    probability: that an image is degraded, in [0, 1].
    corner, size: of `apply`.

  Returns:
    float32[B, h, w, C] from 0 to 255.
  """
  drawn = draw(keys, family, spots)
  found = apply(images, drawn, corner=corner, size=size)
  if probability >= 1:
    return found

  chance = jax.vmap(lambda key: jax.random.uniform(_split(key)[1]))(keys)
  chosen = (chance < probability)[:, None, None, None]
  return jnp.where(chosen, found, images.astype(jnp.float32))


def facts(drawn: Degradation, row: int) -> tuple[str, dict[str, Any]]:
  """The kind of one image, and what was drawn for the parts that it has.

  Args:
    drawn: of `draw`, arrays on the host or the device.
    row: of the image.

  Returns:
    The name of the kind; field -> number, list of numbers or a dict of these,
    rounded to six digits behind the point.
  """
  family = fundus_draws if isinstance(drawn, Fundus) else xray_degradations
  kind = family.KINDS[int(drawn.kind[row])]
  found = {}
  for part in kind.split("+"):
    for name in family.FIELDS[part]:
      found[name] = _plain(getattr(drawn, name), row)
  if "spots" in found:
    count = found["spots"].pop("count")
    found["spots"] = {k: v[:count] for k, v in found["spots"].items()}
  return kind, found


def _plain(values, row):
  if hasattr(values, "_asdict"):
    fields = values._asdict().items()
    return {name: _plain(value, row) for name, value in fields}
  value = np.asarray(values)[row]
  if value.dtype.kind == "f":
    value = np.round(value.astype(float), 6)
  return value.tolist()


def _split(key):
  """keys[2] of one image: what is drawn; whether it is degraded at all."""
  return jax.random.split(key)
