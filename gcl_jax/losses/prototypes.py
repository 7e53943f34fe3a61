"""Contrast of features with cluster centres: the prototypes of PCL."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def prototype_nce(
  features: jax.Array,
  prototypes: Sequence[jax.Array],
  assignments: Sequence[jax.Array],
  densities: Sequence[jax.Array],
) -> jax.Array:
  """The prototype term of ProtoNCE (Li et al. 2021, PCL, equation 11).

      loss = -mean_m mean_i log( exp(v_i . c_s / phi_s)
                                 / sum_j exp(v_i . c_j / phi_j) )

  over M clusterings, with s the cluster of image i in clustering m and j all
  its clusters. Add `info_nce` or `supcon` for the instance term. Prototypes
  and densities are constants. Across devices the mean of the values is the
  loss.

  Args:
    features: float[B, D], unit vectors.
    prototypes: M arrays float[K_m, D], unit vectors, the cluster centres.
    assignments: M arrays int[B], the cluster of each image.
    densities: M arrays float[K_m] > 0, the temperature phi of each cluster.

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
  dtype = jnp.promote_types(features.dtype, jnp.float32)
  features, prototypes, densities = (
    x.astype(dtype) for x in (features, prototypes, densities)
  )
  prototypes, densities = lax.stop_gradient((prototypes, densities))
  logits = jnp.matmul(features, prototypes.T, precision=lax.Precision.HIGHEST)
  log_share = jax.nn.log_softmax(logits / densities)
  return -jnp.mean(jnp.take_along_axis(log_share, assignments[:, None], 1))
