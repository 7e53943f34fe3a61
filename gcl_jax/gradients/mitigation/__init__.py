"""Gradient Mitigator: K gradients that contradict each other become one.

The paper (Wu et al., ACM MM 2023) names the part and gives no formula; these
are candidates behind one interface, `mitigate(gradients) -> one`. `gradients`
is a pytree of float[K, ...]: entry k is the gradient g_k of the loss of meta
label k with respect to the *shared encoder*. `one` is the same pytree without
the leading axis, each leaf in its own dtype. `cone` is the default; heads take
the plain `mean`.

Every rule looks at inner products only, accumulated leaf by leaf in float32
at the highest precision (float64 where a leaf is), and only directions enter
them: gradients of norm 1e-30 are treated as those of norm 1. A gradient that
is exactly 0 conflicts with nothing. nan and inf stay visible in the result.

Devices: average the K gradients over devices *before* they are compared,
`mitigate(lax.pmean(gradients, axis_name))`. The mean of mitigated gradients is
not the mitigated mean: shards disagree about what conflicts.

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
