"""Tables of columns, and files, as artifacts and manifests hold them."""

import hashlib
import os

import numpy as np


def pack(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A table whose column names may hold a slash, as no key of an artifact."""
  return {as_key(name): values for name, values in table.items()}


def unpack(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The table that `pack` was given."""
  return {_from_key(key): values for key, values in packed.items()}


def as_key(name: str) -> str:
  """A column's name without a slash."""
  return name.replace("%", "%25").replace("/", "%2F")


def file_hash(path: str | os.PathLike) -> str:
  """SHA-256 of a file, read in pieces."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _from_key(key: str) -> str:
  return key.replace("%2F", "/").replace("%25", "%")
