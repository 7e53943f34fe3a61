"""Atomic and durable writes of the files of a run.

All of them are written here, except the arrays of checkpoints: orbax writes
these and `settle` syncs them. Tests inject full, slow and failing disks here.
"""

import os
import pathlib
import shutil

from gcl_jax.errors import UserError


def write_text(path: str | os.PathLike, text: str) -> None:
  """Replaces a file; a crash leaves the complete old or new file.

  Raises:
    OSError: the file cannot be written; the old one is intact.
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
  """Appends a line to a log, without sync: a crash may lose the last lines."""
  with open(path, "a", encoding="utf-8") as file:
    file.write(line + "\n")


def replace_folder(temporary: pathlib.Path, folder: pathlib.Path) -> None:
  """Replaces a folder by a complete new one.

  The old folder is moved away in one rename: a crash leaves the old folder,
  the new one or none, each complete.
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
  """Syncs a folder and its contents, so that they survive a power loss."""
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
  """Creates a folder and tests that files can be written there.

  Raises:
    UserError: the folder cannot be created or written to.
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
