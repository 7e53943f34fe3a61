"""Start of a run's processes, and errors that end all of them."""

import contextlib
import hashlib
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from gcl_jax.engine import alive, cluster, distributed, parallel, preemption
from gcl_jax.engine.settings import one_line
from gcl_jax.errors import ConfigError


def join(config: ConfigDict, batch_sizes: Sequence[int]) -> Any:
  """Joins the processes; returns a mesh whose devices divide every batch."""
  launch = cluster.find()
  processes = launch.count or 1
  wanted = config.devices // processes or distributed.cpu_devices()
  wanted = distributed.number_from("GCL_CPU_DEVICES", wanted)
  if config.platform == "cpu":
    jax.config.update("jax_platforms", "cpu")
  distributed.configure_cpu(
    distributed.usable_devices(batch_sizes, wanted, processes)
  )
  distributed.keep_memory()
  cluster.join(launch)
  cluster.check_platform(config.platform)
  print(f"gcl_jax: {cluster.describe(launch)}", file=sys.stderr, flush=True)
  devices = jax.devices()
  if jax.process_count() == 1:
    available = min(len(devices), config.devices or len(devices))
    count = distributed.usable_devices(batch_sizes, available)
    return parallel.make_mesh(devices[:count])
  each = jax.local_device_count()
  if distributed.usable_devices(batch_sizes, each, jax.process_count()) < each:
    raise ConfigError(
      f"batches of {', '.join(map(str, batch_sizes))} cannot be shared equally"
      f" by {len(devices)} devices: choose multiples of their number"
    )
  return parallel.make_mesh(devices)


@contextlib.contextmanager
def together(
  config: ConfigDict, workdir: Any, stage: str | None
) -> Iterator[None]:
  """Checks that all processes run the same, and ends all when one fails.

  Args:
    config: the whole configuration.
    workdir: the folder of the run.
    stage: the only stage to run, or None.

  Raises:
    ConfigError: a process was started with other settings or another version,
      or a device is out of memory.
  """
  with alive.watch(workdir), preemption.between_checkpoints():
    distributed.check_agreement(
      "configuration", f"{config.to_json_best_effort()} {workdir} {stage}"
    )
    distributed.check_agreement("version of gcl_jax", code_hash())
    try:
      yield
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" in str(error):
        raise ConfigError(_out_of_memory(error, config)) from error
      if jax.process_count() == 1:
        raise
      alive.lost(str(error))


# Settings that trade time for memory, each with a first value to try.
_SPARING = {"remat": True, "block_size": 1024, "chunk": 8}


def _out_of_memory(error: Exception, config: ConfigDict) -> str:
  def named(keys):
    return [
      (f"--config.{section}.{key}", key)
      for section, values in config.items()
      for key in getattr(values, "keys", tuple)()
      if key in keys
    ]

  sizes = " or ".join(flag for flag, _ in named({"batch_size"}))
  sparing = [f"{flag}={_SPARING[key]}" for flag, key in named(_SPARING)]
  return (
    f"the device is out of memory ({one_line(error)[:150]}): lower {sizes}"
    + (f", or set {' or '.join(sparing)}" if sparing else "")
  )


def code_hash() -> str:
  """SHA-256 of the package's source files."""
  digest = hashlib.sha256()
  for path in sorted(pathlib.Path(__file__).parents[1].rglob("*.py")):
    digest.update(path.read_bytes())
  return digest.hexdigest()
