"""What every model shares: the exported form, and layers quick on a CPU.

XLA's CPU backend runs a 3x3 convolution whose output has eight positions or
fewer (the last stage of a ResNet on small images) 10 to 200 times slower than
the matrix product it is, and the gradient of a max-pool 5 times slower than a
maximum of shifted views. `Conv` and `max_pool` choose the quick form per shape
and platform; values and gradients are those of `nn.Conv` and `nn.max_pool`.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Output positions (height x width) up to which one product wins on a CPU:
# measured at 512 channels, 2x4 is 180 times slower natively, 3x3 is level.
_SMALL_MAP = 12


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


class Conv(nn.Module):
  """A 2-D convolution with the parameters and the results of `nn.Conv`.

  Attributes:
    features: output channels.
    kernel_size: height and width of the kernel.
    strides: step between output positions, the same both ways.
    padding: zeros added on every side.
    use_bias: whether a bias is added.
    dtype: type the product is computed in; None keeps the inputs' type.
    kernel_init: initialiser of the kernel [height, width, in, out].
  """

  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: int = 1
  padding: int = 0
  use_bias: bool = False
  dtype: Any = None
  kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """float[B, H, W, C] -> float[B, H', W', features]."""
    shape = (*self.kernel_size, inputs.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = None
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
    inputs, kernel, bias = nn.dtypes.promote_dtype(
      inputs, kernel, bias, dtype=self.dtype
    )
    outputs = conv(inputs, kernel, self.strides, self.padding)
    return outputs if bias is None else outputs + bias


def conv(
  inputs: jax.Array, kernel: jax.Array, strides: int = 1, padding: int = 0
) -> jax.Array:
  """Convolves float[B, H, W, C] with float[h, w, C, D]; zeros around.

  Args:
    inputs: float[B, H, W, C].
    kernel: float[h, w, C, D], of the inputs' type.
    strides: step between output positions, both ways.
    padding: zeros added on every side.

  Returns:
    float[B, H', W', D] with H' = (H + 2 padding - h) // strides + 1.
  """
  native = functools.partial(_native, strides=strides, padding=padding)
  product = functools.partial(_product, strides=strides, padding=padding)
  if kernel.shape[:2] == (1, 1) and not padding:
    return product(inputs, kernel)
  height, width = (
    (size + 2 * padding - k) // strides + 1
    for size, k in zip(inputs.shape[1:3], kernel.shape[:2], strict=True)
  )
  if height * width > _SMALL_MAP:
    return native(inputs, kernel)
  return lax.platform_dependent(inputs, kernel, cpu=product, default=native)


def _native(inputs, kernel, *, strides, padding):
  return lax.conv_general_dilated(
    inputs,
    kernel,
    (strides, strides),
    ((padding, padding), (padding, padding)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _product(inputs, kernel, *, strides, padding):
  """The same as one matrix product over the shifted views of the inputs."""
  height, width, channels, features = kernel.shape
  edge = (padding, padding)
  inputs = jnp.pad(inputs, ((0, 0), edge, edge, (0, 0)))
  stop = [inputs.shape[1] - height + 1, inputs.shape[2] - width + 1]
  views = [
    inputs[:, i : i + stop[0] : strides, j : j + stop[1] : strides]
    for i, j in itertools.product(range(height), range(width))
  ]
  patches = jnp.concatenate(views, axis=-1)
  rows = patches.reshape(-1, height * width * channels)
  outputs = rows @ kernel.reshape(-1, features)
  return outputs.reshape(*patches.shape[:3], features)


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
