"""What the readers of DICOM and of NIfTI share (extra `medical`)."""

import importlib
import pathlib
import sys
from types import ModuleType

import numpy as np

from gcl_jax.data.quiet import watch
from gcl_jax.errors import DataError


def extra(module: str) -> ModuleType:
  """Imports an optional reader.

  Raises:
    DataError: it is not installed; the message says how to install it.
  """
  known = module in sys.modules
  try:
    loaded = importlib.import_module(module)
  except ImportError as error:
    name = module.partition(".")[0]
    raise DataError(
      f"{name} is needed to read this kind of file:"
      " pip install 'gcl-jax[medical]'"
    ) from error
  if not known:
    watch()
  return loaded


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
