"""Inputs and output gradients of the layers of a linen model.

One batched forward and one batched backward pass give, for all images at once,
the input of every layer and the gradient of each image's own loss with respect
to its output. The backward pass stops at the lowest requested layer.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.gradients.pairing import Geometry
from gcl_jax.models.convolution import Conv
from gcl_jax.models.transposed import TransposedConv

Losses = Callable[[Any], jax.Array]


class Layer(NamedTuple):
  """One called layer: its geometry and the shapes of its input and output."""

  geometry: Geometry
  inputs: jax.ShapeDtypeStruct
  outputs: jax.ShapeDtypeStruct


def find(
  losses: Losses, params: Any, names: Sequence[str] | None
) -> dict[str, Layer]:
  """Layers called in one forward pass, found from shapes without computing.

  Args:
    losses: params -> float[B].
    params: parameters, of which only the shapes are used.
    names: paths of layers ("d1", "block/conv"); None: all of a known kind.

  Raises:
    ValueError: a named layer is not called, or of no known kind; a layer is
      called twice; there is no layer; the gradient of a layer cannot be
      expressed by these products (groups, a mask, circular padding...).
  """
  found: dict[str, Layer] = {}

  def note(module, name, inputs, outputs):
    if names is None and type(module) not in _GEOMETRY:
      return outputs
    if name in found:
      raise ValueError(f"layer {name!r} is called twice in one forward pass")
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (inputs, outputs)]
    found[name] = Layer(_geometry(module, name, inputs.shape), *shapes)
    return outputs

  wanted = None if names is None else set(names)
  with _intercepted(note, wanted):
    # A new function each time: a cached trace would not call the layers.
    jax.eval_shape(lambda params: losses(params), params)
  if not found and names is None:
    raise ValueError(
      "no Dense, Conv or ConvTranspose layer was called; inside a jit of its"
      " own a model cannot be seen"
    )
  missing = sorted((wanted or set()) - set(found))
  if missing:
    raise ValueError(f"no layer {missing[0]!r} in the model's forward pass")
  return found


def inputs_and_gradients(
  losses: Losses, params: Any, found: dict[str, Layer]
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
  """Losses, and the input and output gradient of each layer.

  Args:
    losses: params -> float[B]; image i must enter loss i alone.
    params: parameters of the model.
    found: the result of `find` for the same call.

  Returns:
    float[B]; name -> float[B, ...] inputs; name -> float[B, ...] gradients.
  """

  def run(probes):
    inputs = {}

    def add(module, name, entering, leaving):
      inputs[name] = entering
      return leaving + probes[name]

    with _intercepted(add, set(found)):
      values = losses(params)
    return jnp.sum(values), (values, inputs)

  probes = {
    name: jnp.zeros(layer.outputs.shape, layer.outputs.dtype)
    for name, layer in found.items()
  }
  gradients, (values, inputs) = jax.grad(run, has_aux=True)(probes)
  return values, inputs, gradients


@contextlib.contextmanager
def _intercepted(visit: Callable, names: set[str] | None) -> Iterator[None]:
  """Replaces each layer's output by `visit(module, name, input, output)`."""

  def interceptor(call, args, kwargs, context):
    outputs = call(*args, **kwargs)
    name = "/".join(context.module.path)
    if context.method_name != "__call__" or not args:
      return outputs
    if names is not None and name not in names:
      return outputs
    return visit(context.module, name, args[0], outputs)

  with nn.intercept_methods(interceptor):
    yield


def _geometry(module: nn.Module, name: str, shape: Sequence[int]) -> Geometry:
  kind = _GEOMETRY.get(type(module))
  if kind is None:
    known = ", ".join(sorted(t.__name__ for t in _GEOMETRY))
    raise ValueError(
      f"layer {name!r} is a {type(module).__name__}; per-sample gradients are"
      f" known for {known}"
    )
  try:
    return kind(module, shape)
  except ValueError as error:
    raise ValueError(f"layer {name!r}: {error}") from None


def _dense(module: nn.Dense, shape) -> Geometry:
  one = (1,) * (len(shape) - 2)
  return Geometry(one, one, one, (0,) * len(one))


def _conv(module: nn.Conv, shape) -> Geometry:
  kernel = _sizes(module.kernel_size, None)
  rank = len(kernel)
  _refuse(module, shape, rank)
  if module.feature_group_count != 1:
    raise ValueError(
      f"feature_group_count {module.feature_group_count}: only 1 is supported"
    )
  if any(size != 1 for size in _sizes(module.input_dilation, rank)):
    raise ValueError("input_dilation other than 1 is not supported")
  stride = _sizes(module.strides, rank)
  dilation = _sizes(module.kernel_dilation, rank)
  extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
  padding = _pairs(module.padding, rank)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(shape[1:-1], extent, stride, padding)
  return Geometry(kernel, stride, dilation, tuple(low for low, _ in padding))


def _conv_transpose(module: nn.ConvTranspose, shape) -> Geometry:
  kernel = _sizes(module.kernel_size, None)
  rank = len(kernel)
  _refuse(module, shape, rank)
  stride = _sizes(module.strides, rank)
  dilation = _sizes(module.kernel_dilation, rank)
  padding = _pairs(module.padding, rank)
  low = []
  for axis in range(rank):
    reach = (kernel[axis] - 1) * dilation[axis]
    if padding == "SAME":
      total = reach + stride[axis] - 1
      before = reach if stride[axis] > reach else -(-total // 2)
    else:
      before = reach if padding == "VALID" else padding[axis][0]
    low.append(reach - before)
  return Geometry(
    kernel, stride, dilation, tuple(low), True, module.transpose_kernel
  )


def _our_conv(module: Conv, shape) -> Geometry:
  return Geometry(
    tuple(module.kernel_size),
    (module.strides,) * 2,
    (1, 1),
    (module.padding,) * 2,
  )


def _our_transposed(module: TransposedConv, shape) -> Geometry:
  return Geometry((4, 4), (2, 2), (1, 1), (module.padding,) * 2, True)


def _refuse(module, shape, rank) -> None:
  if len(shape) != rank + 2:
    raise ValueError(
      f"inputs must be [batch, {rank} spatial axes, channels], got {shape}"
    )
  if module.mask is not None:
    raise ValueError("a kernel mask is not supported")


def _sizes(value, rank) -> tuple[int, ...]:
  if value is None or isinstance(value, int):
    return (1 if value is None else value,) * (rank or 1)
  return tuple(value)


def _pairs(padding, rank):
  """Padding as (low, high) per axis, or "SAME" or "VALID"."""
  if isinstance(padding, str):
    if padding not in ("SAME", "VALID"):
      raise ValueError(f"padding {padding!r} is not supported")
    return padding
  if isinstance(padding, int):
    return [(padding, padding)] * rank
  return [(p, p) if isinstance(p, int) else tuple(p) for p in padding]


_GEOMETRY = {
  nn.Dense: _dense,
  nn.Conv: _conv,
  nn.ConvTranspose: _conv_transpose,
  Conv: _our_conv,
  TransposedConv: _our_transposed,
}
