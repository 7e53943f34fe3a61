"""Hard negatives, thresholds and monitors against loops in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gcl_jax.collectives import gather
from gcl_jax.engine import parallel
from gcl_jax.losses import (
  anchor_losses,
  effective_rank,
  hard_count,
  hardest,
  importance_nce,
  pacing,
  spread,
)

pytestmark = pytest.mark.compiles


def unit(shape, seed=0):
  z = np.random.default_rng(seed).normal(size=shape)
  return np.float32(z / np.linalg.norm(z, axis=-1, keepdims=True))


def slow_hardest(similarity, count):
  """Indices by falling similarity, equal ones in their order."""
  found = np.zeros(similarity.shape, bool)
  for row, values in enumerate(similarity):
    order = sorted(range(len(values)), key=lambda k: (-values[k], k))
    found[row, order[: max(count, 0)]] = True
  return found


def slow_hcl(anchors, positives, negatives, tau, beta, tau_plus):
  """The published code's loss, one anchor and one negative at a time."""
  found = []
  vectors = [np.asarray(x, np.float64) for x in (anchors, positives, negatives)]
  for anchor, positive in zip(*vectors[:2], strict=True):
    right = np.exp(anchor @ positive / tau)
    importance = weighted = 0.0
    for negative in vectors[2]:
      wrong = np.exp(anchor @ negative / tau)
      importance += wrong**beta / len(vectors[2])
      weighted += wrong**beta * wrong
    count = len(vectors[2])
    estimate = (weighted / importance - tau_plus * count * right) / (
      1 - tau_plus
    )
    estimate = max(estimate, count * np.exp(-1 / tau))
    found.append(-np.log(right / (right + estimate)))
  return np.array(found)


# -- number and choice of the hardest ------------------------------------------


@pytest.mark.parametrize(
  ("steps", "total", "fewest"),
  [(800, 400, 20), (800, 400, 0), (37, 7200, 360), (10, 5, 9)],
)
def test_count_follows_the_cosine_law(steps, total, fewest):
  step = np.arange(steps + 1)
  law = total * np.cos(np.pi * step / (2 * steps))
  law[-1] = 0.0
  expected = np.clip(np.floor(law), min(fewest, total), total)
  count = functools.partial(hard_count, steps=steps, total=total, fewest=fewest)
  found = np.asarray(jax.jit(jax.vmap(count))(step))
  whole = np.abs(law - np.round(law)) < 1e-2  # rounding may go either way
  np.testing.assert_array_equal(found[~whole], expected[~whole])
  assert np.abs(found - expected).max() <= 1
  assert found[0] == total and found[-1] == min(fewest, total)
  assert np.all(np.diff(found) <= 0)
  if not fewest:  # literal: none from the last step but one
    assert found[steps - 1] == 0 and found[steps // 2] > 0


def test_hardest_are_those_of_a_sort_with_ties_by_index():
  similarity = np.random.default_rng(0).integers(-3, 4, (6, 9)) / np.float32(4)
  similarity[0, :5] = -0.0, 0.0, -0.0, 0.0, 1.0  # two zeros that are equal
  similarity[1] = np.float32(1e-40), np.inf, -np.inf, *range(-3, 3)
  chosen = jax.jit(hardest)  # the count is traced
  for count in (-1, 0, 1, 4, 8, 9, 12):
    found = chosen(similarity, count)
    np.testing.assert_array_equal(found, slow_hardest(similarity, count))
  each = jax.vmap(hardest)(similarity[:, None], np.arange(6))
  expected = [slow_hardest(similarity[[k]], k) for k in range(6)]
  np.testing.assert_array_equal(each, expected)


def test_loss_never_falls_with_more_negatives_and_is_equation_1_with_all():
  anchors, positives, negatives = (unit((5, 6), k) for k in range(3))
  negatives = np.concatenate([negatives, unit((4, 6), 3)])
  all_of_them = anchor_losses(anchors, positives, negatives, temperature=0.2)

  @jax.jit
  def loss(count):
    used = hardest(anchors @ negatives.T, count)
    return anchor_losses(
      anchors, positives, negatives, used=used, temperature=0.2
    )

  losses = np.stack([loss(count) for count in range(10)])
  assert not losses[0].any() and np.all(np.diff(losses, axis=0) > 0)
  np.testing.assert_allclose(losses[-1], all_of_them, rtol=1e-6)
  for count in range(10):
    for row in range(5):
      others = np.sort(np.float64(negatives @ anchors[row]))[::-1][:count]
      right = np.exp(np.float64(anchors[row] @ positives[row]) / 0.2)
      expected = -np.log(right / (right + np.exp(others / 0.2).sum()))
      np.testing.assert_allclose(losses[count, row], expected, rtol=3e-5)


def test_no_gradient_flows_through_the_choice():
  """The gradient is that of the loss with the mask as a constant."""
  anchors, positives, negatives = (unit((4, 5), k) for k in range(3))
  fixed = np.asarray(hardest(anchors @ negatives.T, 2))

  def loss(anchors, negatives, used=None):
    if used is None:
      used = hardest(anchors @ negatives.T, 2)
    return anchor_losses(
      anchors, positives, negatives, used=used, temperature=0.3
    ).sum()

  slope = jax.grad(loss, (0, 1))
  for found, expected in zip(
    slope(anchors, negatives), slope(anchors, negatives, fixed), strict=True
  ):
    np.testing.assert_allclose(found, expected, atol=1e-7)
  chosen = jax.grad(lambda s: hardest(s, 2).astype(jnp.float32).sum())
  assert not chosen(anchors @ negatives.T).any()


# -- importance ------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.6])
def test_importance_is_the_published_loss(beta, tau_plus):
  vectors = [unit((7, 4), 1), unit((7, 4), 2), unit((9, 4), 3)]
  options = dict(temperature=0.5, beta=beta, tau_plus=tau_plus)
  expected = slow_hcl(*vectors, 0.5, beta, tau_plus)
  found = jax.jit(functools.partial(importance_nce, **options))(*vectors)
  np.testing.assert_allclose(found, expected, rtol=2e-5)
  stacked = [np.stack([x, x[::-1]]) for x in vectors]
  each = jax.vmap(functools.partial(importance_nce, **options))(*stacked)
  np.testing.assert_allclose(each[0], expected, rtol=2e-5)
  np.testing.assert_allclose(each[1], expected[::-1], rtol=2e-5)


def test_importance_meets_its_floor_and_stays_finite():
  here = jnp.float32([[1, 0]])
  far = jnp.float32([[-1, 0], [-1, 0]])
  # R - tau+ N p is below 0: G = N exp(-1 / tau).
  found = importance_nce(here, here, far, temperature=0.5)
  np.testing.assert_allclose(found, np.log1p(2 * np.exp(-4)), rtol=1e-5)
  for positive, tau_plus in itertools.product((here, -here), (0.0, 0.1)):
    loss = functools.partial(
      importance_nce, temperature=0.01, tau_plus=tau_plus
    )
    slopes = jax.grad(lambda *v, loss=loss: loss(*v).sum(), (0, 1, 2))(
      here, positive, jnp.concatenate([far, here])
    )
    for array in (loss(here, positive, here), *slopes):
      assert np.isfinite(array).all()
  with pytest.raises(ValueError, match="tau_plus in"):
    importance_nce(here, here, far, temperature=1.0, tau_plus=1.0)


def test_importance_without_weights_is_infonce():
  vectors = [unit((3, 4), 1), unit((3, 4), 2), unit((9, 4), 3)]
  found = importance_nce(*vectors, temperature=0.1, beta=0.0, tau_plus=0.0)
  expected = anchor_losses(*vectors, temperature=0.1)
  floor = np.log1p(9 * np.exp(-10 - 10 * np.sum(vectors[0] * vectors[1], 1)))
  np.testing.assert_allclose(found, np.maximum(expected, floor), rtol=1e-5)


# -- pace ------------------------------------------------------------


def test_thresholds_worked_by_hand():
  assert f"{float(pacing.literal_threshold(7200)):.6f}" == "0.000139"
  late = hard_count(792, 800, 7200)
  np.testing.assert_allclose(pacing.literal_threshold(late), 1 / 113)
  assert np.isinf(pacing.literal_threshold(0))
  found = jax.jit(pacing.scaled_threshold)(0.3, 400, jnp.int32(20))
  np.testing.assert_allclose(found, 6.0, rtol=1e-6)
  np.testing.assert_allclose(pacing.scaled_threshold(0.3, 400, 400), 0.3)


def test_losses_of_many_negatives_by_hand():
  same = jnp.zeros((7200, 4)).at[:, 1].set(1)
  found = anchor_losses(same[:2], same[:2], same, temperature=0.07)
  np.testing.assert_allclose(found, [8.882] * 2, atol=5e-4)
  # Literal selects nobody: positive at 0.8, random directions.
  negatives = unit((7200, 128))
  anchors = unit((50, 128), 1)
  aside = (
    anchors @ np.linalg.qr(np.random.default_rng(2).normal(size=(128,) * 2))[0]
  )
  aside -= np.sum(aside * anchors, 1, keepdims=True) * anchors
  aside /= np.linalg.norm(aside, axis=1, keepdims=True)
  positives = np.float32(0.8 * anchors + 0.6 * aside)
  losses = anchor_losses(anchors, positives, negatives, temperature=0.07)
  np.testing.assert_allclose(np.mean(losses), 0.163, atol=0.01)
  assert not pacing.hard(losses, pacing.literal_threshold(7200)).any()
  median = jnp.median(losses)
  kept = pacing.hard(losses, pacing.scaled_threshold(median, 7200, 7200))
  assert abs(float(kept.mean()) - 0.5) < 0.1
  late = hard_count(600, 800, 7200, 360)
  kept = pacing.hard(losses, pacing.scaled_threshold(median, 7200, late))
  assert kept.mean() > 0.9


@pytest.mark.parametrize("count", [1, 3, 400])
def test_pace_minimises_its_objective_over_all_choices(count):
  """sum s l - lambda sum s, over all 2^n choices of s."""
  losses = np.float32(np.random.default_rng(count).exponential(size=11))
  every = np.array(list(itertools.product((0, 1), repeat=11)))
  for threshold in (
    pacing.literal_threshold(count),
    pacing.scaled_threshold(0.5, 400, count),
  ):
    best = every[np.argmin(every @ (losses - float(threshold)))]
    found = pacing.hard(jnp.asarray(losses), threshold)
    np.testing.assert_array_equal(found, best)


# -- collapse ------------------------------------------------------------


def test_spread_and_rank_against_numpy():
  z = unit((9, 5))
  exact = np.float64(z)
  values = np.linalg.svd(exact, compute_uv=False)
  shares = values / values.sum()
  expected = np.exp(-np.sum(shares * np.log(shares)))
  np.testing.assert_allclose(jax.jit(effective_rank)(z), expected, rtol=1e-5)
  variance = np.sum(exact.var(axis=0))
  np.testing.assert_allclose(spread(z), variance, rtol=1e-5)
  np.testing.assert_allclose(
    variance, 1 - np.sum(exact.mean(0) ** 2), rtol=1e-5
  )
  both = jnp.stack([z, z[:, ::-1]])
  np.testing.assert_allclose(jax.vmap(effective_rank)(both), expected, 1e-5)
  assert spread(z[[0] * 6]) < 1e-6
  np.testing.assert_allclose(effective_rank(z[[0] * 6]), 1, atol=1e-3)
  np.testing.assert_allclose(effective_rank(jnp.eye(5)), 5, rtol=1e-5)
  np.testing.assert_allclose(effective_rank(jnp.zeros((3, 4))), 1)


# -- devices ------------------------------------------------------------


def paced(matrix, rows, others, axis_name):
  """Loss of paced anchors against the hardest negatives of all devices."""

  def loss(matrix):
    y = [x @ matrix for x in (rows[:, 0], rows[:, 1])]
    negatives = gather(others @ matrix, axis_name)
    used = hardest(y[0] @ negatives.T, 5)
    losses = anchor_losses(*y, negatives, used=used, temperature=0.5)
    losses += importance_nce(*y, negatives, temperature=0.5)
    kept = pacing.hard(losses, pacing.scaled_threshold(3.5, 16, 8))
    return jnp.mean(kept * losses), jnp.mean(kept)

  found = jax.value_and_grad(loss, has_aux=True)(matrix)
  return jax.lax.pmean(found, axis_name) if axis_name else found


def test_eight_devices_equal_one():
  draw = np.random.default_rng(1)
  rows, others = (draw.normal(size=s) for s in ((16, 2, 6), (16, 6)))
  matrix = np.float32(draw.normal(size=(6, 4)) / 3)
  rows, others = np.float32(rows), np.float32(others)
  expected = jax.jit(functools.partial(paced, axis_name=None))(
    matrix, rows, others
  )
  assert 0.2 < expected[0][1] < 0.8
  body = functools.partial(paced, axis_name=parallel.AXIS)
  mapped = jax.shard_map(
    body,
    mesh=parallel.make_mesh(),
    in_specs=(P(), P(parallel.AXIS), P(parallel.AXIS)),
    out_specs=P(),
    check_vma=False,
  )
  split = [x.reshape(8, 2, *x.shape[1:]) for x in (rows, others)]
  each = [
    transform(body, axis_name=parallel.AXIS, in_axes=(None, 0, 0))
    for transform in (jax.pmap, jax.vmap)
  ]
  found = [
    jax.jit(mapped)(matrix, rows, others),
    *(jax.tree.map(lambda x: x[0], f(matrix, *split)) for f in each),
  ]
  for one in found:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      one,
      expected,
    )
