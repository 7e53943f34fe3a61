"""Ownership of the folders in a working folder; foreign files are left alone.

A stage's folder belongs to a run if its begun.json or manifest.json, which this
program wrote, names the stage. A run removes or replaces only its own parts of
such folders, and files beside a config.json that this program wrote.
"""

import json
import pathlib
import re
from collections.abc import Sequence

from gcl_jax import disk
from gcl_jax.engine import manifest
from gcl_jax.errors import UserError

# Allowed contents of a stage's folder without a readable begun.json: its logs,
# and a truncated begun.json, which `manifest.read_begun` reports.
_LOGS = ("metrics.jsonl", "skipped.jsonl", "tensorboard", "begun.json")
_PROBE = re.compile(r"\.probe-\d+|\..*\.\d+\.tmp|\.DS_Store")
_CONFIG = {"config", "mesh", "data", "versions"}


def is_own(folder: pathlib.Path) -> bool:
  """Whether a stage of the folder's name was begun or finished in it."""
  return any(
    mark.get("stage") == folder.name and "schema" in mark
    for mark in (_read(folder / name) for name in manifest.NAMES)
  )


def check(
  workdir: pathlib.Path, stages: Sequence[str], files: Sequence[str]
) -> None:
  """Refuses a working folder in which a run would overwrite foreign files.

  Args:
    workdir: the folder of the run, which may hold a run already.
    stages: names of all stages of the run.
    files: names of the files that stages write beside their folders.

  Raises:
    UserError: names a foreign file or folder.
  """
  is_run = _CONFIG <= _read(workdir / "config.json").keys()
  if not is_run:
    for path in (workdir / name for name in ("config.json", *files)):
      if path.exists():
        raise _taken(path, "was not written by a run")
  for folder in (workdir / name for name in stages):
    if not folder.exists() or is_own(folder):
      continue
    if not folder.is_dir() or _has_content(folder, _LOGS if is_run else ()):
      raise _taken(folder, f"holds no stage {folder.name} of a run")


def reopen(folder: pathlib.Path) -> None:
  """Marks a finished stage to be run again, with any settings.

  For a stage without checkpoints: its files stay until they are replaced.

  Raises:
    UserError: the folder does not belong to a stage.
  """
  if not is_own(folder):
    raise _taken(folder, f"holds no stage {folder.name} of a run")
  open_again(folder)
  (folder / "manifest.json").unlink(missing_ok=True)
  disk.sync(folder)


def open_again(folder: pathlib.Path) -> None:
  """Marks a folder as that of a stage that was begun without settings."""
  mark = {"schema": manifest.SCHEMA, "stage": folder.name}
  manifest.write_json(folder / "begun.json", mark)


def _has_content(folder, known):
  """Whether a folder holds more than a killed or refused start leaves."""
  return any(
    path.name not in known and not _PROBE.fullmatch(path.name)
    for path in folder.iterdir()
  )


def _taken(path, why):
  return UserError(
    f"{path} {why} and would be replaced: choose another --workdir"
  )


def _read(path):
  """JSON object in a file, {} if there is none."""
  try:
    value = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return value if isinstance(value, dict) else {}
