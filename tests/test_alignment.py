"""Soft-target CLIP losses and prompt ensembles against slow references."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.losses import alignment

pytestmark = pytest.mark.compiles

RNG = np.random.default_rng(0)


def units(*shape):
  drawn = RNG.normal(size=shape)
  return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def slow_side(rows, others, classes, other_classes, scale):
  """One direction, row by row, float64."""
  total = 0.0
  for row, own in zip(rows, classes, strict=True):
    logits = np.array([scale * row @ other for other in others])
    log_share = logits - np.log(np.exp(logits - logits.max()).sum())
    log_share -= logits.max()
    same = [k for k, c in enumerate(other_classes) if c == own]
    total -= sum(log_share[k] for k in same) / max(len(same), 1)
  return total / len(rows)


def slow(first, second, c, d, scale):
  return 0.5 * (
    slow_side(first, second, c, d, scale)
    + slow_side(second, first, d, c, scale)
  )


@pytest.mark.parametrize("scale", [1.0, 14.0])
def test_the_loss_equals_a_loop(scale):
  first, second = units(8, 5), units(6, 5)
  c, d = np.array([0, 0, 1, 2, 2, 2, 3, 9]), np.array([0, 1, 1, 2, 3, 4])
  found = jax.jit(alignment.soft_clip)(
    jnp.float32(first), jnp.float32(second), c, d, scale
  )
  assert float(found) == pytest.approx(slow(first, second, c, d, scale), 1e-5)


def test_distinct_classes_are_plain_clip():
  first, second = units(7, 4), units(7, 4)
  rows = np.arange(7)
  logits = 10 * first @ second.T
  by_row = np.log(np.exp(logits).sum(1)) - np.diag(logits)
  by_column = np.log(np.exp(logits).sum(0)) - np.diag(logits)
  found = alignment.soft_clip(
    jnp.float32(first), jnp.float32(second), rows, rows, 10.0
  )
  expected = (by_row.mean() + by_column.mean()) / 2
  assert float(found) == pytest.approx(expected, rel=1e-5)


def test_one_class_has_a_loss_of_at_least_log_n():
  one = np.zeros(6, int)
  for _ in range(5):
    found = alignment.soft_clip(
      *map(jnp.float32, (units(6, 3), units(6, 3))), one, one, 14.0
    )
    assert float(found) >= np.log(6) - 1e-6
  same = jnp.tile(jnp.float32(units(1, 3)), (6, 1))
  found = alignment.soft_clip(same, same, one, one, 14.0)
  assert float(found) == pytest.approx(np.log(6), rel=1e-6)


def test_devices_together_have_the_loss_and_gradient_of_one():
  first, second = (np.float32(units(16, 5)) for _ in range(2))
  c, d = RNG.integers(0, 4, 16), RNG.integers(0, 4, 16)
  mixing = np.float32(RNG.normal(size=(5, 5)))

  def step(mixing, *arrays, axis_name=None):
    def loss(mixing):
      first, second, *classes = arrays
      return alignment.soft_clip(
        first @ mixing, second @ mixing, *classes, 3.0, axis_name=axis_name
      )

    result = jax.value_and_grad(loss)(mixing)
    return jax.lax.pmean(result, axis_name) if axis_name else result

  arrays = first, second, c, d
  expected = jax.jit(step)(mixing, *arrays)
  mixed = first @ mixing, second @ mixing
  np.testing.assert_allclose(expected[0], slow(*mixed, c, d, 3.0), rtol=1e-5)
  local = functools.partial(step, axis_name="data")
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  specs = (P(), *(P("data"),) * 4)
  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False
  )
  split = [x.reshape(8, 2, *x.shape[1:]) for x in arrays]
  axes = (None, 0, 0, 0, 0)
  named = jax.vmap(local, axes, axis_name="data")
  several = jax.pmap(local, "data", in_axes=axes)
  for found in (
    jax.jit(mapped)(mixing, *arrays),
    jax.tree.map(lambda x: x[5], named(mixing, *split)),
    jax.tree.map(lambda x: x[5], several(mixing, *split)),
  ):
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_ensembles_have_unit_length_again():
  """Six vectors at mutual cosines of 0.6: 0.816, and two: 0.894."""
  for count, length in ((6, 0.8165), (2, 0.8944)):
    gram = np.full((count, count), 0.6) + 0.4 * np.eye(count)
    vectors = np.linalg.cholesky(gram)[None]
    plain = alignment.prototypes(jnp.asarray(vectors), unit=False)
    assert np.linalg.norm(plain) == pytest.approx(length, abs=1e-4)
    whole = alignment.prototypes(jnp.asarray(vectors))
    assert np.linalg.norm(whole) == pytest.approx(1, rel=1e-6)


def test_absent_descriptions_do_not_count():
  vectors = jnp.float32(units(3, 4, 5))
  there = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
  found = np.asarray(alignment.prototypes(vectors, there, unit=False))
  np.testing.assert_allclose(found[0], vectors[0, :2].mean(0), rtol=1e-5)
  np.testing.assert_allclose(found[1], vectors[1].mean(0), rtol=1e-5)
  assert (found[2] == 0).all()
  gradient = jax.grad(lambda v: alignment.prototypes(v, there).sum())(vectors)
  assert np.isfinite(gradient).all() and (np.asarray(gradient)[2] == 0).all()


def test_zero_shot_names_the_nearest_class():
  classes = jnp.eye(3)
  found = alignment.zero_shot(jnp.array([[0.6, 0.8, 0]]), classes, 10.0)
  expected = np.exp([6.0, 8, 0]) / np.exp([6.0, 8, 0]).sum()
  np.testing.assert_allclose(found[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
  "shapes", [((3, 4), (3, 5)), ((3, 4, 1), (3, 4)), ((3, 4), (4,))]
)
def test_shapes_that_do_not_fit_are_refused(shapes):
  first, second = map(jnp.zeros, shapes)
  with pytest.raises(ValueError, match="vectors must be"):
    alignment.soft_clip(first, second, jnp.arange(3), jnp.arange(3), 1.0)
