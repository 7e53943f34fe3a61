"""Use of mitigation: metrics, feature level, several devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from mitigation_cases import (
  RULES,
  conflicting,
  norm,
)

from gcl_jax.gradients import mitigation
from gcl_jax.gradients.mitigation import (
  cone,
  cosines,
  mean,
  rescale,
)

pytestmark = pytest.mark.compiles


def test_cosines_of_a_tree_are_those_of_all_entries():
  g = conflicting(1, 4, 30, seed=40)[0]
  g[2] = 0
  tree = {"a": jnp.asarray(g[:, :7]), "b": jnp.asarray(g[:, 7:])}
  unit = g / np.maximum(norm(g), 1e-9)[:, None]
  found = jax.jit(cosines)(tree)
  np.testing.assert_allclose(found, unit @ unit.T, atol=1e-6)
  np.testing.assert_array_equal(np.diagonal(found), [1, 1, 0, 1])
  right = cosines(jnp.float32([[1, 0], [0, 1]]))
  chex.assert_trees_all_equal(right, jnp.eye(2))


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
  """Encoder, 16 images, and three conflicting losses."""
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


def test_one_backward_pass_of_mean_features_equals_the_mean_of_all(problem):
  params, x, targets = problem
  features, backward = jax.vjp(lambda p: encode(p, x), params)
  by_feature = jax.jacrev(label_losses)(features, targets)
  chex.assert_shape(by_feature, (3, 16, 4))

  def through(rule):
    (found,) = backward(jax.vmap(rule, in_axes=1)(by_feature))
    return found

  many = mean(label_gradients(params, x, targets))
  one = through(mean)
  chex.assert_trees_all_close(one, many, atol=1e-6)
  assert np.abs(through(cone)["w"] - one["w"]).max() > 1e-3


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
  assert cosines(whole).min() < 0  # some conflict

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
  for name in (*RULES, "rescale", "cosines"):
    assert name in mitigation.__all__ and callable(getattr(mitigation, name))
