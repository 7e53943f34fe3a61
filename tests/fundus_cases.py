"""Spots of the fundus phantom for tests."""

import numpy as np

from gcl_jax.data.phantoms import fundus_spots


def round_spots(kind, y, x, radius, strength=0.8) -> fundus_spots.Spots:
  """Round spots with sharp edges."""
  count = len(kind)
  return fundus_spots.Spots(
    np.array(kind),
    np.array(y),
    np.array(x),
    np.full(count, radius),
    stretch=np.ones(count),
    angle=np.zeros(count),
    softness=np.full(count, 0.1),
    strength=np.full(count, strength),
  )
