"""Whose folders are in a working folder: nothing of others is touched.

A stage's folder is a run's own when its begun.json or manifest.json, which this
program wrote, names the stage. What is removed or replaced is a run's own part
of such a folder, or a file beside a config.json that this program wrote.
"""

import json
import pathlib
import re
from collections.abc import Sequence

from gcl_jax import disk
from gcl_jax.engine import manifest
from gcl_jax.errors import UserError

# What a stage of a run may hold without a mark that can be read: its logs, and
# a begun.json cut short, of which `manifest.read_begun` tells.
_LOGS = ("metrics.jsonl", "skipped.jsonl", "tensorboard", "begun.json")
_PROBE = re.compile(r"\.probe-\d+|\..*\.\d+\.tmp|\.DS_Store")
_CONFIG = {"config", "mesh", "data", "versions"}


def is_own(folder: pathlib.Path) -> bool:
  """Whether a stage of this name was begun or finished there."""
  return any(
    found.get("stage") == folder.name and "schema" in found
    for found in (_read(folder / name) for name in manifest.NAMES)
  )


def check(
  workdir: pathlib.Path, stages: Sequence[str], files: Sequence[str]
) -> None:
  """Refuses a working folder where a run would write over what is not its own.

  Args:
    workdir: the folder of the run, which may hold a run already.
    stages: names of all stages of the run.
    files: names of what these write beside their folders.

  Raises:
    UserError: names what is there.
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
  """Makes a finished stage one to be run again, with any settings.

  For a stage without checkpoints: what it left stays until it is replaced.

  Raises:
    UserError: the folder is not that of a stage.
  """
  if not is_own(folder):
    raise _taken(folder, f"holds no stage {folder.name} of a run")
  open_again(folder)
  (folder / "manifest.json").unlink(missing_ok=True)
  disk.sync(folder)


def open_again(folder: pathlib.Path) -> None:
  """Marks a folder as that of a stage, begun with no settings yet."""
  mark = {"schema": manifest.SCHEMA, "stage": folder.name}
  manifest.write_json(folder / "begun.json", mark)


def _has_content(folder, known):
  """Whether it holds more than a start that was killed or refused leaves."""
  return any(
    path.name not in known and not _PROBE.fullmatch(path.name)
    for path in folder.iterdir()
  )


def _taken(path, why):
  return UserError(
    f"{path} {why} and would be replaced: choose another --workdir"
  )


def _read(path):
  """The JSON object in a file, {} if there is none."""
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}
