"""Affinities: how alike two meta values are, as weights of `soft_supcon`.

An affinity is a function of two arrays that broadcast against each other. A
missing value (nan) agrees with no other, not even with another missing one:
its affinity is 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Affinity = Callable[[Any, Any], jax.Array]


def threshold(width: float) -> Affinity:
  """Affinity 1 where two values differ by at most `width`, else 0.

  Example:
    >>> import jax.numpy as jnp
    >>> threshold(2.0)(1.0, jnp.array([3, 3.5, jnp.nan])).tolist()
    [1.0, 0.0, 0.0]

  Args:
    width: the largest difference of two that are alike, in units of the
      values; 0 makes it equality.
  """
  return lambda a, b: (_difference(a, b) <= width).astype(jnp.float32)


def kernel(width: float) -> Affinity:
  """Gaussian affinity exp(-(a - b)^2 / (2 width^2)).

  Example:
    >>> round(float(kernel(2.0)(1.0, 3.0)), 4)
    0.6065

  Args:
    width: standard deviation, above 0, in units of the values.
  """
  return lambda a, b: jnp.exp(-jnp.square(_difference(a, b) / width) / 2)


def _difference(a, b):
  """|a - b|, infinite where a value is missing."""
  difference = jnp.abs(a - b)
  return jnp.where(jnp.isnan(difference), jnp.inf, difference)
