"""Normal retinal anatomy of one OCT B-scan: layers, vessels, vitreous.

Lengths are fractions of the scan: `x` of its width (0 left, 1 right), rows of
its height (0 top, 1 bottom); `z` is the slice position in the volume, -1 to 1.
All randomness comes from the generator that is passed in.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

# From the vitreous down. The deposit under the RPE has no thickness in health.
LAYERS = ("vitreous NFL GCL IPL INL OPL ONL EZ OS RPE deposit choroid").split()
THICKNESS = np.array(
  [0.030, 0.045, 0.042, 0.042, 0.030, 0.082, 0.024, 0.022, 0.034]
)
REFLECTIVITY = np.array(
  [0.02, 0.70, 0.43, 0.52, 0.28, 0.48, 0.22, 0.82, 0.46, 0.95, 0.42, 0.42]
)
# Share of each retinal layer that is missing at the centre of the foveal pit.
_PIT = np.array([0.95, 0.92, 0.85, 0.75, 0.45, -0.30, -0.15, -0.1, 0.0])


class Eye(NamedTuple):
  """Properties shared by all scans of an eye.

  Attributes:
    thickness: float[9] of the layers NFL to RPE, fractions of the height.
    reflectivity: float[12] per entry of `LAYERS`, 0 to about 1.
    fovea: its (x, z).
    pit: (depth 0 to 1, width as a fraction of the scan's width).
    nasal: +1 where the nerve lies to the right, -1 to the left; the nerve
      fibre layer is thicker on that side.
    bend: (tilt, curvature) of the outermost layer, fractions of the height.
    vessels: float[V, 4]: x at z = 0, slope over z, width, darkness of shadow.
    vitreous: 0 no visible face, 1 partially, 2 fully attached.
  """

  thickness: np.ndarray
  reflectivity: np.ndarray
  fovea: np.ndarray
  pit: np.ndarray
  nasal: int
  bend: np.ndarray
  vessels: np.ndarray
  vitreous: int


class View(NamedTuple):
  """Alignment and exposure of one scan.

  Attributes:
    z: slice position, -1 to 1.
    row: of the outermost layer in the middle, fraction of the height.
    tilt: added to the eye's tilt.
    shift: of the scan over the eye, fraction of the width.
    gain: brightness factor.
    shading: brightness difference between the left and the right edge.
    offset: background level, 0 to 1.
  """

  z: float
  row: float
  tilt: float
  shift: float
  gain: float
  shading: float
  offset: float


def draw_eye(
  patient: np.random.Generator, eye: np.random.Generator, side: int
) -> Eye:
  """Draws an eye: the patient's anatomy with small variations of its own.

  Args:
    patient: generator with the same seed for both eyes of a patient.
    eye: generator of this eye.
    side: 0 for the right eye (OD), 1 for the left (OS).
  """
  return Eye(
    thickness=THICKNESS
    * patient.lognormal(0, 0.05)
    * patient.lognormal(0, 0.03, 9)
    * eye.lognormal(0, 0.02, 9),
    reflectivity=REFLECTIVITY
    * patient.lognormal(0, 0.05, 12)
    * eye.lognormal(0, 0.02, 12),
    fovea=np.array([0.5, 0.0]) + eye.normal(0, (0.025, 0.1)),
    pit=np.array([patient.uniform(0.75, 1.0), patient.uniform(0.075, 0.105)]),
    nasal=1 - 2 * side,
    bend=np.array([eye.normal(0, 0.05), patient.uniform(0.02, 0.14)]),
    vessels=_draw_vessels(eye),
    vitreous=int(eye.choice(3, p=(0.5, 0.25, 0.25))),
  )


def _draw_vessels(eye: np.random.Generator) -> np.ndarray:
  """Three to five vessels, spread over the width: float[V, 4] as in `Eye`."""
  count = eye.integers(3, 6)
  place = (np.arange(count) + eye.uniform(0.15, 0.85, count)) / count
  slope = eye.normal(0, 0.05, count)
  width = eye.uniform(0.006, 0.011, count)
  darkness = eye.uniform(0.2, 0.4, count)
  return np.stack([place, slope, width, darkness], axis=1)


def draw_view(
  visit: np.random.Generator, scan: np.random.Generator, z: float
) -> View:
  """Draws alignment and exposure of a scan at slice `z` of a visit."""
  return View(
    z=z,
    row=0.64 + visit.normal(0, 0.02) + scan.normal(0, 0.01),
    tilt=visit.normal(0, 0.03) + scan.normal(0, 0.01),
    shift=visit.normal(0, 0.012),
    gain=np.exp(visit.normal(0, 0.08) + scan.uniform(-0.32, 0.32)),
    shading=scan.normal(0, 0.06),
    offset=visit.uniform(0.03, 0.07) + scan.uniform(0, 0.03),
  )


def columns(width: int) -> np.ndarray:
  """The x of every column's centre, float[W] between 0 and 1."""
  return (np.arange(width) + 0.5) / width


def thicknesses(eye: Eye, view: View, width: int) -> np.ndarray:
  """Thickness of the layers NFL to RPE in every column, float[9, W]."""
  x = columns(width) - view.shift
  depth, spread = eye.pit
  squared = ((x - eye.fovea[0]) / spread) ** 2
  squared = squared + (1.6 * (view.z - eye.fovea[1])) ** 2
  pit = depth * np.exp(-squared / 2)
  rim = 0.16 * np.exp(-((np.sqrt(squared) - 2.2) ** 2) / 1.5)
  layers = eye.thickness[:, None] * (1 - _PIT[:, None] * (pit - rim))
  layers[0] *= 1 + 0.9 * eye.nasal * (x - 0.5)
  return layers


def outline(eye: Eye, view: View, width: int) -> np.ndarray:
  """Row of Bruch's membrane in every column, float[W]: tilted and curved."""
  x = 2 * (columns(width) - view.shift) - 1
  tilt = eye.bend[0] + view.tilt
  return view.row + tilt * x - eye.bend[1] * (x**2 - 0.3)


def paint(
  boundaries: np.ndarray, values: np.ndarray, height: int
) -> np.ndarray:
  """Fills the layers between `boundaries`, with antialiased edges.

  Args:
    boundaries: float[K, W], rows in pixels, from the top down.
    values: float[K + 1], reflectivity above, between and below them.
    height: rows of the picture.

  Returns:
    float[H, W].
  """
  rows = np.arange(height)[None, :, None] + 0.5
  below = np.clip(rows - boundaries[:, None, :] + 0.5, 0, 1)
  return values[0] + np.tensordot(np.diff(values), below, 1)


def choroid(
  bruch: np.ndarray, height: int, rng: np.random.Generator
) -> np.ndarray:
  """Brightness factor under the retina, float[H, W]: fading, dark vessels.

  Args:
    bruch: float[W], row of Bruch's membrane in pixels; above it the factor
      is 1.
    height: rows of the scan.
    rng: draws the vessels.
  """
  width = len(bruch)
  depth = (np.arange(height)[:, None] + 0.5 - bruch) / height
  grain = rng.standard_normal(depth.shape, np.float32)
  blobs = ndimage.gaussian_filter(grain, (height / 40, width / 60))
  blobs = 0.18 * np.clip(blobs / blobs.std(), -2, 1.2)
  fading = np.exp(-np.clip(depth, 0, None) / 0.16)
  return np.where(depth > 0, fading * (1 + blobs), 1)


def vessels(
  eye: Eye, view: View, boundaries: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray]:
  """Shadow factor and bright vessel walls, two float[H, W].

  A vessel lies under the nerve fibre layer and darkens everything below it.
  """
  x0, slope, spread, darkness = eye.vessels.T
  centre = (x0 + slope * view.z + view.shift)[:, None]
  across = (columns(boundaries.shape[1]) - centre) / spread[:, None]
  profile = np.exp(-(across**2) / 2)
  rows = np.arange(height)[:, None] + 0.5
  top = boundaries[1]
  wall = np.exp(-(((rows - top) / (0.016 * height)) ** 2) / 2)
  below = np.clip((rows - top) / (0.03 * height), 0, 1)
  shadow = 1 - below * (darkness @ profile)
  return shadow, 0.45 * wall * np.clip(darkness / 0.45 @ profile, 0, 1)


def vitreous_face(
  eye: Eye, view: View, top: np.ndarray, height: int
) -> np.ndarray:
  """The thin line of the posterior vitreous face, float[H, W].

  Partially attached: it lifts off over the fovea in an arch. Fully attached:
  it runs just above the retina.

  Args:
    top: float[W], row of the inner limiting membrane in pixels.
  """
  x = columns(len(top)) - eye.fovea[0] - view.shift
  arch = 0.11 * np.clip(1 - (x / 0.38) ** 2, 0, None)
  gap = arch if eye.vitreous == 1 else 0.035 + 0.01 * np.cos(9 * x)
  line = ndimage.gaussian_filter1d(top, len(top) / 16) - (gap + 0.01) * height
  rows = np.arange(height)[:, None] + 0.5
  strength = 0.22 * (eye.vitreous > 0)
  return strength * np.exp(-(((rows - line) / (0.011 * height)) ** 2) / 2)


def expose(
  reflectivity: np.ndarray, view: View, rng: np.random.Generator
) -> np.ndarray:
  """Adds speckle, shading and background; returns uint8[H, W].

  Speckle is multiplicative and correlated over about a pixel; background noise
  is additive and white.
  """
  height, width = reflectivity.shape
  speckle = rng.standard_normal(reflectivity.shape, np.float32)
  speckle = ndimage.gaussian_filter(speckle, (0.4 * height / 64, 0.6))
  white = rng.standard_normal(reflectivity.shape, np.float32)
  shading = 1 + view.shading * (2 * columns(width) - 1)
  signal = reflectivity * shading * (1 + 0.12 * speckle / speckle.std())
  image = view.gain * (0.66 * signal + view.offset * (1 + 0.12 * white))
  return np.clip(np.round(255 * image), 0, 255).astype(np.uint8)
