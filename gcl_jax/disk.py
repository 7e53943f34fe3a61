"""How files of a run reach the disk: whole or not at all, and to stay.

The one module that writes them; orbax writes the arrays of checkpoints and
`settle` makes those stay too. A test that fills, stalls or cuts the disk does
it here.
"""

import os
import pathlib
import shutil

from gcl_jax.errors import UserError


def write_text(path: str | os.PathLike, text: str) -> None:
  """Replaces a file; a crash leaves the old one or the new, never half.

  Raises:
    OSError: it cannot be written; the old one is intact.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  sync(path.parent)


def append(path: str | os.PathLike, line: str) -> None:
  """Adds a line to a log. It is not synced: a log may lose its end."""
  with open(path, "a", encoding="utf-8") as file:
    file.write(line + "\n")


def replace_folder(temporary: pathlib.Path, folder: pathlib.Path) -> None:
  """Puts a complete folder in the place of an older one.

  The older one gives way in one rename: a crash leaves it, the new one or
  none, never half of one.
  """
  settle(temporary)
  old = folder.with_name(f".{folder.name}.old")
  shutil.rmtree(old, ignore_errors=True)
  if folder.exists():
    os.replace(folder, old)
  os.replace(temporary, folder)
  sync(folder.parent)
  shutil.rmtree(old, ignore_errors=True)


def settle(folder: pathlib.Path) -> None:
  """Makes a folder and everything in it survive a power loss."""
  for parent, _, names in os.walk(folder):
    for name in names:
      sync(pathlib.Path(parent) / name)
    sync(pathlib.Path(parent))
  sync(pathlib.Path(folder).parent)


def sync(path: pathlib.Path) -> None:
  """Waits until a file's bytes, or a folder's entries, are on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def make_writable(folder: pathlib.Path) -> None:
  """Makes a folder and proves that files can be written there.

  Raises:
    UserError: they cannot.
  """
  probe = folder / f".probe-{os.getpid()}"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text("")
    probe.unlink(missing_ok=True)
  except OSError as error:
    raise UserError(
      f"cannot write to {folder} ({error.strerror}): choose another"
      " --workdir or mend its permissions"
    ) from None
