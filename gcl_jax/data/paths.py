"""Files that a table names, found in whatever form their names are stored.

A name is opened as it is stored and compared in one form (see `text`): a table
says ü in one letter where a folder packed on a Mac has u and two dots.
"""

import os
import pathlib

from gcl_jax.data.table_files import Table
from gcl_jax.data.text import one_form


class Paths:
  """What lies below a folder, by the path that a table gives."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    self._names: dict[pathlib.Path, dict[str, list[pathlib.Path]]] = {}

  def cell(self, rows: Table, i: int, column: str) -> tuple[str, str]:
    """The path in a cell, with the very characters and in one form.

    Raises:
      DataError: it leads out of the folder.
    """
    cells = rows.as_written(column)[i], rows.text(column)[i]
    both = [os.path.normpath(str(c).replace("\\", "/")) for c in cells]
    if any(os.path.isabs(p) or p.startswith("..") for p in both):
      raise rows.error(
        i, column, f"{str(cells[1])!r} is outside the folder {self.root}"
      )
    return tuple(both)

  def exact(self, path: str) -> list[pathlib.Path]:
    """What has this very path below the root, if anything has."""
    found = self.root / path
    return [found] if os.path.lexists(found) else []

  def alike(self, path: str) -> list[pathlib.Path]:
    """Everything whose path below the root is this one, in one form."""
    found = [self.root]
    for part in pathlib.PurePosixPath(path).parts:
      found = [file for above in found for file in self.inside(above, part)]
    return found

  def inside(self, folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Entries of a folder with this name, in one form; it is listed once."""
    if folder not in self._names:
      names = self._names[folder] = {}
      for file in _entries(folder):
        names.setdefault(one_form(file.name), []).append(file)
    return self._names[folder].get(name, [])


def several(files: list[pathlib.Path]) -> str:
  """What to say of a number of files where one was expected."""
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
