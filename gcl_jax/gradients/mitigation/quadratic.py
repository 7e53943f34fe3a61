"""Rules that are small quadratic programmes: cone, CAGrad, min-norm.

All three ask for weights y >= 0 of the unit gradients u_k = g_k / |g_k| with

    z = C y + b >= 0   and   y_k z_k = 0,   C = cosines,

and differ in b. For small K every one of the 2^K sets of non-zero weights is
tried at once, and the one that violates these least is taken: no iteration to
convergence, no tolerance, the same work for every input.
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

# Added to the diagonal of C, in units of its rounding: equal, opposite and
# dependent gradients then still have one solution.
_RIDGE = 2

_REFINEMENTS = 2


def cone(gradients: PyTree) -> PyTree:
  """The vector closest to the mean that conflicts with no gradient.

      v = gbar + sum_k lam_k g_k,   lam >= 0 minimising |gbar + sum_k lam_k g_k|

  the projection of gbar on {v: v . g_k >= 0 for all k}. So v . g_k = 0 where
  lam_k > 0, and |v| <= |gbar|. If the gradients leave no common direction
  (four in three dimensions can do that), v is 0 up to rounding.

  In float32 v . g_k >= -1e-6 |v| |g_k|. That fades where some gradients lie
  within about 1e-3 rad of one line or plane: at 3e-4 rad v can be off by 1e-2
  of |gbar|.

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
  """CAGrad (Liu et al. 2021): helps the worst-off loss, close to the mean.

      v = gbar + c |gbar| g_w / |g_w|,   w on the simplex minimising
      F(w) = g_w . gbar + c |gbar| |g_w|,   g_w = sum_k w_k g_k

  which maximises min_k v . g_k in the ball of radius c |gbar| about gbar; that
  maximum is F(w). The vector is used as the formula has it, without the
  division by 1 + c^2 or 1 + c of published code, so
  (1 - c) |gbar| <= |v| <= (1 + c) |gbar|; only K = 1 is returned as it is.
  w is exact up to rounding: for every set of non-zero weights, the optimum is
  the root of a quadratic. Gradients that are 0 are left out of w.

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
  """MGDA (Desideri 2012): the shortest vector in the gradients' convex hull.

      v = sum_k w_k g_k,   w on the simplex minimising |v|

  so that v . g_k >= |v|^2 for all k. It follows the smallest gradients, and is
  0 if one of them is.

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
  """Takes out what is left of the vector along the chosen gradients.

  Where much cancels, rounding and the ridge leave products that are small
  beside gbar but not beside v. The cosines give the direction of the step, the
  gradients themselves its length: two that are 3e-4 rad from one line have the
  cosine of one line in float32.
  """
  left = along(gradients, norms, vector)
  solved = _eliminate(cosines, left[:, None], chosen[None])[0, :, 0]
  weights = jnp.where(chosen, -solved, 0)
  zero = jax.tree.map(jnp.zeros_like, vector)
  step = plus(zero, weights, gradients, norms)
  size = _length(step)
  some = jnp.where(size == 0, 1, size)
  amount = -jnp.sum(weights / some * left) / some
  return jax.tree.map(
    lambda v, s: jnp.where(size == 0, v, v + amount * s), vector, step
  )


def _worst_off(norms, cosines, towards, c, own):
  """float[K] >= 0: what CAGrad adds to the mean of each unit gradient.

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
  """bool[2^K, K]: every set of gradients, the empty one first."""
  return (np.arange(2**number)[:, None] >> np.arange(number)) % 2 == 1


def _eliminate(cosines, columns, sets):
  """Gauss-Jordan on the rows of each set, for all sets at once.

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
  """Weights y in a set, z outside: the right set is where none is negative."""
  return jnp.where(sets, -solved, solved)


def _best(signed):
  """Index of the set that violates y, z >= 0 least; the first of equals."""
  return jnp.argmax(jnp.minimum(jnp.min(signed, axis=1), 0))


def _inverse(norms):
  """1 / |g_k| times the smallest norm that is not 0; 0 for a g_k that is."""
  some = norms > 0
  least = jnp.min(jnp.where(some, norms, jnp.inf))
  return jnp.where(some, least / jnp.where(some, norms, 1), 0)


def _length(vector):
  return directions(jax.tree.map(lambda leaf: leaf[None], vector)).norms[0]
