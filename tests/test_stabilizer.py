"""The context stabilizer and PixPro's propagation against slow loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax.engine.state import follow
from gcl_jax.losses import spread
from gcl_jax.losses.pixel_consistency import pixel_loss, unit
from gcl_jax.models import stabilizer
from gcl_jax.models.stabilizer import averaged, propagate, propagation

pytestmark = pytest.mark.compiles

VIEWS, ROWS, COLUMNS, SIZE, HIDDEN = 3, 4, 6, 5, 7
RNG = np.random.default_rng(0)
CELLS = RNG.normal(size=(VIEWS, ROWS, COLUMNS, SIZE)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), VIEWS)


def network(**settings):
  """A stabilizer and its variables, all of them random."""
  model = stabilizer.stabilizer(SIZE, HIDDEN, **settings)
  variables = model.init(jax.random.key(2), (SIZE,))
  return model, jax.tree.map(
    lambda x: x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape),
    variables,
  )


def slow_mean(query, keys, values, gamma):
  """One query of `propagate`, float64, key by key."""
  top, bottom = np.zeros(values.shape[1]), 0.0
  for key, value in zip(keys, values, strict=True):
    cosine = query @ key / np.linalg.norm(query) / np.linalg.norm(key)
    share = cosine**gamma if cosine > 0 else 0.0
    top, bottom = top + share * value, bottom + share
  return top / bottom if bottom else top


def slow_average(maps, most):
  """Means over rectangles by counting 60 x 60 points of every pixel."""
  fine = np.float64(maps).repeat(60, axis=1).repeat(60, axis=2)
  rows, columns = (min(n, most) for n in maps.shape[1:3])
  out = np.zeros((len(maps), rows, columns, maps.shape[3]))
  tall, wide = fine.shape[1] // rows, fine.shape[2] // columns
  for i, j in np.ndindex(rows, columns):
    part = fine[:, i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
    out[:, i, j] = part.mean(axis=(1, 2))
  return out


def dense(cells, layer):
  return cells @ np.float64(layer["kernel"]) + np.float64(layer["bias"])


def slow_stabilizer(variables, cells, mask, gamma=2.0, most=14, plus=0):
  """S of one view and one pass, cell by cell; `mask` of the hidden units."""
  layers = variables["params"]
  others = slow_average(np.float64(cells)[None], most)[0].reshape(-1, SIZE)
  own = np.float64(cells).reshape(-1, SIZE)
  values = dense(others, layers["value"])
  out = []
  for cell in own:
    context = slow_mean(cell, others, values, gamma)
    hidden = dense(np.concatenate([cell, context]), layers["first"])
    hidden = np.maximum(hidden, 0) * mask
    moved = hidden @ layers["second_kernel"] + layers["second_bias"]
    out.append(moved + plus * cell)
  return np.reshape(out, cells.shape)


def masks_of(passes, dropout):
  """Every unit that each view's key keeps, float[B, T, hidden]."""
  shape = passes, HIDDEN
  kept = [jax.random.bernoulli(key, 1 - dropout, shape) for key in KEYS]
  return np.array(kept) / (1 - dropout)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_propagation_equals_a_loop(gamma):
  queries, keys, values = (RNG.normal(size=(2, n, 3)) for n in (4, 5, 5))
  arrays = map(np.float32, (queries, keys, values))
  found = jax.jit(propagate)(*arrays, gamma)
  for b, u in np.ndindex(2, 4):
    expected = slow_mean(queries[b, u], keys[b], values[b], gamma)
    np.testing.assert_allclose(found[b, u], expected, rtol=2e-5, atol=1e-6)


def test_a_cell_is_among_its_own_context():
  """Vectors at right angles: each is its own context alone."""
  cells = jnp.eye(4)[None]
  np.testing.assert_allclose(propagate(cells, cells, 3 * cells), 3 * cells)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradients_are_finite_where_nothing_is_similar(gamma):
  cells = jnp.array([[[1.0, 0], [-1, 0], [0, 1], [0, 0]]])

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def gradient(query, keys):
    return jnp.sum(propagate(query, keys, keys, gamma) ** 2)

  for query in (cells, jnp.zeros_like(cells)):
    found = gradient(query, cells[:, :2])
    assert all(np.isfinite(x).all() for x in found)


@pytest.mark.parametrize("most", [2, 3, 4, 5, 14])
def test_averages_of_rectangles(most):
  found = averaged(CELLS, most)
  np.testing.assert_allclose(found, slow_average(CELLS, most), atol=1e-5)
  if most == 14:
    np.testing.assert_array_equal(found, CELLS)


@pytest.mark.parametrize("most", [14, 3])
def test_passes_equal_a_loop_over_passes_and_cells(most):
  settings = dict(passes=3, dropout=0.4, gamma=1.5, context_cells=most)
  model, variables = network(**settings)
  found = jax.jit(model.apply)(variables, CELLS, KEYS)
  masks = masks_of(3, 0.4)
  assert set(np.unique(masks)) == {0, 1 / 0.6}
  for b, t in np.ndindex(VIEWS, 3):
    expected = slow_stabilizer(variables, CELLS[b], masks[b, t], 1.5, most)
    np.testing.assert_allclose(
      found[b, :, :, t], expected, rtol=1e-4, atol=1e-4
    )


def test_dropout_depends_on_the_view_s_key_alone():
  model, variables = network(passes=4, dropout=0.3)
  apply = jax.jit(model.apply)
  every = apply(variables, CELLS, KEYS)
  alone = apply(variables, CELLS[[1, 1, 1]], KEYS[np.array([1, 2, 2])])
  np.testing.assert_allclose(alone[0], every[1], atol=1e-6)
  same = apply(variables, CELLS[[1, 1, 1]], KEYS)
  assert np.abs(same[0] - same[1]).max() > 1e-2
  assert np.abs(every[..., 0, :] - every[..., 1, :]).max() > 1e-2


def test_without_dropout_all_passes_are_one():
  model, variables = network(passes=8, dropout=0.0)
  found = np.asarray(jax.jit(model.apply)(variables, CELLS))
  assert found.shape == (VIEWS, ROWS, COLUMNS, 8, SIZE)
  assert (found == found[..., :1, :]).all()
  once, _ = network(passes=1, dropout=0.0)
  np.testing.assert_array_equal(
    jax.jit(once.apply)(variables, CELLS), found[..., :1, :]
  )
  for b in range(VIEWS):
    expected = slow_stabilizer(variables, CELLS[b], np.ones(HIDDEN))
    np.testing.assert_allclose(
      found[b, :, :, 0], expected, rtol=1e-4, atol=1e-4
    )


def test_a_residual_stabilizer_adds_the_cell():
  model, variables = network(passes=3, dropout=0.4, residual=True)
  found = jax.jit(model.apply)(variables, CELLS, KEYS)
  masks = masks_of(3, 0.4)
  for b, t in np.ndindex(VIEWS, 3):
    expected = slow_stabilizer(variables, CELLS[b], masks[b, t], plus=1)
    np.testing.assert_allclose(
      found[b, :, :, t], expected, rtol=1e-4, atol=1e-4
    )


def test_a_residual_stabilizer_of_zeros_moves_nothing():
  model, variables = network(passes=2, residual=True)
  nothing = jax.tree.map(jnp.zeros_like, variables)
  found = model.apply(nothing, CELLS, KEYS)
  np.testing.assert_array_equal(found, np.stack([CELLS, CELLS], axis=3))


def test_every_parameter_has_a_gradient():
  model, variables = network(passes=2)

  @jax.jit
  @jax.grad
  def gradient(variables):
    return jnp.sum(model.apply(variables, CELLS, KEYS) ** 2)

  for found in jax.tree.leaves(gradient(variables)):
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("most", [14, 2])
def test_pixpro_propagates_values_of_length_one(most):
  model = propagation(SIZE, gamma=2.0, context_cells=most)
  variables = model.init(jax.random.key(3), (SIZE,))
  found = jax.jit(model.apply)(variables, CELLS)
  assert found.shape == (VIEWS, ROWS, COLUMNS, 1, SIZE)
  for b in range(VIEWS):
    others = slow_average(np.float64(CELLS[b : b + 1]), most).reshape(-1, SIZE)
    values = dense(others, variables["params"])
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    for i, j in np.ndindex(ROWS, COLUMNS):
      expected = slow_mean(CELLS[b, i, j], others, values, 2.0)
      # A cell at 90 degrees or more from all averages has no context.
      expected /= np.linalg.norm(expected) or 1
      np.testing.assert_allclose(found[b, i, j, 0], expected, atol=1e-5)


@pytest.mark.parametrize("wrong", [dict(passes=0), dict(dropout=1.0)])
def test_settings_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match="passes must be 1 or more"):
    stabilizer.stabilizer(SIZE, HIDDEN, **wrong)


def spread_after_training(residual, steps=150):
  """Spread of the cells of a student that matches a teacher's under noise."""
  model = stabilizer.stabilizer(8, 16, passes=2, residual=residual)
  keys = jax.random.split(jax.random.key(0), 4)
  encoder = [
    jax.random.normal(keys[0], (12, 32)) / 12**0.5,
    jax.random.normal(keys[1], (32, 8)) / 32**0.5,
  ]
  index = jnp.broadcast_to(jnp.arange(9)[:, None], (16, 9, 1))
  optimizer = optax.adam(3e-3)

  def see(encoder, x):
    return unit(jax.nn.relu(x @ encoder[0]) @ encoder[1])

  def step(carry, key):
    (encoder, own), teacher, state = carry
    first, second, third, draw = jax.random.split(key, 4)
    x = jax.random.normal(first, (16, 3, 3, 12))
    views = [x + jax.random.normal(k, x.shape) / 2 for k in (second, third)]
    targets = see(teacher, views[1]).reshape(16, 9, 8)

    def loss(params):
      cells, draws = see(params[0], views[0]), jax.random.split(draw, 16)
      passes = unit(model.apply(params[1], cells, draws))
      y = unit(passes.mean(axis=-2)).reshape(16, 9, 8)
      return pixel_loss(y, targets, index, index >= 0, jnp.ones((16, 9)))[0]

    gradient = jax.grad(loss)((encoder, own))
    change, state = optimizer.update(gradient, state)
    params = optax.apply_updates((encoder, own), change)
    return (params, follow(teacher, params[0], 0.9), state), None

  params = encoder, model.init(keys[2], (8,))
  carry = params, encoder, optimizer.init(params)
  draws = jax.random.split(keys[3], steps)
  (params, _, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, draws))(carry)
  x = jax.random.normal(jax.random.key(1), (500, 12))
  return float(spread(see(params[0], x)))


def test_a_residual_stabilizer_lets_cells_fall_together():
  """Why the default is not residual."""
  assert spread_after_training(False) > 0.4
  assert spread_after_training(True) < 0.3
