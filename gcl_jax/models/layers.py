"""The exported form of a model, kernel initialisation and a fast max-pool.

The gradient of XLA's own max-pool is 5 times slower on a CPU than that of a
maximum of shifted views; values and gradients are those of `nn.max_pool`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Model(NamedTuple):
  """A network as two pure functions, independent of linen.

  Attributes:
    init: `init(key, image_shape)` -> variables, a nested dict of arrays;
      `image_shape` is (H, W, C), or (D,) for a head on feature vectors.
    apply: `apply(variables, inputs, ...)` -> outputs, pure, works under jit,
      grad, vmap, pmap and shard_map.
    feature_dim: length of the vectors that `apply` returns.
  """

  init: Callable[..., Any]
  apply: Callable[..., Any]
  feature_dim: int


def draw_kernels(
  key: jax.Array,
  shapes: Any,
  scale: Callable[[tuple[str, ...], tuple[int, ...]], float],
  *,
  drawn: tuple[str, ...] = ("kernel",),
  sample: Callable[..., jax.Array] = jax.random.normal,
) -> Any:
  """Initial variables whose kernels are slices of a single random draw.

  XLA compiles one random program instead of one per layer, which for a deep
  network takes tenths of a second instead of seconds. All other arrays are
  constant: 1 for "scale" and "var" of a batch normalisation, 0 otherwise.

  Args:
    key: PRNG key.
    shapes: nested dict with a shape and a dtype at every leaf, as
      `jax.eval_shape` of a linen `init` returns.
    scale: `scale(path, shape)` -> factor of a drawn array; `path` holds the
      names that lead to it, ("stage1_block1", "Conv_0", "kernel") for instance.
    drawn: last names of the arrays that are drawn.
    sample: `sample(key, (n,))` -> float32[n] independent values before `scale`.

  Returns:
    A nested dict of arrays like `shapes`, drawn arrays in float32.

  >>> shapes = {"kernel": jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.float32)}
  >>> he = lambda path, shape: (2 / (shape[0] * shape[1] * shape[2])) ** 0.5
  >>> draw_kernels(jax.random.key(0), shapes, he)["kernel"].shape
  (3, 3, 1, 8)
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
  paths = [tuple(entry.key for entry in path) for path, _ in leaves]
  leaves = [leaf for _, leaf in leaves]
  sizes = [
    leaf.size if path[-1] in drawn else 0
    for path, leaf in zip(paths, leaves, strict=True)
  ]
  slices = jnp.split(sample(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
  values = []
  for path, leaf, piece in zip(paths, leaves, slices, strict=True):
    if path[-1] in drawn:
      values.append(piece.reshape(leaf.shape) * scale(path, leaf.shape))
    else:
      constant = float(path[-1] in ("scale", "var"))
      values.append(jnp.full(leaf.shape, constant, leaf.dtype))
  return jax.tree.unflatten(structure, values)


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
