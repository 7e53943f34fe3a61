"""Rules that solve a small quadratic programme: cone, CAGrad, min-norm.

All three seek weights y >= 0 of the unit gradients u_k = g_k / |g_k| with

    z = C y + b >= 0   and   y_k z_k = 0,   C = cosines,

and differ in b. For small K all 2^K sets of non-zero weights are solved at
once, and the one that violates these conditions least is taken: no iteration,
no tolerance, the same work for every input.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.gradients.mitigation.inner import (
  PyTree,
  along,
  directions,
  plus,
  roots,
  rounded,
  wide_mean,
)

LARGEST = 8  # gradients; 256 sets

# Added to the diagonal of C, in units of its rounding, so that equal, opposite
# and dependent gradients have a unique solution.
_RIDGE = 2

_REFINEMENTS = 2


def cone(gradients: PyTree) -> PyTree:
  """Vector closest to the mean gbar that conflicts with no gradient.

      v = gbar + sum_k lam_k g_k,   lam >= 0 minimising |gbar + sum_k lam_k g_k|

  This is the projection of gbar on {v: v . g_k >= 0 for all k}: v . g_k = 0 if
  lam_k > 0, and |v| <= |gbar|. If the gradients have no common direction (as
  four in three dimensions can), v is 0 up to rounding.

  In float32 v . g_k >= -1e-6 |v| |g_k|. Accuracy is lower if some gradients lie
  within about 1e-3 rad of one line or plane: at 3e-4 rad the error of v can be
  1e-2 of |gbar|.

  Args:
    gradients: pytree of float[K, ...], K <= 8.

  Returns:
    The pytree without the leading axis; bitwise the mean if that conflicts
    with no g_k.

  Raises:
    ValueError: K > 8; leaves without one common leading axis, or not floating
      point.
  """
  norms, cosines = _small(gradients)
  mean = wide_mean(gradients)
  sets = _sets(len(norms))
  towards = along(gradients, norms, mean)
  signed = _signed(_eliminate(cosines, towards[:, None], sets)[..., 0], sets)
  best = _best(signed)
  chosen = jnp.asarray(sets)[best]
  weights = jnp.where(chosen, jnp.maximum(signed[best], 0), 0)
  vector = plus(mean, weights, gradients, norms)
  for _ in range(_REFINEMENTS):
    vector = _refine(vector, gradients, norms, cosines, chosen)
  return rounded(vector, gradients)


def cagrad(gradients: PyTree, c: float = 0.5) -> PyTree:
  """CAGrad (Liu et al. 2021): favours the worst-off loss, close to the mean.

      v = gbar + c |gbar| g_w / |g_w|,   w on the simplex minimising
      F(w) = g_w . gbar + c |gbar| |g_w|,   g_w = sum_k w_k g_k

  which maximises min_k v . g_k in the ball of radius c |gbar| about gbar; that
  maximum is F(w). The vector is not divided by 1 + c^2 or 1 + c as in published
  code, so (1 - c) |gbar| <= |v| <= (1 + c) |gbar|; for K = 1 the gradient is
  returned unchanged. w is exact up to rounding: for every set of non-zero
  weights, the optimum is the root of a quadratic. Zero gradients have weight 0.

  Args:
    gradients: pytree of float[K, ...], K <= 8.
    c: radius, a Python number >= 0, below 1 in the paper. 0 gives the mean.

  Returns:
    The pytree without the leading axis.

  Raises:
    ValueError: a negative c; otherwise as `cone`.
  """
  if c < 0:
    raise ValueError(f"c must be a radius >= 0 (below 1 in CAGrad), got {c}")
  norms, cosines = _small(gradients)
  mean = wide_mean(gradients)
  if c == 0 or len(norms) == 1:
    return rounded(mean, gradients)
  towards = along(gradients, norms, mean)
  weights = _worst_off(norms, cosines, towards, c, _length(mean))
  return rounded(plus(mean, weights, gradients, norms), gradients)


def min_norm(gradients: PyTree) -> PyTree:
  """MGDA (Desideri 2012): shortest vector in the convex hull of the gradients.

      v = sum_k w_k g_k,   w on the simplex minimising |v|

  so that v . g_k >= |v|^2 for all k. The smallest gradients dominate it, and v
  is 0 if one of them is.

  Args:
    gradients: pytree of float[K, ...], K <= 8.

  Returns:
    The pytree without the leading axis.

  Raises:
    ValueError: as `cone`.
  """
  norms, cosines = _small(gradients)
  mean = wide_mean(gradients)
  if len(norms) == 1:
    return rounded(mean, gradients)
  inverse = _inverse(norms)
  sets = _sets(len(norms))
  signed = _signed(_eliminate(cosines, -inverse[:, None], sets)[..., 0], sets)
  best = _best(signed)
  weights = jnp.where(jnp.asarray(sets)[best], signed[best], 0)
  total = jnp.sum(weights * inverse)
  weights *= jnp.min(norms) / jnp.where(total == 0, 1, total)
  zero = jax.tree.map(jnp.zeros_like, mean)
  return rounded(plus(zero, weights, gradients, norms), gradients)


def _refine(vector, gradients, norms, cosines, chosen):
  """Removes the remaining component of the vector along the chosen gradients.

  After strong cancellation, rounding and the ridge leave products that are
  small relative to gbar but not to v. The cosines give the direction of the
  correction and the gradients its length: two gradients 3e-4 rad from one line
  have a cosine of +-1 in float32.
  """
  left = along(gradients, norms, vector)
  solved = _eliminate(cosines, left[:, None], chosen[None])[0, :, 0]
  weights = jnp.where(chosen, -solved, 0)
  zero = jax.tree.map(jnp.zeros_like, vector)
  step = plus(zero, weights, gradients, norms)
  size = _length(step)
  divisor = jnp.where(size == 0, 1, size)
  amount = -jnp.sum(weights / divisor * left) / divisor
  return jax.tree.map(
    lambda v, s: jnp.where(size == 0, v, v + amount * s), vector, step
  )


def _worst_off(norms, cosines, towards, c, own):
  """Weights of the unit gradients that CAGrad adds to the mean, float[K] >= 0.

  On a set of non-zero weights the optimum has C y + b = F a with b the
  products of u_k and gbar, a = 1 / |g_k| and y' C y = (c |gbar|)^2. With
  p = C^-1 a and q = C^-1 b that is a quadratic in F, y = F p - q.
  """
  b = towards / jnp.where(own == 0, 1, own)
  a = _inverse(norms)
  sets = _sets(len(norms))
  solved = _eliminate(cosines, jnp.stack([a, b], axis=1), sets)
  p, q = solved[..., 0], solved[..., 1]
  aa, ab, bb = (
    jnp.sum(jnp.where(sets, product, 0), axis=1)
    for product in (a * p, a * q, b * q)
  )
  root = ab**2 - aa * (bb - c**2)
  possible = (aa > 0) & (root >= 0)
  value = (ab + roots(jnp.maximum(root, 0))) / jnp.where(possible, aa, 1)
  signed = _signed(q - value[:, None] * p, sets)
  best = _best(jnp.where(possible[:, None], signed, -jnp.inf))
  chosen = jnp.asarray(sets)[best] & possible[best]
  return own * jnp.where(chosen, jnp.maximum(signed[best], 0), 0)


def _small(gradients):
  norms, cosines = directions(gradients)
  if len(norms) > LARGEST:
    raise ValueError(
      f"{len(norms)} gradients are too many to try every subset of: use at"
      f" most {LARGEST}, or pcgrad"
    )
  return norms, cosines


def _sets(number: int) -> np.ndarray:
  """All sets of gradients, bool[2^K, K], the empty one first."""
  return (np.arange(2**number)[:, None] >> np.arange(number)) % 2 == 1


def _eliminate(cosines, columns, sets):
  """Gauss-Jordan elimination on the rows of each set, for all sets at once.

  Args:
    cosines: float[K, K].
    columns: float[K, R], right-hand sides b.
    sets: bool[S, K].

  Returns:
    float[S, K, R]: C_SS^-1 b_S in the rows of the set, and
    b_k - C_kS C_SS^-1 b_S in the others.
  """
  number = len(cosines)
  ridge = _RIDGE * jnp.finfo(cosines.dtype).eps
  matrix = jnp.where(np.eye(number, dtype=bool), 1 + ridge, cosines)
  system = jnp.concatenate([matrix, columns], axis=1)
  system = jnp.broadcast_to(system, (len(sets), *system.shape))
  for k in range(number):
    pivot = jnp.maximum(system[:, k, k], ridge)
    row = system[:, k] / pivot[:, None]
    rest = system - system[:, :, k, None] * row[:, None]
    here = np.arange(number)[:, None] == k
    done = jnp.where(here, row[:, None], rest)
    system = jnp.where(sets[:, k, None, None], done, system)
  return system[..., number:]


def _signed(solved, sets):
  """Weights y in a set, z outside; none is negative for the optimal set."""
  return jnp.where(sets, -solved, solved)


def _best(signed):
  """Index of the set that violates y, z >= 0 least; the first in a tie."""
  return jnp.argmax(jnp.minimum(jnp.min(signed, axis=1), 0))


def _inverse(norms):
  """Smallest non-zero norm divided by |g_k|; 0 where g_k is 0."""
  some = norms > 0
  least = jnp.min(jnp.where(some, norms, jnp.inf))
  return jnp.where(some, least / jnp.where(some, norms, 1), 0)


def _length(vector):
  return directions(jax.tree.map(lambda leaf: leaf[None], vector)).norms[0]
