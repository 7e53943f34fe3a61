"""Asked to stop: SIGTERM and SIGINT, agreed on between processes."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from gcl_jax.errors import Preempted


@contextlib.contextmanager
def watch() -> Iterator[Callable[[], str]]:
  """Yields a function that says which signal asks this run to stop, or "".

  Call it after every program that all processes run: a signal to one of them
  is told to all, and all hear of it after the same program. A second SIGINT
  raises KeyboardInterrupt at once. Outside the main thread, where Python allows
  no handlers, one process alone never hears.
  """
  if jax.process_count() > 1:
    with _handling((signal.SIGINT,), _pass_on()):
      yield _agreed
    return
  received: list[int] = []

  def handle(number, frame):
    if number == signal.SIGINT and number in received:
      raise KeyboardInterrupt
    received.append(number)

  with _handling((signal.SIGTERM, signal.SIGINT), handle):
    yield lambda: signal.Signals(received[0]).name if received else ""


@contextlib.contextmanager
def between_checkpoints() -> Iterator[None]:
  """SIGTERM raises Preempted where nobody watches: there is nothing to save.

  With several processes JAX notes it, and the next `watch` hears of it.
  """

  def handle(number, frame):
    raise Preempted(
      "stopped by SIGTERM between two checkpoints; what was finished is kept:"
      " run the same command again to go on"
    )

  alone = jax.process_count() == 1
  with _handling((signal.SIGTERM,) if alone else (), handle):
    yield


# Programs run so far: goes on from fit to fit, because the service names the
# one to stop after, which may lie in the next fit.
_programs = itertools.count(1)


def _agreed() -> str:
  """All processes ask the coordination service, one call a program."""
  reached = multihost_utils.reached_preemption_sync_point(next(_programs))
  return "SIGTERM" if reached else ""


def _pass_on():
  """SIGINT counts as SIGTERM, which JAX tells the other processes."""
  received = []

  def handle(number, frame):
    if received:
      raise KeyboardInterrupt
    received.append(number)
    os.kill(os.getpid(), signal.SIGTERM)

  return handle


@contextlib.contextmanager
def _handling(numbers, handler):
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, handler) for number in numbers}
  try:
    yield
  finally:
    for number, old in before.items():
      signal.signal(number, old or signal.SIG_DFL)
