"""Compiling for machines that are not here."""

import importlib.util
import os

import jax
import pytest

from gcl_jax import main
from gcl_jax.engine import compile_ahead, parallel
from gcl_jax.errors import ConfigError
from gcl_jax.methods.severity.config import get_config
from gcl_jax.methods.severity.stages import programs

pytestmark = pytest.mark.compiles


def test_the_programs_are_those_of_a_run():
  """Every stage that computes has one, and it compiles for these devices."""
  config = get_config("tiny")
  config.arms = ("random", "simclr", "supervised", "moco", "pcl")
  found = {program.name: program for program in programs(config)}
  assert set(found) == {
    *("gradcon", "score", "supcon", "simclr", "moco", "pcl"),
    *("features", "supervised"),
  }
  mesh = parallel.make_mesh(jax.devices()[:2])
  score = compile_ahead.compile_program(found["score"], mesh)
  assert not score["collectives"]
  assert score["gib"] > 0
  features = compile_ahead.compile_program(found["features"], mesh)
  assert not features["collectives"]
  # Eight images a batch, 32 x 64: at least their bytes and the weights'.
  assert features["gib"] * 2**30 > 4 * 32 * 64
  supcon = found["supcon"]
  mapped = parallel.compile_step(supcon.function, mesh)
  text = mapped.lower(supcon.tree, supcon.batch).as_text()
  # Both views' embeddings and, twice, labels: for the loss and its statistic.
  assert text.count("stablehlo.all_gather") == 3
  assert text.count("stablehlo.reduce_scatter") == 1
  for word in ("callback", "infeed", "outfeed"):
    assert word not in text


def test_the_line_says_whether_it_fits():
  facts = {
    "name": "supcon",
    "compile_s": 3.2,
    "gib": 12.5,
    "gflop": 80.0,
    "collectives": {"all_reduce": 3},
  }
  said = compile_ahead.line(facts, "v5e:2x4")
  assert "12.50 GiB a chip of 16 GiB: fits" in said and "3 all_reduce" in said
  assert "DOES NOT FIT" in compile_ahead.line(facts | {"gib": 17.0}, "v5e:2x4")


def test_what_is_no_slice_is_refused():
  with pytest.raises(ConfigError, match="not a slice such as v5e:2x4"):
    compile_ahead.tpu_mesh("v5e")
  config = get_config("tiny")
  program = programs(config)[0]
  mesh = parallel.make_mesh(jax.devices()[:3])
  with pytest.raises(ConfigError, match="gradcon: a batch of 8 cannot"):
    compile_ahead.compile_program(program, mesh)


@pytest.mark.skipif(
  not (
    os.environ.get("GCL_TPU_COMPILER") and importlib.util.find_spec("libtpu")
  ),
  reason="opt-in: set GCL_TPU_COMPILER=1 and install the extra tpu",
)
def test_the_tpu_compiler_takes_every_step(capsys):
  main.compile_only(get_config("tiny"), "v5e:2x4")
  said = capsys.readouterr().out
  assert "v5e:2x4: 8 chips" in said and "DOES NOT FIT" not in said
  assert said.count("fits") == len(programs(get_config("tiny")))
