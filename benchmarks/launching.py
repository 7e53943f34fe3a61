"""Starts the program as a user would."""

import pathlib
import subprocess
import sys


def run(
  config: str,
  workdir: pathlib.Path,
  settings: dict,
  stage: str | None = None,
) -> None:
  """One run, or one stage of it; raises if it does not end well."""
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
  subprocess.run(command, check=True)
