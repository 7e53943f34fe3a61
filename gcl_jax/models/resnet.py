"""ResNet encoders, of 8 to 50 layers, for small and large medical images."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.models.convolution import Conv
from gcl_jax.models.layers import Model, draw_kernels, max_pool

_BLOCKS = {
  "resnet8": ((1, 1, 1), False),
  "resnet10": ((1, 1, 1, 1), False),
  "resnet18": ((2, 2, 2, 2), False),
  "resnet34": ((3, 4, 6, 3), False),
  "resnet50": ((3, 4, 6, 3), True),
}
ARCHITECTURES = tuple(_BLOCKS)
STEMS = ("cifar", "imagenet", "oct")


def resnet(
  arch: str = "resnet18",
  stem: str = "cifar",
  width: int = 64,
  dtype: str = "float32",
  remat: bool = False,
) -> Model:
  """A residual network up to its global average (He et al. 2016, v1.5).

  `init(key, (H, W, C))` -> {"params", "batch_stats"}, all float32. Kernels are
  normal with variance 2 / (h w out), scales 1, biases 0.

  `apply(variables, images, *, train=False, axis_name=None, taps=False,
  maps=False)` -> (features float32[B, feature_dim], batch_stats), for images
  float[B, H, W, C]:

    train: normalises by the statistics of the batch and updates the running
      ones (momentum 0.9).
    axis_name: takes these statistics over the batches of all devices.
    taps: appends the spatial means after the stem and after each of the
      stages, a list of float32[B, channels].
    maps: appends (after the taps, if both are set) the feature maps behind
      those means, a list of float32[B, h, w, channels]; the last is the map
      that `features` averages. A stage after the first halves h and w.

  Args:
    arch: "resnet8" (three stages of one block, whose last map is twice as
      large as that of the others), "resnet10" (four of one block), "resnet18",
      "resnet34", "resnet50".
    stem: "cifar" (3x3, stride 1), "imagenet" (7x7, stride 2, 3x3 max-pool of
      stride 2) or "oct" (7x7, stride 2, no pool).
    width: channels of the stem; stages have 1, 2, 4 (and 8) times as many
      (resnet50: 4 times that at their ends). 64 is the published network.
    dtype: type of convolutions and activations, "float32" or "bfloat16".
      Parameters, statistics, features and maps stay float32.
    remat: recompute the activations inside residual blocks in the backward
      pass instead of storing them: less memory, about a third more arithmetic.

  Returns:
    The model; `feature_dim` is 8 width (resnet8: 4, resnet50: 32 width).

  Raises:
    ValueError: unknown `arch`, `stem` or `dtype`.
  """
  for name, value, known in (
    ("arch", arch, ARCHITECTURES),
    ("stem", stem, STEMS),
    ("dtype", dtype, ("float32", "bfloat16")),
  ):
    if value not in known:
      raise ValueError(f"{name} must be one of {known}, got {value!r}")
  blocks, bottleneck = _BLOCKS[arch]
  module = functools.partial(
    _ResNet, blocks, bottleneck, stem, width, jnp.dtype(dtype), remat
  )

  def apply(
    variables, images, *, train=False, axis_name=None, taps=False, maps=False
  ):
    stages, updated = module(train=train, axis_name=axis_name).apply(
      variables, images, mutable=["batch_stats"] if train else []
    )
    stats = updated["batch_stats"] if train else variables["batch_stats"]
    outputs = [_spatial_mean(stages[-1]), stats]
    if taps:
      outputs.append([_spatial_mean(stage) for stage in stages])
    if maps:
      outputs.append([stage.astype(jnp.float32) for stage in stages])
    return tuple(outputs)

  feature_dim = (width << len(blocks) - 1) * (4 if bottleneck else 1)
  return Model(functools.partial(_init, module()), apply, feature_dim)


def _init(module: nn.Module, key: jax.Array, image_shape: Sequence[int]):
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), image)
  return draw_kernels(key, shapes, _fan_out_scale)


def _fan_out_scale(path, shape) -> float:
  height, width, _, features = shape
  return np.sqrt(2 / (height * width * features))


class _ResNet(nn.Module):
  """Feature maps after the stem and after each stage."""

  blocks: Sequence[int]
  bottleneck: bool
  stem: str
  width: int
  dtype: Any
  remat: bool = False
  train: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images):
    conv = functools.partial(Conv, dtype=self.dtype)
    norm = functools.partial(
      nn.BatchNorm,
      use_running_average=not self.train,
      momentum=0.9,
      dtype=self.dtype,
      axis_name=self.axis_name,
    )
    if self.stem == "cifar":
      hidden = conv(self.width, (3, 3), 1, 1, name="stem")(images)
    else:
      hidden = conv(self.width, (7, 7), 2, 3, name="stem")(images)
    hidden = nn.relu(norm(name="stem_norm")(hidden))
    if self.stem == "imagenet":
      hidden = max_pool(hidden)
    stages = [hidden]
    block = _Bottleneck if self.bottleneck else _Basic
    block = nn.remat(block) if self.remat and self.train else block
    for stage, count in enumerate(self.blocks):
      for index in range(count):
        stride = 2 if stage and not index else 1
        name = f"stage{stage + 1}_block{index + 1}"
        hidden = block(self.width << stage, stride, conv, norm, name=name)(
          hidden
        )
      stages.append(hidden)
    return stages


def _spatial_mean(hidden):
  return jnp.mean(hidden, (1, 2), dtype=jnp.float32)


class _Basic(nn.Module):
  """Two 3x3 convolutions beside a shortcut."""

  features: int
  stride: int
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, inputs):
    hidden = self.conv(self.features, (3, 3), self.stride, 1)(inputs)
    hidden = nn.relu(self.norm()(hidden))
    hidden = self.conv(self.features, (3, 3), 1, 1)(hidden)
    hidden = self.norm()(hidden)
    return nn.relu(hidden + _shortcut(self, inputs, hidden.shape[-1]))


class _Bottleneck(nn.Module):
  """Three convolutions beside a shortcut, 1x1, 3x3 and 1x1.

  The 3x3 one has the stride (v1.5), the last one four times the channels.
  """

  features: int
  stride: int
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, inputs):
    hidden = self.conv(self.features, (1, 1))(inputs)
    hidden = nn.relu(self.norm()(hidden))
    hidden = self.conv(self.features, (3, 3), self.stride, 1)(hidden)
    hidden = nn.relu(self.norm()(hidden))
    hidden = self.conv(4 * self.features, (1, 1))(hidden)
    hidden = self.norm()(hidden)
    return nn.relu(hidden + _shortcut(self, inputs, hidden.shape[-1]))


def _shortcut(block, inputs, features):
  if inputs.shape[-1] == features and block.stride == 1:
    return inputs
  inputs = block.conv(features, (1, 1), block.stride, name="shortcut")(inputs)
  return block.norm(name="shortcut_norm")(inputs)
