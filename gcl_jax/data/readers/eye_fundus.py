"""A procedural phantom of fundus photographs whose diseases differ in place.

Together with `eye_oct` it makes two sets of different patients that share
nothing but the anatomy and the classes: a disease is a look of the lesions and
a zone that they prefer. In the photographs lesions are faint and there are
look-alikes; diseases of one look are told apart by their zone alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.data.phantoms import (
  eye_diseases,
  eye_photograph,
  eye_spots,
  eye_zones,
  fundus_eye,
  fundus_vessels,
)
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

META = (
  *("disease", "look", "zone", "held_out", "eye"),
  *("fovea_y", "fovea_x", "disc_y", "disc_x"),
)
EYES = ("OD", "OS")
_SHARES = tuple(disease.fundus for disease in eye_diseases.DISEASES)
_CAMERA_COUNT = 5
# Sets this phantom apart from that of OCT at the same seed.
_MODALITY = 1
# Independent random streams: draws from one do not change another.
_DISEASE, _SIDE, _PATIENT, _GAZE, _VESSELS, _CAMERAS, _CAMERA = range(7)
_SHOT, _LESIONS, _ALIKE, _NOISE = range(7, 11)


def eye_fundus_phantom(
  patients: int = 1500,
  size: tuple[int, int] = (64, 64),
  healthy_fraction: float = 0.25,
  seed: int = 0,
) -> Dataset:
  """Fundus photographs of one eye each, healthy or with one of eight diseases.

  `read(row)` makes the image, uint8[H, W, 3], when it is asked for: the same
  one every time, from the seed and the row alone (about 3 ms at 64 pixels).
  `read_mask(row)` is the class of every pixel, uint8[H, W]: 1 deposits, 2
  cysts, 3 membrane, without look-alikes.

  Columns: `id` ("f0003_OD"); `group` (the patient); `disease`, the class;
  `look` and `zone` that define it ("none" in health); `held_out` "none",
  "fundus" (OCT alone has training images) or "both" (neither has); `eye` ("OD",
  "OS"); `fovea_y`, `fovea_x`, `disc_y`, `disc_x` in pixels; `healthy`; `split`,
  "eval" where `held_out` is not "none", else undecided. Every row has its
  disease: a method draws which labels it uses.

  Args:
    patients: number of patients, with one photograph each.
    size: (height, width) in pixels, equal and at least 32. The anatomy does not
      depend on it, but a larger image has more pixels of the same noise.
    healthy_fraction: probability that a patient is healthy, 0 to 1.
    seed: not negative.

  Raises:
    DataError: if an argument is out of range.
  """
  cohort = _Cohort(patients, tuple(size), healthy_fraction, seed)
  return Dataset(
    "eye_fundus_phantom",
    cohort.table(),
    cohort.image,
    meta=META,
    read_mask=cohort.mask,
    classes=eye_diseases.LOOKS,
  )


def read(*, eyes: Mapping[str, Any] | None = None) -> Dataset:
  """The phantom; `eyes`: arguments of `eye_fundus_phantom`, None: defaults."""
  return eye_fundus_phantom(**(eyes or {}))


def lesion_places(dataset: Dataset, row: int) -> np.ndarray:
  """Places of the lesions of a row of the phantom, as in `eye_zones`.

  Args:
    dataset: from `eye_fundus_phantom`, all rows of it.
    row: position.

  Returns:
    float[L, 2], (u, v) each, without look-alikes.
  """
  return dataset.read.__self__.lesions(row).place


def zone_map(table: Mapping[str, Any], zone: str, size: int) -> np.ndarray:
  """Probability of each pixel to be the middle of a lesion, float[size, size].

  Args:
    table: a row of the data set: `eye`, `fovea_y`, `fovea_x`.
    zone: one of `eye_zones.ZONES`.
    size: of the photographs in pixels.
  """
  fovea = np.array([table["fovea_y"], table["fovea_x"]], float) / size
  nasal = 1 - 2 * EYES.index(str(table["eye"]))
  place = eye_photograph.in_eye(*fundus_eye.grid(size), fovea, nasal)
  return eye_zones.probability(zone, *place)


@dataclasses.dataclass(frozen=True)
class _Cohort:
  """All photographs; arguments as in `eye_fundus_phantom`."""

  patients: int
  size: tuple[int, int]
  healthy_fraction: float
  seed: int

  def __post_init__(self):
    if self.patients < 1 or self.seed < 0:
      raise DataError(
        "the eye phantom needs patients of at least 1 and a seed of at least"
        f" 0, got {self.patients} and {self.seed}"
      )
    sides = set(self.size)
    if len(self.size) != 2 or len(sides) != 1 or min(sides) < 32:
      raise DataError(
        "the fundus photographs of the eye phantom need a size of (height,"
        f" width), equal and at least 32, got {self.size}"
      )
    if not 0 <= self.healthy_fraction <= 1:
      raise DataError(
        "the eye phantom needs a healthy_fraction between 0 and 1, got"
        f" {self.healthy_fraction}"
      )

  def table(self) -> dict[str, np.ndarray]:
    records = [self._record(row) for row in range(self.patients)]
    return {k: np.array([r[k] for r in records]) for k in records[0]}

  def image(self, row: int) -> np.ndarray:
    """The photograph as the camera stores it, uint8[H, W, 3]."""
    alike = eye_spots.draw_alike(self._rng(_ALIKE, row))
    return self.photograph(row, (self.lesions(row), alike))

  def photograph(self, row: int, shown: tuple[eye_spots.Spots, ...]):
    """The photograph with these spots, uint8[H, W, 3]."""
    eye, view = self._eye(row), self._view(row)
    curves = fundus_vessels.draw_vessels(
      self._rng(_VESSELS, row), eye.nerve, eye.nasal
    )
    light = eye_photograph.picture(eye, curves, view, shown, self.size[0])
    return fundus_eye.expose(light, view, self._rng(_NOISE, row))

  def mask(self, row: int) -> np.ndarray:
    """Class of every pixel, uint8[H, W]."""
    places = eye_photograph.places(self._eye(row), self.size[0])
    return eye_spots.mask(self.lesions(row), *places)

  def lesions(self, row: int) -> eye_spots.Spots:
    """The lesions of a row."""
    disease = self._disease(row)
    if disease is None:
      return eye_spots.none()
    rng = self._rng(_LESIONS, row)
    return eye_spots.draw_lesions(rng, disease.look, disease.zone)

  def _record(self, row: int) -> dict[str, str | float]:
    disease, eye = self._disease(row), self._eye(row)
    side = EYES[self._side(row)]
    fovea, disc = eye.fovea * self.size[0], eye.nerve * self.size[0]
    held_out = disease.held_out if disease else "none"
    return {
      "id": f"f{row:04d}_{side}",
      "group": f"f{row:04d}",
      **eye_diseases.columns(disease),
      "eye": side,
      "fovea_y": float(fovea[0]),
      "fovea_x": float(fovea[1]),
      "disc_y": float(disc[0]),
      "disc_x": float(disc[1]),
      "split": "" if held_out == "none" else "eval",
    }

  def _disease(self, row: int) -> eye_diseases.Disease | None:
    rng = self._rng(_DISEASE, row)
    return eye_diseases.draw_disease(rng, _SHARES, self.healthy_fraction)

  def _side(self, row: int) -> int:
    return int(self._rng(_SIDE, row).integers(2))

  def _eye(self, row: int) -> fundus_eye.Eye:
    streams = self._rng(_PATIENT, row), self._rng(_GAZE, row)
    return eye_photograph.draw_eye(*streams, self._side(row))

  def _view(self, row: int) -> fundus_eye.View:
    camera = int(self._rng(_CAMERAS, row).integers(_CAMERA_COUNT))
    streams = self._rng(_CAMERA, camera), self._rng(_SHOT, row)
    return eye_photograph.draw_view(*streams)

  def _rng(self, *stream: int) -> np.random.Generator:
    return np.random.default_rng([self.seed, _MODALITY, *stream])
