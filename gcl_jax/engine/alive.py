"""Notices a process that died or hangs, before the others wait for ever.

Every process counts up in a file of its own in the run's folder and looks
whether the others do. One that has not for `GCL_HEARTBEAT_S` seconds is lost:
nothing that runs across processes can go on without it, so this process says
who it was and ends at once with exit code 4. Its last checkpoint is intact.

A process whose main thread alone is stuck still counts up, so progress is
watched too (`moved`): when no process has made any for `GCL_STALL_S` seconds,
all end with code 4 and say how far each of them came.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Iterator

import jax

from gcl_jax import disk
from gcl_jax.engine import distributed
from gcl_jax.errors import PeerLost

DEFAULT_S = 100
DEFAULT_STALL_S = 3600  # compiling for a large slice moves nothing for minutes


def timeout_s() -> float:
  """Seconds of silence after which a process counts as lost.

  Raises:
    ConfigError: `GCL_HEARTBEAT_S` is no positive number.
  """
  return distributed.number_from("GCL_HEARTBEAT_S", DEFAULT_S)


def stall_s() -> float:
  """Seconds without any process's progress after which all end.

  Raises:
    ConfigError: `GCL_STALL_S` is no positive number.
  """
  return distributed.number_from("GCL_STALL_S", DEFAULT_STALL_S)


_moved = 0


def moved() -> None:
  """Notes that this process's work went on; progress bars call it."""
  global _moved
  _moved += 1


@contextlib.contextmanager
def watch(workdir: str | os.PathLike) -> Iterator[None]:
  """Watches the other processes of this run; alone, it does nothing."""
  if jax.process_count() == 1:
    yield
    return
  folder = pathlib.Path(workdir) / ".alive"
  disk.make_writable(folder)
  done = threading.Event()
  pulse = _Pulse(folder, jax.process_index(), jax.process_count())
  thread = threading.Thread(
    target=_work,
    args=(pulse, done, timeout_s(), stall_s()),
    name="alive",
    daemon=True,
  )
  pulse.beat()
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join(1)
    pulse.end()


def lost(reason: str) -> None:
  """Says that a peer is lost and ends this process without waiting for it."""
  line = reason.strip().splitlines()[0][:200] if reason.strip() else "no word"
  print(
    f"gcl_jax: another process was lost ({line}): what was saved is intact,"
    " run the same command again to go on",
    file=sys.stderr,
    flush=True,
  )
  os._exit(PeerLost.exit_code)  # leaving politely would wait for the lost one


def _work(pulse, done, limit, stall):
  pause = min(5.0, limit / 5)
  while not done.wait(pause):
    pulse.beat()
    if silent := pulse.silent(limit):
      lost(f"{silent} said nothing for {limit:.0f} s")
    if standing := pulse.standing(stall):
      # JAX aborts the others when process 0 ends before they have said so.
      done.wait(0 if pulse.me else 3 * pause)
      lost(f"no progress for {stall:.0f} s, moves so far: {standing}")


class _Pulse:
  """This process's count, and when those of the others last changed here.

  Clocks of other hosts are not looked at, only whether their counts move.
  """

  def __init__(self, folder, me, count):
    self.folder, self.me = folder, me
    self.others = [number for number in range(count) if number != me]
    self.seen = {number: (None, time.monotonic()) for number in self.others}
    self.progress = (None, time.monotonic())
    self.beats = 0

  def beat(self):
    self.beats += 1
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    here |= {"beats": self.beats, "moves": _moved}
    with contextlib.suppress(OSError):
      self._path(self.me).write_text(json.dumps(here))

  def end(self):
    """Removes this process's count, not that of a run which was here first."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      entry = json.loads(self._path(self.me).read_text())
      if (entry["host"], entry["pid"]) == (socket.gethostname(), os.getpid()):
        self._path(self.me).unlink()

  def silent(self, limit):
    """Who has not counted up for so long, or None."""
    now = time.monotonic()
    for number in self.others:
      try:
        text = self._path(number).read_text()
      except FileNotFoundError:
        text = None  # not there yet, or at its end
      except OSError:
        continue
      if text != self.seen[number][0] or text is None:
        self.seen[number] = (text, now)
      elif now - self.seen[number][1] > limit:
        return self._name(number, text)
    return None

  def standing(self, limit):
    """How far each process came, if none has gone on for so long, or None."""
    moves = {self.me: _moved}
    for number, (text, _) in self.seen.items():
      with contextlib.suppress(ValueError, KeyError, TypeError):
        moves[number] = json.loads(text)["moves"]
    now = time.monotonic()
    if moves != self.progress[0]:
      self.progress = (moves, now)
    if now - self.progress[1] <= limit:
      return None
    return ", ".join(f"process {n}: {moves[n]}" for n in sorted(moves))

  def _name(self, number, text):
    with contextlib.suppress(ValueError, KeyError, TypeError):
      entry = json.loads(text)
      return f"process {number} (pid {entry['pid']} on {entry['host']})"
    return f"process {number}"

  def _path(self, number):
    return self.folder / str(number)
