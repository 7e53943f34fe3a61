"""Volumes as data sets of slices, with class maps where available.

Only headers are read when the data set is made. Voxels are read with the first
slice of a volume, and the last two volumes of a process are cached, so that
slices read in order cost little.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gcl_jax.data import intensity
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

META = ("volume", "patient", "position", "slice", "phase", "modality")
META += ("spacing_z", "spacing_y", "spacing_x", "labelled")
MODALITIES = ("mr", "ct")


@dataclasses.dataclass(frozen=True, eq=False)
class Voxels:
  """Voxels that are read on demand.

  Attributes:
    where: the file (and the array in it), for messages.
    shape: (S, H, W).
    read: () -> real [S, H, W].
  """

  where: str
  shape: tuple[int, int, int]
  read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
  """One volume of a data set.

  Attributes:
    id: unique name.
    image: its intensities.
    spacing: (z, y, x) in mm: between slices, rows and columns.
    label: its class map on the same grid, None if there is none.
    codes: stored label value -> name of the class. The classes are numbered
      from 1 in this order; 0 is background. Two values may share a name.
    patient: whose volume it is; `volumes` refuses a blank one.
    phase: of the heart cycle, or the visit; "" if there is none.
    modality: "mr" or "ct"; it decides how intensities become 8 bits.
    columns: further columns, a number or a text each.

  Raises:
    DataError: image and label of different shape, labels without codes, an
      unknown modality, or a spacing that is not positive.
  """

  id: str
  image: Voxels
  spacing: tuple[float, float, float]
  label: Voxels | None = None
  codes: Mapping[int, str] = dataclasses.field(default_factory=dict)
  patient: str = ""
  phase: str = ""
  modality: str = "mr"
  columns: Mapping[str, float | str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    where = self.image.where
    if self.modality not in MODALITIES:
      raise DataError(
        f"{where}: modality {self.modality!r}; known: {', '.join(MODALITIES)}"
      )
    if not all(0 < s < np.inf for s in self.spacing):
      raise DataError(f"{where}: spacing {self.spacing} mm, expected above 0")
    if not self.label:
      return
    if self.label.shape != self.image.shape:
      raise DataError(
        f"{self.label.where}: {self.label.shape} voxels, but {where} has"
        f" {self.image.shape}"
      )
    if not self.classes:
      raise DataError(
        f"{self.label.where}: its values have no names; declare the classes"
      )

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes 1..n."""
    return tuple(dict.fromkeys(self.codes.values()))


def volumes(
  name: str,
  entries: Sequence[Volume],
  *,
  ct_window: tuple[float, float] = intensity.CT_WINDOW,
  mr_percentiles: tuple[float, float] = intensity.MR_PERCENTILES,
) -> Dataset:
  """Makes a data set of the slices, in the order of volumes and slices.

  Columns: `id` "<volume>_s012" and `group` (the patient); meta `volume`;
  `patient`; `position` = (slice + 1) / slices, in (0, 1]; `slice` from 0;
  `phase`; `modality`; `spacing_z`,
  `spacing_y`, `spacing_x` in mm between slices, rows and columns; `labelled`
  1 or 0; and the volumes' own columns. `classes` are those of the labels.

  `read` gives uint8 [H, W], scaled over the whole volume by
  `intensity.window_ct` or `intensity.window_mr`. `read_mask` gives uint8 [H, W]
  of 0..n; it is None if no volume has labels, and raises `DataError` for a
  slice of an unlabelled volume.

  Args:
    name: of the data set.
    entries: the volumes, all with the same extra columns.
    ct_window: Hounsfield units that become 0 and 255.
    mr_percentiles: percentiles to which MR is clipped before its z-score.

  Raises:
    DataError: no volume, an id twice, a volume without a patient, or volumes
      that differ in classes or in their columns; when read, NaN, a constant
      volume, or a label value that is not declared.
  """
  if not entries:
    raise DataError(f"data set {name!r} holds no volume")
  table = _table(name, entries)
  rows = np.stack([_repeat(entries, range(len(entries))), table["slice"]], 1)
  labelled = [v for v in entries if v.label]

  def read(row: int) -> np.ndarray:
    number, position = rows[row]
    whole = _pixels(entries[number], tuple(ct_window), tuple(mr_percentiles))
    return whole[position].copy()

  def read_mask(row: int) -> np.ndarray:
    number, position = rows[row]
    return _classes(entries[number])[position].copy()

  return Dataset(
    name,
    table,
    read,
    meta=(*META, *entries[0].columns),
    read_mask=read_mask if labelled else None,
    classes=_common_classes(name, labelled),
  )


def _table(name: str, entries: Sequence[Volume]) -> dict[str, np.ndarray]:
  own = tuple(entries[0].columns)
  odd = next((v for v in entries if tuple(v.columns) != own), None)
  if odd:
    raise DataError(
      f"volume {odd.id!r} of data set {name!r} has the columns"
      f" {tuple(odd.columns)}, {entries[0].id!r} has {own}"
    )
  spacing = np.array([v.spacing for v in entries], np.float64)
  columns = {
    "group": [v.patient for v in entries],
    "volume": [v.id for v in entries],
    "patient": [v.patient for v in entries],
    "phase": [v.phase for v in entries],
    "modality": [v.modality for v in entries],
    **{f"spacing_{axis}": spacing[:, i] for i, axis in enumerate("zyx")},
    "labelled": [float(v.label is not None) for v in entries],
    **{column: [v.columns[column] for v in entries] for column in own},
  }
  table = {c: _repeat(entries, values) for c, values in columns.items()}
  table["slice"] = np.concatenate([np.arange(_slices(v)) for v in entries])
  counts = _repeat(entries, [_slices(v) for v in entries])
  table["position"] = (table["slice"] + 1) / counts
  ids = zip(table["volume"].tolist(), table["slice"].tolist(), strict=True)
  return {"id": np.array([f"{v}_s{k:03d}" for v, k in ids]), **table}


def _slices(volume: Volume) -> int:
  return volume.image.shape[0]


def _repeat(entries: Sequence[Volume], values: Sequence) -> np.ndarray:
  """Repeats one value per volume for each of its slices."""
  return np.repeat(np.array(values), [_slices(v) for v in entries])


def _common_classes(name: str, labelled: Sequence[Volume]) -> tuple[str, ...]:
  """The classes of the labelled volumes, which must be the same for all."""
  if not labelled:
    return ()
  first = labelled[0]
  for volume in labelled:
    if volume.classes != first.classes:
      raise DataError(
        f"data set {name!r} mixes classes: {first.classes} in"
        f" {first.id!r}, {volume.classes} in {volume.id!r}"
      )
  return first.classes


# Threads that read neighbouring slices would each read the whole volume.
_ONE_READER = threading.RLock()


def _pixels(
  volume: Volume, ct_window: tuple, mr_percentiles: tuple
) -> np.ndarray:
  with _ONE_READER:
    return _cached_pixels(volume, ct_window, mr_percentiles)


def _classes(volume: Volume) -> np.ndarray:
  if not volume.label:
    raise DataError(f"volume {volume.id!r} has no label map")
  with _ONE_READER:
    return _cached_classes(volume)


# Volumes are hashed by identity, so data sets never share an entry.
@functools.lru_cache(maxsize=2)
def _cached_pixels(
  volume: Volume, ct_window: tuple, mr_percentiles: tuple
) -> np.ndarray:
  values, where = _voxels(volume.image), volume.image.where
  if volume.modality == "ct":
    return intensity.window_ct(values, ct_window, where)
  return intensity.window_mr(values, mr_percentiles, where)


@functools.lru_cache(maxsize=2)
def _cached_classes(volume: Volume) -> np.ndarray:
  """uint8 [S, H, W] of 0..n; refuses any value without a code."""
  values, names = _voxels(volume.label), list(volume.classes)
  known = {0: 0, **{v: names.index(c) + 1 for v, c in volume.codes.items()}}
  found = np.unique(values)
  strange = [f"{v:g}" for v in found.tolist() if v not in known]
  if strange:
    raise DataError(
      f"{volume.label.where}: label values {', '.join(strange[:10])} are not"
      f" declared; known: {', '.join(str(v) for v in known)}"
    )
  numbers = np.array([known[v] for v in found.tolist()], np.uint8)
  return numbers[np.searchsorted(found, values)]


def _voxels(voxels: Voxels) -> np.ndarray:
  values = voxels.read()
  if values.shape != voxels.shape:
    raise DataError(
      f"{voxels.where}: {values.shape} voxels, the header said {voxels.shape};"
      " did the file change?"
    )
  return values
