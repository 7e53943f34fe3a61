"""SupCon and its relatives against double loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gcl_jax.losses import (
  blocked,
  kernel,
  positives_per_anchor,
  soft_supcon,
  supcon,
  threshold,
)

pytestmark = pytest.mark.compiles


def unit(shape, seed=0):
  z = np.random.default_rng(seed).normal(size=shape)
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def slow(features, affinity, temperature, base=None, weights=None):
  """The definition, one anchor and one positive at a time."""
  batch, views, _ = features.shape
  base = temperature if base is None else base
  weights = np.ones(batch) if weights is None else np.asarray(weights)
  z = np.asarray(features, np.float64).reshape(batch * views, -1)
  total = 0.0
  for i in range(len(z)):
    others = [a for a in range(len(z)) if a != i]
    logits = np.array([z[i] @ z[a] / temperature for a in others])
    if not len(others):
      continue
    log_total = np.logaddexp.reduce(logits)
    shares = [affinity[i // views][p // views] for p in others]
    if sum(shares) > 0:
      terms = [w * (s - log_total) for w, s in zip(shares, logits, strict=True)]
      mean = sum(terms) / sum(shares)
      total -= weights[i // views] * temperature / base * mean
  return total / (views * weights.sum())


def slow_gradient(loss, features, step=1e-6):
  gradient = np.zeros_like(features)
  for index in np.ndindex(*features.shape):
    up, down = features.copy(), features.copy()
    up[index] += step
    down[index] -= step
    gradient[index] = (loss(up) - loss(down)) / (2 * step)
  return gradient


def equal(labels):
  return np.equal.outer(labels, labels).astype(float)


LABELS = np.array([3, 1, 3, 0, 1, 3, 7])


@pytest.mark.parametrize("block", [None, 1, 3, 5, 14, 100])
def test_supcon_value_and_gradient_match_the_double_loop(block):
  z = unit((7, 2, 4))
  expected = slow(z, equal(LABELS), 0.07, 0.2)
  loss = functools.partial(
    supcon, labels=jnp.asarray(LABELS), base_temperature=0.2, block_size=block
  )
  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(z))
  np.testing.assert_allclose(value, expected, rtol=2e-6)
  slow_loss = lambda z: slow(z, equal(LABELS), 0.07, 0.2)  # noqa: E731
  expected = slow_gradient(slow_loss, z)
  np.testing.assert_allclose(gradient, expected, atol=2e-5)


def test_gradient_by_similarities_is_the_closed_form_and_sums_to_zero():
  """dL_i / ds_ia = (p_ia - [a in P(i)] / |P(i)|) / tau, sum over a 0; a pair's
  similarity stands in two anchors' terms."""
  tau, z = 0.2, unit((5, 2, 4), seed=4)
  labels = np.array([0, 1, 0, 2, 1])
  rows = z.reshape(-1, 4)
  others = ~np.eye(len(rows), dtype=bool)
  positive = equal(np.repeat(labels, 2)) * others
  weights = np.where(others, np.exp(rows @ rows.T / tau), 0)
  p = weights / weights.sum(1, keepdims=True)
  share = positive / positive.sum(1, keepdims=True)
  by_similarity = (p - share) / tau / len(rows)
  np.testing.assert_allclose(by_similarity.sum(1), 0, atol=1e-12)
  expected = (by_similarity + by_similarity.T) @ rows
  loss = functools.partial(supcon, labels=jnp.asarray(labels), temperature=tau)
  gradient = jax.grad(loss)(jnp.float32(z))
  np.testing.assert_allclose(
    np.asarray(gradient).reshape(-1, 4), expected, atol=2e-6
  )


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("block", [None, 4])
def test_views_and_weights(views, block):
  z = unit((7, views, 5), seed=1)
  weights = np.array([0.0, 2.0, 1.0, 0.5, 0.0, 1.0, 3.0])
  loss = functools.partial(supcon, temperature=0.3, block_size=block)
  value = jax.jit(loss)(
    jnp.float32(z), jnp.asarray(LABELS), weights=jnp.float32(weights)
  )
  expected = slow(z, equal(LABELS), 0.3, weights=weights)
  np.testing.assert_allclose(value, expected, rtol=2e-6)


@pytest.mark.parametrize("block", [None, 2])
def test_anchors_without_positives_add_zero(block):
  z = jnp.float32(unit((4, 1, 3)))
  loss = functools.partial(supcon, temperature=0.5, block_size=block)
  loss = jax.jit(jax.value_and_grad(loss))
  for labels in (None, jnp.arange(4)):
    value, gradient = loss(z, labels)
    assert value == 0 and not np.any(gradient)
  value, gradient = loss(z[:1])  # not even a candidate
  assert value == 0 and not np.any(gradient)
  pair = jnp.array([5, 5, 1, 2])
  expected = slow(z, equal(np.asarray(pair)), 0.5)
  np.testing.assert_allclose(loss(z, pair)[0], expected, rtol=1e-5)


def test_no_labels_is_simclr_by_the_text_book():
  z = unit((6, 2, 8), seed=2)
  flat = np.concatenate([z[:, 0], z[:, 1]])
  logits = flat @ flat.T / 0.1
  np.fill_diagonal(logits, -np.inf)
  log_share = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
  expected = -np.mean([log_share[i, (i + 6) % 12] for i in range(12)])
  value = supcon(jnp.float32(z), temperature=0.1)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  distinct = supcon(jnp.float32(z), jnp.arange(6) * 9, temperature=0.1)
  np.testing.assert_allclose(value, distinct, rtol=1e-6)


def test_by_hand():
  # Two images, identical views, orthogonal to each other, temperature 1:
  # every anchor is log(e + 2) - 1.
  z = jnp.float32([[[1, 0], [1, 0]], [[0, 1], [0, 1]]])
  expected = np.log(np.e + 2) - 1
  value = supcon(z, jnp.array([4, 7]), temperature=1.0)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  # One label for all: the mean over positives with logits 1, 0 and 0.
  value = supcon(z, jnp.array([4, 4]), temperature=1.0)
  np.testing.assert_allclose(value, np.log(np.e + 2) - 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("block", [None, 3])
def test_small_temperature_and_bfloat16_features(block):
  z = jnp.asarray(unit((5, 2, 16)), jnp.bfloat16)
  labels = np.array([0, 0, 1, 1, 2])
  loss = functools.partial(supcon, temperature=0.01, block_size=block)
  value, gradient = jax.jit(jax.value_and_grad(loss))(z, jnp.asarray(labels))
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  assert np.all(np.isfinite(np.asarray(gradient, np.float32)))
  expected = slow(np.asarray(z, np.float64), equal(labels), 0.01)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_blocks_where_sums_lie_far_apart():
  """Log sums that differ by more than one exponential for both can hold: a
  tight cluster beside lone vectors, temperature 0.01. And where they do not."""
  draw = np.random.default_rng(0)
  tight = np.eye(9)[0] + 0.001 * draw.normal(size=(6, 9))
  z = np.concatenate([tight, np.eye(9)[1:7]]).reshape(6, 2, 9)
  z = jnp.asarray(z / np.linalg.norm(z, axis=2, keepdims=True), jnp.float32)
  labels = jnp.asarray([0, 0, 1, 1, 2, 2])
  for temperature, far in ((0.01, True), (0.5, False)):
    flat = z.reshape(12, 9)
    logits = np.array(flat @ flat.T / temperature)
    np.fill_diagonal(logits, -np.inf)
    sums = np.logaddexp.reduce(logits, axis=1)
    assert (np.ptp(sums) > blocked._SPREAD) == far

    def gradient(block, temperature=temperature):
      def loss(z):
        return supcon(z, labels, temperature=temperature, block_size=block)

      return jax.jit(jax.grad(loss))(z)

    want = gradient(None)
    for block in (3, 12):
      np.testing.assert_allclose(
        gradient(block), want, rtol=1e-4, atol=1e-4 * np.abs(want).max()
      )


def test_opposite_vectors_at_a_small_temperature():
  # The row's own logit (100) must not overflow against its peak (-100).
  z = jnp.float32([[[1.0]], [[-1.0]]])
  loss = functools.partial(supcon, temperature=0.01)
  value, gradient = jax.jit(jax.value_and_grad(loss))(z, jnp.array([0, 0]))
  assert value == 0 and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("block", [None, 4])
def test_soft_supcon_matches_the_double_loop(block):
  z = unit((6, 2, 4), seed=3)
  affinity = np.random.default_rng(4).random((6, 6)) * (
    np.random.default_rng(5).random((6, 6)) < 0.6
  )
  affinity[2] = 0
  loss = functools.partial(soft_supcon, temperature=0.2, block_size=block)
  value = jax.jit(loss)(jnp.float32(z), jnp.float32(affinity))
  expected = slow(z, affinity, 0.2)
  np.testing.assert_allclose(value, expected, rtol=2e-6)


@pytest.mark.parametrize("block", [None, 4])
def test_soft_supcon_of_meta_values(block):
  z = unit((6, 2, 4), seed=3)
  value = np.array([1.0, 1.5, 4.0, np.nan, 4.5, 9.0])
  with np.errstate(invalid="ignore"):
    apart = np.abs(np.subtract.outer(value, value))
  near = np.nan_to_num(apart, nan=np.inf)
  run = functools.partial(
    soft_supcon, meta=jnp.float32(value), temperature=0.2, block_size=block
  )
  for rule, affinity in (
    (threshold(0.5), (near <= 0.5).astype(float)),
    (kernel(1.5), np.exp(-(near**2) / (2 * 1.5**2))),
  ):
    loss = jax.jit(jax.value_and_grad(functools.partial(run, affinity=rule)))
    loss, gradient = loss(jnp.float32(z))
    expected = slow(z, affinity, 0.2)
    np.testing.assert_allclose(loss, expected, rtol=5e-6)
    assert np.all(np.isfinite(gradient))


def test_soft_supcon_reduces_to_supcon():
  z, labels = jnp.float32(unit((7, 2, 4))), jnp.asarray(LABELS)
  expected = supcon(z, labels)
  by_rule = soft_supcon(z, lambda a, b: a == b, meta=labels)
  by_matrix = soft_supcon(z, jnp.float32(equal(LABELS)))
  by_tree = soft_supcon(
    z, lambda a, b: a["x"] == b["x"], meta={"x": labels}, block_size=3
  )
  np.testing.assert_allclose([by_rule, by_matrix, by_tree], expected, rtol=1e-6)


# -- across devices ---------------------------------------------------------


def all_losses(matrices, batch, axis_name=None, block=None):
  """float[4]: each loss that looks across a batch, of its own encoder."""
  z = jnp.einsum("bvd,kde->kbve", batch["x"], matrices)
  z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
  common = {"axis_name": axis_name, "temperature": 0.1, "block_size": block}
  weighted = {"weights": batch["w"], **common}
  return jnp.stack(
    [
      supcon(z[0], batch["y"], **weighted),
      supcon(z[1], **common),
      soft_supcon(z[2], kernel(0.5), meta=batch["m"], **weighted),
      soft_supcon(z[3], batch["a"], **common),
    ]
  )


def value_and_grad(matrices, batch, axis_name=None, block=None):
  """Values of all losses; each matrix gets the gradient of its own."""

  def total(matrices):
    values = all_losses(matrices, batch, axis_name, block)
    return values.sum(), values

  (_, values), gradient = jax.value_and_grad(total, has_aux=True)(matrices)
  return values, gradient


def on_devices(matrices, batch, mode):
  """The project's rule: local mean, value_and_grad, then pmean."""

  def step(matrices, batch):
    return jax.lax.pmean(value_and_grad(matrices, batch, "data", 5), "data")

  split = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
  if mode == "vmap":
    step = jax.vmap(step, (None, 0), axis_name="data")
    return jax.tree.map(lambda x: x[3], jax.jit(step)(matrices, split))
  if mode == "pmap":
    step = jax.pmap(step, "data", in_axes=(None, 0), out_axes=None)
    return step(matrices, split)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
  return jax.jit(
    jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(P(), P("data")),
      out_specs=P(),
      check_vma=False,
    )
  )(matrices, batch)


@pytest.fixture(scope="module")
def whole_batch():
  """Encoders, 16 images, and the values and gradients of one device."""
  random = np.random.default_rng(0)
  batch = {
    "x": jnp.float32(random.normal(size=(16, 2, 6))),
    "y": jnp.asarray(random.integers(0, 4, 16)),
    "w": jnp.float32(random.random(16) * 3),
    "m": jnp.float32(random.normal(size=16)),
    "a": jnp.float32(random.random((16, 16))),
  }
  matrices = jnp.float32(random.normal(size=(4, 6, 4)))
  return matrices, batch, *jax.jit(value_and_grad)(matrices, batch)


def test_one_device_matches_the_double_loop(whole_batch):
  matrices, batch, values, gradient = whole_batch
  batch = jax.tree.map(np.asarray, batch)
  apart = np.subtract.outer(batch["m"], batch["m"])
  soft = np.exp(-(apart**2) / (2 * 0.5**2))
  affinities = [equal(batch["y"]), np.eye(16), soft, batch["a"]]
  weights = [batch["w"], None, batch["w"], None]

  def reference(matrix, k):
    z = np.asarray(batch["x"], np.float64) @ matrix
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    return slow(z, affinities[k], 0.1, weights=weights[k])

  for k in range(4):
    matrix = np.asarray(matrices[k], np.float64)
    np.testing.assert_allclose(values[k], reference(matrix, k), rtol=1e-5)
    direction = np.random.default_rng(k).normal(size=matrix.shape)
    ahead, behind = matrix + 1e-5 * direction, matrix - 1e-5 * direction
    slope = (reference(ahead, k) - reference(behind, k)) / 2e-5
    np.testing.assert_allclose(
      np.sum(gradient[k] * direction), slope, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("mode", ["shard_map", "pmap", "vmap"])
def test_eight_devices_equal_one(whole_batch, mode):
  matrices, batch, values, gradient = whole_batch
  local_values, local_gradient = on_devices(matrices, batch, mode)
  np.testing.assert_allclose(local_values, values, rtol=1e-5)
  np.testing.assert_allclose(local_gradient, gradient, atol=3e-6)


def test_auto_sharded_jit_equals_one_device():
  z, labels = jnp.float32(unit((16, 2, 4))), jnp.arange(16) % 5
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  spread = jax.device_put((z, labels), NamedSharding(mesh, P("data")))
  value, gradient = jax.jit(jax.value_and_grad(supcon))(*spread)
  expected, expected_gradient = jax.jit(jax.value_and_grad(supcon))(z, labels)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_weights_get_a_gradient_and_all_zero_weights_give_zero():
  z, labels = jnp.float32(unit((7, 2, 4))), jnp.asarray(LABELS)
  loss = lambda w: supcon(z, labels, weights=w)  # noqa: E731
  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.zeros(7))
  assert value == 0 and np.all(np.isfinite(gradient))
  weights = np.linspace(0.5, 2, 7)
  expected = slow_gradient(
    lambda w: slow(z, equal(LABELS), 0.07, weights=w), weights
  )
  gradient = jax.jit(jax.grad(loss))(jnp.float32(weights))
  np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_blocks_keep_memory_linear():
  def temporary_bytes(count, block):
    z = jax.ShapeDtypeStruct((count, 2, 16), jnp.float32)
    step = jax.jit(jax.grad(lambda z: supcon(z, block_size=block)))
    return step.lower(z).compile().memory_analysis().temp_size_in_bytes

  small, large = temporary_bytes(512, 32), temporary_bytes(2048, 32)
  assert large < 5 * small
  assert large < temporary_bytes(2048, None) / 16


def test_positives_per_anchor():
  labels = np.arange(16) % 3
  expected = np.mean([np.sum(labels == y) - 1 for y in labels])
  value = positives_per_anchor(jnp.asarray(labels))
  np.testing.assert_allclose(value, expected)
  spread = jax.vmap(
    lambda y: positives_per_anchor(y, "data"), axis_name="data"
  )(jnp.asarray(labels).reshape(8, 2))
  np.testing.assert_allclose(jnp.mean(spread), expected, rtol=1e-6)


# -- mistakes ---------------------------------------------------------------


def mistakes():
  z, y = jnp.ones((4, 2, 3)), jnp.arange(4)
  yield r"got shape \(4, 3\)", lambda: supcon(z[:, 0], y)
  yield r"labels must be int\[4\]", lambda: supcon(z, jnp.arange(8))
  yield "labels must be integers", lambda: supcon(z, jnp.ones(4))
  yield r"weights must be float\[4\]", lambda: supcon(z, y, weights=z)
  yield "temperature must be positive", lambda: supcon(z, y, temperature=0.0)
  yield "block_size must be at least 1", lambda: supcon(z, y, block_size=0)
  yield r"affinity must be float\[4, 4\]", lambda: soft_supcon(z, jnp.ones(4))
  yield "needs meta with 4", lambda: soft_supcon(z, threshold(1.0))


@pytest.mark.parametrize("message, call", list(mistakes()))
def test_mistakes_are_named(message, call):
  with pytest.raises(ValueError, match=message):
    call()
