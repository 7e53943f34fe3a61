"""Places of the eye phantom: one coordinate that fundus and OCT share.

A place is (u, v) from the centre of the fovea: u towards the nose, v upwards;
1 is the distance from the fovea to the centre of the optic disc. A horizontal
B-scan through the fovea shows u alone, at v = 0. A zone is where the lesions of
a disease like to lie: a weight from 0 outside to 1 in its middle. All
randomness comes from the generators that are passed in.
"""

import numpy as np

ZONES = ("fovea", "parafovea", "disc", "temporal")
ANYWHERE = ""  # in the place of a zone: the whole field
ON_SITE = 0.75  # probability that a lesion lies in the zone of its disease
DISC = (1.0, 0.06)
FIELD_CENTRE, FIELD_RADIUS = 0.1, 1.25
# Middle and half width: of the distance from the fovea, of that from the disc,
# and of u and v.
_FOVEA, _PARAFOVEA, _ROUND_DISC = (0.0, 0.37), (0.47, 0.10), (0.38, 0.12)
_TEMPORAL = (-0.86, 0.26), (0.0, 0.60)
_SPARED = 0.26  # distance from the centre of the disc without spots
_TRIES = 256


def weight(zone: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Predilection of a zone for places, 0 to 1 and above 0 in the zone alone.

  Args:
    zone: one of `ZONES`.
    u, v: arrays that broadcast.
  """
  if zone == "fovea":
    return _bump(np.hypot(u, v), *_FOVEA)
  if zone == "parafovea":
    return _bump(np.hypot(u, v), *_PARAFOVEA)
  if zone == "disc":
    return _bump(_from_disc(u, v), *_ROUND_DISC)
  if zone == "temporal":
    return _bump(u, *_TEMPORAL[0]) * _bump(v, *_TEMPORAL[1])
  raise ValueError(f"no zone {zone!r}, one of {', '.join(ZONES)}")


def inside(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Whether spots may lie there: in the field and not on the disc."""
  field = np.hypot(u - FIELD_CENTRE, v) < FIELD_RADIUS
  return field & (_from_disc(u, v) > _SPARED)


def probability(zone: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Probability that a lesion lies at each place of a grid, with sum 1.

  Args:
    zone: one of `ZONES`, or `ANYWHERE`.
    u, v: places of the grid, arrays that broadcast.
  """
  free = inside(u, v).astype(float)
  if zone == ANYWHERE:
    return free / free.sum()
  near = free * weight(zone, u, v)
  far = free * (near == 0)
  return ON_SITE * near / near.sum() + (1 - ON_SITE) * far / far.sum()


def draw_places(
  rng: np.random.Generator,
  zone: str,
  count: int,
  *,
  apart: float = 0.0,
  on_line: bool = False,
) -> np.ndarray:
  """Draws places of lesions: float[count, 2], (u, v) each.

  A lesion lies in the zone with probability `ON_SITE`, there by the weight,
  else anywhere outside the zone.

  Args:
    rng: of this image.
    zone: one of `ZONES`, or `ANYWHERE`.
    count: number of lesions.
    apart: least distance of two, as far as there is room.
    on_line: whether all have v = 0.
  """
  placed = np.zeros((0, 2))
  for on_site in rng.random(count) < ON_SITE:
    one = _draw_place(rng, zone, on_site, placed, apart, on_line)
    placed = np.concatenate([placed, one])
  return placed


def _draw_place(rng, zone, on_site, placed, apart, on_line) -> np.ndarray:
  found = placed[:0]
  while not len(found):
    tried = FIELD_RADIUS * rng.uniform(-1, 1, (_TRIES, 2))
    tried[:, 0] += FIELD_CENTRE
    tried[:, 1] *= not on_line
    chance = inside(*tried.T).astype(float)
    if zone != ANYWHERE:
      near = weight(zone, *tried.T)
      chance *= near if on_site else near == 0
    between = np.hypot(*(tried[:, None] - placed).T)
    chance *= (between > apart).all(axis=0)
    found = tried[rng.random(_TRIES) < chance][:1]
    apart *= 0.98  # where there is no room
  return found


def _from_disc(u, v) -> np.ndarray:
  return np.hypot(u - DISC[0], v - DISC[1])


def _bump(value, middle, half) -> np.ndarray:
  """1 in the middle, falling as a parabola to 0 at the half width."""
  return np.clip(1 - ((value - middle) / half) ** 2, 0, None)
