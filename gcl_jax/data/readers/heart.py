"""A procedural short-axis heart MR phantom with three meta labels and masks.

Every slice has a patient, a position between base and apex, and a cardiac
phase. The patient decides the appearance of a scan (its signature), the
position which classes are visible, the phase how large they are. The three meta
labels thus pull an embedding in different directions, and more so with a
stronger signature.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.data.phantoms import heart_scanner as scanners
from gcl_jax.data.phantoms import heart_shapes as shapes
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

META = (
  "volume",
  "patient",
  "position",
  "phase",
  "slice",
  "spacing_z",
  "spacing_y",
  "spacing_x",
)
# Standard deviation of the shift of the heart between breath-holds, in halves
# of the field of view.
_BREATH = 0.012
# Independent random streams: draws from one do not change another.
_ANATOMY, _SIGNATURE, _BREATHS, _NOISE = range(4)


def heart_phantom(
  patients: int = 60,
  slices: int = 8,
  phases: int = 2,
  size: tuple[int, int] = (64, 64),
  conflict: float = 1.0,
  domain: str = "source",
  seed: int = 0,
) -> Dataset:
  """Short-axis cine MR slices of the heart with masks of three classes.

  `read(row)` makes the image, uint8[H, W], and `read_mask(row)` the classes of
  its pixels, uint8[H, W] (0 background, 1 LV blood pool with its papillary
  muscles, 2 LV myocardium, 3 RV blood pool), when asked for: the same ones
  every time, from the seed and the row alone (about 1 ms at 64 x 64). Masks
  depend on the patient, the slice and the phase; not on `conflict` or `domain`,
  and on `size` only in their resolution: the same field of view is sampled.
  With the default settings about 69, 10, 15 and 6 % of the pixels are
  background, LV, myocardium and RV.

  Columns: `id` ("p0003_ED_s2"); `group` and `patient` ("p0003"); `volume`
  ("p0003_ED"); `position` (slice + 1) / slices, small at the base, 1 at the
  apex; `phase` "ED" or "ES"; `slice` from 0; `spacing_z`, `spacing_y`,
  `spacing_x` in mm.

  Position decides which classes are visible: the RV up to a position between
  0.76 and 0.93, depending on the patient; LV and myocardium always. Phase
  changes sizes only.

  Args:
    patients: number of patients, so that there are patients * phases * slices
      rows, in this order.
    slices: per volume, evenly spaced over the same 80 mm (64 mm in the other
      domain).
    phases: 1 for end-diastole ("ED") alone, 2 for end-systole ("ES") too.
    size: (height, width) in pixels, each at least 32.
    conflict: strength of the patients' signatures (gain, offset, bias field
      and texture), 0 to 3. At 0 patients differ by anatomy and noise alone.
    domain: "source", or "other" for the same hearts from another scanner:
      other contrast, texture, noise and spacing, other signatures.
    seed: not negative.

  Raises:
    DataError: if an argument is out of range.
  """
  cohort = _Cohort(patients, slices, phases, size, conflict, domain, seed)
  return Dataset(
    "heart_phantom",
    cohort.table(),
    cohort.image,
    meta=META,
    read_mask=cohort.mask,
    classes=shapes.CLASSES,
  )


def read(*, heart: Mapping[str, Any] | None = None) -> Dataset:
  """The phantom with these arguments of `heart_phantom`, None: its defaults."""
  return heart_phantom(**(heart or {}))


@dataclasses.dataclass(frozen=True)
class _Cohort:
  """All slices of the phantom; arguments as in `heart_phantom`."""

  patients: int
  slices: int
  phases: int
  size: tuple[int, int]
  conflict: float
  domain: str
  seed: int

  def __post_init__(self):
    if min(self.patients, self.slices) < 1 or self.seed < 0:
      raise DataError(
        "the heart phantom needs patients and slices of at least 1 and a seed"
        f" of at least 0, got {self.patients}, {self.slices} and {self.seed}"
      )
    if self.phases not in (1, 2):
      raise DataError(
        "the heart phantom needs phases of 1 (ED) or 2 (ED and ES), got"
        f" {self.phases}"
      )
    if len(self.size) != 2 or min(self.size) < 32:
      raise DataError(
        "the heart phantom needs a size of (height, width), each at least 32,"
        f" got {self.size}"
      )
    if not 0 <= self.conflict <= 3:
      raise DataError(
        "the heart phantom needs a conflict between 0 and 3, got"
        f" {self.conflict}"
      )
    if self.domain not in scanners.SCANNERS:
      raise DataError(
        "the heart phantom needs a domain of"
        f" {' or '.join(scanners.SCANNERS)}, got {self.domain!r}"
      )

  def table(self) -> dict[str, np.ndarray]:
    rows = self.patients * self.phases * self.slices
    records = [self._record(row) for row in range(rows)]
    return {k: np.array([r[k] for r in records]) for k in records[0]}

  def image(self, row: int) -> np.ndarray:
    """The slice as the scanner stores it, uint8[H, W]."""
    patient, _, number = self._place(row)
    signature = scanners.draw_signature(
      self._rng(_SIGNATURE, self._domain_index, patient),
      self._scanner,
      self.conflict,
    )
    around = shapes.surroundings(
      self._anatomy(patient), self._position(number), self.size
    )
    picture = scanners.paint(
      self._contours(row), around, signature, self._scanner
    )
    noise = self._rng(_NOISE, self._domain_index, row)
    return scanners.expose(
      picture, signature, self._scanner, self.conflict, noise
    )

  def mask(self, row: int) -> np.ndarray:
    """Class of every pixel, uint8[H, W]."""
    return shapes.class_mask(self._contours(row))

  def _record(self, row: int) -> dict[str, str | float | int]:
    patient, phase, number = self._place(row)
    group, phase = f"p{patient:04d}", shapes.PHASES[phase]
    between_slices, between_pixels = self._scanner.spacing
    return {
      "id": f"{group}_{phase}_s{number}",
      "group": group,
      "volume": f"{group}_{phase}",
      "patient": group,
      "position": self._position(number),
      "phase": phase,
      "slice": number,
      "spacing_z": between_slices * 8 / self.slices,
      "spacing_y": between_pixels * 64 / self.size[0],
      "spacing_x": between_pixels * 64 / self.size[1],
    }

  @property
  def _scanner(self) -> scanners.Scanner:
    return scanners.SCANNERS[self.domain]

  @property
  def _domain_index(self) -> int:
    return list(scanners.SCANNERS).index(self.domain)

  def _place(self, row: int) -> tuple[int, int, int]:
    """Patient, phase and slice of a row."""
    shape = (self.patients, self.phases, self.slices)
    return tuple(int(i) for i in np.unravel_index(row, shape))

  def _position(self, number: int) -> float:
    return (number + 1) / self.slices

  def _anatomy(self, patient: int) -> shapes.Anatomy:
    return shapes.draw_anatomy(self._rng(_ANATOMY, patient))

  def _contours(self, row: int) -> dict[str, np.ndarray]:
    patient, phase, number = self._place(row)
    anatomy = self._anatomy(patient)
    # Both phases of a slice are taken in one breath-hold.
    breath = self._rng(_BREATHS, patient, number).normal(0, _BREATH, 2)
    section = shapes.cut(
      anatomy, self._position(number), shapes.PHASES[phase], breath
    )
    return shapes.distances(anatomy, section, self.size)

  def _rng(self, *stream: int) -> np.random.Generator:
    return np.random.default_rng([self.seed, *stream])
