"""A 2-D convolution in the form that is quickest for its shape.

Values and gradients are those of `nn.Conv`; only how they are computed
differs, by platform and by how many positions the output has. On a CPU, the
gradient of the kernel for 64 images on one core, in milliseconds
(`benchmarks/conv_forms.py` measures all passes on any machine):

  output    layer                     XLA's own   groups   one product
  64 x 64   7 x 7 / 2,   1 ->  64            37       17           164
  32 x 32   3 x 3,      64 ->  64            45       26            70
  16 x 16   3 x 3,     128 -> 128            52       28            46
  8 x 8     3 x 3,     256 -> 256            40       29            35
  4 x 4     3 x 3,     512 -> 512            29       76            30
  2 x 4     3 x 3,     512 -> 512   10 to 200 times the product's, all passes

and of layers with few output channels (U-Nets), for 16 images:

  48 x 48   3 x 3,      16 ->  16             4       20            47
  48 x 48   3 x 3,      32 ->  16             8       40            78
  48 x 48   3 x 3,      16 ->  32            13        9
  64 x 64   3 x 3,      16 ->   8             6       49

So small maps are one matrix product over shifted views; up to 16 output
channels XLA's own form stays; and elsewhere the gradient of the kernel is
summed over groups of images small enough for the cache, whose copies XLA would
otherwise make for the whole batch at once. Other platforms get XLA's own form
everywhere: nothing was measured there.
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

# Output positions (height x width) up to which a CPU takes one product.
_SMALL_MAP = 16
# Output channels up to which groups of images are slower than XLA's own form.
_NARROW = 16
# (output positions, images of a group) from the largest map down.
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
  """Convolves float[B, H, W, C] with float[h, w, C, D]; zeros around.

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

  A convolution of the inputs with the gradient of the outputs as its kernel
  and images as its channels. It is written in the layout that XLA's CPU
  backend is quick in: inside a loop any other is 30 times slower.

  Args:
    inputs: float[B, H, W, C], what was convolved.
    outputs: float[B, H', W', D], gradient of the loss by the outputs.
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
  """`kernel_gradient`, a few images at a time, accumulated in float32.

  Takes and returns what that does. Where the group found in the table does
  not divide the batch, the largest common divisor is taken.
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
  """`conv` as XLA has it."""
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
