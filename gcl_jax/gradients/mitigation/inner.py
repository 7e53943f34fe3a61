"""Inner products and sums of K gradients, leaf by leaf."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any


class Directions(NamedTuple):
  """Norms and cosines of K gradients.

  Attributes:
    norms: float[K], Euclidean over all leaves.
    cosines: float[K, K] in [-1, 1]; rows and columns of a gradient that is 0
      are 0, the diagonal is otherwise exactly 1.
  """

  norms: jax.Array
  cosines: jax.Array


def count(gradients: PyTree) -> int:
  """K, the length of the leading axis of every leaf.

  Raises:
    ValueError: there is no leaf, a leaf is not floating point, or the leading
      axes are missing, empty or of different lengths.
  """
  leaves = jax.tree.leaves(gradients)
  shapes = [jnp.shape(leaf) for leaf in leaves]
  lengths = {shape[0] if shape else 0 for shape in shapes}
  if len(lengths) != 1 or 0 in lengths:
    raise ValueError(
      "gradients must be a pytree of arrays with one common leading axis K,"
      f" got shapes {shapes}: stack the gradients of the K losses"
    )
  dtypes = {str(leaf.dtype) for leaf in leaves}
  if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
    raise ValueError(f"gradients must be floating point, got {sorted(dtypes)}")
  return lengths.pop()


def directions(gradients: PyTree) -> Directions:
  """Norms and cosines of K gradients, in two passes over the leaves.

  The first pass finds the largest entry of each gradient, by which it is
  scaled: squares of entries below 1e-19 or above 1e19 leave float32's range.
  """
  number, dtype = count(gradients), _dtype(gradients)
  leaves = [leaf.reshape(number, -1) for leaf in jax.tree.leaves(gradients)]
  peaks = functools.reduce(
    jnp.maximum, (jnp.max(jnp.abs(x), axis=1, initial=0) for x in leaves)
  ).astype(dtype)
  peaks = lax.stop_gradient(jnp.where(peaks == 0, 1, peaks))
  scaled = (leaf * (1 / peaks)[:, None] for leaf in leaves)
  # A matrix product would need a scaled copy in memory and has lower precision
  # on some devices. XLA fuses this into one pass over the leaf.
  gram = sum(jnp.sum(x[:, None] * x, axis=2) for x in scaled)
  lengths = roots(jnp.diagonal(gram))
  divisors = jnp.where(lengths == 0, 1, lengths)
  cosine = jnp.clip(gram / (divisors[:, None] * divisors), -1, 1)
  same = jnp.eye(number, dtype=bool)
  cosine = jnp.where(same & (lengths > 0), 1, cosine)
  return Directions(peaks * lengths, cosine)


def along(gradients: PyTree, norms: jax.Array, vector: PyTree) -> jax.Array:
  """Inner products of a vector with g_k / |g_k|, float[K]; 0 for g_k = 0."""
  units = jax.tree.leaves(_units(gradients, norms))
  return sum(
    jnp.sum((unit * leaf).reshape(len(norms), -1), axis=1)
    for unit, leaf in zip(units, jax.tree.leaves(vector), strict=True)
  )


def plus(
  vector: PyTree, weights: jax.Array, gradients: PyTree, norms: jax.Array
) -> PyTree:
  """vector + sum_k weights_k g_k / |g_k|."""

  def add(leaf, unit):
    return leaf + jnp.sum(_column(weights, unit) * unit, axis=0)

  return jax.tree.map(add, vector, _units(gradients, norms))


def wide_mean(gradients: PyTree) -> PyTree:
  """Mean over k before rounding to the dtypes of the leaves."""
  dtype = _dtype(gradients)
  return jax.tree.map(lambda g: jnp.mean(g.astype(dtype), axis=0), gradients)


def rounded(vector: PyTree, gradients: PyTree) -> PyTree:
  """Casts a result to the dtypes of its gradients."""
  return jax.tree.map(lambda v, g: v.astype(g.dtype), vector, gradients)


def roots(squares: jax.Array) -> jax.Array:
  """Square roots, with derivative 0 instead of inf at 0."""
  positive = squares > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), squares)


def mean(gradients: PyTree) -> PyTree:
  """Plain mean over k, without mitigation; also used for the heads.

  Args:
    gradients: pytree of float[K, ...].

  Returns:
    The pytree without the leading axis, bitwise `jnp.mean(leaf, axis=0)`.

  Raises:
    ValueError: leaves without one common leading axis, or not floating point.
  """
  count(gradients)
  return rounded(wide_mean(gradients), gradients)


def rescale(gradients: PyTree) -> PyTree:
  """Scales every g_k to the mean norm over k (the option `norm`).

  Args:
    gradients: pytree of float[K, ...].

  Returns:
    The same pytree, float[K, ...]. A zero gradient stays 0 and counts in the
    mean norm.

  Raises:
    ValueError: as `mean`.
  """
  norms = directions(gradients).norms
  factors = jnp.mean(norms) / jnp.where(norms == 0, 1, norms)
  return jax.tree.map(
    lambda g: (g * _column(factors, g)).astype(g.dtype), gradients
  )


def cosines(gradients: PyTree) -> jax.Array:
  """Pairwise cosines of the K gradients, over all leaves together.

  Args:
    gradients: pytree of float[K, ...].

  Returns:
    float[K, K] in [-1, 1], 1 on the diagonal; 0 where a gradient is 0.

  Raises:
    ValueError: as `mean`.
  """
  return directions(gradients).cosines


def _units(gradients, norms):
  factors = 1 / jnp.where(norms == 0, 1, norms)
  return jax.tree.map(lambda g: g * _column(factors, g), gradients)


def _column(values, leaf):
  """Reshapes [K] to broadcast against [K, ...]."""
  return values.reshape((-1,) + (1,) * (leaf.ndim - 1))


def _dtype(gradients):
  return jnp.result_type(
    jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(gradients))
  )
