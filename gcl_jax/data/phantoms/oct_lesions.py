"""Lesions of the OCT phantom: fluid, drusen, foci, and the known severity.

Lesions are ellipsoids in the volume of an eye. A B-scan cuts some of them, so
neighbouring slices show the same lesions at different sizes. Units as in
`oct_layers`: fractions of the scan's width and height.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from gcl_jax.data.phantoms import oct_layers as layers

FLUID, DRUSEN, FOCI = KINDS = 1, 2, 3
# A druse displaces the brightest layers and a focus is the brightest spot, so
# they change a scan more than fluid of the same area.
WEIGHTS = np.array([1.0, 2.0, 2.0])
_COUNTS = np.array([21.0, 17.0, 50.0])
_HALF_AXES = np.array([[0.030, 0.036, 0.0095], [0.048, 0.054, 0.019]])
_EZ = layers.LAYERS.index("EZ") - 1
_INL = layers.LAYERS.index("INL") - 1
_ONL = layers.LAYERS.index("ONL") - 1


class Lesions(NamedTuple):
  """Parallel arrays of length L, one entry per lesion.

  Attributes:
    kind: `FLUID`, `DRUSEN` or `FOCI`.
    x, z: centre.
    depth: 0 to 1. Fluid: below 0.5 in the inner, else in the outer nuclear
      layer. Foci: from the vitreous to the ellipsoid zone.
    across, tall: half axes over width and height; a druse is half an ellipse.
    thick: half axis over z.
    onset: visit at which it appears; negative = before the first.
  """

  kind: np.ndarray
  x: np.ndarray
  z: np.ndarray
  depth: np.ndarray
  across: np.ndarray
  tall: np.ndarray
  thick: np.ndarray
  onset: np.ndarray

  def where(self, chosen: np.ndarray) -> "Lesions":
    """Returns the lesions where bool[L] `chosen` is True."""
    return Lesions(*(values[chosen] for values in self))


def draw_lesions(rng: np.random.Generator) -> Lesions:
  """Draws all lesions of a diseased eye.

  Their number is Poisson with a mean that is gamma distributed (it differs
  widely between eyes) and divided among the kinds by a Dirichlet draw; each
  kind has its own location.
  """
  load = rng.gamma(2.2, 0.45)
  mix = rng.dirichlet((0.9, 0.9, 0.9))
  counts = rng.poisson(load * mix * _COUNTS) + (mix == mix.max())
  kind = np.repeat(KINDS, counts)
  middle = rng.normal(0.5, 0.15, 3)[kind - 1]
  size = rng.lognormal(0, 0.2, kind.size)
  across, tall = _HALF_AXES[:, kind - 1] * size
  return Lesions(
    kind=kind,
    x=np.clip(rng.normal(middle, 0.18), 0.06, 0.94),
    z=rng.uniform(-1, 1, kind.size),
    depth=rng.uniform(0.15, 0.95, kind.size),
    across=across,
    tall=tall,
    thick=rng.uniform(0.4, 0.9, kind.size),
    onset=rng.uniform(-2, 1.5, kind.size),
  )


def cut(lesions: Lesions, z: float, visit: int) -> Lesions:
  """Computes the cross-sections of lesions in a slice at `z` at a visit.

  A lesion starts at 60 % of its final half axes; the remaining difference
  shrinks by a factor of 0.4 per visit.
  """
  age = visit - lesions.onset
  grown = 1 - 0.4 ** (1 + np.clip(age, 0, None))
  off = (z - lesions.z) / (lesions.thick * grown)
  scale = grown * np.sqrt(np.clip(1 - off**2, 0, None))
  seen = lesions._replace(
    across=lesions.across * scale, tall=lesions.tall * scale
  )
  return seen.where((age >= 0) & (scale > 0.4))


def areas(lesions: Lesions) -> np.ndarray:
  """Area per kind (fluid, drusen, foci) in per cent of the scan, float[3]."""
  area = 100 * np.pi * lesions.across * lesions.tall
  area = np.where(lesions.kind == DRUSEN, area / 2, area)
  return np.bincount(lesions.kind, area, 4)[1:]


def severity(lesions: Lesions) -> float:
  """Lesion load of one scan: fluid + 2 drusen + 2 foci, areas in per cent.

  0 without lesions; lesions that overlap count twice.
  """
  return float(WEIGHTS @ areas(lesions))


def bumps(lesions: Lesions, width: int) -> np.ndarray:
  """Computes the upper envelope of the lesions' half ellipses, float[W]."""
  across = layers.columns(width) - lesions.x[:, None]
  squared = (across / lesions.across[:, None]) ** 2
  height = lesions.tall[:, None] * np.sqrt(np.clip(1 - squared, 0, None))
  return height.max(axis=0, initial=0)


def swell(layer: np.ndarray, lesions: Lesions) -> np.ndarray:
  """Deforms the retinal layers float[9, W] around fluid and drusen.

  The nuclear layers thicken smoothly around fluid; the outer nuclear layer gets
  thinner above drusen.
  """
  width = layer.shape[1]
  layer = layer.copy()
  fluid = lesions.kind == FLUID
  for index, chosen in (
    (_INL, fluid & (lesions.depth < 0.5)),
    (_ONL, fluid & (lesions.depth >= 0.5)),
  ):
    room = bumps(lesions.where(chosen), width)
    layer[index] += 1.1 * ndimage.gaussian_filter1d(room, width / 50)
  druse = bumps(lesions.where(lesions.kind == DRUSEN), width)
  layer[_ONL] -= np.minimum(druse, 0.6 * layer[_ONL])
  return layer


def cover(
  lesions: Lesions, boundaries: np.ndarray, height: int
) -> dict[int, np.ndarray]:
  """Computes the cover of each pixel: {kind: float[H, W], 0 to 1}.

  Args:
    lesions: cross-sections in this scan.
    boundaries: float[11, W], rows in pixels, of the deformed layers.
    height: rows of the scan.
  """
  masks = {FLUID: np.zeros((height, boundaries.shape[1]))}
  masks[FOCI] = np.zeros_like(masks[FLUID])
  for kind, x, _, depth, across, tall, _, _ in zip(*lesions, strict=True):
    if kind in masks:
      line = _line(kind, depth, boundaries)
      ellipse = _ellipse(x, line, across, tall * height, height)
      np.maximum(masks[kind], ellipse, out=masks[kind])
  rows = np.arange(height)[:, None] + 0.5
  lifted, bruch = np.clip(rows - boundaries[-2:, None] + 0.5, 0, 1)
  return {**masks, DRUSEN: lifted - bruch}


def _ellipse(
  x: float, line: np.ndarray, across: float, tall: float, height: int
) -> np.ndarray:
  """An ellipse that follows the row `line` of each column, float[H, W].

  `tall` and `line` are in pixels; the edge is smooth to about a pixel.
  """
  rows = np.arange(height)[:, None] + 0.5
  squared = ((layers.columns(len(line)) - x) / across) ** 2
  radius = np.sqrt(squared + ((rows - line) / tall) ** 2)
  return np.clip((1 - radius) * tall + 0.5, 0, 1)


def _line(kind: int, depth: float, boundaries: np.ndarray) -> np.ndarray:
  """Row in every column on which a lesion of this depth is centred."""
  if kind == FOCI:
    return boundaries[0] + depth * (boundaries[_EZ] - boundaries[0])
  layer = _INL if depth < 0.5 else _ONL
  return (boundaries[layer] + boundaries[layer + 1]) / 2
