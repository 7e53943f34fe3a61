"""Transposed convolution with kernel 4 and stride 2, for decoders.

The derivatives of each of three bilinear maps are the other two:

  up(x, k)      transposed convolution, [B, H, W, I] -> [B, H', W', O]
  down(u, k)    its adjoint, a strided convolution, [B, H', W', O] ->
                [B, H, W, I]
  weigh(u, x)   gradient of the kernel, sum over images and positions of u x

so gradients of any order consist of these three, each by its fastest algorithm.
Measured on one CPU core at 56 x 56, 32 -> 32 channels, 16 images:

  up      19 ms as four shifted views, one matrix product and depth-to-space
          (output row 2i + r reads two input rows, so one 2x2 neighbourhood
          gives all four phases), 22 ms over an input dilated with zeros
  down    9 ms as a strided convolution, 17 ms as the gradient of the product
  weigh   17 ms as the strided convolution's own weight gradient, 27 ms as the
          product's; that of the dilated convolution takes 10 to 40 times more

On other platforms `up` is `lax.conv_transpose`. Under `vmap` a CPU computes
the kernel gradients of single images one after the other, because a grouped
convolution is slower still.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.models.convolution import kernel_gradient

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
_NUMBERS = ("NHWC", "HWIO", "NHWC")


def transposed_conv(
  images: jax.Array, kernel: jax.Array, padding: int = 1
) -> jax.Array:
  """Transposed convolution with kernel 4 and stride 2.

  Equals `lax.conv_transpose(images, kernel, (2, 2), [(3 - padding,
  3 - padding)] * 2)` and linen's `ConvTranspose`. PyTorch's weight
  [Cin, Cout, 4, 4] is this kernel flipped in both spatial axes and with its
  axes in the order (2, 3, 0, 1).

  Args:
    images: float[B, H, W, Cin].
    kernel: float[4, 4, Cin, Cout].
    padding: 1 or 2, in PyTorch's sense: rows cut from each side of the full
      output.

  Returns:
    float[B, 2H + 2 - 2 padding, 2W + 2 - 2 padding, Cout].

  Raises:
    ValueError: a shape that does not fit, or another padding.
  """
  _check(images.shape, kernel.shape, padding)
  return _maps(padding)[0](*nn.dtypes.promote_dtype(images, kernel))


class TransposedConv(nn.Module):
  """Linen layer around `transposed_conv`: params "kernel" and "bias".

  Attributes:
    features: Cout.
    padding: 1 or 2.
  """

  features: int
  padding: int = 1

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    shape = (4, 4, images.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return transposed_conv(images, kernel, self.padding) + bias


@functools.lru_cache
def _maps(padding: int) -> tuple[Any, Any, Any]:
  """The maps up, down and weigh; kernels are [4, 4, Cin, Cout]."""

  @jax.custom_vjp
  def up(x, k):
    return lax.platform_dependent(
      x,
      k,
      cpu=functools.partial(_product, padding=padding),
      default=functools.partial(_dilated, padding=padding),
    )

  @jax.custom_vjp
  def down(u, k):
    return _strided(u, _adjoint(k), padding)

  @jax.custom_vjp
  def weigh(u, x):
    return _adjoint(single(u, x))

  @jax.custom_batching.custom_vmap
  def single(u, x):
    return kernel_gradient(u, x, (4, 4), 2, padding)

  @single.def_vmap
  def several(size, batched, u, x):
    u, x = (
      array if has else jnp.broadcast_to(array, (size, *array.shape))
      for array, has in zip((u, x), batched, strict=True)
    )
    return lax.platform_dependent(
      u,
      x,
      cpu=lambda u, x: lax.map(lambda pair: single(*pair), (u, x)),
      default=jax.vmap(lambda u, x: kernel_gradient(u, x, (4, 4), 2, padding)),
    ), True

  up.defvjp(
    lambda x, k: (up(x, k), (x, k)),
    lambda saved, y: (down(y, saved[1]), weigh(y, saved[0])),
  )
  down.defvjp(
    lambda u, k: (down(u, k), (u, k)),
    lambda saved, z: (up(z, saved[1]), weigh(saved[0], z)),
  )
  weigh.defvjp(
    lambda u, x: (weigh(u, x), (u, x)),
    lambda saved, g: (up(saved[1], g), down(saved[0], g)),
  )
  return up, down, weigh


def _adjoint(kernel):
  """Converts the kernel of `up` to that of a strided convolution and back."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


def _dilated(x, k, *, padding):
  edge = (3 - padding, 3 - padding)
  return lax.conv_transpose(x, k, (2, 2), [edge, edge])


def _strided(u, kernel, padding):
  edge = (padding, padding)
  return lax.conv_general_dilated(
    u, kernel, (2, 2), [edge, edge], dimension_numbers=_NUMBERS
  )


def _product(images, kernel, *, padding):
  """`up` as one matrix product."""
  _, _, cin, cout = kernel.shape
  # Views are cheap where channels are few: of the input, or of the product.
  if 4 * cout < cin:
    return _multiply_then_shift(images, kernel, padding)
  return _shift_then_multiply(images, kernel, padding)


def _check(image_shape, kernel_shape, padding) -> None:
  if padding not in (1, 2):
    raise ValueError(f"padding must be 1 or 2, got {padding}")
  if len(image_shape) != 4 or len(kernel_shape) != 4:
    raise ValueError(
      "transposed_conv wants images [B, H, W, Cin] and a kernel "
      f"[4, 4, Cin, Cout], got {image_shape} and {kernel_shape}"
    )
  if kernel_shape[:3] != (4, 4, image_shape[3]):
    raise ValueError(
      f"kernel must be [4, 4, {image_shape[3]}, Cout] for images "
      f"{image_shape}, got {kernel_shape}"
    )
  if min(image_shape[1:3]) < padding:
    raise ValueError(
      f"padding {padding} leaves nothing of images {image_shape}"
    )


def _shift_then_multiply(images, kernel, padding):
  """Neighbourhoods [B, H', W', 4 Cin] times a [4 Cin, 4 Cout] matrix."""
  border = 2 - padding
  width = ((0, 0), (border, border), (border, border), (0, 0))
  images = jnp.pad(images, width)
  batch, height, columns, cin = images.shape
  height, columns, cout = height - 1, columns - 1, kernel.shape[3]
  views = [images[:, i : i + height, j : j + columns] for i, j in _CORNERS]
  # Rows: corner of the neighbourhood, channel. Columns: phase, channel. The
  # neighbourhood lies between two input rows, so phase 0 is an odd kernel row.
  matrix = kernel.reshape(2, 2, 2, 2, cin, cout)[:, ::-1, :, ::-1]
  matrix = matrix.transpose(0, 2, 4, 1, 3, 5).reshape(4 * cin, 4 * cout)
  rows = jnp.concatenate(views, -1).reshape(-1, 4 * cin)
  phases = (rows @ matrix).reshape(batch, height, columns, 4 * cout)
  full = depth_to_space(phases)
  return full[:, border : full.shape[1] - border][
    :, :, border : full.shape[2] - border
  ]


def _multiply_then_shift(images, kernel, padding):
  """Product [B, H, W, 16 Cout] first, then its four corners overlap-added."""
  batch, height, width, cin = images.shape
  cout = kernel.shape[3]
  matrix = kernel[::-1, ::-1].reshape(2, 2, 2, 2, cin, cout)
  matrix = matrix.transpose(4, 0, 2, 1, 3, 5).reshape(cin, 16 * cout)
  product = images.reshape(-1, cin) @ matrix
  product = product.reshape(batch, height, width, 2, 2, 4 * cout)
  phases = sum(
    jnp.pad(product[:, :, :, i, j], ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0)))
    for i, j in _CORNERS
  )
  return depth_to_space(phases)[:, padding:-padding, padding:-padding]


def depth_to_space(phases: jax.Array) -> jax.Array:
  """[B, H, W, 4 C], phases outermost in the channels -> [B, 2H, 2W, C]."""
  batch, height, width, channels = phases.shape
  grid = phases.reshape(batch, height, width, 2, 2, channels // 4)
  grid = grid.transpose(0, 1, 3, 2, 4, 5)
  return grid.reshape(batch, 2 * height, 2 * width, channels // 4)
