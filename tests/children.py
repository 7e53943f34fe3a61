"""The surroundings of processes that tests launch."""

import os
from importlib import metadata

PROGRAMS = "GCL_TEST_PROGRAMS"  # variable: the folder of what was compiled


def quick() -> dict[str, str]:
  """Variables with which a process compiles fast, and not what users get."""
  flags = [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",  # two workers on two cores
  ]
  version = metadata.version("jaxlib").split(".")
  if tuple(map(int, version[:2])) < (0, 11):  # unknown to later ones, and fatal
    flags.append("--xla_cpu_use_fusion_emitters=false")
  return {"XLA_FLAGS": " ".join(flags)} | shared()


def shared() -> dict[str, str]:
  """Variables with which the processes of one pytest run compile things once.

  XLA takes back what it stored on a CPU; on processors that LLVM tunes for
  slow scattered reads it says so in error lines, hidden here, which mean
  nothing on the machine that compiled the program (jax issue 38445).
  """
  return {
    "JAX_COMPILATION_CACHE_DIR": os.environ[PROGRAMS],
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }
