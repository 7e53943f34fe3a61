"""Whose folders are in a working folder: nothing of others is touched.

A stage's folder is a run's own when its begun.json or manifest.json, which this
program wrote, names the stage. All that is removed or replaced lies in such a
folder or is a file of a folder whose config.json this program wrote.
"""

import json
import pathlib
import shutil
from collections.abc import Sequence

from gcl_jax import disk
from gcl_jax.engine import manifest
from gcl_jax.errors import UserError

# What a run leaves beside the folders of its stages.
_FILES = ("config.json", "report.json", "report.html")
_CONFIG = {"config", "mesh", "data", "versions"}


def is_own(folder: pathlib.Path) -> bool:
  """Whether a stage of this name was begun or finished there."""
  return any(
    found.get("stage") == folder.name and "schema" in found
    for found in (_read(folder / name) for name in manifest.NAMES)
  )


def check(workdir: pathlib.Path, stages: Sequence[str]) -> None:
  """Refuses a working folder where a run would write over what is not its own.

  Args:
    workdir: the folder of the run, which may hold a run already.
    stages: names of all stages of the run.

  Raises:
    UserError: names what is there.
  """
  if not _CONFIG <= _read(workdir / "config.json").keys():
    for path in (workdir / name for name in _FILES):
      if path.exists():
        raise _taken(path, "was not written by a run")
  for folder in (workdir / name for name in stages):
    if not folder.exists() or is_own(folder):
      continue
    if not folder.is_dir() or _has_content(folder):
      raise _taken(folder, f"holds no stage {folder.name} of a run")


def remove(folder: pathlib.Path) -> None:
  """Removes the folder of a stage, and no other.

  Raises:
    UserError: it is not that of a stage.
  """
  if not is_own(folder):
    raise _taken(folder, f"holds no stage {folder.name} of a run")
  shutil.rmtree(folder)
  disk.sync(folder.parent)


def _has_content(folder):
  """Whether it holds more than a killed start leaves behind."""
  return any(not path.name.startswith(".") for path in folder.iterdir())


def _taken(path, why):
  return UserError(
    f"{path} {why} and would be replaced: choose another --workdir (nothing"
    " was changed)"
  )


def _read(path):
  """The JSON object in a file, {} if there is none."""
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}
