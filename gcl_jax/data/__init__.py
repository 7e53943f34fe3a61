"""Data sets: `load` reads the one that a configuration names."""

import difflib
import importlib
import inspect
import pkgutil
from typing import Any

from gcl_jax.data import readers, splits
from gcl_jax.data.files import existing
from gcl_jax.data.source import Dataset
from gcl_jax.errors import ConfigError, DataError


def reader_names() -> tuple[str, ...]:
  """Names of the data sets that can be read: the files of `readers`, sorted."""
  found = [module.name for module in pkgutil.iter_modules(readers.__path__)]
  return tuple(sorted(name for name in found if not name.startswith("_")))


def load(config: Any) -> Dataset:
  """Reads the data set that `config` describes.

  The reader is the function `read` of `gcl_jax.data.readers.<name>`. It gets
  those fields of `config` that it has arguments for, without the blank ones.

  Args:
    config: the data section of a configuration, or any object with the field
      `name`, a name out of `reader_names()`. `path` is the file or folder,
      `where` the conditions of `splits.where`; all further fields are explained
      in the reader.

  Returns:
    The data set. Of files on disk, tables and headers have been read, and npz
    archives of images in full; image files are read when asked for.

  Raises:
    ConfigError: an unknown name; the message gives the nearest one.
    DataError: the path is missing, or what the reader raises.
  """
  names = reader_names()
  # Checked first: names come from the command line, and an import runs code.
  if config.name not in names:
    near = difflib.get_close_matches(str(config.name), names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
      f"no data set {config.name!r}{hint} (known: {', '.join(names)})"
    )
  read = importlib.import_module(f"{readers.__name__}.{config.name}").read
  known = inspect.signature(read).parameters
  settings = {name: getattr(config, name, "") for name in known}
  settings = {name: value for name, value in settings.items() if value}
  if "path" in known:
    _check_path(config.name, settings.get("path"))
  return splits.where(read(**settings), getattr(config, "where", ()))


def _check_path(name: str, path: Any) -> None:
  if not path:
    raise DataError(
      f"data set {name!r} needs a path: --config.data.path=... (or"
      " --config.healthy_data.path=... of the second set)"
    )
  existing(path)
