"""Programs that are the same to the letter are compiled once, others never."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
  compiled = programs.compile_once(program, mesh, tree, batch)
  return compiled, parallel.global_rows(compiled(tree, batch), mode)


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_the_same_program_is_compiled_once(mode):
  mesh = mesh_of(0, 1)
  first, found = scaled(mesh, 3.0, mode)
  again, same = scaled(mesh, 3.0, mode)
  assert again is first
  np.testing.assert_array_equal(found, 6 * ROWS)
  np.testing.assert_array_equal(same, found)


@pytest.mark.parametrize("hoisted", [False, True])
def test_another_constant_is_another_program(hoisted):
  """Also where JAX makes arguments of the arrays that a function closes over,
  which its text does not show."""
  mesh, before = mesh_of(0, 1), jax.config.jax_use_simplified_jaxpr_constants
  jax.config.update("jax_use_simplified_jaxpr_constants", hoisted)
  try:
    for factor in (3.0, 5.0, np.float32(7), jnp.full(2, 9.0), jnp.full(2, 4.0)):
      found = scaled(mesh, factor)[1]
      expected = 2 * np.ravel(factor)[0] * ROWS
      np.testing.assert_array_equal(found, expected)
  finally:
    jax.config.update("jax_use_simplified_jaxpr_constants", before)


def test_other_devices_or_shardings_are_another_program():
  first, _ = scaled(mesh_of(0, 1), 3.0)
  for other in (mesh_of(2, 3), mesh_of(0), mesh_of(0, 1, 2, 3)):
    compiled, found = scaled(other, 3.0)
    assert compiled is not first
    np.testing.assert_array_equal(found, 6 * ROWS)


def test_other_names_in_a_result_are_another_program():
  mesh = mesh_of(0)
  for name in ("loss", "value"):
    function = jax.jit(lambda x, name=name: {name: x + 1})
    compiled = programs.compile_once(function, mesh, ROWS)
    assert list(compiled(ROWS)) == [name]


def test_a_program_that_calls_python_is_its_own():
  mesh, heard = mesh_of(0), []
  for name in ("first", "second"):

    def function(x, name=name):
      jax.debug.callback(lambda _: heard.append(name), x)
      return x + 1

    compiled = programs.compile_once(jax.jit(function), mesh, ROWS)
    jax.block_until_ready(compiled(ROWS))
  jax.effects_barrier()
  assert heard == ["first", "second"]


def test_a_donated_argument_is_another_program():
  mesh = mesh_of(0)
  for donated in ((), (0,)):
    function = jax.jit(lambda x: x + 1, donate_argnums=donated)
    x = jax.device_put(ROWS)
    programs.compile_once(function, mesh, x)(x)
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
