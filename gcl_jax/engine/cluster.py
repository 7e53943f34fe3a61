"""Detection of the process group: GCL_* variables, Slurm, TPU, Kubernetes, or
a single process.
"""

import glob
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from gcl_jax.engine import alive
from gcl_jax.errors import ConfigError

VARIABLES = ("GCL_COORDINATOR", "GCL_NUM_PROCESSES", "GCL_PROCESS_ID")
_SLURM = (
  "SLURM_JOB_ID",
  "SLURM_STEP_NODELIST",
  "SLURM_NTASKS",
  "SLURM_PROCID",
  "SLURM_LOCALID",
)
# Names of `jax.default_backend`; "" leaves the choice to JAX.
PLATFORMS = ("", "cpu", "gpu", "tpu")
_NVIDIA = "/dev/nvidia0"  # exists if the driver is installed


class Found(NamedTuple):
  """Detected process group.

  Attributes:
    how: source of the detection, for the log.
    count: number of processes; None if only JAX knows it.
    settings: keywords of `jax.distributed.initialize`; None for one process.
  """

  how: str
  count: int | None
  settings: dict[str, Any] | None


ALONE = Found("alone", 1, None)


def find(environment: Mapping[str, str] = os.environ) -> Found:
  """Detects how this process was launched, by the first match of:

  1. `GCL_COORDINATOR` (host:port of process 0), `GCL_NUM_PROCESSES` and
     `GCL_PROCESS_ID`; GCL_NUM_PROCESSES=1 alone means a single process.
  2. Slurm, inside `srun` with several tasks. With one task per node a task
     takes all GPUs of the node, otherwise the one with its local number.
  3. A TPU in this machine: JAX asks the cloud for the other hosts.
  4. Kubernetes, in a pod of an indexed job (needs the extra `k8s`).

  Raises:
    ConfigError: only some of the three variables are set, or their values are
      invalid; a pod of an indexed job lacks the extra `k8s`.
  """
  found = _told(environment) or _slurm(environment)
  if found is None and _has_tpu():
    found = Found("a TPU", None, {})
  return found or _kubernetes(environment) or ALONE


def join(found: Found) -> None:
  """Joins the other processes; to be called once, before any array is made.

  JAX's own heartbeat aborts without a clear message, so its timeout is longer
  than that of `alive`.
  """
  if found.settings is not None:
    seconds = int(2 * alive.timeout_s()) + 10
    jax.distributed.initialize(
      **found.settings,
      heartbeat_timeout_seconds=seconds,
      shutdown_timeout_seconds=seconds,
    )


def _told(environment):
  values = [environment.get(name) for name in VARIABLES]
  if not any(values):
    return None
  if values == [None, "1", None]:
    return ALONE
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
  settings = dict(
    coordinator_address=address,
    num_processes=int(count),
    process_id=int(identity),
  )
  return Found("GCL_COORDINATOR", int(count), settings)


def _slurm(environment):
  if not all(environment.get(name) for name in _SLURM):
    return None
  # Tasks of the step: the job of an interactive shell may have more.
  count = int(
    environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"])
  )
  if count == 1:
    return None
  settings = {"cluster_detection_method": "slurm"}
  gpus = environment.get("SLURM_GPUS_ON_NODE", "")
  if _one_task_a_node(environment) and gpus.isdigit():
    settings["local_device_ids"] = list(range(int(gpus)))
  elif environment.get("CUDA_VISIBLE_DEVICES", ",").isdigit():
    settings["local_device_ids"] = [0]  # only the task's own GPU is visible
  job = f"Slurm job {environment['SLURM_JOB_ID']}"
  return Found(job, count, settings)


def _one_task_a_node(environment):
  tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
  return re.fullmatch(r"1(\(x\d+\))?", tasks) is not None


def _has_tpu():
  chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
  return bool(chips and importlib.util.find_spec("libtpu"))


def _kubernetes(environment):
  if not environment.get("KUBERNETES_SERVICE_HOST"):
    return None
  if "JOB_COMPLETION_INDEX" not in environment:
    return None
  if importlib.util.find_spec("kubernetes") is None:
    raise ConfigError(
      "this pod belongs to an indexed job: install the extra k8s so that its"
      f" peers can be found, set {', '.join(VARIABLES)}, or set"
      " GCL_NUM_PROCESSES=1 if it works alone"
    )
  return Found("Kubernetes", None, {})  # JAX has no name for this method


def check_platform(wanted: str = "") -> None:
  """Refuses a run on another platform than intended, such as a fallback to CPU.

  Args:
    wanted: "gpu", "tpu" or "cpu"; "" accepts any, except the CPU of a machine
      with an NVIDIA GPU (JAX_PLATFORMS=cpu allows it).

  Raises:
    ConfigError: JAX runs on another platform.
  """
  if wanted not in PLATFORMS:
    raise ConfigError(
      f"platform {wanted!r} is none of {', '.join(PLATFORMS[1:])}"
    )
  found = jax.default_backend()
  if wanted and found != wanted:
    raise ConfigError(
      f"this run was asked for a {wanted}, and JAX runs on the {found}:"
      f" install the extra {'cuda' if wanted == 'gpu' else wanted}, look at"
      " the driver, or set --config.platform to what is wanted"
    )
  asked = os.environ.get("JAX_PLATFORMS", "")
  if found == "cpu" and not asked and not wanted and os.path.exists(_NVIDIA):
    raise ConfigError(
      "this machine has an NVIDIA GPU and JAX runs on the CPU: install the"
      " extra cuda, or ask for the CPU with --config.platform=cpu"
    )


def describe(found: Found) -> str:
  """One line with the process group, the number and the kind of devices."""
  devices, here = jax.devices(), jax.local_device_count()
  return (
    f"process {jax.process_index()} of {jax.process_count()} ({found.how}),"
    f" {len(devices)} devices of kind {devices[0].device_kind!r}, {here} here"
  )
