"""Conversion of tables for artifacts, and hashes of files for manifests."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np


def pack(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Replaces slashes in column names, which artifact keys must not contain."""
  return {as_key(name): values for name, values in table.items()}


def unpack(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Inverse of `pack`."""
  return {_from_key(key): values for key, values in packed.items()}


def joined(tables: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Concatenates the rows of several tables.

  Args:
    tables: column -> values, one value per row of that table.

  Returns:
    All columns of all tables; for tables without the column "" in a text
    column and nan in a numeric one.
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
  """Column name with its slashes replaced."""
  return name.replace("%", "%25").replace("/", "%2F")


def file_hash(path: str | os.PathLike) -> str:
  """SHA-256 of a file, read in blocks."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def keep_rows(path: pathlib.Path, rows: np.ndarray) -> str:
  """Rewrites a .npy file with only the given rows; returns its `file_hash`."""
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
