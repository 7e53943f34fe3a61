"""2-D convolution by the fastest algorithm for its shape and platform.

Values and gradients equal those of `nn.Conv`. Milliseconds for the gradient of
the kernel on one CPU core, 64 images (`benchmarks/conv_forms.py` measures all
passes on any machine):

  output    layer                     XLA's own   groups   one product
  64 x 64   7 x 7 / 2,   1 ->  64            37       17           164
  32 x 32   3 x 3,      64 ->  64            45       26            70
  16 x 16   3 x 3,     128 -> 128            52       28            46
  8 x 8     3 x 3,     256 -> 256            40       29            35
  4 x 4     3 x 3,     512 -> 512            29       76            30
  2 x 4     3 x 3,     512 -> 512   10 to 200 times the product's, all passes

and for layers with few output channels (U-Nets), 16 images:

  48 x 48   3 x 3,      16 ->  16             4       20            47
  48 x 48   3 x 3,      32 ->  16             8       40            78
  48 x 48   3 x 3,      16 ->  32            13        9
  64 x 64   3 x 3,      16 ->   8             6       49

On a CPU, therefore, a small map is computed as one matrix product over shifted
views, a layer with up to 16 output channels by XLA's own convolution, and any
other with the gradient of its kernel summed over groups of images that fit the
cache, where XLA would copy the whole batch at once. Other platforms use XLA's
own convolution everywhere; nothing was measured there.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Largest number of output positions that a CPU computes as one product.
_SMALL_MAP = 16
# Largest number of output channels at which XLA's own convolution is faster
# than groups of images.
_NARROW = 16
# (smallest number of output positions, images per group), largest map first.
_GROUPS = ((256, 2), (32, 8))
_NUMBERS = ("NHWC", "HWIO", "NHWC")


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
  """Convolves float[B, H, W, C], padded with zeros, with float[h, w, C, D].

  Has derivatives of any order in reverse mode (`jax.grad`, `jax.vjp`).

  Args:
    inputs: float[B, H, W, C].
    kernel: float[h, w, C, D], of the inputs' type.
    strides: step between output positions, both ways.
    padding: zeros added on every side.

  Returns:
    float[B, H', W', D] with H' = (H + 2 padding - h) // strides + 1.
  """
  if kernel.shape[:2] == (1, 1) and not padding:
    return product(inputs, kernel, strides, padding)
  height, width = (
    (size + 2 * padding - k) // strides + 1
    for size, k in zip(inputs.shape[1:3], kernel.shape[:2], strict=True)
  )
  if height * width > _SMALL_MAP:
    form = native if kernel.shape[3] <= _NARROW else _large
    return form(inputs, kernel, strides, padding)
  return lax.platform_dependent(
    inputs,
    kernel,
    cpu=functools.partial(product, strides=strides, padding=padding),
    default=functools.partial(native, strides=strides, padding=padding),
  )


def kernel_gradient(
  inputs: jax.Array,
  outputs: jax.Array,
  kernel_size: tuple[int, int],
  strides: int,
  padding: int,
) -> jax.Array:
  """The gradient of a convolution's kernel, summed over images.

  This is itself a convolution of the inputs, with the gradient of the outputs
  as kernel and the images as channels. XLA's CPU backend runs any other layout
  30 times slower inside a loop.

  Args:
    inputs: float[B, H, W, C], inputs of the convolution.
    outputs: float[B, H', W', D], gradient of the loss by its outputs.
    kernel_size: (h, w).
    strides, padding: of the convolution.

  Returns:
    float[h, w, C, D].
  """
  edges = [
    (padding, strides * (out - 1) + k - size - padding)
    for size, out, k in zip(
      inputs.shape[1:3], outputs.shape[1:3], kernel_size, strict=True
    )
  ]
  gradient = lax.conv_general_dilated(
    inputs.transpose(3, 1, 2, 0),
    outputs.transpose(1, 2, 0, 3),
    (1, 1),
    edges,
    rhs_dilation=(strides, strides),
    dimension_numbers=_NUMBERS,
  )
  return gradient.transpose(1, 2, 0, 3)


def grouped_kernel_gradient(inputs, outputs, kernel_size, strides, padding):
  """`kernel_gradient` summed in float32 over groups of a few images.

  Arguments and result are those of `kernel_gradient`. A group has as many
  images as `_GROUPS` says, or their greatest common divisor with the batch.
  """
  positions = outputs.shape[1] * outputs.shape[2]
  wanted = next((g for least, g in _GROUPS if positions >= least), 1)
  size = math.gcd(len(inputs), wanted)
  groups = [
    array.reshape(-1, size, *array.shape[1:]) for array in (inputs, outputs)
  ]

  def add(total, group):
    part = kernel_gradient(*group, kernel_size, strides, padding)
    return total + part.astype(jnp.float32), None

  shape = (*kernel_size, inputs.shape[-1], outputs.shape[-1])
  total, _ = lax.scan(add, jnp.zeros(shape, jnp.float32), groups)
  return total.astype(inputs.dtype)


def native(
  inputs: jax.Array, kernel: jax.Array, strides: int, padding: int
) -> jax.Array:
  """`conv` by XLA's own convolution."""
  edge = (padding, padding)
  return lax.conv_general_dilated(
    inputs, kernel, (strides, strides), (edge, edge), dimension_numbers=_NUMBERS
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _large(inputs, kernel, strides, padding):
  """XLA's own convolution with the kernel's gradient by groups on a CPU."""
  return native(inputs, kernel, strides, padding)


def _large_forward(inputs, kernel, strides, padding):
  return _large(inputs, kernel, strides, padding), (inputs, kernel)


def _large_backward(strides, padding, saved, outputs):
  inputs, kernel = saved
  form = functools.partial(native, strides=strides, padding=padding)
  by_inputs = jax.linear_transpose(lambda x: form(x, kernel), inputs)
  by_kernel = lax.platform_dependent(
    inputs,
    outputs,
    cpu=functools.partial(
      grouped_kernel_gradient,
      kernel_size=kernel.shape[:2],
      strides=strides,
      padding=padding,
    ),
    default=lambda x, y: jax.linear_transpose(
      functools.partial(form, x), kernel
    )(y)[0],
  )
  return by_inputs(outputs)[0], by_kernel


_large.defvjp(_large_forward, _large_backward)


def product(
  inputs: jax.Array, kernel: jax.Array, strides: int, padding: int
) -> jax.Array:
  """`conv` as one matrix product over the shifted views of the inputs."""
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
