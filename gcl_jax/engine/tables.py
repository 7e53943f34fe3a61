"""Tables of columns, and files, as artifacts and manifests hold them."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np


def pack(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A table whose column names may hold a slash, as no key of an artifact."""
  return {as_key(name): values for name, values in table.items()}


def unpack(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The table that `pack` was given."""
  return {_from_key(key): values for key, values in packed.items()}


def joined(tables: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """The rows of several tables, one table after the other.

  Args:
    tables: column -> values, one value per row of that table.

  Returns:
    Every column that one of them has, blank in the rows of a table that lacks
    it: "" in a column of texts, nan in one of numbers.
  """
  names = dict.fromkeys(name for table in tables for name in table)
  lengths = [len(next(iter(table.values()))) for table in tables]

  def column(name: str) -> np.ndarray:
    first = next(table[name] for table in tables if name in table)
    blank = "" if np.asarray(first).dtype.kind in "UO" else np.nan
    parts = [
      table.get(name, np.full(length, blank))
      for table, length in zip(tables, lengths, strict=True)
    ]
    return np.concatenate(parts)

  return {name: column(name) for name in names}


def as_key(name: str) -> str:
  """A column's name without a slash."""
  return name.replace("%", "%25").replace("/", "%2F")


def file_hash(path: str | os.PathLike) -> str:
  """SHA-256 of a file, read in pieces."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def keep_rows(path: pathlib.Path, rows: np.ndarray) -> str:
  """Rewrites a .npy file with these rows alone; returns its `file_hash`."""
  values = np.load(path, mmap_mode="r")
  if len(rows) < len(values):
    shorter = path.with_name(f"{path.stem}_kept.npy")
    kept = np.lib.format.open_memmap(
      shorter, "w+", values.dtype, (len(rows), *values.shape[1:])
    )
    for target, row in enumerate(rows):
      kept[target] = values[row]
    kept.flush()
    shorter.replace(path)
  return file_hash(path)


def _from_key(key: str) -> str:
  return key.replace("%2F", "/").replace("%25", "%")
