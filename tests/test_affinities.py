"""Affinities of meta values, one pair of values at a time."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.losses import kernel, threshold

pytestmark = pytest.mark.compiles

VALUES = [1.0, 1.5, 4.0, math.nan, -2.25, math.inf, 1.5, math.nan, -math.inf]


def slow_threshold(a, b, width):
  return float(not (math.isnan(a) or math.isnan(b)) and abs(a - b) <= width)


def slow_kernel(a, b, width):
  if math.isnan(a) or math.isnan(b) or math.isinf(a - b):
    return 0.0
  return math.exp(-((a - b) ** 2) / (2 * width**2))


@pytest.mark.parametrize("width", [0.5, 3.0])
@pytest.mark.parametrize(
  ("affinity", "slow"), [(threshold, slow_threshold), (kernel, slow_kernel)]
)
def test_affinities_are_their_definition(affinity, slow, width):
  """inf - inf is no number either."""
  expected = [
    [0.0 if math.isnan(a - b) else slow(a, b, width) for b in VALUES]
    for a in VALUES
  ]
  values = jnp.float32(VALUES)
  rule = affinity(width)
  pairs = values[:, None], values[None]
  rows = jax.vmap(rule, (0, None))(values, values)
  for found in (rule(*pairs), jax.jit(rule)(*pairs), rows):
    chex.assert_trees_all_close(found, np.float32(expected), rtol=1e-6)


def test_a_threshold_of_zero_is_equality():
  found = threshold(0.0)(jnp.float32(VALUES)[:, None], jnp.float32(VALUES))
  finite = np.isfinite(VALUES)
  expected = np.equal.outer(VALUES, VALUES) & finite[:, None] & finite
  chex.assert_trees_all_equal(found, np.float32(expected))
