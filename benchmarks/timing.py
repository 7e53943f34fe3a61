"""Timing of opponents in turn, on a machine with other users.

Each framework runs in a separate process: in one process their threads slow
each other. Every block of calls records the CPU use of other processes; medians
are over blocks with little of it, and a record says when there were none.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

MAX_FOREIGN = 0.12  # cores of other processes in a block that still counts
CLEAN = 3  # blocks that a median needs


@dataclasses.dataclass
class Opponent:
  """Timed implementation.

  Attributes:
    call: does the work once and waits for its end.
    facts: fields of its record, such as {"impl": "torch"}.
    count: images, or rows, processed by one call.
    unit: name of the counted items.
  """

  call: Callable[[], object]
  facts: dict
  count: int
  unit: str = "images"
  blocks: list = dataclasses.field(default_factory=list)

  def block(self, count: int) -> tuple[float, float, float]:
    """Seconds per call over `count` calls, foreign cores, own cores."""
    return _block(self.call, count)


def in_turn(
  opponents: list[Opponent],
  *,
  rounds: int = 5,
  block_s: float = 0.5,
  budget_s: float = 120.0,
) -> None:
  """Fills `blocks`: (seconds per call, cores of other processes, own cores).

  Args:
    opponents: timed one block each, round after round.
    rounds: number of clean blocks wanted of each.
    block_s: minimum seconds of a block.
    budget_s: seconds after which no new round starts, clean or not.
  """
  counts = []
  for opponent in opponents:
    opponent.block(1)
    counts.append(max(1, round(block_s / opponent.block(1)[0])))
  begin = time.perf_counter()
  while True:
    for opponent, count in zip(opponents, counts, strict=True):
      time.sleep(0.05)  # spinning threads of the one before come to rest
      opponent.blocks.append(opponent.block(count))
    spent = time.perf_counter() - begin
    done = min(len(clean(opponent)) for opponent in opponents) >= rounds
    if done or spent > budget_s:
      return


def compare(opponents: list[Opponent], arguments: Any) -> None:
  """Times in turn by rounds, block_s and budget_s, then prints every line."""
  in_turn(
    opponents,
    rounds=arguments.rounds,
    block_s=arguments.block_s,
    budget_s=arguments.budget_s,
  )
  for opponent in opponents:
    emit(opponent)


@contextlib.contextmanager
def process(make: Callable[..., list[Opponent]], *args) -> Iterator[list]:
  """Yields the opponents of make(*args), which run in a separate process.

  Yields:
    Opponents to be timed here; their calls run in that process.
  """
  context = multiprocessing.get_context("spawn")
  here, there = context.Pipe()
  worker = context.Process(target=_serve, args=(there, make, args))
  worker.start()
  there.close()
  try:
    yield [_Remote(here, number, *known) for number, known in _get(here)]
  finally:
    with contextlib.suppress(OSError):
      here.send(None)
    worker.join(10)
    worker.kill()


class _Remote(Opponent):
  """Opponent in another process."""

  def __init__(self, pipe, number, facts, count, unit):
    super().__init__(self._ask_call, facts, count, unit)
    self._pipe, self._number = pipe, number

  def _ask_call(self):
    return self._ask("call")

  def block(self, count: int) -> tuple:
    return self._ask("block", count)

  def _ask(self, *what) -> Any:
    self._pipe.send((self._number, *what))
    return _get(self._pipe)


def _get(pipe):
  answer = pipe.recv()
  if isinstance(answer, Exception):
    raise answer
  return answer


def _serve(pipe, make, args):
  try:
    opponents = make(*args)
    known = [(o.facts, o.count, o.unit) for o in opponents]
    pipe.send(list(enumerate(known)))
    while (asked := pipe.recv()) is not None:
      number, what, *rest = asked
      pipe.send(getattr(opponents[number], what)(*rest))
  except EOFError:
    pass
  except Exception as error:
    pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def add_network(parser: argparse.ArgumentParser) -> None:
  """Adds --arch, --stem, --size and --batch of an encoder."""
  parser.add_argument("--arch", default="resnet18")
  parser.add_argument("--stem", default="imagenet", help="imagenet, cifar, oct")
  parser.add_argument("--size", default="128", help="side, or ROWSxCOLUMNS")
  parser.add_argument("--batch", type=int, default=64)


def sides(text: str) -> tuple[int, int]:
  """Parses "128" or "96x256" as (rows, columns)."""
  rows, _, columns = text.partition("x")
  return int(rows), int(columns or rows)


def _block(call, count):
  busy, own, begin = _busy_s(), time.process_time(), time.perf_counter()
  for _ in range(count):
    call()
  wall = time.perf_counter() - begin
  mine = (time.process_time() - own) / wall
  return wall / count, max(0.0, (_busy_s() - busy) / wall - mine), mine


def _busy_s() -> float:
  """CPU seconds of all processes since the machine started, 0 if unknown."""
  try:
    with open("/proc/stat", encoding="utf-8") as file:
      ticks = [int(value) for value in file.readline().split()[1:]]
  except OSError:
    return 0.0
  return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def clean(opponent: Opponent) -> list:
  """Blocks with little CPU use of other processes."""
  return [block for block in opponent.blocks if block[1] <= MAX_FOREIGN]


def seconds(opponent: Opponent) -> float:
  """Median seconds per call, over clean blocks if there are enough."""
  some = clean(opponent)
  used = some if len(some) >= CLEAN else opponent.blocks
  return statistics.median(block[0] for block in used)


def emit(opponent: Opponent, **more) -> dict:
  """Prints the record as one line of JSON and returns it."""
  record = opponent.facts | {
    f"{opponent.unit}_per_s": float(
      f"{opponent.count / seconds(opponent):.4g}"
    ),
    "ms": float(f"{1e3 * seconds(opponent):.4g}"),
    "blocks": len(opponent.blocks),
    "foreign_cpus": round(
      statistics.median(block[1] for block in opponent.blocks), 3
    ),
    "own_cpus": round(
      statistics.median(block[2] for block in opponent.blocks), 2
    ),
    "contended": len(clean(opponent)) < CLEAN,
    **more,
  }
  print(json.dumps(record), flush=True)
  return record
