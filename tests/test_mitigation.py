"""Gradient Mitigator against loops and solvers in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy.optimize import minimize, nnls

from gcl_jax.gradients import mitigation
from gcl_jax.gradients.mitigation import (
  cagrad,
  cone,
  conflict_rate,
  cosines,
  gradvac,
  mean,
  min_norm,
  pcgrad,
  rescale,
  surrogate,
)

pull = functools.partial(gradvac, target=0.3)
RULES = {
  "mean": jax.jit(mean),
  "pcgrad": jax.jit(pcgrad),
  "gradvac": jax.jit(pull),
  "cone": jax.jit(cone),
  "cagrad": jax.jit(cagrad),
  "min_norm": jax.jit(min_norm),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


def conflicting(draws, number, size, seed=0):
  """float32[draws, K, d]: forced conflicts, log-normal norms."""
  rng = np.random.default_rng(seed)
  g = rng.normal(size=(draws, number, size))
  axis = rng.normal(size=(draws, 1, size))
  axis /= np.linalg.norm(axis, axis=2, keepdims=True)
  side = np.where(np.arange(number) % 2, -1, 1)[:, None]
  length = np.linalg.norm(g, axis=2, keepdims=True)
  g += side * axis * length * rng.uniform(0, 2, (draws, 1, 1))
  g *= np.exp(rng.normal(size=(draws, number, 1)))
  return g.astype(np.float32)


def agreeing(number, size=40, seed=0):
  rng = np.random.default_rng(seed)
  g = np.abs(rng.normal(size=(number, size))) * rng.lognormal(size=(number, 1))
  return jnp.float32(g)


def norm(x):
  return np.linalg.norm(np.asarray(x, np.float64), axis=-1)


def products(v, g):
  """v . g_k / |g_k| in float64."""
  g = np.asarray(g, np.float64)
  return g @ np.asarray(v, np.float64) / np.maximum(norm(g), 1e-300)


@functools.cache
def over_draws(rule):
  return jax.jit(jax.vmap(rule))


def mapped(rule, gradients):
  return np.asarray(over_draws(rule)(gradients), np.float64)


# References.


def loop_gradvac(g, orders, target):
  g = np.asarray(g, np.float64)
  turned = []
  for k, order in enumerate(orders):
    v = g[k].copy()
    for j in order:
      if j == k:
        continue
      cosine = v @ g[j] / (norm(v) * norm(g[j]))
      if cosine < target[k, j]:
        t = target[k, j]
        up = t * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - t**2)
        v += norm(v) * up / (norm(g[j]) * np.sqrt(1 - t**2)) * g[j]
    turned.append(v)
  return turned


def loop_pcgrad(g, orders=None):
  g = np.asarray(g, np.float64)
  turned = []
  for k in range(len(g)):
    v = g[k].copy()
    for j in orders[k] if orders else range(len(g)):
      if j != k and v @ g[j] < 0:
        v -= (v @ g[j]) / (g[j] @ g[j]) * g[j]
    turned.append(v)
  return turned


def scipy_cone(g):
  g = np.asarray(g, np.float64)
  unit = g / norm(g)[:, None]
  size = norm(g.mean(0))
  weights, _ = nnls(unit.T, -g.mean(0) / size, maxiter=1000)
  return g.mean(0) + size * weights @ unit


def scipy_cagrad(g, c):
  """The minimum of F, and v."""
  g = np.asarray(g, np.float64)
  number, size = len(g), norm(g).max()
  g = g / size
  gbar = g.mean(0)
  gram, radius = g @ g.T, c * norm(gbar)

  def objective(w):
    return w @ g @ gbar + radius * np.sqrt(max(w @ gram @ w, 0) + 1e-20)

  found = [
    minimize(
      objective,
      start,
      method="SLSQP",
      bounds=[(0, 1)] * number,
      constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
      options={"maxiter": 500, "ftol": 1e-14},
    )
    for start in np.concatenate(
      [np.full((1, number), 1 / number), np.eye(number) * 0.8 + 0.2 / number]
    )
  ]
  best = min(found, key=lambda result: result.fun)
  towards = best.x @ g
  v = gbar + radius * towards / max(norm(towards), 1e-12)
  return best.fun * size**2, v * size, norm(towards) / norm(gbar)


# What all rules share.


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
  """The limit of the method, whatever the order."""
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


# What is logged, and the pre-step.


def test_cosines_and_conflict_rate():
  g = conflicting(1, 4, 30, seed=40)[0]
  g[2] = 0
  tree = {"a": jnp.asarray(g[:, :7]), "b": jnp.asarray(g[:, 7:])}
  unit = g / np.maximum(norm(g), 1e-9)[:, None]
  found = jax.jit(cosines)(tree)
  np.testing.assert_allclose(found, unit @ unit.T, atol=1e-6)
  expected = [unit[k] @ unit[j] < 0 for j in range(4) for k in range(j)]
  assert 0 < np.mean(expected) < 1
  assert float(jax.jit(conflict_rate)(tree)) == pytest.approx(np.mean(expected))
  assert float(conflict_rate(tree["a"][:1])) == 0
  np.testing.assert_array_equal(np.diagonal(found), [1, 1, 0, 1])
  assert float(conflict_rate(jnp.float32([[1, 0], [0, 1]]))) == 0


def test_rescale_gives_all_the_mean_norm():
  g = conflicting(1, 3, 30, seed=41)[0]
  g[1] = 0
  tree = {"a": jnp.asarray(g[:, :7]), "b": jnp.asarray(g[:, 7:])}
  scaled = jax.jit(rescale)(tree)
  together = np.concatenate([scaled["a"], scaled["b"]], axis=1)
  length = norm(g).mean()
  np.testing.assert_allclose(norm(together), [length, 0, length], rtol=1e-6)
  unit = g / np.maximum(norm(g), 1e-9)[:, None]
  np.testing.assert_allclose(together, length * unit, rtol=1e-5)
  assert rescale(tree["a"].astype(jnp.bfloat16)).dtype == jnp.bfloat16
  np.testing.assert_array_equal(rescale(tree["a"][:1]), tree["a"][:1])


# Feature level.


def encode(params, x):
  return jnp.tanh(x @ params["w"] + params["b"]) @ params["head"]


@pytest.fixture(scope="module")
def problem():
  """An encoder, 16 images, and three losses that contradict each other."""
  rng = np.random.default_rng(50)
  params = {
    "w": jnp.float32(rng.normal(size=(5, 7))),
    "b": jnp.float32(rng.normal(size=7)),
    "head": jnp.float32(rng.normal(size=(7, 4))),
  }
  x = jnp.float32(rng.normal(size=(16, 5)))
  targets = rng.normal(size=(3, 16, 4))
  targets[1] = -2 * targets[0] + 0.5 * targets[1]
  return params, x, jnp.float32(targets)


def label_losses(z, targets):
  return -jnp.mean(jnp.tanh(z) * targets, axis=(1, 2))


def label_gradients(params, x, targets):
  """K gradients of the encoder, one backward pass each."""
  return jax.jit(jax.jacrev(lambda p: label_losses(encode(p, x), targets)))(
    params
  )


def test_one_backward_pass_of_the_surrogate_equals_the_mean_of_all(problem):
  params, x, targets = problem
  by_feature = jax.jacrev(label_losses)(encode(params, x), targets)
  assert by_feature.shape == (3, 16, 4)

  def through(rule, p):
    v = jax.vmap(rule, in_axes=1)(by_feature)
    return surrogate(encode(p, x), v)

  one = jax.jit(jax.grad(functools.partial(through, mean)))(params)
  many = mean(label_gradients(params, x, targets))
  for name in params:
    np.testing.assert_allclose(one[name], many[name], atol=1e-6)
  other = jax.jit(jax.grad(functools.partial(through, cone)))(params)
  assert np.abs(other["w"] - one["w"]).max() > 1e-3


def test_surrogate_sends_the_directions_and_nothing_else():
  z, v = jnp.ones((2, 3)), jnp.float32(np.arange(6).reshape(2, 3))
  np.testing.assert_array_equal(jax.grad(surrogate)(z, v), v)
  through_both = jax.grad(lambda z: surrogate(z, z**3))(2 * z)
  np.testing.assert_array_equal(through_both, 8 * z)
  with pytest.raises(ValueError, match="do not fit features"):
    surrogate(z, v[:1])


# Across devices.


@pytest.mark.parametrize(
  ("name", "mode"),
  [
    ("pcgrad", "shard_map"),
    ("cone", "shard_map"),
    ("cone", "pmap"),
  ],
)
def test_eight_devices_equal_one(problem, name, mode):
  rule = RULES[name]
  params, x, targets = problem
  whole = label_gradients(params, x, targets)
  expected = rule(whole)
  assert float(conflict_rate(whole)) > 0

  def step(x, targets):
    gradients = label_gradients(params, x, targets)
    return jax.tree.map(
      lambda leaf: leaf[None], rule(lax.pmean(gradients, "data"))
    )

  if mode == "pmap":
    rows = x.reshape(8, 2, 5), targets.reshape(3, 8, 2, 4)
    found = jax.pmap(step, "data", in_axes=(0, 1))(*rows)
    found = jax.tree.map(lambda leaf: leaf[:, 0], found)
  else:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    found = jax.jit(
      jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P("data"), P(None, "data")),
        out_specs=P("data"),
        check_vma=False,
      )
    )(x, targets)
  for part, leaf in found.items():
    leaf = np.asarray(leaf)
    assert leaf.shape[0] == 8 and (leaf == leaf[:1]).all()
    np.testing.assert_allclose(leaf[0], expected[part], atol=2e-6)


def test_shards_must_be_averaged_before_they_are_compared(problem):
  params, x, targets = problem
  shards = jax.vmap(label_gradients, (None, 0, 1))(
    params, x.reshape(8, 2, 5), targets.reshape(3, 8, 2, 4)
  )
  after = jax.tree.map(
    lambda leaf: leaf.mean(0), jax.jit(jax.vmap(cone))(shards)
  )
  before = RULES["cone"](jax.tree.map(lambda leaf: leaf.mean(0), shards))
  assert np.abs(after["w"] - before["w"]).max() > 1e-3


def test_the_folder_exports_what_it_promises():
  for name in (*RULES, "rescale", "cosines", "conflict_rate", "surrogate"):
    assert name in mitigation.__all__ and callable(getattr(mitigation, name))
