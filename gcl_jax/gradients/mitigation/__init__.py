"""Gradient Mitigator: combines K conflicting gradients into one.

The paper (Wu et al., ACM MM 2023) names the component and gives no formula;
these are candidates with one interface, `mitigate(gradients) -> combined`.
`gradients` is a pytree of float[K, ...]: entry k is the gradient g_k of the
loss of meta label k with respect to the *shared encoder*. `combined` is the
same pytree without the leading axis, each leaf in its own dtype. `cone` is the
default; heads take the plain `mean`.

All rules use inner products only, accumulated leaf by leaf in float32 at the
highest precision (float64 for float64 leaves), and only directions enter them:
gradients of norm 1e-30 are treated like those of norm 1. A gradient that is
exactly 0 conflicts with nothing. nan and inf propagate to the result.

Devices: average the K gradients over devices *before* mitigation,
`mitigate(lax.pmean(gradients, axis_name))`. The mean of mitigated gradients is
not the mitigated mean, because conflicts differ from shard to shard.

Per sample ("feature level"): the rules are plain functions of arrays, so K
gradients float[K, B, D] with respect to the features of B images become one
each by `jax.vmap(mitigate, in_axes=1)`, float[B, D]; the pull-back of the
encoder (`jax.vjp`) takes them to its parameters in a single backward pass.

Assert inner products on the vector returned here, not on the change of the
parameters: momentum or Adam can turn it back into a conflict.
"""

from gcl_jax.gradients.mitigation.inner import (
  cosines,
  mean,
  rescale,
)
from gcl_jax.gradients.mitigation.projections import gradvac, pcgrad
from gcl_jax.gradients.mitigation.quadratic import cagrad, cone, min_norm

__all__ = [
  "cagrad",
  "cone",
  "cosines",
  "gradvac",
  "mean",
  "min_norm",
  "pcgrad",
  "rescale",
]
