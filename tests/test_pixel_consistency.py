"""Losses of matched cells against loops, and numbers found by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from gcl_jax import augment
from gcl_jax.losses import dense_contrast, pixel_consistency
from gcl_jax.losses.pixel_consistency import (
  byol,
  gap,
  log_uncertainty,
  pixel_loss,
  uncertainty,
  weights,
)
from gcl_jax.models.heads import unit_length
from gcl_jax.models.stabilizer import stabilizer

pytestmark = pytest.mark.compiles

B, L, M, K, D = 4, 6, 7, 3, 5
RNG = np.random.default_rng(0)


def units(*shape, seed=0):
  vectors = np.random.default_rng(seed).normal(size=shape)
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors.astype(np.float32)


CELLS, TARGETS = units(B, L, D), units(B, M, D, seed=1)
INDEX = RNG.integers(0, M, (B, L, K)).astype(np.int32)
FOUND = RNG.random((B, L, K)) < 0.5
FOUND[2] = False  # a view without pairs
FOUND[:, 0] = False  # and a cell
WEIGHTS = RNG.uniform(0.2, 2, (B, L)).astype(np.float32)
TOLERANCE = np.float32([0.3, 0.9, 1.5, 2.0])
LOG_VARIANCE = RNG.normal(size=(B, L)).astype(np.float32)


def angles(*degrees):
  radians = np.radians(np.array(degrees))
  return jnp.asarray(np.stack([np.cos(radians), np.sin(radians)], -1))


def slow_loss(reduce, tolerance=None, log_variance=None):
  """`pixel_loss` in float64, pair by pair; a cell's d is its pairs' mean."""
  tops, bottoms = np.zeros(B), np.zeros(B)
  for b, u in np.ndindex(B, L):
    each = [
      2 - 2 * np.float64(CELLS[b, u]) @ TARGETS[b, INDEX[b, u, k]]
      for k in range(K)
      if FOUND[b, u, k]
    ]
    if not each:
      continue
    d = np.mean(each)
    if tolerance is not None:
      d = max(0.0, d - tolerance[b])
    if log_variance is not None:
      d = np.exp(-log_variance[b, u]) * d + log_variance[b, u]
    tops[b] += WEIGHTS[b, u] * len(each) * d
    bottoms[b] += WEIGHTS[b, u] * len(each)
  if reduce == "pairs":
    return tops.sum() / bottoms.sum()
  return np.mean(
    [t / n if n else 0 for t, n in zip(tops, bottoms, strict=True)]
  )


# -- uncertainty and weights ------------------------------------------------


def test_uncertainty_of_two_vectors_by_hand():
  """1 - |mean|^2 is 1/2 at 90 degrees, 1/4 at 60, 1 for opposite ones; times
  T / (T - 1) = 2."""
  for other, expected in ((90, 0.5), (60, 0.25), (180, 1.0), (0, 0.0)):
    s, direction = uncertainty(angles(0, other))
    assert s == pytest.approx(2 * expected, abs=1e-6), other
    if other < 180:
      middle = angles(other / 2)[0]
      np.testing.assert_allclose(direction, middle, atol=1e-6)


def test_uncertainty_equals_the_length_of_the_mean():
  passes = units(B, L, 5, D)
  s, direction = uncertainty(jnp.asarray(passes))
  mean = np.float64(passes).mean(axis=-2)
  length = np.linalg.norm(mean, axis=-1)
  np.testing.assert_allclose(s, (1 - length**2) * 5 / 4, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(direction, mean / length[..., None], atol=1e-5)


def test_equal_passes_and_one_pass_have_no_uncertainty_at_all():
  one = jnp.asarray(units(500, 1, 33))
  for count in (1, 3, 7, 8):
    s, direction = uncertainty(jnp.repeat(one, count, axis=1))
    assert (np.asarray(s) == 0).all()
    np.testing.assert_allclose(direction, one[:, 0], atol=1e-6)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_independent_directions_have_uncertainty_one(count):
  s, _ = uncertainty(jnp.asarray(units(4000, count, 8)))
  assert np.mean(s) == pytest.approx(1, abs=0.02)


def test_uncertainty_grows_with_dropout():
  """And is 0 without; passes are of the stabilizer."""
  cells = units(2, 4, 4, 8)
  keys = jax.random.split(jax.random.key(0), 2)
  found = []
  for rate in (0.0, 0.1, 0.3, 0.6):
    model = stabilizer(8, 16, passes=16, dropout=rate)
    variables = model.init(jax.random.key(1), (8,))
    passes = pixel_consistency.unit(
      jax.jit(model.apply)(variables, cells, keys)
    )
    found.append(float(np.mean(uncertainty(passes)[0])))
  assert found[0] == 0 and np.all(np.diff(found) > 0)


def test_weights_equal_their_definition():
  s = RNG.uniform(0, 1, (B, L)).astype(np.float32)
  raw = np.exp(-np.float64(s) / 0.4)
  expected = raw / raw.mean(axis=1, keepdims=True)
  found = weights(jnp.asarray(s), "exp", 0.4)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  order = np.argsort(s, axis=1)
  falling = np.take_along_axis(np.asarray(found), order, axis=1)
  assert (np.diff(falling, axis=1) < 0).all()
  focus = weights(jnp.asarray(s), "focus")
  np.testing.assert_allclose(focus, s / s.mean(axis=1, keepdims=True), 1e-5)
  assert (weights(jnp.asarray(s), "") == 1).all()
  with pytest.raises(ValueError, match="form must be one of"):
    weights(jnp.asarray(s), "border")


@pytest.mark.parametrize("form", ["", "exp", "focus"])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e6])
def test_weights_have_mean_one_and_no_gradient(form, scale):
  s = scale * jnp.asarray(RNG.uniform(0.5, 1, (B, L)), jnp.float32)
  found = weights(s, form, jnp.float32(0.1))
  np.testing.assert_allclose(found.mean(axis=1), 1, rtol=1e-5)
  if not scale:
    assert (found == 1).all()
  gradient = jax.grad(lambda s, m: weights(s, form, m)[0, 0], (0, 1))
  for each in gradient(s, jnp.float32(0.1)):
    assert not np.any(each)


@pytest.mark.parametrize("function", [pixel_consistency.unit, unit_length])
def test_vectors_of_no_length_stay_so_and_get_no_gradient(function):
  """Where all hidden units are off; three in a row made it not finite."""

  def total(vectors):
    return jnp.sum(function(function(function(vectors))) * jnp.arange(1.0, 3))

  value, gradient = jax.value_and_grad(total)(jnp.zeros((3, 2)))
  assert value == 0 and not gradient.any()
  once = function(jnp.array([[3.0, 4.0], [0.0, 1e-9]]))
  np.testing.assert_allclose(once, [[0.6, 0.8], [0, 1]], rtol=1e-6)


# -- the loss of pairs ------------------------------------------------------


@pytest.mark.parametrize("reduce", ["image", "pairs"])
@pytest.mark.parametrize(
  "more",
  [{}, {"tolerance": TOLERANCE}, {"log_variance": LOG_VARIANCE}],
  ids=["plain", "hinge", "variance"],
)
def test_loss_equals_a_loop_over_pairs(reduce, more):
  arrays = CELLS, TARGETS, INDEX, FOUND, WEIGHTS
  loss, facts = jax.jit(functools.partial(pixel_loss, reduce=reduce))(
    *arrays, **more
  )
  assert loss == pytest.approx(slow_loss(reduce, **more), rel=1e-5)
  assert facts["pairs"] == pytest.approx(FOUND.sum() / (B * L))
  assert facts["unmatched"] == pytest.approx(1 / B)


def test_reduce_differs_and_an_unknown_one_is_refused():
  assert abs(slow_loss("image") - slow_loss("pairs")) > 1e-2
  with pytest.raises(ValueError, match="reduce must be one of"):
    pixel_loss(CELLS, TARGETS, INDEX, FOUND, WEIGHTS, "mean")


def test_no_pair_at_all_gives_zero_and_a_gradient_of_zero():
  for reduce in ("image", "pairs"):
    value, gradient = jax.value_and_grad(
      lambda cells, r=reduce: pixel_loss(
        cells, TARGETS, INDEX, np.zeros_like(FOUND), WEIGHTS, r
      )[0]
    )(CELLS)
    assert value == 0 and not gradient.any()


def test_targets_and_weights_are_constants():
  gradients = jax.grad(
    lambda *arrays: pixel_loss(*arrays[:2], INDEX, FOUND, arrays[2])[0],
    (0, 1, 2),
  )(CELLS, TARGETS, WEIGHTS)
  assert gradients[0].any()
  assert not gradients[1].any() and not gradients[2].any()
  predicted = jax.grad(byol, (0, 1))(CELLS, TARGETS[:, :L])
  assert predicted[0].any() and not predicted[1].any()


def test_loss_is_between_zero_and_four():
  same = jnp.broadcast_to(CELLS[:, :1], TARGETS.shape)
  one = jnp.broadcast_to(CELLS[:, :1], CELLS.shape)
  found = np.ones_like(FOUND)
  for sign, expected in ((1, 0), (-1, 4)):
    loss, _ = pixel_loss(one, sign * same, INDEX, found, WEIGHTS)
    assert loss == pytest.approx(expected, abs=1e-5)
  assert byol(3 * one, same[:, :L]) == pytest.approx(0, abs=1e-6)
  assert byol(3 * one, -same[:, :L]) == pytest.approx(4)


def test_byol_equals_a_loop():
  x, y = RNG.normal(size=(2, B, D))
  expected = np.mean(
    [
      2 - 2 * a @ b / np.linalg.norm(a) / np.linalg.norm(b)
      for a, b in zip(x, y, strict=True)
    ]
  )
  assert byol(jnp.float32(x), jnp.float32(y)) == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("reduce", ["image", "pairs"])
def test_devices_change_neither_loss_nor_gradient(reduce):
  """The views of the devices have very different numbers of pairs."""

  def of(cells, *rest, axis_name=None):
    def loss(cells):
      return pixel_loss(cells, *rest, reduce, axis_name=axis_name)[0]

    value, gradient = jax.value_and_grad(loss)(cells)
    if axis_name:
      value = jax.lax.pmean(value, axis_name)
      gradient = gradient / jax.lax.axis_size(axis_name)
    return value, gradient

  arrays = CELLS, TARGETS, INDEX, FOUND, WEIGHTS
  mesh = jax.make_mesh((B,), ("data",), axis_types=(AxisType.Auto,))
  rows = PartitionSpec("data")
  mapped = jax.shard_map(
    functools.partial(of, axis_name="data"),
    mesh=mesh,
    in_specs=rows,
    out_specs=(PartitionSpec(), rows),
    check_vma=False,
  )
  value, gradient = jax.jit(of)(*arrays)
  many, many_gradient = jax.jit(mapped)(*arrays)
  assert many == pytest.approx(float(value), rel=1e-5)
  np.testing.assert_allclose(many_gradient, gradient, atol=1e-6)


def test_learned_variance_is_least_at_the_distance():
  """exp(-b) d + b at b = log d, and 1 + log d there."""
  d = 2 - 2 * float(CELLS[0, 1] @ TARGETS[0, 0])
  index, found = np.zeros((1, 1, 1), np.int32), np.ones((1, 1, 1), bool)

  def loss(b):
    return pixel_loss(
      CELLS[:1, 1:2],
      TARGETS[:1],
      index,
      found,
      np.ones((1, 1)),
      log_variance=jnp.full((1, 1), b),
    )[0]

  value, slope = jax.value_and_grad(loss)(jnp.log(d))
  assert value == pytest.approx(1 + np.log(d), rel=1e-5)
  assert slope == pytest.approx(0, abs=1e-5)
  assert loss(jnp.log(d) + 0.3) > value < loss(jnp.log(d) - 0.3)
  s = jnp.array([0.0, 0.5])
  np.testing.assert_allclose(
    log_uncertainty(s)[:, 0], np.log([1e-6, 0.5]), rtol=1e-6
  )
  assert not jax.grad(lambda s: log_uncertainty(s).sum())(s).any()


def test_gap_and_its_penalty_by_hand():
  cells = jnp.zeros((3, 2))
  moved = jnp.array([[0.3, 0.4], [0.0, 0.0], [0.0, 2.0]])
  penalty, mean = gap(moved, cells, 0.5)
  assert mean == pytest.approx((0.5 + 0 + 2) / 3)
  assert penalty == pytest.approx(1.5**2 / 3)
  for tolerance in (0.0, 0.5):
    slope = jax.grad(lambda x, k=tolerance: gap(x, cells, k)[0])(moved)
    assert np.isfinite(slope).all() and np.abs(slope[2]).max() > 0


# -- with places ------------------------------------------------------------


def toy(views):
  """Features of the cells of 2 x 2 pixels, by which a mirror moves nothing."""
  rows, columns = views.shape[1] // 2, views.shape[2] // 2
  cells = views.reshape(len(views), rows, 2, columns, 2, -1).mean((2, 4))
  shifted = cells - cells.mean((1, 2), keepdims=True)
  wave = jnp.concatenate([jnp.sin(9 * shifted), jnp.cos(7 * shifted)], -1)
  return pixel_consistency.unit(wave.reshape(len(views), rows * columns, -1))


@jax.jit
def looked_at(flip):
  """Two whole views: their vectors, pairs and loss."""
  images = np.random.default_rng(5).integers(0, 255, (8, 8, 12, 2), np.uint8)
  views, places = augment.two_turned_crops(
    jax.random.split(jax.random.key(0), 8),
    images,
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    rotation=0.0,
    flip_columns=flip,
    cells=(4, 6),
  )
  index, found = augment.nearby_cells(places[:, 0], places[:, 1])
  y, t = toy(views[:, 0]), toy(views[:, 1])
  return y, t, index, found, *pixel_loss(y, t, index, found, jnp.ones((8, 24)))


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_flipped_views_of_the_same_crop_lose_nothing(flip):
  y, t, index, found, loss, facts = looked_at(flip)
  assert facts["pairs"] == 1 and abs(loss) < 1e-5
  own = np.broadcast_to(np.arange(24), (8, 24))
  same = (np.asarray(index[..., 0]) == own).mean(axis=1)
  assert set(same.tolist()) == ({0.0, 1.0} if flip else {1.0})
  if flip:  # the wrong cells do lose
    wrong = pixel_loss(y, t, own[..., None], found[..., :1], jnp.ones((8, 24)))
    assert wrong[0] > 0.1


# -- gap absorption ---------------------------------------------------------


def shifted_views(key, means=0.7):
  """A frozen encoder that returns `pixel value + mean of the view`.

  As angles, so that vectors of length 1 can hold the sum. The teacher's view
  has mean 0, the student's another in every image, which its own cells show.
  """
  value_key, mean_key = jax.random.split(key)
  value = jax.random.uniform(value_key, (16, 4, 4), minval=-0.5, maxval=0.5)
  value -= value.mean(axis=(1, 2), keepdims=True)
  mean = jax.random.uniform(mean_key, (16, 1, 1), minval=-means, maxval=means)

  def cells(angle):
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)

  return cells(value + mean), cells(value)


def test_the_stabilizer_alone_absorbs_the_gap_of_contexts():
  """Encoder and teacher are frozen: what is left is for S, and without S
  nothing can be learned."""
  model = stabilizer(2, 32, passes=2, dropout=0.0)
  variables = model.init(jax.random.key(0), (2,))
  index = jnp.broadcast_to(jnp.arange(16)[:, None], (16, 16, 1))

  def loss(variables, key):
    cells, targets = shifted_views(key)
    y = cells if variables is None else model.apply(variables, cells)[..., 0, :]
    y, t = (x.reshape(16, 16, 2) for x in (pixel_consistency.unit(y), targets))
    ones = jnp.ones((16, 16))
    return pixel_loss(y, t, index, index >= 0, ones)[0]

  @jax.jit
  def train(variables):
    optimizer = optax.adam(3e-3)

    def step(carry, key):
      variables, state = carry
      gradient = jax.grad(loss)(variables, key)
      change, state = optimizer.update(gradient, state)
      return (optax.apply_updates(variables, change), state), None

    keys = jax.random.split(jax.random.key(1), 600)
    carry = variables, optimizer.init(variables)
    return jax.lax.scan(step, carry, keys)[0][0]

  new = jax.random.key(2)
  without = loss(None, new)
  trained = loss(train(variables), new)
  assert without > 0.1
  assert trained < 0.03 * without


# -- DenseCL ----------------------------------------------------------------


def test_dense_contrast_equals_a_loop():
  features, others = RNG.normal(size=(2, B, L, 4)).astype(np.float32)
  others = others[:, :5]
  query, key = CELLS, TARGETS[:, :5]
  queue, expected = units(9, D, seed=4), []
  for b, u in np.ndindex(B, L):
    cosines = [
      features[b, u] @ o / np.linalg.norm(o) for o in np.float64(others[b])
    ]
    positive = np.float64(query[b, u]) @ key[b, np.argmax(cosines)] / 0.3
    logits = np.append(queue @ np.float64(query[b, u]) / 0.3, positive)
    expected.append(np.log(np.exp(logits).sum()) - positive)
  arguments = features, others, query, key, queue
  loss = jax.jit(functools.partial(dense_contrast.dense_nce, temperature=0.3))
  assert loss(*arguments) == pytest.approx(np.mean(expected), rel=1e-5)
  gradients = jax.jit(jax.grad(loss, tuple(range(5))))(*arguments)
  assert [bool(g.any()) for g in gradients] == [
    False,
    False,
    True,
    False,
    False,
  ]
