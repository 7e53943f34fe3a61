"""InfoNCE and its means against double loops in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.losses import (
  anchor_losses,
  info_nce,
  pixel_nce,
  prototype_nce,
)

pytestmark = pytest.mark.compiles


def unit(shape, seed=0):
  z = np.random.default_rng(seed).normal(size=shape)
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def slow_losses(anchors, positives, negatives, temperature, used):
  """The definition, one anchor and one negative at a time."""
  losses = np.zeros(anchors.shape[:2])
  for i, a in np.ndindex(*losses.shape):
    right = np.exp(anchors[i, a] @ positives[i, a] / temperature)
    wrong = 0.0
    for p in range(negatives.shape[1]):
      if used[i, a, p]:
        wrong += np.exp(anchors[i, a] @ negatives[i, p] / temperature)
    losses[i, a] = -np.log(right / (right + wrong))
  return losses


def slow(anchors, positives, negatives, weights, temperature, used):
  """The mean of `slow_losses` by weights."""
  losses = slow_losses(anchors, positives, negatives, temperature, used)
  return (weights * losses).sum() / weights.sum()


def slow_gradient(loss, vectors, step=1e-6):
  gradient = np.zeros_like(vectors)
  for index in np.ndindex(*vectors.shape):
    up, down = vectors.copy(), vectors.copy()
    up[index] += step
    down[index] -= step
    gradient[index] = (loss(up) - loss(down)) / (2 * step)
  return gradient


@pytest.fixture(scope="module")
def batch():
  """2 images of 3 anchors with 5 negatives; an anchor without any."""
  random = np.random.default_rng(3)
  used = random.random((2, 3, 5)) < 0.6
  used[1, 0] = False
  weights = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
  vectors = unit((2, 3, 4)), unit((2, 3, 4), 1), unit((2, 5, 4), 2)
  return vectors, weights, used


@functools.partial(jax.jit, static_argnames="temperature")
def jitted(vectors, used, temperature=0.1):
  return anchor_losses(*vectors, used=used, temperature=temperature)


# -- each anchor -------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.07, 0.7])
def test_losses_of_anchors_are_the_double_loop(batch, temperature):
  vectors, _, used = batch
  singles = [np.float32(v) for v in vectors]
  expected = slow_losses(*vectors, temperature, used)
  assert expected[1, 0] == 0  # no negatives
  found = jitted(singles, used, temperature)
  chex.assert_trees_all_close(found, np.float32(expected), rtol=5e-6)
  loss = functools.partial(anchor_losses, temperature=temperature)
  each = jax.vmap(lambda a, p, n, u: loss(a, p, n, used=u))(*singles, used)
  chex.assert_trees_all_close(each, found, rtol=1e-6)
  everything = slow_losses(*vectors, temperature, np.ones_like(used))
  chex.assert_trees_all_close(loss(*singles), np.float32(everything), rtol=5e-6)


def test_losses_worked_by_hand():
  # Cosines 0.9 of the positive, 0.5 and 0.1 of the negatives.
  at = lambda cosine: [cosine, np.sqrt(1 - cosine**2)]  # noqa: E731
  anchor, positive = jnp.float32([[1, 0]]), jnp.float32([at(0.9)])
  negatives = jnp.float32([at(0.5), at(0.1)])
  for temperature, expected in ((0.07, 0.003304), (0.1, 0.018479)):
    found = anchor_losses(anchor, positive, negatives, temperature=temperature)
    np.testing.assert_allclose(found, [expected], atol=5e-7)
  # Equal vectors: log(1 + number of negatives).
  same = jnp.zeros((400, 8)).at[:, 2].set(1)
  found = anchor_losses(same[:3], same[:3], same, temperature=0.07)
  np.testing.assert_allclose(found, np.full(3, 5.994), atol=5e-4)
  np.testing.assert_allclose(found, np.full(3, np.log(401)), rtol=1e-6)


def test_an_anchor_depends_on_its_own_positive_and_the_negatives(batch):
  """Other anchors are no negatives; a further negative raises every loss."""
  (anchors, positives, negatives), _, _ = batch
  singles = [jnp.float32(v) for v in (anchors, positives, negatives)]
  jacobian = jax.jacobian(anchor_losses, (0, 1, 2))(*singles, temperature=0.2)
  chex.assert_shape(jacobian, [(2, 3, 2, 3, 4)] * 2 + [(2, 3, 2, 5, 4)])
  for slopes in jacobian[:2]:
    touched = np.abs(slopes).max(axis=-1) > 0
    np.testing.assert_array_equal(touched.reshape(6, 6), np.eye(6, dtype=bool))
  touched = np.abs(jacobian[2]).max(axis=-1) > 0
  image = np.eye(2, dtype=bool)[:, None, :, None]
  np.testing.assert_array_equal(touched, np.broadcast_to(image, touched.shape))
  fewer = anchor_losses(*singles[:2], singles[2][:, 1:], temperature=0.2)
  assert np.all(anchor_losses(*singles, temperature=0.2) > fewer)


def test_gradient_of_an_anchor_left_out_is_zero(batch):
  vectors, _, used = batch
  keep = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])

  def total(anchors, positives, negatives):
    vectors = anchors, positives, negatives
    return jnp.sum(keep * jitted(vectors, used))

  slopes = jax.grad(total, (0, 1))(*(jnp.float32(v) for v in vectors))
  for slope in slopes:
    assert not np.any(slope[keep == 0])
  assert np.any(slopes[0][keep == 1])


# -- pixels -------------------------------------------------------------------


def compiled(vectors, weights, used, temperature=0.1):
  def loss(anchors, positives, negatives):
    return pixel_nce(
      anchors, positives, negatives, weights, temperature, used=used
    )

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*vectors)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_value_and_gradients_match_the_double_loop(batch, temperature):
  vectors, weights, used = batch
  value, gradients = compiled(
    [jnp.float32(v) for v in vectors], weights, used, temperature
  )
  expected = slow(*vectors, weights, temperature, used)
  np.testing.assert_allclose(value, expected, rtol=2e-6)
  for place in range(3):

    def loss(changed, place=place):
      replaced = [*vectors[:place], changed, *vectors[place + 1 :]]
      return slow(*replaced, weights, temperature, used)

    expected = slow_gradient(loss, vectors[place])
    np.testing.assert_allclose(gradients[place], expected, atol=2e-5)


def test_all_count_by_default(batch):
  vectors, _, _ = batch
  ones = np.ones((2, 3)), 0.1, np.ones((2, 3, 5))
  value = pixel_nce(*(jnp.float32(v) for v in vectors))
  np.testing.assert_allclose(value, slow(*vectors, *ones), rtol=2e-6)


def test_by_hand():
  # Positive at similarity 1, two negatives at 0 and -1, temperature 1.
  here = jnp.float32([[1, 0]])
  others = jnp.float32([[0, 1], [-1, 0]])
  expected = -np.log(np.e / (np.e + 1 + np.exp(-1)))
  value = pixel_nce(here, here, others, temperature=1.0)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  # A pair that is won already keeps its digits: log(1 + e^-40).
  value = pixel_nce(here, here, others[1:], temperature=0.05)
  np.testing.assert_allclose(value, np.exp(-40), rtol=1e-4)


def test_float32_arithmetic_on_bfloat16(batch):
  vectors, weights, used = batch
  rounded = [jnp.asarray(v, jnp.bfloat16) for v in vectors]
  value, gradients = compiled(rounded, weights, used)
  assert value.dtype == jnp.float32
  assert all(g.dtype == jnp.bfloat16 for g in gradients)
  exact = [np.asarray(v, np.float64) for v in rounded]
  expected = slow(*exact, weights, 0.1, used)
  np.testing.assert_allclose(value, expected, rtol=2e-6)


def test_no_pairs_and_no_negatives_give_zero(batch):
  vectors, weights, used = batch
  vectors = [jnp.float32(v) for v in vectors]
  for case in ((weights * 0, used), (weights, used & False)):
    value, gradients = compiled(vectors, *case)
    assert value == 0
    assert not any(np.any(g) for g in gradients)
  nothing = jnp.zeros((2, 0, 4))
  assert pixel_nce(*vectors[:2], nothing, jnp.float32(weights)) == 0


def test_unused_negatives_never_matter(batch):
  vectors, weights, used = batch
  anchors, positives, negatives = (jnp.float32(v) for v in vectors)
  unused = ~used.any(axis=1)
  unused[0, 0], used = True, used.copy()
  used[0, :, 0] = False
  huge = jnp.where(unused[..., None], 1e4, negatives)
  value, gradients = compiled((anchors, positives, negatives), weights, used)
  same, with_huge = compiled((anchors, positives, huge), weights, used)
  np.testing.assert_allclose(value, same, rtol=1e-6)
  for gradient, other in zip(gradients, with_huge, strict=True):
    np.testing.assert_allclose(gradient, other, atol=1e-6)
  assert not np.any(with_huge[2][0, 0])


def test_tiny_temperature_stays_finite(batch):
  vectors, weights, used = batch
  value, gradients = compiled(
    [jnp.float32(v) for v in vectors], weights, used, 1e-4
  )
  assert np.isfinite(value)
  assert all(np.all(np.isfinite(g)) for g in gradients)


def test_vmap_over_images_gives_each_image_its_own_mean(batch):
  vectors, weights, used = batch
  each = jax.vmap(lambda a, p, n, w, u: pixel_nce(a, p, n, w, used=u))(
    *(jnp.float32(v) for v in vectors), jnp.float32(weights), used
  )
  expected = [
    slow(*(v[[i]] for v in vectors), weights[[i]], 0.1, used[[i]])
    for i in range(2)
  ]
  np.testing.assert_allclose(each, expected, rtol=2e-6)


@pytest.mark.parametrize("mode", ["shard_map", "pmap", "vmap"])
@pytest.mark.parametrize("some", [True, False], ids=["some", "none"])
def test_eight_devices_equal_one(mode, some):
  """Devices hold different numbers of pairs, the third none."""
  random = np.random.default_rng(5)
  pixels = jnp.float32(random.normal(size=(16, 9, 6)))
  weights = random.random((16, 3)) < 0.5
  weights[4:6] = False
  weights = jnp.float32(weights & some)
  matrix = jnp.float32(random.normal(size=(6, 4)) / 3)

  def step(matrix, pixels, weights, axis_name="data"):
    def loss(matrix):
      y = pixels @ matrix
      return pixel_nce(
        y[:, :3], y[:, 3:6], y[:, 6:], weights, axis_name=axis_name
      )

    result = jax.value_and_grad(loss)(matrix)
    return jax.lax.pmean(result, axis_name) if axis_name else result

  whole = functools.partial(step, axis_name=None)
  expected = jax.jit(whole)(matrix, pixels, weights)
  value, gradient = over_devices(step, mode, matrix, pixels, weights)
  np.testing.assert_allclose(value, expected[0], rtol=1e-5)
  np.testing.assert_allclose(gradient, expected[1], atol=1e-5)
  assert bool(value > 0) == some


def over_devices(step, mode, matrix, *batch):
  split = [x.reshape(8, -1, *x.shape[1:]) for x in batch]
  if mode == "shard_map":
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P(), *[P("data")] * len(batch))
    step = jax.shard_map(
      step, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False
    )
    return jax.jit(step)(matrix, *batch)
  transform = {"pmap": jax.pmap, "vmap": jax.vmap}[mode]
  axes = (None, *[0] * len(batch))
  mapped = transform(step, axis_name="data", in_axes=axes)
  return jax.tree.map(lambda x: x[0], mapped(matrix, *split))


# -- momentum contrast and prototypes ------------------------------------------


def test_info_nce_matches_a_loop_and_spares_keys():
  q, k, queue = unit((5, 4)), unit((5, 4), 1), unit((9, 4), 2)
  expected = 0.0
  for i in range(5):
    logits = np.array([q[i] @ k[i], *[q[i] @ n for n in queue]]) / 0.2
    expected -= (logits[0] - np.logaddexp.reduce(logits)) / 5
  loss = functools.partial(info_nce, temperature=0.2)
  arguments = [jnp.float32(x) for x in (q, k, queue)]
  np.testing.assert_allclose(loss(*arguments), expected, rtol=1e-5)
  for_query, *for_others = jax.jit(jax.grad(loss, (0, 1, 2)))(*arguments)
  assert np.any(for_query) and not any(np.any(g) for g in for_others)


def test_prototype_nce_matches_a_loop():
  random = np.random.default_rng(0)
  v = unit((6, 4))
  prototypes = [unit((3, 4), 1), unit((5, 4), 2)]
  assignments = [random.integers(0, len(c), 6) for c in prototypes]
  densities = [random.uniform(0.05, 0.4, len(c)) for c in prototypes]
  expected = 0.0
  for c, s, phi in zip(prototypes, assignments, densities, strict=True):
    for i in range(6):
      logits = np.array([v[i] @ c[j] / phi[j] for j in range(len(c))])
      expected -= (logits[s[i]] - np.logaddexp.reduce(logits)) / 12
  value = jax.jit(prototype_nce)(
    jnp.float32(v),
    [jnp.float32(c) for c in prototypes],
    [jnp.asarray(s) for s in assignments],
    [jnp.float32(phi) for phi in densities],
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)


# -- mistakes ------------------------------------------------------------------


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"positives": jnp.ones((2, 3, 5))}, "one shape"),
    ({"negatives": jnp.ones((2, 7, 3))}, "negatives must be float"),
    ({"negatives": jnp.ones(4)}, "negatives must be float"),
    ({"weights": jnp.ones(2)}, "weights must be float"),
    ({"used": jnp.ones((2, 3, 6), bool)}, "used must be bool"),
    ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
  ],
)
def test_mistakes_are_named(change, message):
  arguments = {
    "anchors": jnp.ones((2, 3, 4)),
    "positives": jnp.ones((2, 3, 4)),
    "negatives": jnp.ones((2, 7, 4)),
  }
  with pytest.raises(ValueError, match=message):
    pixel_nce(**{**arguments, **change})


def test_mistakes_of_dictionaries_are_named():
  z = jnp.ones((4, 2, 3))
  with pytest.raises(ValueError, match="query and key must be"):
    info_nce(z[:, 0], z[:2, 1], z[:, 0])
  with pytest.raises(ValueError, match="queue must be"):
    info_nce(z[:, 0], z[:, 1], z)
  with pytest.raises(ValueError, match="equally many"):
    prototype_nce(z[:, 0], [z[:, 0]], [], [])
  with pytest.raises(ValueError, match="do not fit"):
    prototype_nce(z[:, 0], [z[:, 0]], [jnp.arange(4)], [jnp.ones(3)])
