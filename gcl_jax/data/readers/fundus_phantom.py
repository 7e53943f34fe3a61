"""A procedural colour fundus phantom with graded lesions and look-alikes.

Patients have two eyes with one photograph each. The number of lesions defines
the grade. Dust and reflections of the same sizes are in every image, whatever
the disease. Image quality is not part of the phantom: whoever wants images of
low quality degrades them.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.data.phantoms import (
  fundus_detector,
  fundus_eye,
  fundus_spots,
  fundus_vessels,
)
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

CLASSES = ("dark", "bright")
LABELS = ("dark", "bright", "lesions")
META = ("grade", "eye")
EYES = ("OD", "OS")
_CAMERA_COUNT = 5
# Independent random streams: draws from one do not change another.
_COHORT, _PATIENT, _EYE, _VESSELS, _CAMERAS, _CAMERA, _SHOT = range(7)
_LOAD, _LESIONS, _ARTEFACTS, _NOISE, _DETECTOR = range(7, 12)


def fundus_phantom(
  patients: int = 160,
  size: int = 128,
  healthy_fraction: float = 0.4,
  recall: float = 0.7,
  false_boxes: float = 0.5,
  seed: int = 0,
) -> Dataset:
  """Colour fundus photographs of both eyes of patients, with grades 0 to 4.

  `read(row)` makes the image, uint8[size, size, 3], when it is asked for: the
  same one every time, from the seed and the row alone (about 4 ms at 128
  pixels). `read_mask(row)` is the class of every pixel, uint8[size, size]: 1
  dark, 2 bright lesion. `read_boxes(row)` is what a noisy detector finds,
  float32[K, 5]; see `fundus_detector.detect`.

  Columns: `id` ("p0003_OD"); `group` (the patient); `eye` ("OD", "OS"); `grade`
  0.0 to 4.0, by the number of lesions: none, 1-2, 3-5, 6-10, 11-20; `healthy`
  1 for grade 0, which both eyes of a healthy patient have and no eye of a
  diseased one; labels `dark`, `bright` 1 when there is such a lesion and
  `lesions` 1 when there is any.

  Args:
    patients: number of patients, so that there are 2 * patients rows.
    size: height and width in pixels, at least 64. The anatomy does not depend
      on it.
    healthy_fraction: share of healthy patients, 0 to 1, met exactly up to
      rounding.
    recall: share of the lesions that the detector finds, 0 to 1.
    false_boxes: mean number of its boxes round artefacts, 0 to 100.
    seed: not negative.

  Raises:
    DataError: if an argument is out of range.
  """
  cohort = _Cohort(patients, size, healthy_fraction, recall, false_boxes, seed)
  return Dataset(
    "fundus_phantom",
    cohort.table(),
    cohort.image,
    LABELS,
    META,
    read_mask=cohort.mask,
    classes=CLASSES,
    read_boxes=cohort.boxes,
  )


def read(*, fundus: Mapping[str, Any] | None = None) -> Dataset:
  """The phantom with these arguments of `fundus_phantom`, None: defaults."""
  return fundus_phantom(**(fundus or {}))


@dataclasses.dataclass(frozen=True)
class _Cohort:
  """All photographs; arguments as in `fundus_phantom`."""

  patients: int
  size: int
  healthy_fraction: float
  recall: float
  false_boxes: float
  seed: int

  def __post_init__(self):
    for name, low, high in (
      ("patients", 1, np.inf),
      ("size", 64, np.inf),
      ("healthy_fraction", 0, 1),
      ("recall", 0, 1),
      ("false_boxes", 0, 100),
      ("seed", 0, np.inf),
    ):
      value = getattr(self, name)
      if not low <= value <= high:
        limit = f" and at most {high}" if high < np.inf else ""
        raise DataError(
          f"the fundus phantom needs {name} of at least {low}{limit}, got"
          f" {value}"
        )

  def table(self) -> dict[str, np.ndarray]:
    records = [self._record(row) for row in range(2 * self.patients)]
    return {k: np.array([r[k] for r in records]) for k in records[0]}

  def image(self, row: int) -> np.ndarray:
    """The photograph as the camera stores it, uint8[size, size, 3]."""
    eye, view = self._eye(row), self._view(row)
    curves = fundus_vessels.draw_vessels(
      self._rng(_VESSELS, row), eye.nerve, eye.nasal
    )
    picture = fundus_eye.retina(eye, curves, self.size)
    fundus_spots.paint(picture, self._lesions(row))
    picture = fundus_eye.photograph(picture, view)
    fundus_spots.paint(picture, self._artefacts(row))
    return fundus_eye.expose(picture, view, self._rng(_NOISE, row))

  def mask(self, row: int) -> np.ndarray:
    """Class of every pixel, uint8[size, size]."""
    return fundus_spots.mask(self._lesions(row), self.size)

  def boxes(self, row: int) -> np.ndarray:
    """Boxes and confidences of the detector, float32[K, 5]."""
    return fundus_detector.detect(
      self._rng(_DETECTOR, row),
      self._lesions(row),
      self._artefacts(row),
      self.size,
      self.recall,
      self.false_boxes,
    )

  def _record(self, row: int) -> dict[str, str | float]:
    patient, side = divmod(row, 2)
    kind = self._lesions(row).kind
    group = f"p{patient:04d}"
    return {
      "id": f"{group}_{EYES[side]}",
      "group": group,
      "eye": EYES[side],
      "healthy": float(kind.size == 0),
      "dark": float((kind == fundus_spots.DARK).any()),
      "bright": float((kind == fundus_spots.BRIGHT).any()),
      "lesions": float(kind.size > 0),
      "grade": float(fundus_spots.grade_of(kind.size)),
    }

  @functools.cached_property
  def _healthy(self) -> np.ndarray:
    order = self._rng(_COHORT).permutation(self.patients)
    return order < round(self.healthy_fraction * self.patients)

  def _view(self, row: int) -> fundus_eye.View:
    camera = self._rng(_CAMERAS, row // 2).integers(_CAMERA_COUNT)
    return fundus_eye.draw_view(
      self._rng(_CAMERA, int(camera)), self._rng(_SHOT, row)
    )

  def _eye(self, row: int) -> fundus_eye.Eye:
    patient, side = divmod(row, 2)
    return fundus_eye.draw_eye(
      self._rng(_PATIENT, patient), self._rng(_EYE, row), side
    )

  def _lesions(self, row: int) -> fundus_spots.Spots:
    patient, side = divmod(row, 2)
    count = 0
    if not self._healthy[patient]:
      count = fundus_spots.draw_counts(self._rng(_LOAD, patient))[side]
    rng = self._rng(_LESIONS, row)
    return fundus_spots.draw_lesions(rng, count, self._eye(row))

  def _artefacts(self, row: int) -> fundus_spots.Spots:
    return fundus_spots.draw_artefacts(self._rng(_ARTEFACTS, row))

  def _rng(self, *stream: int) -> np.random.Generator:
    return np.random.default_rng([self.seed, *stream])
