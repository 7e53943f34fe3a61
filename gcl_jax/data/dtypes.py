"""Number types of stored pixels: uint8 and uint16 are kept, others float32."""

import pathlib

import numpy as np

from gcl_jax.errors import DataError


def narrow(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  """Returns uint8 and uint16 unchanged and everything else as float32.

  Raises:
    DataError: as `to_float32`.
  """
  keep = values.dtype in (np.uint8, np.uint16)
  return values if keep else to_float32(path, values)


def to_float32(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  """Converts to float32. NaN and infinity of the file are kept.

  Args:
    path: the file, for the message.
    values: any shape, real.

  Raises:
    DataError: a finite value is too large for float32.
  """
  with np.errstate(over="ignore"):
    small = values.astype(np.float32)
  lost = int((np.isfinite(values) & ~np.isfinite(small)).sum())
  if lost:
    raise DataError(f"{path}: {lost} values are too large for 32 bits")
  return small
