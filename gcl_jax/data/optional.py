"""Import of optional packages (extra `medical`), with a message if missing."""

import importlib
import sys
from types import ModuleType

from gcl_jax.data.quiet import watch
from gcl_jax.errors import DataError


def extra(module: str) -> ModuleType:
  """Imports a module of an optional package.

  Args:
    module: dotted name, such as "pydicom.pixels".

  Raises:
    DataError: the package is not installed; the message says how to install
      it.
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
