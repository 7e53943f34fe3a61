"""Kernel gradient of a layer as a product of two maps.

Convolution and transposed convolution are one case. Of the layer's input and
the gradient of its output, one map is `small` (one row per position q) and one
is `large` (read at stride * q + dilation * t for every kernel offset t):

    G[t, c, d] = sum_q large[stride q + dilation t, c] small[q, d]

In a convolution the gradient of the output is the small map, in a transposed
convolution the input is, with the offsets in the opposite order. A dense layer
is a convolution with kernel 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Sizes = tuple[int, ...]


class Geometry(NamedTuple):
  """Kernel geometry of a layer; one number per spatial axis.

  Attributes:
    kernel: size of the kernel.
    stride: step between two reads of the large map.
    dilation: step between kernel offsets.
    low: zeros before the first position of the large map, may be negative.
    transposed: whether the input is the small map.
    mirrored: whether a transposed layer stores its kernel as that of the
      convolution it transposes, [..., out, in].
  """

  kernel: Sizes
  stride: Sizes
  dilation: Sizes
  low: Sizes
  transposed: bool = False
  mirrored: bool = False


class Pair(NamedTuple):
  """Small and large map of a batch, padded for the product.

  Attributes:
    small: float[B, *P, D].
    large: float[B, *L, C], padded so that every read is inside it.
    geometry: geometry of the layer.
  """

  small: jax.Array
  large: jax.Array
  geometry: Geometry

  @property
  def positions(self) -> int:
    """Number of positions of the small map."""
    return math.prod(self.small.shape[1:-1])


def pair(geometry: Geometry, inputs: jax.Array, outputs: jax.Array) -> Pair:
  """Small and large map of one layer.

  Args:
    geometry: geometry of the layer.
    inputs: float[B, *spatial, Cin], the layer's input; cast to the layer's
      compute dtype, that of `outputs`.
    outputs: float[B, *spatial, Cout], the gradient of the layer's output.
  """
  inputs = inputs.astype(outputs.dtype)
  small, large = (inputs, outputs) if geometry.transposed else (outputs, inputs)
  padding = [(0, 0, 0)]
  for axis, low in enumerate(geometry.low):
    needed = geometry.stride[axis] * (small.shape[axis + 1] - 1) + 1
    needed += geometry.dilation[axis] * (geometry.kernel[axis] - 1)
    padding.append((low, needed - low - large.shape[axis + 1], 0))
  padding.append((0, 0, 0))
  return Pair(small, lax.pad(large, _zero(large), padding), geometry)


def in_order(geometry: Geometry, kernel: jax.Array) -> jax.Array:
  """Kernel of the layer as [*kernel, C, D], in the order of G above."""
  kernel = kernel.reshape(*geometry.kernel, *kernel.shape[-2:])
  if not geometry.transposed or geometry.mirrored:
    return kernel
  axes = tuple(range(len(geometry.kernel)))
  return jnp.flip(kernel, axes).swapaxes(-1, -2)


def _zero(array):
  return jnp.zeros((), array.dtype)
