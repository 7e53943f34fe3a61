"""Partners, relevance and mutual neighbours against slow loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pixel_cases import (
  CHANNELS,
  PIXELS,
  WEIGHTS,
  head,
  jit,
  make,
  slow_candidates,
  slow_relevance,
)

from gcl_jax.gradients import correspondence

pytestmark = pytest.mark.compiles

relevance = jit(correspondence.relevance, static_argnums=0)


def test_relevance_matches_finite_differences():
  maps, _ = make(4)
  partner = np.array([2, 0, 1, 1])
  own, other = relevance(head, jnp.float32(maps), partner)
  for i, j in enumerate(partner):
    expected = slow_relevance(maps, i, j)
    np.testing.assert_allclose(own[i].ravel(), expected, atol=2e-5)
    expected = slow_relevance(maps, j, i)
    np.testing.assert_allclose(other[i].ravel(), expected, atol=2e-5)
  assert own.min() == 0 and np.sum(own == 0) > 10
  np.testing.assert_allclose(own.max(axis=(1, 2)), 1, rtol=1e-6)


def test_relevance_of_nothing_stays_zero():
  maps = jnp.zeros((2, 3, 3, CHANNELS)).at[1].set(1.0)
  flat = lambda pooled: jnp.ones_like(pooled) / CHANNELS**0.5  # noqa: E731
  for nothing in relevance(flat, maps, np.array([1, 0])):
    assert not np.any(nothing)
  own, other = relevance(lambda pooled: pooled + 1.0, maps, np.array([1, 0]))
  assert not np.any(own[0]) and not np.any(other[1])
  assert np.all(own[1] == 1) and np.all(other[0] == 1)


def test_the_bare_gradient_cannot_tell_positions_apart():
  """Behind global average pooling every position has the same gradient."""
  maps = jnp.float32(make(4)[0])

  def image_loss(maps):
    unit = head(maps.mean(axis=(1, 2)))
    return -jnp.sum(jax.nn.log_softmax(unit @ unit.T / 0.1)[0, 1:])

  gradient = np.asarray(jit(jax.grad(image_loss))(maps)).reshape(4, PIXELS, -1)
  sizes = np.linalg.norm(gradient, axis=-1)
  assert sizes.min() > 1e-4
  np.testing.assert_allclose(gradient - gradient[:, :1], 0, atol=1e-7)
  np.testing.assert_allclose(sizes.var(axis=1), 0, atol=1e-12)
  for r in relevance(head, maps, np.array([1, 0, 3, 2])):
    assert np.all(np.asarray(r).reshape(4, -1).var(axis=1) > 1e-3)


def test_relevance_carries_no_gradient():
  def total(maps, weights):
    own, other = correspondence.relevance(
      functools.partial(head, weights=weights), maps, jnp.array([1, 0, 2])
    )
    return jnp.sum(own**2) + jnp.sum(other)

  slope = jit(jax.grad(total, argnums=(0, 1)))
  for gradient in slope(jnp.float32(make(3)[0]), jnp.float32(WEIGHTS)):
    assert not np.any(gradient)


@pytest.mark.parametrize("block", [6, 7, 128])
def test_candidates_match_the_double_loop(block):
  maps, _ = make(6, seed=4)
  random = np.random.default_rng(1)
  # Many equals, also in different blocks: the first counts.
  maps[4:] = np.eye(CHANNELS)[
    random.integers(CHANNELS, size=maps[4:].shape[:3])
  ]
  partner = np.array([1, 0, 0, 3, 5, 4])
  own, other = random.random((2, 6, PIXELS)) < 0.6
  other[2] = False
  nearest, mutual = jit(correspondence.candidates, static_argnums=4)(
    jnp.float32(maps), partner, own, other, block
  )
  nearest, mutual = np.asarray(nearest), np.asarray(mutual)
  for i in (0, 1, 4, 5):
    expected = slow_candidates(maps[i], maps[partner[i]], own[i], other[i])
    found = {u: nearest[i, u] for u in np.flatnonzero(mutual[i]).tolist()}
    assert found == expected and len(found) > 3
  assert not np.any(mutual[2:4])  # nobody to meet; no partner


def test_partners_are_drawn_evenly_among_positives():
  positives = np.array(
    [[1, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0] * 5, [0, 0, 0, 1, 0], [1] * 5]
  ).astype(bool)
  keys = jax.random.split(jax.random.key(0), (3000, 5))
  draw = jit(jax.vmap(correspondence.draw_partners, (0, None)))
  drawn = np.asarray(draw(keys, positives))
  share = np.stack([np.bincount(row, minlength=5) for row in drawn.T]) / 3000
  expected = [
    [0, 1 / 3, 1 / 3, 0, 1 / 3],
    [1, 0, 0, 0, 0],
    [0, 0, 1, 0, 0],  # itself: none
    [0, 0, 0, 1, 0],
    [1 / 4, 1 / 4, 1 / 4, 1 / 4, 0],
  ]
  np.testing.assert_allclose(share, expected, atol=0.03)
