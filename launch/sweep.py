"""Hyper-parameter sweep: runs from one file of settings, each in a folder.

  python launch/sweep.py FILE -- --config=configs/severity.py:octdl \\
      --workdir=runs/sweep

prints one command per run. --run executes them one after the other and lists
failures, --index=N executes the N-th (from 0), and --slurm prints the command
that submits all of them as one array job. FILE is Python and defines SWEEP:

  SWEEP = {"supcon.temperature": [0.07, 0.1], "seed": [0, 1, 2]}  # all pairs
  SWEEP = [{"seed": 0}, {"seed": 1, "supcon.epochs": 50}]         # only these

The folder of a run is named after its settings, under --workdir, so finished
runs are kept when a sweep grows. Exit codes: 0 all finished, 1 some failed, 2 a
mistake in the file or the command, 75 stopped after saving (run again).
"""

import argparse
import hashlib
import importlib.machinery
import importlib.util
import itertools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

PREEMPTED = 75
LONGEST = 120  # characters of a folder's name
SCALARS = (str, bool, int, float)


class SweepError(ValueError):
  """Mistake in the sweep file or in the command, as a one-line message."""


def load(path: str) -> list[dict]:
  """Settings of every run of a sweep file.

  Raises:
    SweepError: the file is missing, raises an error, or has no valid SWEEP.
  """
  if not pathlib.Path(path).is_file():
    raise SweepError(f"{path}: no such file")
  loader = importlib.machinery.SourceFileLoader("sweep_file", path)
  spec = importlib.util.spec_from_loader("sweep_file", loader)
  module = importlib.util.module_from_spec(spec)
  try:
    loader.exec_module(module)
  except Exception as error:  # whatever the file does wrong
    raise SweepError(f"{path}: {type(error).__name__}: {error}") from error
  try:
    return expand(getattr(module, "SWEEP", None))
  except SweepError as error:
    raise SweepError(f"{path}: {error}") from error


def expand(sweep: dict | list) -> list[dict]:
  """All combinations of a dict of lists; a list of dicts unchanged.

  Raises:
    SweepError: `sweep` is neither, is empty, or repeats a run.
  """
  if isinstance(sweep, dict) and sweep:
    for field, values in sweep.items():
      if not isinstance(values, list | tuple) or not values:
        raise SweepError(f"{field!r} needs a list of values, not {values!r}")
    runs = [
      dict(zip(sweep, values, strict=True))
      for values in itertools.product(*sweep.values())
    ]
  elif isinstance(sweep, list) and sweep:
    runs = sweep
  else:
    raise SweepError(
      "SWEEP must be a dict of lists or a list of dicts, and not empty"
    )
  for run in runs:
    check(run)
  names = [name(run) for run in runs]
  for again in names:
    if names.count(again) > 1:
      raise SweepError(f"the run {again!r} is asked for more than once")
  return runs


def check(run: dict) -> None:
  """Checks that every setting can be a flag of the command."""
  if not isinstance(run, dict) or not run:
    raise SweepError(f"{run!r} is no dict of settings")
  for field, value in run.items():
    if not isinstance(field, str) or not re.fullmatch(r"\w+(\.\w+)*", field):
      raise SweepError(f"{field!r} is no name such as 'supcon.temperature'")
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, SCALARS) for part in parts):
      raise SweepError(
        f"{field} cannot be {value!r}: give text, a number,"
        " True, False or a tuple of them"
      )


def name(run: dict) -> str:
  """Folder name of a run: its settings in portable characters."""
  full = ",".join(f"{field}={value}" for field, value in run.items())
  plain = re.sub(r"[^\w.,=+-]+", "_", full)
  if plain == full and len(plain) <= LONGEST:
    return plain
  # Two different settings must not share a folder after the letters changed.
  return f"{plain[:LONGEST]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def command(run: dict, arguments: list[str]) -> list[str]:
  """Command of one run, with its folder under the --workdir of arguments."""
  folders = [a for a in arguments if a.startswith("--workdir=")]
  if not folders:
    raise SweepError("after -- there must be --workdir=FOLDER for all runs")
  others = [a for a in arguments if not a.startswith("--workdir=")]
  folder = os.path.join(folders[-1].removeprefix("--workdir="), name(run))
  settings = [f"--config.{field}={value}" for field, value in run.items()]
  main = [sys.executable, "-u", "-m", "gcl_jax.main"]
  return [*main, *others, *settings, f"--workdir={folder}"]


def execute(commands: list[list[str]]) -> int:
  """Runs the commands one after the other and lists failures.

  A run that was stopped after saving ends the sweep.
  """
  failed = []
  for number, parts in enumerate(commands):
    print(f"sweep: {number + 1} of {len(commands)}: {parts[-1]}", flush=True)
    code = call(parts)
    if code == PREEMPTED:
      print("sweep: stopped after saving; the same command goes on")
      return PREEMPTED
    if code:
      failed.append(f"{parts[-1]} (exit code {code})")
  for line in failed:
    print(f"sweep: failed: {line}")
  print(f"sweep: {len(commands) - len(failed)} of {len(commands)} finished")
  return 1 if failed else 0


def call(parts: list[str]) -> int:
  """Exit code of one command, to which SIGTERM is forwarded."""
  child = subprocess.Popen(parts)
  before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
  try:
    return child.wait()
  finally:
    signal.signal(signal.SIGTERM, before)


def array_line(path: str, count: int, script: str, rest: list[str]) -> str:
  """Command that submits all runs as one Slurm array job."""
  parts = ["sbatch", f"--array=0-{count - 1}", script, *rest]
  return f"GCL_SWEEP={shlex.quote(path)} {shlex.join(parts)}"


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, list]:
  """Options, and the arguments after `--`, which go to gcl_jax.main."""
  argv = sys.argv[1:] if argv is None else argv
  cut = argv.index("--") if "--" in argv else len(argv)
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("file", metavar="FILE")
  way = parser.add_mutually_exclusive_group()
  way.add_argument("--run", action="store_true")
  way.add_argument("--index", type=int, metavar="N")
  way.add_argument(
    "--slurm",
    nargs="?",
    const="launch/slurm.sbatch",
    metavar="SCRIPT",
    help="launch/slurm.sbatch, or launch/slurm_cpu.sbatch",
  )
  return parser.parse_args(argv[:cut]), argv[cut + 1 :]


def main(argv: list[str] | None = None) -> int:
  """Prints, runs or submits the runs of a sweep file."""
  sys.dont_write_bytecode = True  # no __pycache__ beside the sweep file
  options, rest = parse(argv)
  runs = load(options.file)
  commands = [command(run, rest) for run in runs]
  if options.index is not None:
    if not 0 <= options.index < len(runs):
      raise SweepError(f"--index={options.index} of {len(runs)} runs")
    # In our place, so that a signal for us is one for the run.
    os.execv(sys.executable, commands[options.index])
  if options.run:
    return execute(commands)
  if options.slurm:
    print(array_line(options.file, len(runs), options.slurm, rest))
  else:
    for parts in commands:
      print(shlex.join(parts))
  return 0


if __name__ == "__main__":
  try:
    sys.exit(main())
  except SweepError as mistake:
    print(f"sweep: {mistake}", file=sys.stderr)
    sys.exit(2)
