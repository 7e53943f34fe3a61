"""Per-sample gradients of the features, sent back in one pass."""

import jax
import jax.numpy as jnp
from jax import lax


def surrogate(features: jax.Array, directions: jax.Array) -> jax.Array:
  """A scalar whose gradient with respect to the features is `directions`.

      sum_i stop_gradient(v_i) . z_i

  Differentiated through the encoder it is one backward pass in place of K.
  With v_i the mean over k of dL^k/dz_i it gives the mean of the K gradients.
  The value itself means nothing.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> z, v = jnp.ones((2, 3)), jnp.arange(6.0).reshape(2, 3)
    >>> bool((jax.grad(surrogate)(z, v) == v).all())
    True

  Args:
    features: float[...], the features z, as they leave the encoder.
    directions: float of the same shape; v_i, e.g. the mitigated dL^k/dz_i of
      losses that are already means over the batch.

  Returns:
    A scalar of the features' dtype, at least float32.

  Raises:
    ValueError: shapes that differ.
  """
  if features.shape != directions.shape:
    raise ValueError(
      f"directions of shape {directions.shape} do not fit features of shape"
      f" {features.shape}: one direction per feature vector"
    )
  dtype = jnp.promote_types(features.dtype, jnp.float32)
  return jnp.sum(lax.stop_gradient(directions) * features, dtype=dtype)
