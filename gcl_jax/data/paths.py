"""Files named in a table, found in any Unicode form of their names.

Names are compared in canonical form (see `text`) and opened as stored: a table
may hold a composed ü where a folder packed on macOS has a decomposed one.
"""

import os
import pathlib

from gcl_jax.data.table_files import Table
from gcl_jax.data.text import one_form


class Paths:
  """Lookup of files below a folder by the paths in a table."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    self._names: dict[pathlib.Path, dict[str, list[pathlib.Path]]] = {}

  def cell(self, rows: Table, i: int, column: str) -> tuple[str, str]:
    """Returns the path in a cell, as written and in canonical form.

    Raises:
      DataError: the path is outside the folder.
    """
    cells = rows.as_written(column)[i], rows.text(column)[i]
    both = [os.path.normpath(str(c).replace("\\", "/")) for c in cells]
    if any(os.path.isabs(p) or p.startswith("..") for p in both):
      raise rows.error(
        i, column, f"{str(cells[1])!r} is outside the folder {self.root}"
      )
    return tuple(both)

  def exact(self, path: str) -> list[pathlib.Path]:
    """Returns the file with exactly this path below the root, if it exists."""
    found = self.root / path
    return [found] if os.path.lexists(found) else []

  def alike(self, path: str) -> list[pathlib.Path]:
    """Returns all files whose path below the root has this canonical form."""
    found = [self.root]
    for part in pathlib.PurePosixPath(path).parts:
      found = [file for above in found for file in self.inside(above, part)]
    return found

  def inside(self, folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Returns entries of a folder by canonical name; it is listed once."""
    if folder not in self._names:
      names = self._names[folder] = {}
      for file in _entries(folder):
        names.setdefault(one_form(file.name), []).append(file)
    return self._names[folder].get(name, [])


def several(files: list[pathlib.Path]) -> str:
  """Describes a number of files where one was expected, for a message."""
  if not files:
    return "no such file"
  forms = {one_form(str(file)) for file in files}
  alike = ", alike but for the form of their letters" if len(forms) == 1 else ""
  return f"{len(files)} such files{alike}"


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    return sorted(folder.iterdir())
  except OSError:  # a file, or a folder that may not be read
    return []
