"""Anatomy of the heart phantom: contours of a short-axis slice.

Lengths are halves of the field of view: `x` runs from -1 (left edge of the
picture) to 1, `y` from -1 (top) to 1. Angles are measured from the right edge
towards the bottom. `position` runs from 0 (base) to 1 (apex). All randomness
comes from the generator that is passed in.
"""

from typing import NamedTuple

import numpy as np

CLASSES = ("LV", "myocardium", "RV")
LV, MYOCARDIUM, RV = 1, 2, 3
PHASES = ("ED", "ES")
# Three pixels of a picture 64 wide.
_SHIFT = 3 / 32
_CAVITY, _WALL, _RV_WIDTH = 0.53, 0.20, 0.46
_ES_CAVITY, _ES_WALL, _ES_RV = 0.72, 1.35, 0.80
# Where the right ventricle ends, as a share of the way to the left apex.
_RV_END = 0.9
# A thinner crescent is not drawn: it could miss all pixels in one phase only.
_RV_LEAST = 0.25
# Radius of the RV's corners at the septum.
_CORNER = 0.06


class Anatomy(NamedTuple):
  """Properties shared by all slices and phases of a patient.

  Attributes:
    scale: size of the heart, 0.8 to 1.2.
    shift: (y, x) of the body's centre.
    rv_angle: direction from the left ventricle to the right one.
    elongation: ratio of the axes of the left ventricle, 0.9 to 1.1.
    axis: angle of its long axis.
    lobes: phase of the three-lobed deviation from an ellipse.
    apex: position of the left apex, 0.9 to 1.1.
    chest: distance of the chest wall.
    diaphragm: height of the diaphragm.
  """

  scale: float
  shift: np.ndarray
  rv_angle: float
  elongation: float
  axis: float
  lobes: float
  apex: float
  chest: float
  diaphragm: float


class Section(NamedTuple):
  """Cross-section of the heart in one slice at one phase.

  Attributes:
    centre: (y, x) of the left ventricle.
    cavity: mean radius of its blood pool.
    wall: thickness of the myocardium.
    rv_width: widest gap between septum and right free wall; 0 = no RV.
    papillary: visible share of the papillary muscles, 0 to 1.
  """

  centre: np.ndarray
  cavity: float
  wall: float
  rv_width: float
  papillary: float


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
  """Draws a patient's anatomy."""
  return Anatomy(
    scale=rng.uniform(0.8, 1.2),
    shift=rng.uniform(-_SHIFT, _SHIFT, 2),
    rv_angle=np.pi + rng.uniform(-0.2, 0.6),
    elongation=rng.uniform(0.9, 1.1),
    axis=rng.uniform(0, np.pi),
    lobes=rng.uniform(0, 2 * np.pi),
    apex=1 + rng.uniform(-0.1, 0.1),
    chest=rng.normal(0.90, 0.04),
    diaphragm=rng.normal(0.87, 0.04),
  )


def cut(
  anatomy: Anatomy, position: float, phase: str, breath: np.ndarray
) -> Section:
  """Computes the cross-section of the heart in a slice.

  With q = position / apex, at most 1, the cavity's radius is proportional to
  1 - 0.75 q^2.2 and the width of the RV to sqrt(1 - q / 0.9); the RV is left
  out where that root is under a quarter (q > 0.84). At end-systole ("ES") the
  cavity is 0.72 times as wide, the wall 1.35 times as thick and the RV 0.8
  times as wide.

  Args:
    position: 0 to 1.
    phase: "ED" or "ES"; changes sizes, not which classes are visible.
    breath: (y, x) shift of the heart in this slice's breath-hold.
  """
  depth = min(position / anatomy.apex, 1)
  crescent = np.sqrt(max(1 - depth / _RV_END, 0))
  sizes = anatomy.scale * np.array([_CAVITY, _WALL, _RV_WIDTH])
  if phase == "ES":
    sizes = sizes * (_ES_CAVITY, _ES_WALL, _ES_RV)
  return Section(
    centre=np.array([0.02, 0.16]) + anatomy.shift + breath,
    cavity=sizes[0] * (1 - 0.75 * depth**2.2),
    wall=sizes[1] * (1 - 0.25 * depth**2),
    rv_width=sizes[2] * crescent * (crescent >= _RV_LEAST),
    papillary=float(np.clip(3 - np.abs(depth - 0.58) / 0.09, 0, 1)),
  )


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """(y, x) of the pixel centres, float[H, 1] and float[1, W]."""
  y, x = ((2 * np.arange(n) + 1) / n - 1 for n in size)
  return y[:, None], x[None]


def distances(
  anatomy: Anatomy, section: Section, size: tuple[int, int]
) -> dict[str, np.ndarray]:
  """Computes the signed distance of every pixel to each contour.

  Contours: `cavity` and `epicardium` of the left ventricle, `rv` (ends at the
  epicardium) and `papillary` muscles; inf where there is none. Negative inside;
  exact on a contour, roughly Euclidean beside it: good for edges soft to a
  pixel or two.

  Returns:
    {contour: float[H, W]} in halves of the field of view.
  """
  y, x = grid(size)
  y, x = y - section.centre[0], x - section.centre[1]
  radius = _elliptic_radius(anatomy, y, x)
  epicardium = radius - section.cavity - section.wall
  right = _right_ventricle(anatomy, section, y, x)
  return {
    "cavity": radius - section.cavity,
    "epicardium": epicardium,
    "rv": _intersection(right, -epicardium),
    "papillary": _papillary_muscles(anatomy, section, y, x),
  }


def _elliptic_radius(
  anatomy: Anatomy, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
  """Radius in the metric in which the left ventricle is round."""
  along, across = _turn(y, x, anatomy.axis)
  stretch = np.sqrt(anatomy.elongation)
  radius = np.hypot(along / stretch, across * stretch)
  lobes = np.cos(3 * np.arctan2(across, along) + anatomy.lobes)
  return radius * (1 + 0.03 * lobes)


def _right_ventricle(
  anatomy: Anatomy, section: Section, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
  """A rounded triangle that reaches from behind the septum."""
  width = section.rv_width
  if not width:
    return np.full(np.broadcast_shapes(y.shape, x.shape), np.inf)
  epicardium = section.cavity + section.wall
  along, across = _turn(y, x, anatomy.rv_angle)
  # The far end reaches `width` beyond the septum; the near one is hidden.
  half = (epicardium + width) / 2
  along = along - half
  reach = epicardium * (0.62 + 0.5 * width / (anatomy.scale * _RV_WIDTH))
  taper = np.clip(1 - 0.25 * along / half, 0.5, None)
  radius = np.hypot(along / half, across / (reach * taper))
  return (radius - 1) * np.minimum(half, reach)


def _intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Signed distance to the intersection of two shapes, with rounded corners.

  Sharp corners would leave single pixels in a mask.
  """
  beyond = np.hypot(*(np.clip(d + _CORNER, 0, None) for d in (first, second)))
  return np.minimum(np.maximum(first, second), -_CORNER) + beyond


def _papillary_muscles(
  anatomy: Anatomy, section: Section, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
  """Two spots in the cavity, on the side away from the septum."""
  if not section.papillary:
    return np.full(np.broadcast_shapes(y.shape, x.shape), np.inf)
  spots = []
  for side in (-1, 1):
    angle = anatomy.rv_angle + np.pi + side * 1.05
    along, across = _turn(y, x, angle)
    along = along - 0.66 * section.cavity
    spots.append(np.hypot(along, 1.2 * across))
  return np.minimum(*spots) - 0.2 * section.cavity * section.papillary


def _turn(
  y: np.ndarray, x: np.ndarray, angle: float
) -> tuple[np.ndarray, np.ndarray]:
  """Coordinates along and across a direction."""
  c, s = np.cos(angle), np.sin(angle)
  return c * x + s * y, c * y - s * x


def class_mask(contours: dict[str, np.ndarray]) -> np.ndarray:
  """Class of every pixel, uint8[H, W]: 0 background, 1 LV, 2 myocardium, 3 RV.

  Papillary muscles count as LV, the convention of public cine data sets.
  """
  mask = np.where(contours["rv"] < 0, RV, 0)
  mask = np.where(contours["epicardium"] < 0, MYOCARDIUM, mask)
  return np.where(contours["cavity"] < 0, LV, mask).astype(np.uint8)


def surroundings(
  anatomy: Anatomy, position: float, size: tuple[int, int]
) -> dict[str, np.ndarray]:
  """Computes signed distances to the tissues around the heart except lung.

  Chest wall at the top left (`muscle`, under the skin `fat`), `liver` at the
  bottom left and `stomach` at the bottom right, both higher up towards the
  apex, `aorta` at the bottom right. They move with the patient's shift and do
  not depend on the phase.

  Returns:
    {tissue: float[H, W]} in halves of the field of view, negative inside.
  """
  y, x = grid(size)
  y, x = y - anatomy.shift[0], x - anatomy.shift[1]
  out, along = _turn(y, x, -0.7 * np.pi)
  wall = anatomy.chest - 0.12 * along**2 - out
  floor = anatomy.diaphragm - 0.22 * position - y
  return {
    "muscle": wall,
    "fat": wall + 0.17,
    "liver": floor + 0.55 * np.clip(x + 0.45, 0, None) ** 2,
    "stomach": floor + 0.12 + 1.2 * (x - 0.35) ** 2,
    "aorta": np.hypot(y - 0.83, x - 0.84) - 0.11,
  }
