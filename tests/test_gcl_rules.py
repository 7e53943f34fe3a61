"""Meta labels: what a rule says of two slices, and self-paced weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gcl_jax import losses
from gcl_jax.engine import parallel
from gcl_jax.errors import ConfigError
from gcl_jax.methods.gcl import pacing, rules

pytestmark = pytest.mark.compiles

TABLE = {
  "patient": np.array(["a", "a", "b", "", ""]),
  "position": np.array([0.1, 0.4, 0.45, 1.0, np.nan]),
  "visit": np.array([1, 2, 2, 1, 1]),
}


def weights(text, table=None):
  rule = rules.parse(text)
  values = rules.values_of(rule, table or TABLE)
  return np.asarray(rule.weights(values[:, None], values[None]))


def test_equality_leaves_out_what_is_missing():
  expected = np.eye(5)
  expected[0, 1] = expected[1, 0] = 1
  np.testing.assert_array_equal(weights("patient"), expected)
  assert weights("visit")[1, 2] == 1 and weights("visit")[0, 1] == 0


def test_closer_than_a_threshold():
  found = weights("position<0.1")
  expected = np.eye(5)
  expected[1, 2] = expected[2, 1] = 1
  np.testing.assert_array_equal(found, expected)
  assert weights("position<0.3")[0, 1] == 0  # 0.3 is not below 0.3
  assert weights("position<0.31")[0, 1] == 1


@pytest.mark.parametrize("slices", [10, 20, 30, 40])
def test_a_difference_equal_to_the_threshold_is_not_below_it(slices):
  """In float32 about half of these would be."""
  table = {"position": np.arange(1, slices + 1) / slices}
  found = weights("position<0.1", table)
  apart = slices // 10
  assert not np.diagonal(found, apart).any()
  if apart > 1:
    assert np.diagonal(found, apart - 1).all()


def test_a_kernel():
  found = weights("position~0.2")
  np.testing.assert_allclose(found[0, 1], np.exp(-(1.5**2) / 2), rtol=1e-5)
  assert found[4, 4] == 1 and found[4, 0] == 0


def test_equal_parts_of_the_volume():
  table = {"position": np.array([0.01, 0.25, 0.26, 0.5, 1.0])}
  found = weights("position/4", table)
  assert found[0, 1] == 1 and found[1, 2] == 0 and found[2, 3] == 1
  assert found[3, 4] == 0


@pytest.mark.parametrize(
  "text", ["", "position<", "position<0", "position~-1", "position/1.5", "<3"]
)
def test_what_is_no_rule_is_refused(text):
  with pytest.raises(ConfigError, match="is no rule of a meta label"):
    rules.parse(text)


def test_columns_that_do_not_fit_are_refused():
  with pytest.raises(ConfigError, match="no column 'phase'; there are patient"):
    weights("phase")
  with pytest.raises(ConfigError, match="holds texts, which can only be equal"):
    weights("patient<3")
  with pytest.raises(ConfigError, match="'visit' is empty in every row"):
    weights("visit", {"visit": np.array(["", ""])})


def unit(seed, *shape):
  values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
  return values / np.linalg.norm(values, axis=-1, keepdims=True)


def slow_pacing(z, gamma, hard, tau):
  """Loops in float64."""
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
  found = pacing.weights(jnp.asarray(z), 4.0, hard=hard, temperature=0.5)
  expected = slow_pacing(z, 4.0, hard, 0.5)
  assert 0 < expected.mean() < 1
  np.testing.assert_allclose(found, expected, atol=1e-5)
  mesh = parallel.make_mesh()

  def local(z):
    return pacing.weights(
      z, 4.0, hard=hard, temperature=0.5, axis_name=parallel.AXIS
    )

  spec = PartitionSpec(parallel.AXIS)
  mapped = jax.jit(
    jax.shard_map(
      local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
  )
  np.testing.assert_allclose(mapped(z), expected, atol=1e-5)


def test_no_gradient_flows_through_the_pace():
  z = jnp.asarray(unit(1, 4, 2, 5))
  gradient = jax.grad(lambda z: pacing.weights(z, 4.0).sum())(z)
  np.testing.assert_array_equal(gradient, 0)


def test_equal_embeddings_are_at_the_floor():
  """log(n - 1) for every rule that has a positive: nothing is learned."""
  z = jnp.ones((4, 2, 3)) / np.sqrt(3)
  table = {"patient": np.array(["a", "a", "b", "b"])}
  rule = rules.parse("patient")
  values = rules.values_of(rule, table)
  found = losses.soft_supcon(z, rule.weights, meta=values, temperature=0.1)
  np.testing.assert_allclose(found, np.log(7), rtol=1e-6)
