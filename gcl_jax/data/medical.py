"""What the readers of DICOM and of NIfTI share (extra `medical`)."""

import contextlib
import importlib
import pathlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from gcl_jax.errors import DataError


def extra(module: str) -> ModuleType:
  """Imports an optional reader.

  Raises:
    DataError: it is not installed; the message says how to install it.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    name = module.partition(".")[0]
    raise DataError(
      f"{name} is needed to read this kind of file:"
      " pip install 'gcl-jax[medical]'"
    ) from error


def narrow(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  """uint8 and uint16 stay; everything else becomes float32."""
  keep = values.dtype in (np.uint8, np.uint16)
  return values if keep else to_float32(path, values)


def to_float32(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  """The values as float32; DataError for a number that is too large for it.

  NaN and infinity that the file holds pass: who scales the image refuses.
  """
  with np.errstate(over="ignore"):
    small = values.astype(np.float32)
  lost = int((np.isfinite(values) & ~np.isfinite(small)).sum())
  if lost:
    raise DataError(f"{path}: {lost} values are too large for 32 bits")
  return small


@contextlib.contextmanager
def one_error(path: pathlib.Path, kind: str) -> Iterator[None]:
  """Turns whatever a reader raises on a damaged file into a DataError."""
  try:
    yield
  except DataError:
    raise
  except Exception as error:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise DataError(f"{path}: not a readable {kind}: {reason}") from error
