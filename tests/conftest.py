"""Eight virtual CPU devices for every test, and a place for real data."""

import os
import pathlib
import sys

# The fuzzer and the counter of programs lie with the benchmarks.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Programs run for milliseconds here and compile for seconds: half the time.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def real_data() -> pathlib.Path:
  """The folder of real images, or a skip that says how to provide it."""
  root = pathlib.Path(__file__).resolve().parents[1]
  folder = os.environ.get("GCL_DATA") or root.parent / "shared" / "data"
  if not pathlib.Path(folder).is_dir():
    pytest.skip("no real images here: set GCL_DATA to their folder")
  return pathlib.Path(folder)
