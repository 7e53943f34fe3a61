"""Equal programs are compiled once; no two others are taken for one."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.collectives import pmean
from gcl_jax.engine import parallel, programs

pytestmark = pytest.mark.compiles

ROWS = np.arange(4, dtype=np.float32)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
  monkeypatch.setattr(programs, "_kept", type(programs._kept)())


def mesh_of(*numbers):
  return parallel.make_mesh([jax.devices()[n] for n in numbers])


def scaled(mesh, factor, mode="shard_map"):
  """A step of its own every time, as each fold and encoder makes one."""

  def function(tree, batch):
    return tree * factor * batch

  program = parallel.compile_map(function, mesh, mode)
  tree = parallel.replicate(np.float32(2), mesh)
  batch = parallel.put_batch(ROWS, mesh, mode)
  compiled = programs.compile_once(program, tree, batch)
  return compiled, parallel.global_rows(compiled(tree, batch), mode)


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_the_same_program_is_compiled_once(mode):
  mesh = mesh_of(0, 1)
  first, found = scaled(mesh, 3.0, mode)
  again, same = scaled(mesh, 3.0, mode)
  assert again is first
  np.testing.assert_array_equal(found, 6 * ROWS)
  np.testing.assert_array_equal(same, found)


def test_another_constant_is_another_program():
  mesh = mesh_of(0, 1)
  for factor in (3.0, 5.0, np.float32(7), jnp.full(2, 9.0), jnp.full(2, 4.0)):
    found = scaled(mesh, factor)[1]
    expected = 2 * np.ravel(factor)[0] * ROWS
    np.testing.assert_array_equal(found, expected)


HOISTED = """
import jax, jax.numpy as jnp, numpy as np
from gcl_jax.engine import programs
x = np.arange(1000, dtype=np.float32)
for factor in (1, 2):
  function = jax.jit(lambda x, closed=jnp.asarray(factor * x): x + closed)
  assert "jax.const" in function.lower(x).as_text()
  found = programs.compile_once(function, x)(x)
  np.testing.assert_array_equal(found, (1 + factor) * x)
"""


def test_a_constant_that_became_an_argument_is_told_apart():
  """The text does not show it. JAX reads this setting when it is imported."""
  setting = {"JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS": "1"}
  done = subprocess.run(
    [sys.executable, "-c", HOISTED],
    env=os.environ | setting,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_other_devices_or_shardings_are_another_program():
  first, _ = scaled(mesh_of(0, 1), 3.0)
  for other in (mesh_of(2, 3), mesh_of(0), mesh_of(0, 1, 2, 3)):
    compiled, found = scaled(other, 3.0)
    assert compiled is not first
    np.testing.assert_array_equal(found, 6 * ROWS)


def test_other_names_in_a_result_are_another_program():
  for name in ("loss", "value"):
    function = jax.jit(lambda x, name=name: {name: x + 1})
    compiled = programs.compile_once(function, ROWS)
    assert list(compiled(ROWS)) == [name]
    function = jax.jit(lambda batch: sum(batch.values()))
    compiled = programs.compile_once(function, {name: ROWS})
    np.testing.assert_array_equal(compiled({name: ROWS}), ROWS)


def test_a_program_that_calls_python_is_its_own():
  heard = []
  for name in ("first", "second"):

    def function(x, name=name):
      jax.debug.callback(lambda _: heard.append(name), x)
      return x + 1

    compiled = programs.compile_once(jax.jit(function), ROWS)
    jax.block_until_ready(compiled(ROWS))
  jax.effects_barrier()
  assert heard == ["first", "second"]


@pytest.mark.parametrize("mode", ["shard_map", "pmap", "jit"])
def test_another_unused_argument_is_another_program(mode):
  """JAX drops it: what is left reads the same."""
  mesh = mesh_of(0, 1)
  for name, factor in (("a", 1), ("b", 10)):

    def step(state, batch, *, axis_name, name=name):
      return state, {"sum": pmean(batch[name].sum(), axis_name)}

    state = parallel.replicate(np.float32(0), mesh)
    batch = parallel.put_batch({"a": ROWS, "b": 10 * ROWS}, mesh, mode)
    program = parallel.compile_step(step, mesh, mode)
    compiled = programs.compile_once(program, state, batch)
    found = compiled(state, batch)[1]["sum"]
    share = 1 if mode == "jit" else 0.5
    np.testing.assert_allclose(found, factor * share * ROWS.sum())


def test_what_the_text_does_not_show_is_another_program():
  x, (one, other) = jnp.float32(2), jax.devices()[:2]
  weak = programs.compile_once(jax.jit(lambda x: 1.0), x)
  strong = programs.compile_once(jax.jit(lambda x: jnp.float32(1)), x)
  assert weak(x).weak_type and not strong(x).weak_type
  found = []
  for device in (one, other):
    with jax.default_device(device):
      program = programs.compile_once(jax.jit(lambda x: x + 1), ROWS)
      found.append(program(ROWS).devices())
  assert found == [{one}, {other}]
  level = jax.jit(
    lambda x: x + 1, compiler_options={"xla_backend_optimization_level": 1}
  )
  plain = programs.compile_once(jax.jit(lambda x: x + 1), ROWS)
  assert programs.compile_once(level, ROWS) is not plain


def test_nothing_is_shared_where_the_private_fields_are_missing():
  class Lowered:
    def compile(self):
      return object()

  class Function:
    def lower(self):
      return Lowered()

  found = [programs.compile_once(Function()) for _ in range(2)]
  assert found[0] is not found[1] and not programs._kept


def test_a_donated_argument_is_another_program():
  for donated in ((), (0,)):
    function = jax.jit(lambda x: x + 1, donate_argnums=donated)
    x = jax.device_put(ROWS)
    programs.compile_once(function, x)(x)
    assert x.is_deleted() == bool(donated)


def test_few_are_kept():
  mesh = mesh_of(0, 1)
  first, _ = scaled(mesh, 0.0)
  for factor in range(1, programs.KEPT):
    scaled(mesh, float(factor))
  assert scaled(mesh, 0.0)[0] is first  # used again, so the newest
  for factor in range(1, programs.KEPT + 1):
    scaled(mesh, float(factor) + 0.5)
  assert len(programs._kept) == programs.KEPT
  assert scaled(mesh, 0.0)[0] is not first
