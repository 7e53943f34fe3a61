"""Handling of SIGTERM and SIGINT, synchronised between processes."""

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
  """Yields a function that returns the name of a stop signal received, or "".

  To be called after every program that all processes run: a signal to one
  process reaches all of them after the same program. A second SIGINT raises
  KeyboardInterrupt at once. Outside the main thread, where Python allows no
  handlers, a single process does not notice signals.
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
  """Makes SIGTERM raise Preempted outside `watch`, where nothing is unsaved.

  With several processes JAX records the signal for the next `watch`.
  """

  def handle(number, frame):
    raise Preempted(
      "stopped by SIGTERM between two checkpoints; what was finished is kept:"
      " run the same command again to go on"
    )

  alone = jax.process_count() == 1
  with _handling((signal.SIGTERM,) if alone else (), handle):
    yield


# Programs run so far, counted across fits: the coordination service returns the
# number of the program to stop after, which may be in the next fit.
_programs = itertools.count(1)


def _agreed() -> str:
  """Queries JAX's coordination service, once per program in all processes."""
  reached = multihost_utils.reached_preemption_sync_point(next(_programs))
  return "SIGTERM" if reached else ""


def _pass_on():
  """Handler that turns SIGINT into SIGTERM, which JAX sends to all others."""
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
