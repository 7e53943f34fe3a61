"""Count of the floating-point operations of a program.

XLA's own count takes the body of a loop once and differs by platform; this one
reads the traced program: matrix products and convolutions, two operations per
multiply-add, over all devices, loops times their length. It is the "model
FLOPs" of model FLOPs utilisation, plus the recomputation by `remat`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count(function: Callable, *args: Any) -> float:
  """FLOPs of one call of `function` over all devices; args are only traced.

  Of the branches of a condition the largest counts, and the body of a `while`
  of unknown length counts once.

  >>> count(lambda a, b: a @ b, jax.ShapeDtypeStruct((2, 3), "float32"),
  ...       jax.ShapeDtypeStruct((3, 5), "float32"))
  60.0
  """
  processes = jax.process_count()
  if processes == 1 or hasattr(function, "trace"):
    return _of(jax.make_jaxpr(function)(*args).jaxpr)
  # With several processes each traces a pmap for its own devices only.
  args = jax.tree.map(_of_this_process, args)
  return processes * _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of_this_process(array):
  """Shape of the part of an array that this process holds."""
  sharding = getattr(array, "sharding", None)
  if sharding is None or sharding.is_fully_replicated:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
  rows = array.shape[0] // jax.process_count()
  return jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype)


def _of(jaxpr) -> float:
  return float(sum(_equation(equation) for equation in jaxpr.eqns))


def _equation(equation) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    return _product(equation)
  if name == "conv_general_dilated":
    return _convolution(equation)
  inner = [_of(jaxpr) for jaxpr in _jaxprs(params)]
  if name == "cond":
    return max(inner)
  times = 1
  if name == "scan":
    times = params["length"]
  elif name == "shard_map":
    times = params["mesh"].size
  elif name == "xla_pmap":
    times = params["global_axis_size"]
  return times * sum(inner)


def _jaxprs(params):
  """Subprograms (jaxprs) among the parameters of an equation."""
  leaves = jax.tree.leaves(
    list(params.values()),
    is_leaf=lambda x: isinstance(x, (core.Jaxpr, core.ClosedJaxpr)),
  )
  for leaf in leaves:
    if isinstance(leaf, core.ClosedJaxpr):
      yield leaf.jaxpr
    elif isinstance(leaf, core.Jaxpr):
      yield leaf


def _product(equation) -> float:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  (out,) = equation.outvars
  return 2 * out.aval.size * math.prod(left[axis] for axis in contracted)


def _convolution(equation) -> float:
  """FLOPs of a convolution, with padding but without dilation's zeros."""
  params = equation.params
  kernel = equation.invars[1].aval
  (out,) = equation.outvars
  features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
  each = kernel.size / features  # multiply-adds per output value
  dilation = math.prod(params["lhs_dilation"])
  return 2 * out.aval.size * each / dilation
