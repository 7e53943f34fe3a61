"""Monitors of collapse: how far embeddings spread, and in how many directions.

A contrastive loss can be small while all embeddings of a kind lie in one point.
"""

import jax
import jax.numpy as jnp


def spread(z: jax.Array) -> jax.Array:
  """Variance of vectors about their mean, summed over the dimensions.

  Args:
    z: float[N, D].

  Returns:
    A scalar >= 0; of unit vectors 1 - |mean|^2, so 0 where all are equal and
    at most 1.
  """
  return jnp.mean(jnp.sum((z - jnp.mean(z, axis=0)) ** 2, axis=-1))


def effective_rank(z: jax.Array) -> jax.Array:
  """exp of the entropy of the normalised singular values.

  Roy and Vetterli (EUSIPCO 2007). The vectors are not centred: where all are
  equal the rank is 1, however the rounding errors about their mean lie.

  Args:
    z: float[N, D].

  Returns:
    A scalar from 1 to min(N, D); 1 where all are 0.
  """
  values = jnp.linalg.svd(z, compute_uv=False)
  shares = values / jnp.maximum(jnp.sum(values), jnp.finfo(values.dtype).tiny)
  return jnp.exp(jnp.sum(jax.scipy.special.entr(shares)))
