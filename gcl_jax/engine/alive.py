"""Notices a process that died or hangs, before the others wait for ever.

Every process counts up in a file of its own in the run's folder and looks
whether the others do. One that has not for `GCL_HEARTBEAT_S` seconds is lost:
nothing that runs across processes can go on without it, so this process says
who it was and ends at once with exit code 4. Its last checkpoint is intact.

A process whose main thread alone is stuck still counts up, so progress is
watched too (`moved`): when no process has made any for `GCL_STALL_S` seconds,
all end with code 4 and say how far each of them came.

Whoever ends so writes it into its file, and the others follow within a few
seconds. Process 0 goes last: JAX's coordination service lives in it, and when
it is gone JAX aborts the others (SIGABRT) before they have said a word.
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
_pulse = None  # of the run that is watched
_leaving = threading.Lock()


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
  global _pulse
  folder = pathlib.Path(workdir) / ".alive"
  disk.make_writable(folder)
  done = threading.Event()
  pulse = _Pulse(folder, jax.process_index(), jax.process_count())
  thread = threading.Thread(
    target=_work, args=(pulse, done, stall_s()), name="alive", daemon=True
  )
  pulse.beat()
  thread.start()
  _pulse = pulse
  try:
    yield
  finally:
    _pulse = None
    done.set()
    thread.join(1)
    pulse.end()


def lost(reason: str) -> None:
  """Says that a peer is lost and ends this process without waiting for it."""
  _leaving.acquire()  # never released: one thread reports
  pulse, code = _pulse, PeerLost.exit_code
  # Whatever the log or the file system does, this process ends.
  limit = threading.Timer(4 * pulse.pause if pulse else 5, os._exit, [code])
  limit.daemon = True
  limit.start()
  try:
    # A broken connection is said more clearly by who broke it.
    said = pulse.left() if pulse else []
    line = [*said, *reason.strip().splitlines(), "no word"][0][:200]
    print(
      f"gcl_jax: another process was lost ({line}): what was saved is intact,"
      " run the same command again to go on",
      file=sys.stderr,
      flush=True,
    )
    if pulse:
      pulse.leave(line)
  finally:
    os._exit(code)  # leaving politely would wait for the lost one


def _work(pulse, done, stall):
  limit = timeout_s()
  while not done.wait(pulse.pause):
    pulse.beat()
    if left := pulse.left():
      lost(left[0])
    if silent := pulse.silent(limit):
      lost(f"{silent} said nothing for {limit:.0f} s")
    if standing := pulse.standing(stall):
      lost(f"no progress for {stall:.0f} s, moves so far: {standing}")


class _Pulse:
  """This process's count, and when those of the others last changed here.

  Clocks of other hosts are not looked at, only whether their counts move.
  """

  def __init__(self, folder, me, count):
    self.folder, self.me = folder, me
    self.others = [number for number in range(count) if number != me]
    self.seen = {number: (None, time.monotonic()) for number in self.others}
    self.before = {number: self._entry(number) for number in self.others}
    self.progress = (None, time.monotonic())
    self.pause = min(5.0, timeout_s() / 5)
    self.beats, self.reason = 0, ""

  def beat(self):
    self.beats += 1
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    here |= {"beats": self.beats, "moves": _moved, "lost": self.reason}
    with contextlib.suppress(OSError):
      self._path(self.me).write_text(json.dumps(here))

  def end(self):
    """Removes this process's count, not that of a run which was here first."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      entry = json.loads(self._path(self.me).read_text())
      if (entry["host"], entry["pid"]) == (socket.gethostname(), os.getpid()):
        self._path(self.me).unlink()

  def leave(self, reason):
    """Tells the others why this one ends; process 0 waits until they have."""
    self.reason = reason
    self.beat()
    end = time.monotonic() + 3 * self.pause
    while not self.me and len(self.left()) < len(self.others):
      if time.monotonic() > end:  # one of them is the one that was lost
        break
      time.sleep(self.pause / 10)

  def left(self):
    """Why each of the others that has ended did, not those of a run before."""
    entries = [(self._entry(n), self.before[n]) for n in self.others]
    said = [now.get("lost") for now, old in entries if now != old]
    return [reason for reason in said if reason and isinstance(reason, str)]

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

  def _entry(self, number):
    """What a process wrote, or {} while it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
      found = json.loads(self._path(number).read_text())
      return found if isinstance(found, dict) else {}
    return {}

  def _path(self, number):
    return self.folder / str(number)
