"""Gradient Mitigator: properties of all rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mitigation_cases import (
  RULES,
  agreeing,
  conflicting,
  every_rule,
  mapped,
  norm,
  products,
)

from gcl_jax.gradients.mitigation import (
  cagrad,
  cone,
  gradvac,
  mean,
  min_norm,
  pcgrad,
)

pytestmark = pytest.mark.compiles


@every_rule
def test_one_gradient_is_returned_as_it_is(rule):
  g = jnp.float32(np.random.default_rng(1).normal(size=(1, 3, 4)))
  tree = {"w": g, "b": g[:, 0, 0].astype(jnp.bfloat16)}
  one = rule(tree)
  assert one["b"].dtype == jnp.bfloat16 and one["b"].shape == ()
  assert np.array_equal(one["w"], g[0])
  assert np.array_equal(one["b"], tree["b"][0])


@pytest.mark.parametrize(
  "rule",
  [
    mean,
    pcgrad,
    functools.partial(pcgrad, key=jax.random.key(3)),
    functools.partial(gradvac, target=-1.0),
    cone,
    functools.partial(cagrad, c=0),
  ],
  ids=["mean", "pcgrad", "shuffled", "gradvac", "cone", "cagrad"],
)
def test_without_conflict_the_result_is_the_plain_mean(rule):
  g = agreeing(3)
  tree = {"a": g[:, :25].reshape(3, 5, 5), "b": g[:, 25:]}
  one = jax.jit(rule)(tree)
  for name, leaf in tree.items():
    plain = np.asarray(jnp.mean(leaf, axis=0))
    assert np.asarray(one[name]).tobytes() == plain.tobytes()


def test_without_jit_the_result_is_the_same():
  g = jnp.asarray(conflicting(1, 2, 8)[0])
  np.testing.assert_allclose(pcgrad(g), RULES["pcgrad"](g), atol=1e-6)
  g = agreeing(2, 8)
  np.testing.assert_array_equal(pcgrad(g), jnp.mean(g, axis=0))


@pytest.mark.parametrize("name", ["pcgrad", "cone"])
def test_leaves_are_one_vector(name):
  rule = RULES[name]
  g = jnp.asarray(conflicting(1, 3, 8, seed=2)[0])
  tree = [g[:, 0], {"w": g[:, 1:7].reshape(3, 3, 2)}, g[:, 7:], g[:, :0]]
  parts = jax.tree.leaves(rule(tree))
  together = np.concatenate([np.ravel(part) for part in parts])
  np.testing.assert_allclose(together, rule(g), rtol=2e-5, atol=1e-6)


@every_rule
def test_vmap_equals_single_calls(rule):
  g = conflicting(12, 3, 8, seed=3)
  single = np.stack([rule(jnp.asarray(x)) for x in g])
  by_label = jnp.asarray(np.swapaxes(g, 0, 1))
  per_sample = jax.jit(jax.vmap(rule, in_axes=1))(by_label)
  np.testing.assert_allclose(per_sample, single, rtol=1e-4, atol=2e-5)


@every_rule
def test_tiny_and_huge_gradients_behave_like_others(rule):
  g = conflicting(12, 3, 8, seed=4)
  for factor in (2.0**-100, 2.0**60, 2.0**100):
    scaled = mapped(rule, np.float32(g * factor)) / factor
    np.testing.assert_allclose(scaled, mapped(rule, g), rtol=1e-5, atol=1e-6)


def test_a_gradient_a_billion_times_smaller_still_counts():
  g = conflicting(200, 3, 8, seed=5)
  g[:, 1] *= 1e-25
  for gradients, v in zip(g, mapped(cone, g), strict=True):
    assert products(v, gradients).min() >= -1e-6 * norm(v)


@pytest.mark.parametrize("name", ["mean", "cone"])
def test_half_precision_is_accumulated_in_float32(name):
  rule = RULES[name]
  g = jnp.asarray(conflicting(1, 3, 3000, seed=6)[0]).astype(jnp.bfloat16)
  wide = rule(g.astype(jnp.float32)).astype(jnp.bfloat16)
  narrow = rule(g)
  assert narrow.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(narrow), np.float32(wide))
  mixed = rule({"a": g[:, :5], "b": g[:, 5:].astype(jnp.float32)})
  assert mixed["a"].dtype == jnp.bfloat16 and mixed["b"].dtype == jnp.float32


@every_rule
def test_what_is_not_finite_stays_visible(rule):
  for bad in (np.nan, np.inf):
    g = conflicting(1, 3, 8, seed=7)[0]
    g[1, 2] = bad
    assert not np.isfinite(rule(g)).all()


@pytest.mark.parametrize("name", ["pcgrad", "cone", "cagrad"])
def test_derivatives_are_finite_and_right(name):
  g = conflicting(1, 3, 5, seed=8)[0]
  direction = np.random.default_rng(9).normal(size=g.shape)
  with jax.enable_x64(True):
    g = jnp.asarray(g, "float64")

    def value(g):
      return jnp.sum(jnp.sin(RULES[name](g)))

    step = 1e-6 * direction
    slope = (value(g + step) - value(g - step)) / 2e-6
    derivative = jax.jit(jax.grad(value))
    along = jnp.sum(derivative(g) * direction)
    np.testing.assert_allclose(along, slope, rtol=1e-5)
    assert np.isfinite(derivative(g.at[1].set(0))).all()


@every_rule
def test_gradients_that_do_not_stack_are_refused(rule):
  bad = [
    {},
    jnp.float32(1),
    {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))},
    jnp.ones((0, 3)),
    jnp.ones((2, 3), jnp.int32),
  ]
  for gradients in bad:
    with pytest.raises(ValueError, match="gradients must be"):
      rule(gradients)


@pytest.mark.parametrize("rule", [cone, cagrad, min_norm])
def test_too_many_gradients_are_refused(rule):
  with pytest.raises(ValueError, match="at most 8"):
    rule(jnp.ones((9, 3)))
