"""Eight virtual CPU devices for every test, and the folder of real data.

Programs run for milliseconds here and compile for seconds: tests compile them
without optimisation, and the two workers share it for as long as pytest runs.
Processes that tests launch compile as a user's do, unless they are given
`children.quick()`, and share among themselves with `children.shared()`.
"""

import atexit
import gc
import os
import pathlib
import shutil
import sys
import tempfile

import children
import jax
import pytest

# The fuzzer and the counter of programs lie with the benchmarks.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))
import compiles

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
if children.PROGRAMS not in os.environ:  # the first process of this run
  os.environ[children.PROGRAMS] = tempfile.mkdtemp(prefix="gcl-programs-")
  atexit.register(shutil.rmtree, os.environ[children.PROGRAMS], True)

jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", os.environ[children.PROGRAMS])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

with pytest.MonkeyPatch.context() as patch:
  for name in ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL"):
    patch.setenv(name, children.quick()[name])
  jax.devices()  # reads them; children do not inherit them


# Tracing makes many small objects and few cycles: a tenth of the time.
gc.freeze()
gc.set_threshold(100_000, 50, 1000)

COMPILED = pytest.StashKey[int]()
counter = compiles.Counter()


def pytest_configure(config: pytest.Config) -> None:
  """Ignores cache files that another process is still writing."""
  config.addinivalue_line(
    "filterwarnings", "ignore:Error reading persistent compilation cache"
  )


def pytest_runtest_setup(item: pytest.Item) -> None:
  """Counts the programs before a test and its fixtures."""
  item.stash[COMPILED] = counter.total()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item):
  """Fails a test that compiles without the mark: `make check` would run it."""
  yield
  total = counter.total()
  found = total - item.stash.get(COMPILED, total)  # none where it was skipped
  if found and item.get_closest_marker("compiles") is None:
    pytest.fail(
      f"compiles {found} programs: pytestmark = pytest.mark.compiles belongs"
      " at the top of its file"
    )


@pytest.fixture
def real_data() -> pathlib.Path:
  """Folder of real images, or a skip with advice how to provide it."""
  root = pathlib.Path(__file__).resolve().parents[1]
  folder = os.environ.get("GCL_DATA") or root.parent / "shared" / "data"
  if not pathlib.Path(folder).is_dir():
    pytest.skip("no real images here: set GCL_DATA to their folder")
  return pathlib.Path(folder)
