"""Negatives of pixel pairs: draws, frequencies and masks."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pixel_cases import PIXELS, WIDTH, jit, keys_for, same

from gcl_jax.gradients.pixel_negatives import (
  draw_negatives,
  hardest_of,
  log_magnitude,
)
from gcl_jax.losses import pixel_nce

pytestmark = pytest.mark.compiles

LABELS, SOURCES = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 2, 3, 3, 0])
CANDIDATE = np.random.default_rng(0).random((6, PIXELS)) < 0.3
OUTSIDE, OWN, DRAWS = 34, 3, 1000


@functools.cache
def many():
  """Image, position and mask of negatives in many draws."""

  @jit
  @jax.vmap
  def draw(keys):
    where, usable = draw_negatives(
      keys, same(LABELS), CANDIDATE, SOURCES, WIDTH, outside=OUTSIDE, own=OWN
    )
    # The other anchors of the last image are for the other tests.
    return *where, usable[:, :, :OUTSIDE].all(axis=1), usable[-1, :, OUTSIDE:]

  keys = jax.random.split(jax.random.key(0), (DRAWS, 6))
  return tuple(np.asarray(x) for x in draw(keys))


def test_those_outside_are_different_allowed_and_equally_likely():
  image, position, usable, _ = many()
  assert image.shape == (DRAWS, 6, OUTSIDE + OWN + 25)
  assert np.all(usable)
  for i in range(6):
    pool = image[:, i, :OUTSIDE] * PIXELS + position[:, i, :OUTSIDE]
    assert all(len(set(row)) == OUTSIDE for row in pool[:50].tolist())
    outside = (LABELS != LABELS[i]) & (SOURCES != SOURCES[i])
    expected = np.repeat(outside / outside.sum() / PIXELS, PIXELS) * OUTSIDE
    share = np.bincount(np.ravel(pool), minlength=6 * PIXELS) / DRAWS
    np.testing.assert_allclose(share, expected, atol=0.07)


def test_those_outside_are_spread_evenly_over_the_images():
  image = many()[0][:, :, :OUTSIDE]
  for i in range(6):
    outside = (LABELS != LABELS[i]) & (SOURCES != SOURCES[i])
    counts = (image[:, i, :, None] == np.arange(6)).sum(axis=1)
    assert np.all(np.abs(counts - outside * OUTSIDE / outside.sum()) < 2)


def test_own_negatives_are_equally_likely():
  image, position, _, usable = many()
  assert np.all(image[:, :, OUTSIDE:] == np.arange(6)[:, None])
  for u in range(PIXELS):
    free = free_and_far(CANDIDATE[-1], u, WIDTH)
    found = position[:, -1, OUTSIDE:][usable[:, u]]
    share = np.bincount(found, minlength=PIXELS) / DRAWS
    expected = np.zeros(PIXELS)
    expected[list(free)] = min(1, OWN / max(len(free), 1))
    np.testing.assert_allclose(share, expected, atol=0.07)


def free_and_far(candidate, u, width):
  pixels = len(candidate)
  near = {
    down * width + across
    for down in range(max(u // width - 2, 0), min(u // width + 3, pixels))
    for across in range(max(u % width - 2, 0), min(u % width + 3, width))
  }
  return set(np.flatnonzero(~candidate).tolist()) - near


@pytest.mark.parametrize("own", [10, 64])
def test_own_negatives_are_free_far_and_as_many_as_there_are(own):
  width, pixels = 9, 63
  candidate = np.random.default_rng(1).random((2, pixels)) < 0.4
  draw = functools.partial(draw_negatives, width=width, outside=4, own=own)
  (_, position), usable = jit(draw)(keys_for(2), same([0, 1]), candidate, None)
  position, usable = np.asarray(position[:, 4:]), np.asarray(usable[..., 4:])
  for i, u in np.ndindex(2, pixels):
    free = free_and_far(candidate[i], u, width)
    found = position[i][usable[i, u]].tolist()
    assert len(found) == len(set(found)) == min(own, len(free))
    assert set(found) <= free


def test_fewer_pixels_outside_than_wanted():
  candidate = np.ones((3, 4), bool)
  draw = jit(functools.partial(draw_negatives, width=2, outside=10))
  (image, position), usable = draw(
    keys_for(3), same([0, 0, 1]), candidate, None
  )
  every = np.stack([image, position], axis=-1)
  found = [
    sorted(map(tuple, every[i][np.asarray(usable[i, 0])].tolist()))
    for i in range(3)
  ]
  assert found[0] == found[1] == [(2, p) for p in range(4)]
  assert found[2] == [(a, p) for a in (0, 1) for p in range(4)]
  _, usable = draw(keys_for(3), same([0, 0, 0]), candidate, None)
  assert not np.any(usable)


def test_the_hardest_are_of_those_that_are_usable():
  hardness = jnp.array([[3.0, -jnp.inf, 1.0, 5.0], [2.0, 2.0, 2.0, 2.0]])
  usable = np.array([[True, True, True, False], [False, False, True, False]])
  for count, expected in (
    (0, [[0, 0, 0, 0], [0, 0, 0, 0]]),
    (2, [[1, 0, 1, 0], [0, 0, 1, 0]]),
    (9, [[1, 1, 1, 0], [0, 0, 1, 0]]),
  ):
    found = hardest_of(hardness, usable, count)
    chex.assert_trees_all_equal(found, np.array(expected, bool))
  # A usable one comes before all others, however easy it is.
  found = hardest_of(jnp.array([1.0, -jnp.inf]), np.array([False, True]), 1)
  chex.assert_trees_all_equal(found, np.array([False, True]))


def slow_hardest(hardness, usable, counts):
  """Hardest negatives row by row, ties in order."""
  taken = np.zeros(hardness.shape, bool)
  for row in np.ndindex(*hardness.shape[:-1]):
    places = [p for p in range(hardness.shape[-1]) if usable[row][p]]
    places = sorted(places, key=lambda p: (-hardness[row][p], p))
    taken[row][places[: max(int(counts[row]), 0)]] = True
  return taken


def test_the_hardest_of_a_count_known_only_at_run_time():
  random = np.random.default_rng(6)
  hardness = np.float32(random.integers(0, 5, (4, 3, 11)))  # with ties
  usable = random.random(hardness.shape) < 0.7
  traced, mapped = jit(hardest_of), jit(jax.vmap(hardest_of))
  for count in (-1, 0, 1, 4, 11, 20):
    expected = slow_hardest(hardness, usable, np.full((4, 3), count))
    found = (
      hardest_of(hardness, usable, count),
      traced(hardness, usable, count),
      mapped(hardness, usable, np.full(4, count)),
    )
    chex.assert_trees_all_equal(found, (expected,) * 3)
  for shape in ((4, 3), (4, 1), (3,)):
    counts = random.integers(-1, 13, shape)
    expected = slow_hardest(hardness, usable, np.broadcast_to(counts, (4, 3)))
    chex.assert_trees_all_equal(traced(hardness, usable, counts), expected)


def test_magnitude_is_the_gradient_of_the_loss():
  """Unit anchor e: dL/ds = dL/d(vector) . e, by autodiff of `pixel_nce`."""
  random = np.random.default_rng(2)
  anchors, positives = np.float32(random.normal(size=(2, 1, 3, 4)))
  anchors /= np.linalg.norm(anchors, axis=-1, keepdims=True)
  negatives = np.float32(random.normal(size=(1, 6, 4)))
  used = random.random((1, 3, 6)) < 0.7
  positive = np.sum(anchors * positives, axis=-1)
  others = np.einsum("iad,ipd->iap", anchors, negatives)
  closed = jit(log_magnitude)(positive, others, used, 0.2)
  pull, push = np.exp(closed[0]) / 0.2, np.exp(closed[1]) / 0.2
  assert pull.shape == (1, 3) and push.shape == (1, 3, 6)

  @jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def gradient(positives, negatives, weights):
    return pixel_nce(anchors, positives, negatives, weights, 0.2, used=used)

  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  for a in range(3):
    slopes = gradient(positives, negatives, np.eye(3)[None, a])
    close(pull[0, a], -slopes[0][0, a] @ anchors[0, a])
    close(push[0, a], slopes[1][0] @ anchors[0, a])


def test_magnitude_of_a_pair_that_is_won_and_of_none():
  similarity, others = np.float32([1, 1]), np.float32([[-1, -1], [1, 1]])
  used = np.array([[True, False], [False, False]])
  pull, push = jit(log_magnitude)(similarity, others, used, 0.01)
  np.testing.assert_allclose(pull, [-200, -np.inf], rtol=1e-6)
  np.testing.assert_array_equal(np.isfinite(push), used)
