"""The pixel-wise contrastive loss against a double loop in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.losses.pixel import pixel_nce

pytestmark = pytest.mark.compiles


def unit(shape, seed=0):
  z = np.random.default_rng(seed).normal(size=shape)
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def slow(anchors, positives, negatives, weights, temperature, used):
  """The definition, one anchor and one negative at a time."""
  total = 0.0
  for i, a in np.ndindex(*anchors.shape[:2]):
    right = np.exp(anchors[i, a] @ positives[i, a] / temperature)
    wrong = 0.0
    for p in range(negatives.shape[1]):
      if used[i, a, p]:
        wrong += np.exp(anchors[i, a] @ negatives[i, p] / temperature)
    total -= weights[i, a] * np.log(right / (right + wrong))
  return total / weights.sum()


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
