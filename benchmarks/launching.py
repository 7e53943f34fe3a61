"""Start of the program by its command line."""

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
  """Executes a run, or one stage of it, on the given cores (() = all of this
  process); raises if it fails."""
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
