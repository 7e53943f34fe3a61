"""Rules that change one gradient after another: PCGrad and GradVac.

Both add non-negative multiples of the original g_j to g_k, so they need only
the K x K cosines: with u_k = g_k / |g_k|, the changed g_k is
|g_k| (u_k + sum_j added_kj u_j).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax.gradients.mitigation.inner import (
  PyTree,
  directions,
  plus,
  roots,
  rounded,
  wide_mean,
)

# A cosine of 1 would need an infinite step.
_LARGEST_TARGET = 0.999


def pcgrad(gradients: PyTree, key: jax.Array | None = None) -> PyTree:
  """PCGrad (Yu et al. 2020): projects each gradient off conflicting ones.

      for each k, over the j != k in random order:
        if g_k . g_j < 0:  g_k <- g_k - (g_k . g_j / |g_j|^2) g_j

  with the *original* g_j; the mean of the projected gradients is returned. Only
  for K = 2 is no inner product of the result with a g_k negative.

  Args:
    gradients: pytree of float[K, ...].
    key: a typed key, for a separate random order for every k. None: the order
      0, 1, ..., K - 1 for all, so that the result depends on the gradients
      alone.

  Returns:
    The pytree without the leading axis; bitwise the mean if nothing conflicts.

  Raises:
    ValueError: leaves without one common leading axis, or not floating point.
  """
  return _turned_mean(gradients, 0.0, key)


def gradvac(
  gradients: PyTree, target: jax.Array | float, key: jax.Array | None = None
) -> PyTree:
  """GradVac (Wang et al. 2021): raises cosines to a target.

  As `pcgrad`, but whenever the cosine phi of g_k (as changed so far) and the
  original g_j is below the target phi_T:

      g_k <- g_k + |g_k| (phi_T sqrt(1 - phi^2) - phi sqrt(1 - phi_T^2))
                   / (|g_j| sqrt(1 - phi_T^2)) g_j

  which makes the cosine phi_T. A target of 0 is `pcgrad`. The paper's target is
  a running mean: `target = 0.99 * target + 0.01 * cosines(gradients)`.

  Args:
    gradients: pytree of float[K, ...].
    target: a scalar or float[K, K] (row k, column j) in [-1, 1], clipped at
      0.999.
    key: as in `pcgrad`.

  Returns:
    The pytree without the leading axis; bitwise the mean if no cosine is below
    its target.

  Raises:
    ValueError: as `pcgrad`.
  """
  return _turned_mean(gradients, target, key)


def _turned_mean(gradients, target, key):
  norms, cosines = directions(gradients)
  number = len(norms)
  target = jnp.broadcast_to(jnp.asarray(target, norms.dtype), (number, number))
  added = _added(cosines, target, _orders(key, number))
  weights = jnp.mean(norms[:, None] * added, axis=0)
  return rounded(
    plus(wide_mean(gradients), weights, gradients, norms), gradients
  )


def _orders(key, number):
  """Orders of projection, int[K, K]: row k is the order of the j for g_k."""
  natural = jnp.arange(number)
  if key is None:
    return jnp.broadcast_to(natural, (number, number))
  keys = jax.random.split(key, number)
  return jax.vmap(lambda key: jax.random.permutation(key, natural))(keys)


def _added(cosines, target, orders):
  """Multiples of u_j added to each u_k, float[K, K] >= 0."""
  number = len(cosines)
  target = jnp.clip(target, -1, _LARGEST_TARGET)
  known = jnp.diagonal(cosines) > 0
  able = known[:, None] & known & ~np.eye(number, dtype=bool)
  added = jnp.zeros_like(cosines)
  for step in range(number):
    met = orders[:, step, None] == np.arange(number)  # one j per row
    # The default precision of accelerators can give wrong signs.
    taken = jnp.matmul(added, cosines, precision=lax.Precision.HIGHEST)
    products = cosines + taken
    square = jnp.diagonal(products) + jnp.sum(added * products, axis=1)
    square = jnp.maximum(square, 0)[:, None]
    across = roots(jnp.maximum(square - products**2, 0))
    amount = across * target / jnp.sqrt(1 - target**2) - products
    turn = met & able & (products < target * roots(square))
    added += jnp.where(turn, amount, 0)
  return added
