"""Number and time of the compilations of a run or of the tests.

  python benchmarks/compiles.py severity:tiny gcl:tiny
  python benchmarks/compiles.py severity:octdl --step
  python benchmarks/compiles.py --tests tests/test_severity.py tests/test_gcl.py

Prints one JSON object per stage (or test file) and one for the sum: programs,
seconds of compiling, total seconds, and the names of the most frequent
programs. Numbers of programs are reproducible; seconds are not.
"""

import argparse
import collections
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


class Compiled(NamedTuple):
  """Name and compile time in seconds of a compiled program."""

  name: str
  seconds: float


class Counter:
  """Counts compiled programs by the name of the work that compiled them."""

  def __init__(self):
    self.found = collections.defaultdict(list)
    self.wall_s = collections.Counter()
    self.now = "start"
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, event: str, seconds: float, **facts: Any) -> None:
    if event == EVENT:
      name = str(facts.get("fun_name", "?"))
      self.found[self.now].append(Compiled(name, seconds))

  def total(self) -> int:
    """Number of programs so far."""
    return sum(map(len, self.found.values()))

  def during(self, name: str, work: Any) -> Any:
    """Result of `work()`, with its programs counted under the name."""
    self.now, begin = name, time.perf_counter()
    try:
      return work()
    finally:
      self.wall_s[name] += time.perf_counter() - begin

  @contextlib.contextmanager
  def by_stage(self) -> Iterator[None]:
    """Context manager that counts programs by the stage of a run."""
    from gcl_jax.engine import stages

    run_stage = stages._run_stage
    stages._run_stage = lambda stage, context: self.during(
      stage.name, lambda: run_stage(stage, context)
    )
    try:
      yield
    finally:
      stages._run_stage = run_stage

  def print(self, **facts: Any) -> None:
    """Prints one line per name and one for the sum."""
    for name in self.wall_s:
      self._line(name, self.found[name], self.wall_s[name], facts)
    every = sum(self.found.values(), [])
    self._line("sum", every, sum(self.wall_s.values()), facts)

  def _line(self, name, programs, wall_s, facts):
    names = collections.Counter(program.name for program in programs)
    record = {
      "name": name,
      "programs": len(programs),
      "compile_s": round(sum(program.seconds for program in programs), 2),
      "wall_s": round(wall_s, 2),
      "most": dict(names.most_common(5)),
    }
    print(json.dumps(facts | record), flush=True)


class ByFile(Counter):
  """Pytest plugin that counts programs by test file."""

  def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
    self.now, self.begin = nodeid.partition("::")[0], time.perf_counter()

  def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
    self.wall_s[self.now] += time.perf_counter() - self.begin


def count_tests(arguments: list[str]) -> int:
  """Runs tests in this process; returns pytest's exit code."""
  import pytest

  counter = ByFile()
  code = pytest.main([*arguments, "-p", "no:xdist"], plugins=[counter])
  counter.print()
  return int(code)


def count_run(method: str, preset: str) -> None:
  """Counts the programs of a whole run in a temporary folder."""
  from gcl_jax import main
  from gcl_jax.engine import parallel

  config, counter = _config(method, preset), Counter()
  mesh = parallel.make_mesh()
  with tempfile.TemporaryDirectory() as workdir, counter.by_stage():
    main.run(config, workdir, mesh)
  counter.print(config=f"{method}:{preset}", devices=mesh.size)


def count_steps(method: str, preset: str) -> None:
  """Compiles every step and map of a run without running it."""
  from gcl_jax.engine import compile_ahead, parallel

  config, counter = _config(method, preset), Counter()
  module = importlib.import_module(f"gcl_jax.methods.{method}.stages")
  mesh = parallel.make_mesh()
  for program in module.programs(config):
    counter.during(
      program.name, lambda p=program: compile_ahead.compile_program(p, mesh)
    )
  counter.print(config=f"{method}:{preset}", devices=mesh.size)


def _config(method: str, preset: str) -> Any:
  module = importlib.import_module(f"gcl_jax.methods.{method}.config")
  return module.get_config(preset)


def main() -> int:
  """Counts the programs of the runs or tests of the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
  parser.add_argument("runs", nargs="*", metavar="METHOD:PRESET")
  parser.add_argument("--step", action="store_true", help="compile alone")
  parser.add_argument("--tests", action="store_true", help="files of tests")
  parser.add_argument("--devices", type=int, default=2)
  arguments = parser.parse_args()
  if arguments.tests:
    return count_tests(arguments.runs)
  if len(arguments.runs) > 1:  # no program is left over from the one before
    rest = [f"--devices={arguments.devices}"] + arguments.step * ["--step"]
    for run in arguments.runs:
      command = [sys.executable, __file__, run, *rest]
      subprocess.run(command, check=True)
    return 0
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  jax.config.update("jax_num_cpu_devices", arguments.devices)
  for run in arguments.runs:
    method, _, preset = run.partition(":")
    (count_steps if arguments.step else count_run)(method, preset or "tiny")
  return 0


if __name__ == "__main__":
  sys.exit(main())
