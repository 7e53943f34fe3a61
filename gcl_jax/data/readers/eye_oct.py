"""A procedural phantom of OCT B-scans whose diseases differ in place.

The other half of `eye_fundus`: other patients, the same anatomy and classes.
Here lesions are clear and each look has its depth: deposits lift the lowest
layer, cysts are dark holes, a membrane lies on top. The column from the pit of
the fovea, and the side of the disc, tell the zone.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.data.phantoms import eye_diseases, eye_scan, eye_zones, oct_layers
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

META = (
  *("disease", "look", "zone", "held_out", "eye", "drawn_zone"),
  *("fovea_x", "disc_x"),
)
EYES = ("OD", "OS")
_SHARES = tuple(disease.oct for disease in eye_diseases.DISEASES)
# Sets this phantom apart from that of the fundus at the same seed.
_MODALITY = 2
# Independent random streams: draws from one do not change another.
_DISEASE, _SIDE, _PATIENT, _SHIFT, _VISIT, _SCAN = range(6)
_LESIONS, _NOISE, _ZONES = range(6, 9)


def eye_oct_phantom(
  patients: int = 3000,
  size: tuple[int, int] = (64, 64),
  healthy_fraction: float = 0.3,
  informative: str = "true",
  seed: int = 0,
) -> Dataset:
  """OCT B-scans of one eye each, healthy or with one of seven diseases.

  `read(row)` makes the image, uint8[H, W], when it is asked for: the same one
  every time, from the seed and the row alone (about 2 ms at 64 x 64).
  `read_mask(row)` is the class of every pixel, uint8[H, W]: 1 deposits, 2
  cysts, 3 membrane.

  Columns: `id` ("o0003_OD"); `group` (the patient); `disease`, the class;
  `look` and `zone` that define it ("none" in health); `held_out` "none" or
  "fundus" (no training image there); `eye` ("OD", "OS"); `drawn_zone`, where
  the lesions gather in these scans ("anywhere" if `informative` is "uniform");
  `fovea_x`, `disc_x` in pixels; `healthy`.

  Args:
    patients: number of patients, with one scan each.
    size: (height, width) in pixels, each at least 32. The anatomy does not
      depend on it.
    healthy_fraction: probability that a patient is healthy, 0 to 1.
    informative: what the places of lesions say about the disease. "true": its
      zone; "shuffled": that of another disease, one and the same in all scans;
      "uniform": nothing, they lie anywhere. All else is the same.
    seed: not negative.

  Raises:
    DataError: if an argument is out of range.
  """
  cohort = _Cohort(patients, tuple(size), healthy_fraction, informative, seed)
  return Dataset(
    "eye_oct_phantom",
    cohort.table(),
    cohort.image,
    meta=META,
    read_mask=cohort.mask,
    classes=eye_diseases.LOOKS,
  )


def read(*, eyes: Mapping[str, Any] | None = None) -> Dataset:
  """The phantom; `eyes` are arguments of `eye_oct_phantom`, None: defaults."""
  return eye_oct_phantom(**(eyes or {}))


def lesion_places(dataset: Dataset, row: int) -> np.ndarray:
  """Places u of the lesions of a row of the phantom, as in `eye_zones`.

  Args:
    dataset: from `eye_oct_phantom`, all rows of it.
    row: position.

  Returns:
    float[L].
  """
  return dataset.read.__self__.lesions(row).u


def zone_map(table: Mapping[str, Any], zone: str, width: int) -> np.ndarray:
  """Probability of each column to be the middle of a lesion, float[width].

  Args:
    table: a row of the data set: `eye`, `fovea_x`.
    zone: one of `eye_zones.ZONES`, or "anywhere".
    width: of the scans in pixels.
  """
  nasal = 1 - 2 * EYES.index(str(table["eye"]))
  x = oct_layers.columns(width) - float(table["fovea_x"]) / width
  zone = eye_zones.ANYWHERE if zone == "anywhere" else zone
  return eye_zones.probability(zone, nasal * x * eye_scan.WIDTH, np.zeros(1))


@dataclasses.dataclass(frozen=True)
class _Cohort:
  """All scans; arguments as in `eye_oct_phantom`."""

  patients: int
  size: tuple[int, int]
  healthy_fraction: float
  informative: str
  seed: int

  def __post_init__(self):
    if self.patients < 1 or self.seed < 0:
      raise DataError(
        "the eye phantom needs patients of at least 1 and a seed of at least"
        f" 0, got {self.patients} and {self.seed}"
      )
    if len(self.size) != 2 or min(self.size) < 32:
      raise DataError(
        "the OCT scans of the eye phantom need a size of (height, width), each"
        f" at least 32, got {self.size}"
      )
    if not 0 <= self.healthy_fraction <= 1:
      raise DataError(
        "the eye phantom needs a healthy_fraction between 0 and 1, got"
        f" {self.healthy_fraction}"
      )
    if self.informative not in eye_diseases.INFORMATIVE:
      raise DataError(
        f"the eye phantom has no informative {self.informative!r}, one of"
        f" {', '.join(eye_diseases.INFORMATIVE)}"
      )

  def table(self) -> dict[str, np.ndarray]:
    records = [self._record(row) for row in range(self.patients)]
    return {k: np.array([r[k] for r in records]) for k in records[0]}

  def image(self, row: int) -> np.ndarray:
    """The scan as the device stores it, uint8[H, W]."""
    shown, _, view, noise = self._scan(row)
    return oct_layers.expose(shown, view, noise)

  def mask(self, row: int) -> np.ndarray:
    """Class of every pixel, uint8[H, W]."""
    return self._scan(row)[1]

  def lesions(self, row: int) -> eye_scan.Lesions:
    """The lesions of a row."""
    disease = self._disease(row)
    if disease is None:
      return eye_scan.none()
    rng, zone = self._rng(_LESIONS, row), self._zones[disease.name]
    return eye_scan.draw_lesions(rng, disease.look, zone)

  def _scan(self, row: int):
    """Reflectivity, mask, view, and the generator of the noise."""
    view = eye_scan.draw_view(self._rng(_VISIT, row), self._rng(_SCAN, row))
    eye, noise = self._eye(row), self._rng(_NOISE, row)
    lesions = self.lesions(row)
    picture = eye_scan.picture(eye, view, lesions, self.size, noise)
    return *picture, view, noise

  def _record(self, row: int) -> dict[str, str | float]:
    disease, eye = self._disease(row), self._eye(row)
    side, width = EYES[self._side(row)], self.size[1]
    drawn = self._zones[disease.name] or "anywhere" if disease else "none"
    return {
      "id": f"o{row:04d}_{side}",
      "group": f"o{row:04d}",
      **eye_diseases.columns(disease),
      "eye": side,
      "drawn_zone": drawn,
      "fovea_x": float(eye.fovea[0] * width),
      "disc_x": float(eye_scan.disc(eye) * width),
    }

  @functools.cached_property
  def _zones(self) -> dict[str, str]:
    return eye_diseases.zones_of(self.informative, self._rng(_ZONES))

  def _disease(self, row: int) -> eye_diseases.Disease | None:
    rng = self._rng(_DISEASE, row)
    return eye_diseases.draw_disease(rng, _SHARES, self.healthy_fraction)

  def _side(self, row: int) -> int:
    return int(self._rng(_SIDE, row).integers(2))

  def _eye(self, row: int) -> oct_layers.Eye:
    streams = self._rng(_PATIENT, row), self._rng(_SHIFT, row)
    return eye_scan.draw_eye(*streams, self._side(row))

  def _rng(self, *stream: int) -> np.random.Generator:
    return np.random.default_rng([self.seed, _MODALITY, *stream])
