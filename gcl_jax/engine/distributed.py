"""Who am I among the processes, and how many devices does a CPU count for."""

import contextlib
import ctypes
import os
import sys

import jax
from jax.experimental import multihost_utils

from gcl_jax.errors import ConfigError

VARIABLES = ("GCL_COORDINATOR", "GCL_NUM_PROCESSES", "GCL_PROCESS_ID")


def start() -> None:
  """Joins the other processes when told of them; alone, it does nothing.

  Reads `GCL_COORDINATOR` (host:port of process 0), `GCL_NUM_PROCESSES` and
  `GCL_PROCESS_ID`; call it once, before any array is made.

  Raises:
    ConfigError: only some of the three are set, or they make no sense.
  """
  values = [os.environ.get(name) for name in VARIABLES]
  if not any(values):
    return
  if not all(values):
    missing = [n for n, v in zip(VARIABLES, values, strict=True) if not v]
    raise ConfigError(
      f"{', '.join(missing)} not set: set all of {', '.join(VARIABLES)} or none"
    )
  address, count, identity = values
  if not (
    count.isdigit() and identity.isdigit() and int(identity) < int(count)
  ):
    raise ConfigError(
      f"GCL_PROCESS_ID is {identity} of GCL_NUM_PROCESSES {count}: needed is"
      " an id from 0 to the number of processes minus 1"
    )
  jax.distributed.initialize(address, int(count), int(identity))


def is_main() -> bool:
  """True in process 0, the one that writes files and prints."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits for all processes; alone, it does nothing."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def local_share(count: int) -> slice:
  """The positions of a global batch of `count` rows that this process holds.

  Raises:
    ConfigError: `count` is no multiple of the number of processes.
  """
  processes = jax.process_count()
  if count % processes:
    raise ConfigError(
      f"a batch of {count} cannot be shared equally by {processes} processes:"
      " choose a batch size that is a multiple of their number"
    )
  share = count // processes
  first = jax.process_index() * share
  return slice(first, first + share)


def cpu_devices(limit: int = 4) -> int:
  """One virtual device per core this process may use, at most `limit`."""
  return max(1, min(limit, len(os.sched_getaffinity(0))))


def keep_memory() -> None:
  """Tells glibc to keep the memory XLA frees; elsewhere it does nothing.

  By default every large buffer of a step goes back to the system and is
  faulted in again at the next one: about a fifth of a CPU training step.
  The three calls are M_MMAP_MAX = 0, M_TRIM_THRESHOLD = -1 (never) and
  M_ARENA_MAX = 1.
  """
  if sys.platform == "linux":
    with contextlib.suppress(OSError, AttributeError):
      libc = ctypes.CDLL("libc.so.6")
      for option, value in ((-4, 0), (-1, -1), (-8, 1)):
        libc.mallopt(option, value)


def keep_programs(folder: str | os.PathLike) -> None:
  """Keeps compiled programs in a folder, so that a resumed run starts at once.

  Only those that took a second or more, and on GPU and TPU only: XLA's CPU
  backend refuses programs that it stored itself (jax issue 38445). With
  `JAX_COMPILATION_CACHE_DIR` set JAX does what that says. The folder is trusted
  as the code is: nobody else should be able to write there.
  """
  if jax.default_backend() == "cpu" or jax.config.jax_compilation_cache_dir:
    return
  jax.config.update("jax_compilation_cache_dir", os.fspath(folder))


def configure_cpu(count: int) -> None:
  """Splits the CPU into `count` virtual devices; other platforms are untouched.

  The threads that help inside one operation belong to all virtual devices
  together, as many as there are cores: with one device per core nothing is
  oversubscribed and no flag is needed (`--xla_cpu_multi_thread_eigen=false`
  has no effect any more: counted per thread, jax 0.10).

  Raises:
    RuntimeError: JAX has already started (call this before any array is made).
  """
  jax.config.update("jax_num_cpu_devices", count)


def usable_devices(batch_sizes, available: int) -> int:
  """The largest number of devices that divides every batch size.

  >>> usable_devices([32, 24], available=6)
  4
  """
  fitting = [
    n
    for n in range(1, available + 1)
    if all(size % n == 0 for size in batch_sizes)
  ]
  return max(fitting)
