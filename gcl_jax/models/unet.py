"""The 2-D U-Net of positional contrastive learning, encoder and decoder.

Ronneberger et al. 2015 with the layers of Zeng et al. (PCL, MICCAI 2021):

  encoder   every level but the last: two 3x3 convolutions, each with batch
            normalisation and LeakyReLU(0.01), then a 2x2 max-pool
  bottleneck  the last level: two 3x3 convolutions with biases and ReLU
  decoder   a 2x2 up-convolution of stride 2, the encoder's map of that size
            beside it, two 3x3 convolutions as in the encoder; 1x1 to classes

Convolutions before a normalisation have no bias, which it would subtract.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gcl_jax.models import heads
from gcl_jax.models.convolution import Conv
from gcl_jax.models.layers import Model, draw_kernels
from gcl_jax.models.transposed import depth_to_space

_SLOPE = 0.01  # of the LeakyReLU below 0


class UNet(NamedTuple):
  """A U-Net as pure functions.

  `variables` is {"params", "batch_stats"}, each {"encoder", "decoder"}, all
  float32. `encode` reads the "encoder" half of both only. With `train`, layers
  normalise by the statistics of the batch and update the running ones
  (momentum 0.9); with `axis_name`, by statistics over the batches of all
  devices. Images are float[B, H, W, C]; ValueError if a side is not a multiple
  of `stride`.

  Attributes:
    init: `init(key, (H, W, C))` -> variables. Kernels are normal with variance
      2 / (1 + 0.01^2) / fan_in (He et al. 2015), scales 1, biases 0.
    encode: `encode(variables, images, *, train=False, axis_name=None)` ->
      ((bottleneck, skips), batch_stats): bottleneck float32[B, H / stride,
      W / stride, feature_dim]; skips, one map per upper level, full size first.
    segment: `segment(variables, images, *, train=False, axis_name=None)` ->
      (logits float32[B, H, W, classes], batch_stats).
    decode: `decode(variables, (bottleneck, skips), *, levels_up, train=False,
      axis_name=None)` -> (map, batch_stats): the decoder's map after
      `levels_up` up-steps, float32[B, H / s, W / s, C] with s = stride /
      2^levels_up and C = widths[-1 - levels_up]. 0 gives the bottleneck,
      levels - 1 the map before the output layer; ValueError beyond. Later
      decoder stages are not computed: the gradients of their parameters are 0,
      their statistics do not change, and `variables` may lack them. With
      `train`, `variables` hold the statistics that `encode` returned.
    subset: `subset(variables, levels_up)` -> the variables that `decode`
      needs for this `levels_up`: the encoder and the decoder stages "up<k>" and
      "level<k>" up to there. Training only these avoids weight decay on layers
      without a gradient.
    transfer: `transfer(fresh, pretrained)` -> fresh variables in which the
      pretrained encoder and every decoder stage in `pretrained` replace the
      fresh ones, parameters and statistics. ValueError, naming the array, if
      one is missing, unknown or of another shape.
    feature_dim: channels of the bottleneck.
    stride: pixels per side of a bottleneck cell, 2^(levels - 1).
  """

  init: Callable[..., Any]
  encode: Callable[..., Any]
  segment: Callable[..., Any]
  decode: Callable[..., Any]
  subset: Callable[[Any, int], Any]
  transfer: Callable[[Any, Any], Any]
  feature_dim: int
  stride: int


def unet(
  widths: Sequence[int] = (48, 96, 192, 384, 768),
  classes: int = 4,
  dtype: str | None = None,
) -> UNet:
  """A U-Net with one level per width, the last of them the bottleneck.

  Args:
    widths: channels of the levels, two or more; the paper's are f, 2f, ..., 16f
      with f = 48 (ACDC, HVSMR) or 32 (CHD, MMWHS).
    classes: channels of the logits, background included.
    dtype: type of convolutions and activations, "float32" (also None) or
      "bfloat16". Parameters, statistics, logits and the maps of `encode` and
      `decode`, skips excepted, stay float32.

  Returns:
    UNet, a NamedTuple of pure functions.

  Raises:
    ValueError: fewer than two widths, a width or `classes` below 1, unknown
      `dtype`.
  """
  widths = tuple(widths)
  if len(widths) < 2 or min(*widths, classes) < 1:
    raise ValueError(
      "a U-Net wants at least two widths and one class, all at least 1, got "
      f"widths={widths} and classes={classes}"
    )
  if dtype not in (None, "float32", "bfloat16"):
    raise ValueError(f"dtype must be float32 or bfloat16, got {dtype!r}")
  dtype = jnp.dtype(dtype or "float32")
  stride = 2 ** (len(widths) - 1)
  encoder = functools.partial(_Encoder, widths, dtype)
  decoder = functools.partial(_Decoder, widths[:-1], classes, dtype)

  def init(key, image_shape):
    _check((1, *image_shape), stride)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = _shapes(encoder(), decoder(), images)
    return draw_kernels(key, shapes, _fan_in_scale)

  def encode(variables, images, *, train=False, axis_name=None):
    _check(images.shape, stride)
    module = encoder(train=train, axis_name=axis_name)
    return _apply(module, "encoder", variables, train, images)

  def decode(variables, encoded, *, levels_up, train=False, axis_name=None):
    _check_levels(levels_up, widths)
    if levels_up == 0:
      return encoded[0], variables["batch_stats"]
    return run_decoder(variables, encoded, levels_up, train, axis_name)

  def run_decoder(variables, encoded, levels_up, train, axis_name):
    module = decoder(train=train, axis_name=axis_name)
    inputs = *encoded, levels_up
    return _apply(module, "decoder", variables, train, *inputs)

  def segment(variables, images, *, train=False, axis_name=None):
    encoded, stats = encode(variables, images, train=train, axis_name=axis_name)
    variables = {"params": variables["params"], "batch_stats": stats}
    return run_decoder(variables, encoded, None, train, axis_name)

  def subset(variables, levels_up):
    _check_levels(levels_up, widths)
    run = range(len(widths) - levels_up, len(widths))
    return _subset(variables, [f"{x}{k}" for x in ("up", "level") for k in run])

  return UNet(
    *(init, encode, segment, decode, subset, _transfer),
    *(widths[-1], stride),
  )


def pixel_projection(channels: int, out: int = 128) -> Model:
  """Head on maps: 1x1 convolution, ReLU, 1x1 convolution, unit length.

  A 1x1 convolution is a linear layer on the last axis, so this is
  `heads.projection` with as many hidden channels as the map has.
  `init(key, (channels,))` -> variables; `apply(variables, maps
  float[B, h, w, channels])` -> float32[B, h, w, out], the vector at every
  position of Euclidean length 1.

  Args:
    channels: of the map, `UNet.feature_dim`.
    out: length of the projected vectors.
  """
  return heads.projection(hidden=channels, out=out)


def _check(shape, stride):
  if len(shape) != 4:
    raise ValueError(f"images must be [B, H, W, C], got {tuple(shape)}")
  for name, side in zip(("height", "width"), shape[1:3], strict=True):
    if side < stride or side % stride:
      below = side // stride * stride
      near = [str(x) for x in (below, below + stride) if x]
      raise ValueError(
        f"image {name} {side} is not a multiple of {stride}, as this U-Net "
        f"needs: pad or crop it to {' or '.join(near)}"
      )


def _apply(module, name, variables, train, *inputs):
  """Outputs of one half of the network, and the statistics of both halves."""
  params, stats = variables["params"][name], variables["batch_stats"]
  outputs, updated = module.apply(
    {"params": params, "batch_stats": stats[name]},
    *inputs,
    mutable=["batch_stats"] if train else [],
  )
  return outputs, {**stats, name: updated["batch_stats"]} if train else stats


def _check_levels(levels_up, widths):
  if levels_up not in range(len(widths)):
    raise ValueError(
      f"levels_up must be 0 to {len(widths) - 1} for a U-Net of {len(widths)}"
      f" levels, got {levels_up}"
    )


def _subset(variables, stages):
  """The encoder and the decoder stages with these names."""
  return {
    kind: {
      "encoder": halves["encoder"],
      "decoder": {
        name: stage
        for name, stage in halves.get("decoder", {}).items()
        if name in stages
      },
    }
    for kind, halves in variables.items()
  }


def _transfer(fresh, pretrained):
  stages = pretrained["params"].get("decoder", {})
  wanted = flatten_dict(_subset(fresh, stages), sep="/")
  given = flatten_dict(pretrained, sep="/")
  for name in sorted(wanted | given):
    shape, fits = (
      jnp.shape(arrays[name]) if name in arrays else "absent"
      for arrays in (given, wanted)
    )
    if shape != fits:
      raise ValueError(
        f"the pretrained network does not fit this U-Net: {name} is {shape}"
        f" there and {fits} here; widths, image channels and, where the output"
        " layer is transferred, classes of both must be the same"
      )
  return unflatten_dict(flatten_dict(fresh, sep="/") | given, sep="/")


def _shapes(encoder, decoder, images):
  def both(key, images):
    (bottleneck, skips), first = encoder.init_with_output(key, images)
    second = decoder.init(key, bottleneck, skips)
    return {
      kind: {"encoder": first[kind], "decoder": second[kind]} for kind in first
    }

  return jax.eval_shape(both, jax.random.key(0), images)


def _fan_in_scale(path, shape):
  return np.sqrt(2 / (1 + _SLOPE**2) / np.prod(shape[:3]))


def _halve(inputs):
  """2x2 max-pool of even sides; equal largest inputs share the gradient."""
  batch, height, width, channels = inputs.shape
  cells = inputs.reshape(batch, height // 2, 2, width, channels)
  rows = jnp.maximum(cells[:, :, 0], cells[:, :, 1])
  cells = rows.reshape(batch, height // 2, width // 2, 2, channels)
  return jnp.maximum(cells[:, :, :, 0], cells[:, :, :, 1])


class _Level(nn.Module):
  """Twice: 3x3 convolution, batch normalisation, LeakyReLU."""

  width: int
  dtype: Any
  train: bool
  axis_name: str | None

  @nn.compact
  def __call__(self, hidden):
    for _ in range(2):
      hidden = Conv(self.width, padding=1, dtype=self.dtype)(hidden)
      hidden = nn.BatchNorm(
        use_running_average=not self.train,
        momentum=0.9,
        dtype=self.dtype,
        axis_name=self.axis_name,
      )(hidden)
      hidden = nn.leaky_relu(hidden, _SLOPE)
    return hidden


class _Encoder(nn.Module):
  widths: Sequence[int]
  dtype: Any
  train: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, hidden):
    skips = []
    for k, width in enumerate(self.widths[:-1], 1):
      level = _Level(
        width, self.dtype, self.train, self.axis_name, name=f"level{k}"
      )
      skips.append(level(hidden))
      hidden = _halve(skips[-1])
    for k in (1, 2):
      hidden = Conv(
        self.widths[-1],
        padding=1,
        use_bias=True,
        dtype=self.dtype,
        name=f"bottleneck{k}",
      )(hidden)
      hidden = nn.relu(hidden)
    return hidden.astype(jnp.float32), tuple(skips)


class _Decoder(nn.Module):
  widths: Sequence[int]
  classes: int
  dtype: Any
  train: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, hidden, skips, levels_up=None):
    """Logits, or with `levels_up` the map after so many up-steps."""
    levels = len(self.widths)
    last = 0 if levels_up is None else levels - levels_up
    for k in reversed(range(last, levels)):
      width = self.widths[k]
      # Windows of a 2x2 up-convolution of stride 2 do not overlap: it is one
      # product per input position, its outputs laid out as a 2x2 cell.
      up = Conv(4 * width, (1, 1), dtype=self.dtype, name=f"up{k + 1}")
      hidden = depth_to_space(up(hidden))
      hidden = jnp.concatenate([hidden, skips[k]], axis=-1)
      level = _Level(
        width, self.dtype, self.train, self.axis_name, name=f"level{k + 1}"
      )
      hidden = level(hidden)
    hidden = hidden.astype(jnp.float32)
    if levels_up is not None:
      return hidden
    return Conv(self.classes, (1, 1), use_bias=True, name="output")(hidden)
