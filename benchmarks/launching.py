"""Start of the program by its command line, once or many times."""

import collections
import concurrent.futures
import functools
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any


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


def side_by_side(
  work: Callable[[Any, list[int]], None], items: Iterable, jobs: int
) -> None:
  """Calls work(item, cores) for every item, `jobs` at a time, each with its
  share of the cores; raises what one of them raised."""
  cores = sorted(os.sched_getaffinity(0))
  free = collections.deque(cores[k::jobs] or cores for k in range(jobs))

  def one(item):
    mine = free.popleft()
    try:
      work(item, mine)
    finally:
      free.append(mine)

  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    list(pool.map(one, items))


def share(folder: pathlib.Path, stages: Sequence[str]) -> None:
  """Copies finished stages from the other runs beside a folder; one that is
  being copied is not there yet for others that look."""
  for other in sorted(folder.parent.glob("*")):
    for stage in stages:
      finished = (other / stage / "manifest.json").exists()
      if finished and not (folder / stage).exists():
        half = folder / f"{stage}.part"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(other / stage, half)
        half.rename(folder / stage)
