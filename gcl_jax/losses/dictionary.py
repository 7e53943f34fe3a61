"""Contrast against a dictionary: MoCo's queue and PCL's prototypes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def info_nce(
  query: jax.Array,
  key: jax.Array,
  queue: jax.Array,
  *,
  temperature: float = 0.07,
) -> jax.Array:
  """InfoNCE of momentum contrast (He et al. 2020, equation 1; MoCo v2).

      loss = -mean_i log( exp(q_i . k_i / tau)
                          / (exp(q_i . k_i / tau) + sum_n exp(q_i . n / tau)) )

  Keys and queue are constants: only the query is differentiated. Every term
  is of one query, so across devices the mean of the values is the loss.

  Args:
    query: float[B, D], unit vectors from the encoder.
    key: float[B, D], unit vectors of the other view from the momentum
      encoder.
    queue: float[K, D], unit vectors: keys of earlier batches.
    temperature: tau > 0.

  Returns:
    A scalar >= 0, float32 (float64 where the query is).

  Raises:
    ValueError: shapes that do not fit.
  """
  if query.ndim != 2 or key.shape != query.shape:
    raise ValueError(
      f"query and key must be float[B, D], got {query.shape} and {key.shape}"
    )
  if queue.ndim != 2 or queue.shape[1] != query.shape[1]:
    raise ValueError(
      f"queue must be float[K, {query.shape[1]}], got {queue.shape}"
    )
  query, key, queue = _floats(query, key, queue)
  positive = jnp.sum(query * key, axis=1, keepdims=True)
  logits = jnp.concatenate([positive, _products(query, queue)], axis=1)
  return -jnp.mean(jax.nn.log_softmax(logits / temperature)[:, 0])


def prototype_nce(
  features: jax.Array,
  prototypes: Sequence[jax.Array],
  assignments: Sequence[jax.Array],
  densities: Sequence[jax.Array],
) -> jax.Array:
  """The prototype term of ProtoNCE (Li et al. 2021, PCL, equation 11).

      loss = -mean_m mean_i log( exp(v_i . c_s / phi_s)
                                 / sum_j exp(v_i . c_j / phi_j) )

  over M clusterings, s the cluster of image i in clustering m. All clusters
  of a clustering are contrasted. Add `info_nce` or `supcon` for the instance
  term. Prototypes and densities are constants. Across devices the mean of
  the values is the loss.

  Args:
    features: float[B, D], unit vectors.
    prototypes: M arrays float[K_m, D], unit vectors: cluster centres.
    assignments: M arrays int[B]: the cluster of each image.
    densities: M arrays float[K_m] > 0: each cluster's own temperature phi.

  Returns:
    A scalar, float32 (float64 where the features are).

  Raises:
    ValueError: lists of different lengths or shapes that do not fit.
  """
  if not len(prototypes) == len(assignments) == len(densities) > 0:
    raise ValueError(
      "prototypes, assignments and densities must be equally many, got"
      f" {len(prototypes)}, {len(assignments)} and {len(densities)}"
    )
  losses = [
    _one_clustering(features, *clustering)
    for clustering in zip(prototypes, assignments, densities, strict=True)
  ]
  return jnp.mean(jnp.stack(losses))


def _one_clustering(features, prototypes, assignments, densities):
  expected = (len(prototypes), features.shape[1])
  if (
    prototypes.shape != expected
    or assignments.shape != features.shape[:1]
    or densities.shape != expected[:1]
  ):
    raise ValueError(
      f"features {features.shape}, prototypes {prototypes.shape}, assignments"
      f" {assignments.shape} and densities {densities.shape} do not fit"
    )
  features, prototypes, densities = _floats(features, prototypes, densities)
  logits = _products(features, prototypes) / densities
  log_share = jax.nn.log_softmax(logits)
  return -jnp.mean(jnp.take_along_axis(log_share, assignments[:, None], 1))


def _floats(first, *constants):
  """float32 or higher; no gradient flows into all but the first."""
  dtype = jnp.promote_types(first.dtype, jnp.float32)
  constants = [lax.stop_gradient(x.astype(dtype)) for x in constants]
  return first.astype(dtype), *constants


def _products(rows, columns):
  return jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)
