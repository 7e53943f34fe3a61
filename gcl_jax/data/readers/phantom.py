"""A procedural OCT B-scan phantom with known severity.

Patients have two eyes, visits and slices. Diseased eyes carry fluid, drusen and
hyper-reflective foci that grow and multiply over the visits; the line of the
posterior vitreous face is equally frequent in healthy eyes. Brightness,
contrast and edges vary so much with exposure and anatomy that they hardly
correlate with severity.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.data.phantoms import oct_layers as layers
from gcl_jax.data.phantoms import oct_lesions as lesions
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

LABELS = ("fluid", "drusen", "foci", "vitreous")
META = ("severity", "eye", "visit", "slice")
EYES = ("OD", "OS")
# Share of diseased patients whose second eye is diseased too.
_BOTH_EYES = 0.85
_FLUID_REFLECTIVITY, _FOCUS_REFLECTIVITY = 0.05, 0.85
# Independent random streams: draws from one do not change another.
_COHORT, _PATIENT, _EYE, _SIDES, _DISEASE, _VISIT, _SCAN, _NOISE = range(8)


def oct_phantom(
  patients: int = 120,
  visits: int = 2,
  scans: int = 4,
  size: tuple[int, int] = (64, 128),
  healthy_fraction: float = 0.4,
  seed: int = 0,
) -> Dataset:
  """OCT B-scans of healthy and diseased eyes with a known severity.

  `read(row)` makes the image, uint8[H, W], when it is asked for: the same one
  every time, from the seed and the row alone (about 2 ms at 64 x 128).

  Columns: `id`; `group` (the patient); `eye` ("OD", "OS"); `visit` and `slice`
  from 0; `healthy` 1 when the *patient* is healthy (a diseased patient's scan
  may happen to miss all lesions: severity 0, healthy 0); labels `fluid`,
  `drusen`, `foci` 1 when the scan cuts such a lesion; label `vitreous` 1 when
  the vitreous face is visible, independent of disease; `severity` >= 0, the
  lesion load `oct_lesions.severity` in weighted per cent of the scan's area. It
  never decreases from one visit to the next of the same eye and slice. With the
  default settings about 45 % of scans have severity 0 and the others a median
  of 1.3 and a 95th percentile of 5.

  Args:
    patients: number of patients, two eyes each, so that there are
      patients * 2 * visits * scans rows, in this order.
    visits: per eye.
    scans: B-scans per visit, evenly spaced over the volume.
    size: (height, width) in pixels, each at least 32. Twice as wide as high
      looks natural; the anatomy does not depend on the size.
    healthy_fraction: share of healthy patients, 0 to 1, met exactly up to
      rounding.
    seed: not negative.

  Raises:
    DataError: if an argument is out of range.
  """
  cohort = _Cohort(patients, visits, scans, size, healthy_fraction, seed)
  return Dataset("oct_phantom", cohort.table(), cohort.image, LABELS, META)


def read(*, phantom: Mapping[str, Any] | None = None) -> Dataset:
  """The phantom with these arguments of `oct_phantom`, None: its defaults."""
  return oct_phantom(**(phantom or {}))


def lesion_mask(row: int, **settings) -> np.ndarray:
  """Computes the lesion mask of a scan.

  Args:
    row: of `oct_phantom(**settings)`.
    **settings: the same arguments, by name.

  Returns:
    uint8[H, W]: 0 background, 1 fluid, 2 druse (the deposit under the lifted
    RPE), 3 hyper-reflective focus.
  """
  return _Cohort(**settings).mask(row)


@dataclasses.dataclass(frozen=True)
class _Cohort:
  """All scans of the phantom; arguments as in `oct_phantom`."""

  patients: int = 120
  visits: int = 2
  scans: int = 4
  size: tuple[int, int] = (64, 128)
  healthy_fraction: float = 0.4
  seed: int = 0

  def __post_init__(self):
    counts = (self.patients, self.visits, self.scans)
    if min(counts) < 1 or self.seed < 0:
      raise DataError(
        "the OCT phantom needs patients, visits and scans of at least 1 and a"
        f" seed of at least 0, got {counts} and {self.seed}"
      )
    if len(self.size) != 2 or min(self.size) < 32:
      raise DataError(
        "the OCT phantom needs a size of (height, width), each at least 32,"
        f" got {self.size}"
      )
    if not 0 <= self.healthy_fraction <= 1:
      raise DataError(
        "the OCT phantom needs a healthy_fraction between 0 and 1, got"
        f" {self.healthy_fraction}"
      )

  def table(self) -> dict[str, np.ndarray]:
    rows = self.patients * 2 * self.visits * self.scans
    records = [self._record(row) for row in range(rows)]
    return {k: np.array([r[k] for r in records]) for k in records[0]}

  def image(self, row: int) -> np.ndarray:
    """The scan as the device stores it, uint8[H, W]."""
    height = self.size[0]
    found = self._cross_sections(row)
    eye, view, boundaries = self._scan(row, found)
    noise = self._rng(_NOISE, row)
    picture = layers.paint(boundaries, eye.reflectivity, height)
    picture *= layers.choroid(boundaries[-1], height, noise)
    cover = lesions.cover(found, boundaries, height)
    picture += cover[lesions.FLUID] * (_FLUID_REFLECTIVITY - picture)
    shadow, walls = layers.vessels(eye, view, boundaries, height)
    picture = (picture + walls) * shadow
    picture += cover[lesions.FOCI] * (_FOCUS_REFLECTIVITY - picture)
    picture += layers.vitreous_face(eye, view, boundaries[0], height)
    return layers.expose(picture, view, noise)

  def mask(self, row: int) -> np.ndarray:
    """Kind of lesion per pixel, uint8[H, W]."""
    found = self._cross_sections(row)
    boundaries = self._scan(row, found)[2]
    mask = np.zeros(self.size, np.uint8)
    for kind, cover in lesions.cover(found, boundaries, self.size[0]).items():
      mask[cover >= 0.5] = kind
    return mask

  def _record(self, row: int) -> dict[str, str | float]:
    patient, side, visit, number = self._position(row)
    found = self._cross_sections(row)
    group = f"p{patient:04d}"
    present = dict(zip(LABELS, lesions.areas(found) > 0, strict=False))
    return {
      "id": f"{group}_{EYES[side]}_v{visit}_s{number}",
      "group": group,
      "eye": EYES[side],
      "visit": float(visit),
      "slice": float(number),
      "healthy": float(self._healthy[patient]),
      **{label: float(value) for label, value in present.items()},
      "vitreous": float(self._eye(patient, side).vitreous > 0),
      "severity": lesions.severity(found),
    }

  @functools.cached_property
  def _healthy(self) -> np.ndarray:
    order = self._rng(_COHORT).permutation(self.patients)
    return order < round(self.healthy_fraction * self.patients)

  def _position(self, row: int) -> tuple[int, int, int, int]:
    """Patient, side, visit and slice of a row."""
    shape = (self.patients, 2, self.visits, self.scans)
    return tuple(int(i) for i in np.unravel_index(row, shape))

  def _eye(self, patient: int, side: int) -> layers.Eye:
    return layers.draw_eye(
      self._rng(_PATIENT, patient), self._rng(_EYE, patient, side), side
    )

  def _slice_z(self, number: int) -> float:
    return (2 * number + 1) / self.scans - 1

  def _cross_sections(self, row: int) -> lesions.Lesions:
    """Cross-sections of the eye's lesions in the scan of this row."""
    patient, side, visit, number = self._position(row)
    found = lesions.draw_lesions(self._rng(_DISEASE, patient, side))
    sides = self._rng(_SIDES, patient)
    worse, spared = sides.integers(2), sides.uniform() >= _BOTH_EYES
    if self._healthy[patient] or (spared and side != worse):
      found = found.where(found.kind == 0)
    return lesions.cut(found, self._slice_z(number), visit)

  def _scan(
    self, row: int, found: lesions.Lesions
  ) -> tuple[layers.Eye, layers.View, np.ndarray]:
    """Eye, view and the rows of the 11 layer boundaries, float[11, W]."""
    patient, side, visit, number = self._position(row)
    width = self.size[1]
    eye = self._eye(patient, side)
    view = layers.draw_view(
      self._rng(_VISIT, patient, side, visit),
      self._rng(_SCAN, patient, side, visit, number),
      self._slice_z(number),
    )
    layer = lesions.swell(layers.thicknesses(eye, view, width), found)
    druse = lesions.bumps(found.where(found.kind == lesions.DRUSEN), width)
    bruch = layers.outline(eye, view, width)
    above = np.cumsum(np.concatenate([druse[None], layer[::-1]]), axis=0)
    boundaries = np.concatenate([(bruch - above)[::-1], bruch[None]])
    return eye, view, self.size[0] * boundaries

  def _rng(self, *stream: int) -> np.random.Generator:
    return np.random.default_rng([self.seed, *stream])
