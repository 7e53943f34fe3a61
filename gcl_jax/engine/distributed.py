"""Coordination of the processes, and settings of the CPU backend."""

import contextlib
import ctypes
import hashlib
import os
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from gcl_jax.errors import ConfigError, MainProcessFailed


def is_main() -> bool:
  """True in process 0, which writes files and prints."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits for all processes; no effect with a single one."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def number_from(variable: str, default: int) -> int:
  """Positive integer from an environment variable.

  Raises:
    ConfigError: the value is not a positive integer.
  """
  text = os.environ.get(variable) or str(default)
  if not text.isdigit() or int(text) < 1:
    raise ConfigError(f"{variable} must be 1 or more, got {text!r}")
  return int(text)


def on_main(function: Callable[[], None]) -> None:
  """Runs in process 0 while the others wait; an error there ends all of them.

  Raises:
    Any exception of the function, in process 0.
    MainProcessFailed: in the others, with the exit code of process 0.
  """
  error = None
  if is_main():
    try:
      function()
    except Exception as raised:
      error = raised
  if jax.process_count() > 1:
    code = 0 if error is None else getattr(error, "exit_code", 1)
    code = int(multihost_utils.broadcast_one_to_all(np.int32(code)))
    if code and error is None:
      raise MainProcessFailed(code)
  if error is not None:
    raise error


def check_agreement(what: str, value: str) -> None:
  """Checks that all processes were started with the same value as process 0.

  Args:
    what: name of the value, for the message.
    value: value in this process.

  Raises:
    ConfigError: in every process, if one differs.
  """
  if jax.process_count() == 1:
    return
  digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
  all_of_them = multihost_utils.process_allgather(digest)
  other = np.flatnonzero((all_of_them != all_of_them[0]).any(axis=1))
  if len(other):
    names = ", ".join(map(str, other))
    raise ConfigError(
      f"process {names} was started with another {what} than process 0: start"
      " all processes with the same command and the same code"
    )


def local_share(count: int, process: tuple[int, int] | None = None) -> slice:
  """Slice of a global batch of `count` rows that a process holds.

  Args:
    count: rows of the batch.
    process: (its number, number of processes); None for this process.

  Raises:
    ConfigError: `count` is not a multiple of the number of processes.
  """
  number, processes = process or (jax.process_index(), jax.process_count())
  if count % processes:
    raise ConfigError(
      f"a batch of {count} cannot be shared equally by {processes} processes:"
      " choose a batch size that is a multiple of their number"
    )
  share = count // processes
  first = number * share
  return slice(first, first + share)


def cpu_devices(limit: int = 4) -> int:
  """Number of virtual devices: one per usable core, at most `limit`."""
  return max(1, min(limit, len(os.sched_getaffinity(0))))


def keep_memory() -> None:
  """Makes glibc keep memory that XLA frees; no effect without glibc.

  By default every large buffer of a step is returned to the system and
  page-faulted at the next step: about a fifth of a CPU training step. The three
  calls are M_MMAP_MAX = 0, M_TRIM_THRESHOLD = -1 (never) and M_ARENA_MAX = 1.
  """
  if sys.platform == "linux":
    with contextlib.suppress(OSError, AttributeError):
      libc = ctypes.CDLL("libc.so.6")
      for option, value in ((-4, 0), (-1, -1), (-8, 1)):
        libc.mallopt(option, value)


def keep_programs(folder: str | os.PathLike) -> None:
  """Caches compiled programs in a folder, so that a resumed run starts quickly.

  Only programs that took a second or more, and on GPU and TPU only. A CPU
  program is machine code of the processor that compiled it: loaded on an older
  one, XLA logs an error and then crashes at the first unknown instruction, and
  on some processors it logs that error for its own programs too (jax issue
  38445, jaxlib 0.10.2). If `JAX_COMPILATION_CACHE_DIR` is set, JAX uses that
  folder, on a CPU as well. The folder is trusted like code: nobody else should
  have write access to it.
  """
  if jax.default_backend() == "cpu" or jax.config.jax_compilation_cache_dir:
    return
  jax.config.update("jax_compilation_cache_dir", os.fspath(folder))


def configure_cpu(count: int) -> None:
  """Splits the CPU into `count` virtual devices; no effect on other platforms.

  All virtual devices share one pool of intra-op threads, as many as there are
  cores: with one device per core nothing is oversubscribed and no flag is
  needed (`--xla_cpu_multi_thread_eigen=false` has no effect any more: threads
  were counted, jax 0.10).

  Raises:
    RuntimeError: JAX has already started (call this before any array is made).
  """
  jax.config.update("jax_num_cpu_devices", count)


def usable_devices(
  batch_sizes: Sequence[int], available: int, processes: int = 1
) -> int:
  """Largest number of devices per process whose total divides every batch.

  >>> usable_devices([32, 24], available=6)
  4
  >>> usable_devices([32, 24], available=6, processes=4)
  2

  Raises:
    ConfigError: even one device per process does not divide every batch.
  """
  fitting = [
    n
    for n in range(1, available + 1)
    if all(size % (n * processes) == 0 for size in batch_sizes)
  ]
  if not fitting:
    raise ConfigError(
      f"batches of {', '.join(map(str, batch_sizes))} cannot be shared equally"
      f" by {processes} processes: choose multiples of their number"
    )
  return max(fitting)
