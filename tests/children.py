"""Environment variables of processes launched by tests."""

import os
from importlib import metadata

PROGRAMS = "GCL_TEST_PROGRAMS"  # variable: the folder of what was compiled


def quick() -> dict[str, str]:
  """Variables for fast compilation, unlike the defaults of users."""
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
  """Variables for a compilation cache shared within one pytest run.

  XLA reloads CPU programs from it; on processors that LLVM tunes for slow
  gather instructions it logs errors, hidden here, which are meaningless on the
  machine that compiled the program (jax issue 38445).
  """
  return {
    "JAX_COMPILATION_CACHE_DIR": os.environ[PROGRAMS],
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }
