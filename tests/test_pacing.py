"""Self-paced weights against their definition and against loops."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gcl_jax.engine import parallel
from gcl_jax.losses import pacing

pytestmark = pytest.mark.compiles


def test_weights_worked_by_hand():
  losses = jnp.float32([[0.0, 1.0], [2.0, 3.0]])
  for threshold, by_soft, by_hard in (
    (2.0, [[1, 0.5], [0, 0]], [[1, 1], [1, 0]]),
    (4.0, [[1, 0.75], [0.5, 0.25]], [[1, 1], [1, 1]]),
    (0.5, [[1, 0], [0, 0]], [[1, 0], [0, 0]]),
  ):
    for run in (lambda f: f, jax.jit, lambda f: jax.vmap(f, (0, None))):
      found = tuple(
        run(f)(losses, threshold) for f in (pacing.soft, pacing.hard)
      )
      expected = jnp.float32(by_soft), jnp.float32(by_hard)
      chex.assert_trees_all_close(found, expected)
  # A threshold for each row.
  found = pacing.hard(losses, jnp.float32([[0.5], [3.0]]))
  chex.assert_trees_all_equal(found, jnp.float32([[1, 0], [1, 1]]))


def test_hard_weights_minimise_the_self_paced_objective():
  """sum w l - threshold sum w, over all 2^n choices of w."""
  random = np.random.default_rng(0)
  for threshold in (0.3, 1.0, 2.0):
    losses = np.float32(random.exponential(size=9))
    every = np.array(list(itertools.product((0, 1), repeat=9)))
    best = every[np.argmin(every @ (losses - threshold))]
    found = pacing.hard(jnp.asarray(losses), threshold)
    chex.assert_trees_all_equal(found, np.float32(best))


def test_soft_weights_minimise_the_self_paced_objective():
  """w l + threshold (w^2 / 2 - w), each sample by itself, on a fine grid."""
  losses = np.random.default_rng(1).exponential(size=9)
  grid = np.linspace(0, 1, 100_001)[:, None]
  best = grid[np.argmin(grid * losses + 1.3 * (grid**2 / 2 - grid), axis=0), 0]
  found = pacing.soft(jnp.float32(losses), 1.3)
  chex.assert_trees_all_close(found, np.float32(best), atol=2e-5)


def unit(seed, *shape):
  values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
  return values / np.linalg.norm(values, axis=-1, keepdims=True)


def slow_pacing(z, gamma, hard, tau):
  """Weights of pairs by loops in float64."""
  batch, views, _ = z.shape
  rows = z.reshape(batch * views, -1).astype(np.float64)
  logits = rows @ rows.T / tau
  out = np.ones((batch, batch))
  for i in range(batch):
    for j in range(batch):
      if i == j:
        continue
      each = []
      for a in range(views):
        for b in range(views):
          r, c = i * views + a, j * views + b
          others = [k for k in range(len(rows)) if k != r]
          total = np.log(np.sum(np.exp(logits[r, others])))
          each.append(total - logits[r, c])
      mean = np.mean(each)
      out[i, j] = mean <= gamma if hard else max(0.0, 1 - mean / gamma)
  return out


@pytest.mark.parametrize("hard", [False, True])
def test_self_paced_weights_are_the_loops(hard):
  z = unit(0, 8, 2, 5)
  found = pacing.pair_weights(jnp.asarray(z), 4.0, hard=hard, temperature=0.5)
  expected = slow_pacing(z, 4.0, hard, 0.5)
  assert 0 < expected.mean() < 1
  np.testing.assert_allclose(found, expected, atol=1e-5)
  mesh = parallel.make_mesh()

  def local(z):
    return pacing.pair_weights(
      z, 4.0, hard=hard, temperature=0.5, axis_name=parallel.AXIS
    )

  spec = PartitionSpec(parallel.AXIS)
  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  np.testing.assert_allclose(jax.jit(mapped)(z), expected, atol=1e-5)
  each = jax.pmap(local, parallel.AXIS)(z[:, None])
  np.testing.assert_allclose(each[:, 0], expected, atol=1e-5)


def test_no_gradient_flows_through_the_pace():
  z = jnp.asarray(unit(1, 4, 2, 5))
  gradient = jax.grad(lambda z: pacing.pair_weights(z, 4.0).sum())(z)
  chex.assert_trees_all_equal(gradient, jnp.zeros_like(z))
  for weigh in (pacing.soft, pacing.hard):
    gradient = jax.grad(lambda x, weigh=weigh: weigh(x, 2.0).sum())(jnp.ones(3))
    chex.assert_trees_all_equal(gradient, jnp.zeros(3))


def test_a_sample_left_out_gets_no_gradient_and_the_others_their_weight():
  losses = jnp.float32([0.5, 1.0, 2.5, 4.0])
  for weigh in (pacing.soft, pacing.hard):

    def total(losses, weigh=weigh):
      return jnp.sum(weigh(losses, 2.0) * losses)

    gradient = jax.grad(total)(losses)
    chex.assert_trees_all_close(gradient, weigh(losses, 2.0))
    assert not gradient[2:].any() and gradient[:2].all()
