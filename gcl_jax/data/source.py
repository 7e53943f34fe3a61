"""The data set: a table with one row per image, and the reading of an image."""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable

import numpy as np

from gcl_jax.data.text import one_forms
from gcl_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Images addressed by row, described by a table, joined by id.

  All texts of the table are converted to canonical form (see `text`), so that
  one patient is one group; a warning reports merged spellings.

  Attributes:
    name: short name, used in messages and manifests.
    table: one array of length N per column. `id` (unique) and `group` (the
      patient, or another unit that must not cross a split; never blank) are
      required. Optional are `healthy` (1, 0 or nan = unknown) and `split`
      ("train", "eval" or "" = undecided). Label columns are 1, 0 or nan =
      missing.
    read: row -> the stored image, [H, W] or [H, W, 3], uint8, uint16 or float.
      Raises `DataError` for a file that cannot be read in full.
    labels: names of the binary columns that a probe is trained on.
    meta: names of further columns (clinical values, visit, eye).
    read_mask: row -> uint8 [H, W], the class of each pixel of `read(row)`, 0 =
      background, i = `classes[i - 1]`; None if there are no masks. Raises
      `DataError` for a row without a mask or an undeclared class.
    classes: names of the classes 1..n of the masks.
    read_boxes: row -> float32 [K, 5], boxes round the lesions of `read(row)`:
      top, left, bottom, right in pixels (bottom and right excluded) and the
      confidence in [0, 1]; None if there are no boxes.
  """

  name: str
  table: dict[str, np.ndarray]
  read: Callable[[int], np.ndarray]
  labels: tuple[str, ...] = ()
  meta: tuple[str, ...] = ()
  read_mask: Callable[[int], np.ndarray] | None = None
  classes: tuple[str, ...] = ()
  read_boxes: Callable[[int], np.ndarray] | None = None

  def __post_init__(self):
    for column in ("id", "group", *self.labels, *self.meta):
      if column not in self.table:
        raise DataError(
          f"data set {self.name!r} has no column {column!r};"
          f" it has: {', '.join(self.table)}"
        )
    # Every data set passes here, whatever its reader.
    table = {
      column: one_forms(values, f"data set {self.name!r}, column {column!r}")
      for column, values in self.table.items()
    }
    object.__setattr__(self, "table", table)
    _check_lengths(self.name, self.table)
    _check_unique(self.name, self.table["id"])
    _check_groups(self.name, self.table)

  def __len__(self) -> int:
    return len(self.table["id"])

  @property
  def ids(self) -> np.ndarray:
    return self.table["id"]

  @property
  def groups(self) -> np.ndarray:
    return self.table["group"]

  def column(self, name: str) -> np.ndarray:
    """Returns one column [N]; DataError with the nearest name if unknown."""
    if name in self.table:
      return self.table[name]
    near = difflib.get_close_matches(name, self.table, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(
      f"data set {self.name!r} has no column {name!r}{hint}"
      f" (columns: {', '.join(self.table)})"
    )

  def select(self, rows: np.ndarray) -> "Dataset":
    """Returns the data set of these rows (positions or a boolean mask)."""
    rows = np.arange(len(self))[rows]
    table = {name: values[rows] for name, values in self.table.items()}
    moved = {}
    for name in ("read", "read_mask", "read_boxes"):
      moved[name] = _of_rows(getattr(self, name), rows)
    return dataclasses.replace(self, table=table, **moved)

  def fingerprint(self) -> str:
    """SHA-256 of the table: ids, groups and every label, in order."""
    digest = hashlib.sha256()
    for name in sorted(self.table):
      digest.update(name.encode())
      values = self.table[name]
      digest.update("\n".join(str(value) for value in values).encode())
    return digest.hexdigest()


def _of_rows(read: Callable | None, rows: np.ndarray) -> Callable | None:
  return read and (lambda row: read(int(rows[row])))


def _check_lengths(name: str, table: dict[str, np.ndarray]) -> None:
  lengths = {column: len(values) for column, values in table.items()}
  if len(set(lengths.values())) > 1:
    raise DataError(f"columns of data set {name!r} differ in length: {lengths}")
  if not lengths["id"]:
    raise DataError(f"data set {name!r} is empty")


def _check_unique(name: str, ids: np.ndarray) -> None:
  values, counts = np.unique(ids, return_counts=True)
  if counts.max() > 1:
    twice = ", ".join(
      f"{v} (rows {', '.join(map(str, np.flatnonzero(ids == v)[:5]))})"
      for v in values[counts > 1][:5]
    )
    raise DataError(
      f"data set {name!r} holds {np.sum(counts > 1)} ids more than once:"
      f" {twice}; give every image its own id"
    )


def _check_groups(name: str, table: dict[str, np.ndarray]) -> None:
  """Refuses rows without a group: nobody knows which part they belong to."""
  values = np.asarray(table["group"]).tolist()
  # nan is no number and no name either.
  blank = np.array([v != v or not str(v).strip() for v in values])
  if blank.any():
    first = str(table["id"][np.flatnonzero(blank)[0]])
    raise DataError(
      f"data set {name!r}: {blank.sum()} rows have no patient (column 'group'),"
      f" the first is {first!r}"
    )
