"""The transposed convolution of the decoder: kernel 4, stride 2.

Output row 2i + r of such a layer reads two input rows only. All four phases
of an output position therefore come from one 2x2 neighbourhood of the input:
four shifted views, one matrix product, depth-to-space. The usual way, a
convolution over an input dilated with zeros, gives the same numbers, but its
weight gradient is 10 to 40 times slower on XLA's CPU backend and its
per-image weight gradient worse still; here both are matrix products.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def transposed_conv(
  images: jax.Array, kernel: jax.Array, padding: int = 1
) -> jax.Array:
  """Transposed convolution with kernel 4 and stride 2.

  Same numbers as `lax.conv_transpose(images, kernel, (2, 2), [(3 - padding,
  3 - padding)] * 2)` and as linen's `ConvTranspose`. PyTorch's weight
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
  _, _, cin, cout = kernel.shape
  # Views are cheap where channels are few: of the input, or of the product.
  if 4 * cout < cin:
    return _multiply_then_shift(images, kernel, padding)
  return _shift_then_multiply(images, kernel, padding)


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
