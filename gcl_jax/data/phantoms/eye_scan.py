"""OCT B-scans of the eye phantom: a wide horizontal scan through the fovea.

The layers are those of `oct_layers`. The scan shows the pit of the fovea and,
on the nasal side, the optic disc, where the layers end. Columns are places u of
`eye_zones`; lesions are clear and each look has its depth.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from gcl_jax.data.phantoms import eye_diseases as diseases
from gcl_jax.data.phantoms import eye_zones as zones
from gcl_jax.data.phantoms import oct_layers as layers
from gcl_jax.data.phantoms import oct_lesions

WIDTH = 2.75  # of the scan, in lengths of u
MEMBRANE = diseases.LOOKS.index("membrane")
_COUNT = (2, 4)  # fewest and most lesions of a scan
# Half width over the scan's width and half height over its height, by look.
_HALF = np.array([[0.032, 0.060], [0.032, 0.045], [0.055, 0.012]])
_APART = 0.12
_SHIFT = 0.03  # furthest shift of the scan, as a share of its width
_DISC = 0.06  # half width of the disc
_FLUID, _SHEET = 0.03, 1.05  # reflectivity
_LIFT = 0.045  # of the membrane above the retina


class Lesions(NamedTuple):
  """Lesions that a scan cuts, parallel arrays of length L.

  Attributes:
    look: index of `eye_diseases.LOOKS`.
    u: place of the middle.
    depth: of cysts, below 0.5 in the inner, else in the outer nuclear layer.
    size: factor of the usual half axes, about 1.
  """

  look: np.ndarray
  u: np.ndarray
  depth: np.ndarray
  size: np.ndarray


def draw_eye(
  patient: np.random.Generator, scan: np.random.Generator, side: int
) -> layers.Eye:
  """Draws an eye under a scan that is a little off the middle.

  Args:
    patient: of the anatomy.
    scan: of the shift.
    side: 0 for the right eye (OD), 1 for the left (OS): its mirror image.
  """
  eye = layers.draw_eye(patient, patient, side)
  shift = scan.uniform(-_SHIFT, _SHIFT) - zones.FIELD_CENTRE / WIDTH
  depth, spread = eye.pit
  return eye._replace(
    fovea=np.array([0.5 + eye.nasal * shift, 0.0]),
    pit=np.array([0.4 + 0.6 * depth, 0.75 * spread]),
    vitreous=0,
  )


def draw_view(
  visit: np.random.Generator, scan: np.random.Generator
) -> layers.View:
  """Draws a scan's view, in which the fovea is where the eye has it."""
  view = layers.draw_view(visit, scan, 0.0)
  return view._replace(shift=0.0, row=view.row + 0.03, offset=0.05)


def draw_lesions(rng: np.random.Generator, look: str, zone: str) -> Lesions:
  """Draws the lesions that a scan of a diseased eye shows.

  Args:
    rng: of this image.
    look: one of `eye_diseases.LOOKS`.
    zone: one of `eye_zones.ZONES`, or `eye_zones.ANYWHERE`.
  """
  count = int(rng.integers(_COUNT[0], _COUNT[1] + 1))
  places = zones.draw_places(rng, zone, count, apart=_APART, on_line=True)
  return Lesions(
    look=np.full(count, diseases.LOOKS.index(look)),
    u=places[:, 0],
    depth=rng.random(count),
    size=rng.uniform(0.85, 1.15, count),
  )


def none() -> Lesions:
  """The lesions of a healthy eye."""
  return Lesions(np.zeros(0, int), *[np.zeros(0)] * 3)


def places(eye: layers.Eye, width: int) -> np.ndarray:
  """Place u of every column, float[width]."""
  return eye.nasal * (layers.columns(width) - eye.fovea[0]) * WIDTH


def disc(eye: layers.Eye) -> float:
  """The x of the middle of the optic disc, a share of the width."""
  return eye.fovea[0] + eye.nasal * zones.DISC[0] / WIDTH


def picture(
  eye: layers.Eye,
  view: layers.View,
  lesions: Lesions,
  size: tuple[int, int],
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Reflectivity and the class of every pixel.

  Args:
    eye: its anatomy.
    view: alignment and exposure.
    lesions: that the scan cuts.
    size: (height, width) in pixels.
    rng: of the choroid's texture.

  Returns:
    float[H, W], and uint8[H, W]: 0, or 1 + the look of the lesion there.
  """
  height, width = size
  solid = _solid(eye, lesions)
  rows = height * _boundaries(eye, view, solid, width)
  shown = layers.paint(rows, eye.reflectivity, height)
  shown *= layers.choroid(rows[-1], height, rng)
  cover = oct_lesions.cover(solid, rows, height)
  shown += cover[oct_lesions.FLUID] * (_FLUID - shown)
  shadow, walls = layers.vessels(eye, view, rows, height)
  shown = (shown + walls) * shadow
  shown = _with_disc(shown, eye, rows[0])
  sheet = _sheet(eye, lesions, rows[0], height)
  shown += sheet * (_SHEET - shown)
  mask = np.zeros(size, np.uint8)
  parts = cover[oct_lesions.DRUSEN], cover[oct_lesions.FLUID], sheet
  for number, part in enumerate(parts, 1):
    mask[part >= 0.5] = number
  return shown, mask


def _solid(eye, lesions) -> oct_lesions.Lesions:
  """Deposits and cysts as lesions of `oct_lesions`."""
  some = lesions.look != MEMBRANE
  look, size = lesions.look[some], lesions.size[some]
  across, tall = _HALF[look].T * size
  ones = np.ones(len(look))
  kinds = np.array([oct_lesions.DRUSEN, oct_lesions.FLUID])  # as `LOOKS`
  x = eye.fovea[0] + eye.nasal * lesions.u[some] / WIDTH
  depth = lesions.depth[some]
  return oct_lesions.Lesions(
    kinds[look], x, 0 * ones, depth, across, tall, ones, 0 * ones
  )


def _boundaries(eye, view, solid, width) -> np.ndarray:
  """Rows of the 11 layer boundaries, shares of the height, float[11, W]."""
  layer = oct_lesions.swell(layers.thicknesses(eye, view, width), solid)
  deposits = solid.where(solid.kind == oct_lesions.DRUSEN)
  lifted = oct_lesions.bumps(deposits, width)
  bruch = layers.outline(eye, view, width)
  above = np.cumsum(np.concatenate([lifted[None], layer[::-1]]), axis=0)
  return np.concatenate([(bruch - above)[::-1], bruch[None]])


def _with_disc(shown, eye, top) -> np.ndarray:
  """The picture with the optic disc: no layers, a cup, tissue that fades."""
  height, width = shown.shape
  across = (layers.columns(width) - disc(eye)) / _DISC
  inside = np.clip((1 - abs(across)) * _DISC * width + 0.5, 0, 1)
  cup = top + 0.13 * height * np.clip(1 - across**2, 0, None)
  depth = np.arange(height)[:, None] + 0.5 - cup
  tissue = np.clip(depth + 0.5, 0, 1) * 0.6
  tissue = tissue * np.exp(-np.clip(depth, 0, None) / (0.2 * height))
  return shown + inside * (tissue - shown)


def _sheet(eye, lesions, top, height) -> np.ndarray:
  """Cover of each pixel by membranes, which bridge the pit: float[H, W]."""
  some = lesions.look == MEMBRANE
  x = eye.fovea[0] + eye.nasal * lesions.u[some] / WIDTH
  half, thick = (_HALF[MEMBRANE] * lesions.size[some, None]).T
  away = abs(layers.columns(len(top)) - x[:, None]) / half[:, None]
  ends = np.clip((1 - away) * half[:, None] * len(top) + 0.5, 0, 1)
  line = ndimage.gaussian_filter1d(top, len(top) / 20)
  line = np.minimum(line, top) - _LIFT * height
  rows = np.arange(height)[:, None] + 0.5
  half_rows = np.maximum(thick * height, 0.8)[:, None, None]
  cover = np.clip(half_rows - abs(rows - line) + 0.5, 0, 1)
  return (cover * ends[:, None]).max(axis=0, initial=0)
