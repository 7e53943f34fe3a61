"""Detects dead or hanging processes, on which the others would wait for ever.

Every process writes a heartbeat count to its own file in the run's folder and
reads those of the others. A process whose count has not changed for
`GCL_HEARTBEAT_S` seconds is lost, and collective operations cannot complete
without it: this process names it and exits at once with code 4. The last
checkpoint is intact.

If only the main thread hangs, heartbeats continue, so progress is watched too
(`moved`): without progress of any process for `GCL_STALL_S` seconds, all exit
with code 4 and print how far each of them came.

A process that exits in this way writes the reason into its file, and the others
follow within a few seconds. Process 0 exits last: it runs JAX's coordination
service, without which JAX aborts the others (SIGABRT) before they can report.
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
DEFAULT_STALL_S = 3600  # compiling for a large slice takes many minutes


def timeout_s() -> float:
  """Seconds without heartbeat after which a process counts as lost.

  Raises:
    ConfigError: `GCL_HEARTBEAT_S` is not a positive number.
  """
  return distributed.number_from("GCL_HEARTBEAT_S", DEFAULT_S)


def stall_s() -> float:
  """Seconds without progress of any process after which all exit.

  Raises:
    ConfigError: `GCL_STALL_S` is not a positive number.
  """
  return distributed.number_from("GCL_STALL_S", DEFAULT_STALL_S)


_moved = 0
_pulse = None  # of the watched run
_leaving = threading.Lock()


def moved() -> None:
  """Records progress of this process; called by progress bars."""
  global _moved
  _moved += 1


@contextlib.contextmanager
def watch(workdir: str | os.PathLike) -> Iterator[None]:
  """Watches the other processes of this run; no effect with a single one."""
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
  """Reports that another process is lost and exits without waiting for it."""
  _leaving.acquire()  # never released: one thread reports
  pulse, code = _pulse, PeerLost.exit_code
  # The timer ends this process even if the log or the file system hangs.
  limit = threading.Timer(4 * pulse.pause if pulse else 5, os._exit, [code])
  limit.daemon = True
  limit.start()
  try:
    # The lost process's own reason is clearer than a broken connection.
    reasons = pulse.left() if pulse else []
    line = [*reasons, *reason.strip().splitlines(), "no word"][0][:200]
    print(
      f"gcl_jax: another process was lost ({line}): what was saved is intact,"
      " run the same command again to go on",
      file=sys.stderr,
      flush=True,
    )
    if pulse:
      pulse.leave(line)
  finally:
    os._exit(code)  # a regular exit would wait for the lost process


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
  """Heartbeat count of this process, and local times of changes of the others.

  Clocks of other hosts are not used, only changes of their counts.
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
    entry = {"host": socket.gethostname(), "pid": os.getpid()}
    entry |= {"beats": self.beats, "moves": _moved, "lost": self.reason}
    with contextlib.suppress(OSError):
      self._path(self.me).write_text(json.dumps(entry))

  def end(self):
    """Removes this process's file, but not one that another run wrote."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      entry = json.loads(self._path(self.me).read_text())
      if (entry["host"], entry["pid"]) == (socket.gethostname(), os.getpid()):
        self._path(self.me).unlink()

  def leave(self, reason):
    """Writes the reason of this exit; process 0 waits for the others' exits."""
    self.reason = reason
    self.beat()
    end = time.monotonic() + 3 * self.pause
    while not self.me and len(self.left()) < len(self.others):
      if time.monotonic() > end:  # the lost process writes no reason
        break
      time.sleep(self.pause / 10)

  def left(self):
    """Reasons of the other processes that exited, without those of old runs."""
    entries = [(self._entry(n), self.before[n]) for n in self.others]
    reasons = [now.get("lost") for now, old in entries if now != old]
    return [reason for reason in reasons if reason and isinstance(reason, str)]

  def silent(self, limit):
    """Name of a process without heartbeat for `limit` seconds, or None."""
    now = time.monotonic()
    for number in self.others:
      try:
        text = self._path(number).read_text()
      except FileNotFoundError:
        text = None  # not started yet, or finished
      except OSError:
        continue
      if text != self.seen[number][0] or text is None:
        self.seen[number] = (text, now)
      elif now - self.seen[number][1] > limit:
        return self._name(number, text)
    return None

  def standing(self, limit):
    """Progress of each process if none was made for `limit` s, or None."""
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
    """Contents of a process's file, or {} if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
      entry = json.loads(self._path(number).read_text())
      return entry if isinstance(entry, dict) else {}
    return {}

  def _path(self, number):
    return self.folder / str(number)
