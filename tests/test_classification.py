"""Cross-entropy of grades and of binary labels against float64 loops."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.losses import balanced, cross_entropy, ordinal_probabilities

pytestmark = pytest.mark.compiles

KINDS = ("softmax", "sigmoid", "ordinal")
CLASSES = 4
WEIGHTS = (0.5, 2.0, 1.0, 0.0)


def batch(kind, rows=8, seed=0):
  """Logits, and targets of which every third is missing."""
  random = np.random.default_rng(seed)
  outputs = CLASSES - (kind == "ordinal")
  logits = np.float32(2 * random.normal(size=(rows, outputs)))
  if kind == "sigmoid":
    target = np.float32(random.random((rows, CLASSES)) < 0.5)
  else:
    target = np.float32(np.arange(rows) % CLASSES)
  target.flat[::3] = np.nan
  return logits, target


def slow(logits, target, kind, weights=None):
  """Label by label, threshold by threshold."""
  logits = np.asarray(logits, np.float64)
  classes = logits.shape[1] + (kind == "ordinal")
  weights = np.ones(classes) if weights is None else weights
  above = below = 0.0
  sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
  for b, row in enumerate(logits):
    if kind == "sigmoid":
      for k, value in enumerate(row):
        if not math.isnan(target[b, k]):
          share = sigmoid(value) if target[b, k] else sigmoid(-value)
          above -= weights[k] * math.log(share)
          below += weights[k]
      continue
    if math.isnan(target[b]) or target[b] == -1:
      continue
    grade = int(target[b])
    if kind == "softmax":
      loss = -math.log(math.exp(row[grade]) / sum(math.exp(x) for x in row))
    else:
      loss = 0.0
      for k, value in enumerate(row):
        loss -= math.log(sigmoid(value) if grade > k else sigmoid(-value))
    above += weights[grade] * loss
    below += weights[grade]
  return above / below if below else 0.0


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_the_loops(kind, weights):
  logits, target = batch(kind)
  loss = functools.partial(cross_entropy, kind=kind, class_weights=weights)
  value, gradient = jax.jit(jax.value_and_grad(loss))(logits, target)
  chex.assert_shape(value, ())
  np.testing.assert_allclose(value, slow(logits, target, kind, weights), 2e-6)
  exact, step = np.float64(logits), 1e-5
  expected = np.zeros(logits.shape)
  for place in np.ndindex(*logits.shape):
    ends = []
    for sign in (1, -1):
      moved = exact.copy()
      moved[place] += sign * step
      ends.append(slow(moved, target, kind, weights))
    expected[place] = (ends[0] - ends[1]) / (2 * step)
  chex.assert_trees_all_close(gradient, np.float32(expected), atol=1e-6)
  missing = np.isnan(target)
  assert missing.any() and not np.any(np.asarray(gradient)[missing])


def test_both_values_of_a_label_weigh_the_same():
  logits, target = batch("sigmoid", 40)
  target[:, 1] = np.where(target[:, 1] == 1, np.nan, target[:, 1])  # one class
  weights = balanced(target)
  above = below = 0.0
  for k, column in enumerate(target.T):
    known = [
      (z, y) for z, y in zip(logits[:, k], column, strict=True) if y == y
    ]
    totals = {0: 0.0, 1: 0.0}
    for z, y in known:
      same = sum(other == y for _, other in known)
      weight = 1.0 if same == len(known) else len(known) / 2 / same
      share = 1 / (1 + math.exp(-z if y else z))
      above -= weight * math.log(share)
      below += weight
      totals[int(y)] += weight
    if k != 1:
      assert totals[0] == pytest.approx(totals[1])
  loss = functools.partial(cross_entropy, kind="sigmoid")
  value = loss(logits, target, class_weights=weights)
  np.testing.assert_allclose(value, above / below, 2e-6)
  assert abs(value - loss(logits, target)) > 1e-3
  assert weights[1].tolist() == [1, 1]
  with pytest.raises(ValueError, match="class_weights"):
    cross_entropy(logits, target[:, 0], kind="softmax", class_weights=weights)


@pytest.mark.parametrize("kind", ["softmax", "ordinal"])
def test_grades_as_integers_and_missing_ones(kind):
  logits, target = batch(kind)
  expected = cross_entropy(logits, target, kind=kind)
  whole = np.where(np.isnan(target), -1, target)
  for same in (whole, np.int32(whole), np.int8(whole)):
    chex.assert_trees_all_equal(
      cross_entropy(logits, same, kind=kind), expected
    )
  for wrong in (CLASSES, -2, 1.5):
    assert np.isnan(
      cross_entropy(logits, np.full_like(target, wrong), kind=kind)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_label_and_no_weight_give_zero(kind):
  logits, target = batch(kind)
  for labels, weights in (
    (np.full_like(target, np.nan), None),
    (target, np.zeros(CLASSES)),
  ):
    loss = functools.partial(cross_entropy, kind=kind, class_weights=weights)
    value, gradient = jax.value_and_grad(loss)(logits, labels)
    chex.assert_trees_all_equal((value, gradient), (jnp.float32(0), 0 * logits))


def test_worked_by_hand():
  even = jnp.zeros((2, 3))
  found = [
    cross_entropy(even, jnp.array([2, 0]), kind="softmax"),
    cross_entropy(even, jnp.ones((2, 3)), kind="sigmoid"),
    cross_entropy(even, jnp.array([3, 1]), kind="ordinal"),  # 3 thresholds
  ]
  np.testing.assert_allclose(found, np.log([3, 2, 8]), rtol=1e-6)
  # Grade 1 of 3: above 0 (log sigmoid 2), not above 1 (log sigmoid of -(-1)).
  value = cross_entropy(
    jnp.float32([[2.0, -1.0]]), jnp.array([1]), kind="ordinal"
  )
  np.testing.assert_allclose(value, 0.126928 + 0.313262, atol=1e-6)
  # Two grades: all three are the same loss.
  logit, grades = jnp.float32([[0.7], [-1.3]]), jnp.array([1, 0])
  both = jnp.concatenate([jnp.zeros_like(logit), logit], axis=1)
  found = [
    cross_entropy(logit, grades[:, None], kind="sigmoid"),
    cross_entropy(logit, grades, kind="ordinal"),
    cross_entropy(both, grades, kind="softmax"),
  ]
  np.testing.assert_allclose(found, found[:1] * 3, rtol=1e-6)


@jax.jit
def classify(logits, target):
  """The arithmetic of a classifier's step on binary labels."""
  known = ~jnp.isnan(target)
  terms = optax.sigmoid_binary_cross_entropy(
    logits, jnp.where(known, target, 0.0)
  )
  share = known.mean(dtype=jnp.float32)
  return jnp.where(known, terms, 0.0).mean() / jnp.maximum(share, 1e-8)


def test_binary_labels_give_the_bits_of_the_classifier():
  for seed in range(5):
    logits, target = batch("sigmoid", 64, seed)
    found = jax.jit(functools.partial(cross_entropy, kind="sigmoid"))
    chex.assert_trees_all_equal(found(logits, target), classify(logits, target))


@pytest.mark.parametrize("kind", KINDS)
def test_large_logits_and_other_types(kind):
  logits, target = batch(kind)
  loss = jax.value_and_grad(functools.partial(cross_entropy, kind=kind))
  chex.assert_tree_all_finite(loss(1000 * logits, target))
  half, gradient = loss(jnp.asarray(logits, jnp.bfloat16), target)
  assert half.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  with jax.enable_x64(True):
    value, _ = loss(jnp.asarray(logits, jnp.float64), target)
  assert value.dtype == jnp.float64
  np.testing.assert_allclose(value, slow(logits, target, kind), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_devices_equal_one(kind):
  """Devices have different numbers of labels, the third none."""
  logits, target = batch(kind, 16, seed=3)
  target[4:6] = np.nan
  mixing = jnp.eye(logits.shape[1])

  def step(mixing, logits, target, axis_name=None):
    def loss(mixing):
      return cross_entropy(
        logits @ mixing,
        target,
        kind=kind,
        class_weights=WEIGHTS,
        axis_name=axis_name,
      )

    result = jax.value_and_grad(loss)(mixing)
    return jax.lax.pmean(result, axis_name) if axis_name else result

  expected = jax.jit(step)(mixing, logits, target)
  np.testing.assert_allclose(
    expected[0], slow(logits, target, kind, WEIGHTS), rtol=1e-5
  )
  local = functools.partial(step, axis_name="data")
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  specs = (P(), P("data"), P("data"))
  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False
  )
  split = [x.reshape(8, 2, *x.shape[1:]) for x in (logits, target)]
  named = jax.vmap(local, (None, 0, 0), axis_name="data")
  several = jax.pmap(local, "data", in_axes=(None, 0, 0))
  for found in (
    jax.jit(mapped)(mixing, logits, target),
    jax.tree.map(lambda x: x[5], named(mixing, *split)),
    jax.tree.map(lambda x: x[5], several(mixing, *split)),
  ):
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


# -- probabilities of grades --------------------------------------------------


def slow_probabilities(logits):
  """One row at a time: differences of what is left after each threshold."""
  rows = []
  for row in np.asarray(logits, np.float64):
    left = [1.0]
    for value in row:
      left.append(min(left[-1], 1 / (1 + math.exp(-value))))
    left.append(0.0)
    rows.append([a - b for a, b in zip(left[:-1], left[1:], strict=True)])
  return np.float32(rows)


def test_probabilities_are_the_loop():
  free = np.float32(np.random.default_rng(0).normal(size=(6, 4)))
  falling = -np.sort(-free, axis=1)
  for logits in (free, falling):
    expected = slow_probabilities(logits)
    for found in (
      ordinal_probabilities(jnp.asarray(logits)),
      jax.jit(ordinal_probabilities)(logits),
      jax.vmap(ordinal_probabilities)(logits),
    ):
      chex.assert_trees_all_close(found, expected, atol=1e-6)
      assert np.all(found >= 0)
      np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-6)
  # Where logits decrease: nothing but differences of sigmoids.
  above = np.array(jax.nn.sigmoid(falling))
  chex.assert_trees_all_close(
    expected[:, 1:-1], above[:, :-1] - above[:, 1:], atol=1e-6
  )


def test_probabilities_of_one_threshold_and_of_many_axes():
  found = ordinal_probabilities(jnp.float32([[[0.0]], [[50.0]]]))
  chex.assert_trees_all_close(found, jnp.float32([[[0.5, 0.5]], [[0, 1]]]))


# -- mistakes -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("message", "change"),
  [
    ("unknown kind 'mse': one of softmax, sigmoid, ordinal", {"kind": "mse"}),
    (r"logits must be float\[B, 2 or more\]", {"logits": jnp.ones((5, 1))}),
    ("logits must be float", {"logits": jnp.ones((5, 3, 2))}),
    (r"target must have shape \(5,\)", {"target": jnp.ones((5, 3))}),
    (r"target must have shape \(5, 3\)", {"kind": "sigmoid"}),
    (r"class_weights must be float\[3\]", {"class_weights": (1.0, 2.0)}),
    (
      r"class_weights must be float\[4\]",
      {"kind": "ordinal", "class_weights": (1.0, 2.0, 3.0)},
    ),
  ],
)
def test_mistakes_are_named(message, change):
  arguments = {
    "logits": jnp.ones((5, 3)),
    "target": jnp.zeros(5, int),
    "kind": "softmax",
  }
  with pytest.raises(ValueError, match=message):
    cross_entropy(**{**arguments, **change})
