"""Heads on feature vectors against numpy, and their batch statistics."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.models.heads import linear, projection

pytestmark = pytest.mark.compiles


def normal(*shape, seed=0):
  return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def test_projection_equals_numpy_and_has_unit_length():
  model = projection(hidden=7, out=5)
  variables = model.init(jax.random.key(0), (6,))
  features = normal(4, 6)
  (first, second) = variables["params"].values()
  hidden = np.maximum(features @ first["kernel"] + first["bias"], 0)
  expected = hidden @ second["kernel"] + second["bias"]
  plain = projection(hidden=7, out=5, unit=False).apply(variables, features)
  np.testing.assert_allclose(plain, expected, rtol=1e-5, atol=1e-6)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  projected = model.apply(variables, features)
  assert model.feature_dim == 5
  np.testing.assert_allclose(projected, expected, rtol=1e-5, atol=1e-6)
  rough = model.apply(variables, features.astype(jnp.bfloat16))
  assert rough.dtype == jnp.float32
  np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1, rtol=1e-6)


def test_projection_of_nothing_is_nothing():
  model = projection(hidden=4, out=3)
  variables = model.init(jax.random.key(0), (2,))
  loss = lambda x: jnp.sum(model.apply(variables, x))  # noqa: E731
  value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 2)))
  assert value == 0 and np.all(np.isfinite(gradient))


def test_linear_equals_numpy():
  model = linear(3)
  variables = model.init(jax.random.key(0), (6,))
  kernel, bias = (variables["params"][k] for k in ("kernel", "bias"))
  assert kernel.shape == (6, 3) and np.abs(kernel).max() <= 6**-0.5
  features = normal(4, 6)
  np.testing.assert_allclose(
    model.apply(variables, features), features @ kernel + bias, rtol=1e-5
  )


# -- with batch normalisation -----------------------------------------------


def random_variables(model, size):
  """Initial kernels; random scales, biases and statistics."""
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (
      x if x.ndim > 1 else jnp.float32(random.uniform(0.5, 1.5, x.shape))
    ),
    model.init(jax.random.key(0), (size,)),
  )


def np_projection(variables, features, train):
  """(projected, mean, variance) in float64."""
  variables = jax.tree.map(np.float64, variables)
  params, stats = variables["params"], variables["batch_stats"]["BatchNorm_0"]
  hidden = np.float64(features) @ params["Dense_0"]["kernel"]
  mean, var = stats["mean"], stats["var"]
  if train:
    rows = hidden.reshape(-1, hidden.shape[-1])
    mean, var = rows.mean(0), rows.var(0)
  norm = params["BatchNorm_0"]
  hidden = (hidden - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
  second = params["Dense_1"]
  out = np.maximum(hidden, 0) @ second["kernel"] + second["bias"]
  return out / np.linalg.norm(out, axis=-1, keepdims=True), mean, var, out


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("axes", [(12,), (2, 3, 4)], ids=["vectors", "maps"])
def test_normalised_projection_equals_numpy(axes, train):
  model = projection(hidden=7, out=5, norm=True)
  variables = random_variables(model, 6)
  assert set(variables["params"]["Dense_0"]) == {"kernel"}
  features = 3 + normal(*axes, 6)
  run = jax.jit(functools.partial(model.apply, train=train))
  projected, stats = run(variables, features)
  expected, mean, var, plain = np_projection(variables, features, train)
  chex.assert_trees_all_close(
    projected, np.float32(expected), rtol=1e-4, atol=1e-5
  )
  longer = projection(hidden=7, out=5, norm=True, unit=False)
  chex.assert_trees_all_close(
    longer.apply(variables, features, train=train),
    (np.float32(plain), stats),
    rtol=1e-4,
    atol=1e-5,
  )
  rough, _ = run(variables, features.astype(jnp.bfloat16))
  chex.assert_type([projected, rough], jnp.float32)
  before = variables["batch_stats"]["BatchNorm_0"]
  if not train:
    return chex.assert_trees_all_equal(stats["BatchNorm_0"], before)
  after = {
    "mean": 0.9 * before["mean"] + 0.1 * mean,
    "var": 0.9 * before["var"] + 0.1 * var,
  }
  after = jax.tree.map(np.float32, after)
  chex.assert_trees_all_close(stats["BatchNorm_0"], after, rtol=1e-4)


def test_gradients_of_a_normalised_projection_are_finite_differences():
  model = projection(hidden=7, out=5, norm=True)
  variables = random_variables(model, 6)
  features, target = normal(8, 6), normal(8, 5, seed=1)

  def loss(params, features):
    state = {**variables, "params": params}
    return jnp.sum(model.apply(state, features, train=True)[0] * target)

  point = variables["params"], features
  gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(*point)
  random = np.random.default_rng(2)
  direction = jax.tree.map(lambda x: random.normal(size=x.shape), point)

  def np_loss(step):
    params, moved = jax.tree.map(
      lambda x, d: np.float64(x) + step * d, point, direction
    )
    projected, *_ = np_projection({**variables, "params": params}, moved, True)
    return np.sum(projected * np.asarray(target))

  expected = (np_loss(1e-6) - np_loss(-1e-6)) / 2e-6
  products = jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction))
  assert float(sum(products)) == pytest.approx(expected, rel=1e-3)


def test_statistics_of_a_normalised_projection_are_of_all_devices():
  model = projection(hidden=4, out=3, norm=True)
  variables = random_variables(model, 5)
  # Shards whose own means differ a lot.
  features = normal(8, 5) + jnp.arange(8.0)[:, None]
  expected = jax.jit(functools.partial(model.apply, train=True))(
    variables, features
  )
  local = functools.partial(model.apply, train=True, axis_name="data")
  mesh = jax.make_mesh(
    (4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4]
  )
  mapped = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(P(), P("data")),
    out_specs=(P("data"), P()),
    check_vma=False,
  )
  found = jax.jit(mapped)(variables, features)
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
  split = features.reshape(4, 2, 5)
  batched = jax.jit(jax.vmap(local, (None, 0), axis_name="data"))
  by_device = jax.pmap(
    local, "data", in_axes=(None, 0), devices=jax.devices()[:4]
  )
  for run in (batched, by_device):
    projected, stats = run(variables, split)
    stats = jax.tree.map(lambda x: x[1], stats)
    chex.assert_trees_all_close(
      (projected.reshape(8, 3), stats), expected, rtol=1e-4, atol=1e-5
    )
