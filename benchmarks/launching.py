"""Starts the program as a user would."""

import functools
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable


def run(
  config: str,
  workdir: pathlib.Path,
  settings: dict,
  stage: str | None = None,
  cores: Iterable[int] = (),
) -> None:
  """One run, or one stage of it, on these cores (() = all of this process);
  raises if it does not end well."""
  command = [
    sys.executable,
    "-m",
    "gcl_jax.main",
    f"--config={config}",
    f"--workdir={workdir}",
    *(f"--config.{name}={value}" for name, value in settings.items()),
  ]
  if stage:
    command.append(f"--stage={stage}")
  cores = set(cores) or os.sched_getaffinity(0)
  pin = functools.partial(os.sched_setaffinity, 0, cores)
  subprocess.run(command, check=True, preexec_fn=pin)
