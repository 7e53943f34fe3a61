"""Times every convolution of a network on this device, each pass in every form.

  python benchmarks/conv_forms.py --arch=resnet18 --size=128 --batch=64
  python benchmarks/conv_forms.py --widths=16,32,64,128 --size=48 --batch=16

The second is a U-Net of these widths.

The results are the basis of the table in gcl_jax/models/convolution.py: XLA's
own convolution, one matrix product over shifted views, and the gradient of the
kernel summed over groups of images. One JSON object per line: `pass` is
forward, inputs or kernel (its gradients), `form` is native, product or groups.
Run it on a new kind of device first; a form that is much faster there for
several layers belongs into the table. One device is used: pin it to one core
with `taskset -c 0` to reduce disturbance by other processes.
"""

import argparse
import functools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import timing

from gcl_jax.engine import distributed
from gcl_jax.models import convolution
from gcl_jax.models.resnet import resnet
from gcl_jax.models.unet import unet


def main() -> int:
  """Times the layers one after the other, the forms of each in turn."""
  arguments = parse()
  distributed.keep_memory()
  for layer, times in layers(arguments).items():
    opponents = forms_of(layer, arguments)
    timing.in_turn(
      opponents,
      rounds=arguments.rounds,
      block_s=arguments.block_s,
      budget_s=arguments.budget_s,
    )
    for opponent in opponents:
      timing.emit(opponent, layers=times)
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  timing.add_network(parser)
  parser.add_argument("--widths", default="", help="of a U-Net, no ResNet")
  parser.add_argument("--dtype", default="float32", help="or bfloat16")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--block_s", type=float, default=0.2)
  parser.add_argument("--budget_s", type=float, default=30, help="of a layer")
  return parser.parse_args()


def layers(arguments) -> dict[tuple, int]:
  """Number of layers by (input shape, kernel shape, strides, padding)."""
  found = {}

  def note(call, args, kwargs, context):
    module = context.module
    if type(module) is convolution.Conv and context.method_name == "__call__":
      (inputs,) = args
      kernel = (*module.kernel_size, inputs.shape[-1], module.features)
      layer = inputs.shape, kernel, module.strides, module.padding
      found[layer] = found.get(layer, 0) + 1
    return call(*args, **kwargs)

  shape = (*timing.sides(arguments.size), 1)
  if arguments.widths:
    model = unet(tuple(map(int, arguments.widths.split(","))))
    apply = model.segment
  else:
    model = resnet(arguments.arch, arguments.stem)
    apply = model.apply
  images = jax.ShapeDtypeStruct((arguments.batch, *shape), jnp.float32)
  variables = jax.eval_shape(
    lambda key: model.init(key, shape), jax.random.key(0)
  )
  with nn.intercept_methods(note):
    jax.eval_shape(lambda v, x: apply(v, x), variables, images)
  return found


def forms_of(layer, arguments) -> list[timing.Opponent]:
  """Each pass of one layer in each form."""
  input_shape, kernel_shape, strides, padding = layer
  keys = jax.random.split(jax.random.key(0), 3)
  dtype = jnp.dtype(arguments.dtype)
  inputs = jax.random.normal(keys[0], input_shape, dtype)
  kernel = jax.random.normal(keys[1], kernel_shape, dtype)
  how = {"strides": strides, "padding": padding}
  output = jax.eval_shape(
    functools.partial(convolution.native, **how), inputs, kernel
  )
  outputs = jax.random.normal(keys[2], output.shape, dtype)
  opponents = []

  def add(name, form, function, *arrays):
    run = jax.jit(function)
    opponents.append(
      timing.Opponent(
        lambda: jax.block_until_ready(run(*arrays)),
        facts_of(layer, output.shape, arguments) | {"pass": name, "form": form},
        arguments.batch,
      )
    )

  for form in ("native", "product"):
    conv = functools.partial(getattr(convolution, form), **how)

    def by_inputs(kernel, outputs, conv=conv):
      return jax.linear_transpose(lambda x: conv(x, kernel), inputs)(outputs)

    def by_kernel(inputs, outputs, conv=conv):
      return jax.linear_transpose(lambda k: conv(inputs, k), kernel)(outputs)

    add("forward", form, conv, inputs, kernel)
    add("inputs", form, by_inputs, kernel, outputs)
    add("kernel", form, by_kernel, inputs, outputs)
  groups = functools.partial(
    convolution.grouped_kernel_gradient, kernel_size=kernel_shape[:2], **how
  )
  add("kernel", "groups", groups, inputs, outputs)
  return opponents


def facts_of(layer, output_shape, arguments) -> dict:
  """Fields common to all records."""
  input_shape, kernel_shape, strides, _ = layer
  return {
    "bench": "conv_forms",
    "device": jax.devices()[0].device_kind,
    "dtype": arguments.dtype,
    "batch": arguments.batch,
    "map": "x".join(map(str, output_shape[1:3])),
    "kernel": "x".join(map(str, kernel_shape)),
    "strides": strides,
    "inputs": "x".join(map(str, input_shape[1:3])),
  }


if __name__ == "__main__":
  sys.exit(main())
