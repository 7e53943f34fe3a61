"""Each rule of the Gradient Mitigator against loops and solvers in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mitigation_cases import (
  RULES,
  conflicting,
  loop_gradvac,
  loop_pcgrad,
  mapped,
  norm,
  products,
  scipy_cagrad,
  scipy_cone,
)
from scipy.optimize import nnls

from gcl_jax.gradients.mitigation import (
  cagrad,
  cone,
  gradvac,
  min_norm,
  pcgrad,
)

pytestmark = pytest.mark.compiles

# PCGrad and GradVac.


@pytest.mark.parametrize(("number", "size"), [(2, 512), (3, 3), (5, 512)])
def test_pcgrad_equals_a_double_loop(number, size):
  g = conflicting(100, number, size, seed=10)
  expected = np.stack([np.mean(loop_pcgrad(x), axis=0) for x in g])
  error = norm(mapped(pcgrad, g) - expected) / norm(g).max(1)
  assert error.max() < 2e-6
  assert np.abs(expected - g.mean(1)).max() > 0.1


def test_pcgrad_draws_an_order_for_every_gradient():
  g = conflicting(1, 3, 4, seed=16)[0]
  pairs = [list(itertools.permutations({0, 1, 2} - {k})) for k in range(3)]
  expected = np.stack(
    [
      np.mean(loop_pcgrad(g, orders), axis=0)
      for orders in itertools.product(*pairs)
    ]
  )
  assert len(np.unique(np.round(expected, 3), axis=0)) == 8
  keys = jax.random.split(jax.random.key(0), 100)
  drawn = jax.jit(jax.vmap(pcgrad, (None, 0)))(g, keys)
  distance = norm(drawn[:, None] - expected[None])
  assert distance.min(1).max() < 1e-5
  assert set(distance.argmin(1).tolist()) == set(range(8))


@pytest.mark.parametrize("size", [2, 512])
def test_two_gradients_leave_pcgrad_without_conflict(size):
  g = conflicting(300, 2, size, seed=13)
  for gradients, v in zip(g, mapped(pcgrad, g), strict=True):
    assert products(v, gradients).min() >= -1e-7 * norm(gradients).max()
  with jax.enable_x64(True):
    v = np.asarray(jax.jit(jax.vmap(pcgrad))(jnp.asarray(g, "float64")))
  assert min(products(a, b).min() for a, b in zip(v, g, strict=True)) >= -1e-9


def test_three_gradients_can_leave_pcgrad_in_conflict():
  """A limit of the method, for every order."""
  g = jnp.float32([[3, 0, 2], [-2, 3, -3], [-1, -1, 0]])
  keys = jax.random.split(jax.random.key(0), 30)
  for v in jax.jit(jax.vmap(pcgrad, (None, 0)))(g, keys):
    assert products(v, g).min() < -0.7 * norm(v)
  v = RULES["cone"](g)
  assert products(v, g).min() >= -1e-6 * norm(v)


def test_scaling_one_gradient_leaves_the_projections_of_the_others():
  g = jnp.asarray(conflicting(1, 3, 8, seed=14)[0])
  turned = loop_pcgrad(g)
  for k in range(3):
    results = {
      c: 3 * RULES["pcgrad"](g.at[k].multiply(c)) for c in (1.0, 2.0, 8.0)
    }
    own = (results[8.0] - results[2.0]) / 6
    np.testing.assert_allclose(own, turned[k], atol=1e-5)
    others = sum(turned) - turned[k]
    np.testing.assert_allclose(results[1.0] - own, others, atol=1e-5)


def test_gradvac_equals_a_double_loop():
  g = conflicting(50, 3, 6, seed=15)
  natural = [range(3)] * 3
  rule = jax.jit(jax.vmap(gradvac, (0, None)))
  near = np.random.default_rng(0).uniform(-0.05, 0.05, (3, 3))
  for target in (-0.4, 0.0, 0.3, 0.9):
    goal = np.float32(target + near)
    result = np.asarray(rule(g, goal), np.float64)
    for v, gradients in zip(result, g, strict=True):
      expected = np.mean(loop_gradvac(gradients, natural, goal), axis=0)
      assert norm(v - expected) < 1e-4 * norm(expected)


def test_gradvac_towards_zero_is_pcgrad():
  g, key = conflicting(30, 3, 6, seed=16), jax.random.key(1)
  one = mapped(functools.partial(gradvac, target=0.0, key=key), g)
  two = mapped(functools.partial(pcgrad, key=key), g)
  np.testing.assert_allclose(one, two, atol=1e-6)


def test_gradvac_stands_a_target_of_one():
  assert np.isfinite(jax.jit(gradvac)(conflicting(1, 3, 6)[0], 1.0)).all()


# The cone.


@pytest.mark.parametrize("size", [3, 512])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_cone_equals_scipy(number, size):
  g = conflicting(120, number, size, seed=20)
  result = mapped(cone, g)
  expected = np.stack([scipy_cone(x) for x in g])
  gbar = norm(g.astype(np.float64).mean(1))
  assert (norm(result - expected) / gbar).max() < 2e-5
  assert (norm(result) / gbar).max() <= 1 + 1e-6
  for gradients, v, size in zip(g, result, gbar, strict=True):
    if norm(v) > 1e-4 * size:
      assert products(v, gradients).min() >= -1e-6 * norm(v)
  if number > 1:
    assert norm(result - g.mean(1)).max() > 0.1


def test_cone_of_eight_equals_scipy():
  g = conflicting(20, 8, 40, seed=21)
  expected = np.stack([scipy_cone(x) for x in g])
  gbar = norm(g.mean(1))
  assert (norm(mapped(cone, g) - expected) / gbar).max() < 1e-5


@pytest.mark.parametrize("number", [2, 3, 4])
def test_cone_weights_are_complementary(number):
  g = conflicting(300, number, 6, seed=22)
  for gradients, v in zip(g, mapped(cone, g), strict=True):
    wide = gradients.astype(np.float64)
    gbar = wide.mean(0)
    unit = wide / norm(wide)[:, None]
    added = v - gbar
    weights, _, rank, _ = np.linalg.lstsq(unit.T, added, rcond=None)
    assert rank == number
    assert norm(unit.T @ weights - added) < 1e-6 * norm(gbar)
    assert weights.min() >= -1e-5 * norm(gbar)
    slack = weights * products(v, gradients)
    assert np.abs(slack).max() <= 1e-5 * norm(gbar) * norm(v)


def test_cone_of_nearly_opposite_gradients_is_exact():
  """At 1e-3 rad from a straight line float32 cosines have one digit left."""
  rng = np.random.default_rng(23)
  for angle in (1e-2, 1e-3):
    g = rng.normal(size=(50, 3, 3))
    g[:, 1] = -g[:, 0] + angle * rng.normal(size=(50, 3))
    g[:, 2] -= 2 * g[:, 0]
    g = np.float32(g * rng.lognormal(size=(50, 3, 1)))
    for gradients, v in zip(g, mapped(cone, g), strict=True):
      gbar = norm(gradients.astype(np.float64).mean(0))
      assert norm(v - scipy_cone(gradients)) < 5e-4 * gbar
      assert products(v, gradients).min() >= -2e-5 * gbar


def test_cone_of_degenerate_gradients():
  a, b = jnp.float32([2, 0, 0]), jnp.float32([-1, 1, 0])
  zero = jnp.zeros(3)

  def check(gradients, expected):
    v = RULES["cone"](jnp.stack(gradients))
    np.testing.assert_allclose(v, expected, atol=1e-6)

  check([a, a, a], a)
  check([zero, zero], zero)
  check([a, zero], a / 2)
  check([a, -a], zero)
  check([a, -3 * a], zero)
  check([a, -3 * a, 3 * a + 3 * b], [0, 1, 0])
  check([a, a, b], [2 / 3, 2 / 3, 0])
  check([a, 4 * b, 4 * b], [0, 8 / 3, 0])
  check([a, 4 * b, zero], [0, 4 / 3, 0])
  check([a, 4 * b, 4 * b, -a], [0, 2, 0])


@pytest.mark.parametrize("size", [2, 50])
def test_cone_shrinks_to_zero_where_no_direction_is_common(size):
  angles = np.pi * np.array([0, 2 / 3, 4 / 3])
  g = np.zeros((3, size), np.float32)
  g[:, :2] = np.stack([np.cos(angles), np.sin(angles)], 1) * [[1], [5], [0.2]]
  assert norm(RULES["cone"](g)) < 1e-6 * norm(g.mean(0))


# CAGrad and the shortest vector.


@pytest.mark.parametrize(
  ("number", "size", "c"),
  [(2, 3, 0.5), (3, 512, 0.5), (3, 6, 0.1), (4, 6, 0.9), (5, 3, 0.5)],
)
def test_cagrad_equals_scipy(number, size, c):
  g = conflicting(12, number, size, seed=30)
  result = mapped(functools.partial(cagrad, c=c), g)
  compared = 0
  for gradients, v in zip(g, result, strict=True):
    worst, expected, distance = scipy_cagrad(gradients, c)
    wide = gradients.astype(np.float64)
    gbar = wide.mean(0)
    scale = norm(gbar) * norm(wide).max()
    assert abs((wide @ v).min() - worst) < 1e-4 * scale
    assert norm(v - gbar) <= (c + 1e-5) * norm(gbar)
    if distance > 0.05:  # v is not defined where g_w = 0
      assert norm(v - expected) < 1e-4 * norm(gbar)
      compared += 1
  assert compared >= 6


def test_cagrad_edges():
  g = jnp.asarray(conflicting(1, 3, 8, seed=31)[0])
  with pytest.raises(ValueError, match="c must be a radius >= 0"):
    cagrad(g, -0.1)
  rule = RULES["cagrad"]
  same = jnp.stack([g[0], g[0]])
  np.testing.assert_allclose(rule(same), 1.5 * g[0], rtol=1e-5)
  np.testing.assert_array_equal(rule(jnp.stack([g[0], -g[0]])), 0 * g[0])
  np.testing.assert_array_equal(rule(0 * g), 0 * g[0])
  padded = jnp.concatenate([g, 0 * g[:1]])
  with_zero, without = rule(padded), rule(g)
  np.testing.assert_allclose(with_zero, 0.75 * without, rtol=1e-4)


@pytest.mark.parametrize(("number", "size"), [(2, 3), (3, 512), (5, 3)])
def test_min_norm_is_the_shortest_point_of_the_hull(number, size):
  """Certificate: v in the hull, and v . g_k >= |v|^2 for every k."""
  g = conflicting(60, number, size, seed=32)
  for gradients, v in zip(g, mapped(min_norm, g), strict=True):
    wide = gradients / norm(gradients).min()
    v = v / norm(gradients).min()
    system = np.concatenate([wide.T, np.full((1, number), 1e3)])
    _, residual = nnls(system, np.append(v, 1e3), maxiter=1000)
    assert residual < 1e-4
    assert ((wide @ v - norm(v) ** 2) / norm(wide)).min() >= -5e-5


def test_min_norm_edges():
  rule = RULES["min_norm"]
  a, b = jnp.float32([2, 0, 0]), jnp.float32([0, 1, 0])
  np.testing.assert_allclose(rule(jnp.stack([a, b])), [0.4, 0.8, 0], 1e-5)
  np.testing.assert_allclose(rule(jnp.stack([a, 3 * a])), a, rtol=1e-5)
  np.testing.assert_allclose(rule(jnp.stack([a, -3 * a])), 0 * a, atol=1e-6)
  np.testing.assert_array_equal(rule(jnp.stack([a, b, 0 * a])), 0 * a)
