"""ResNet encoders by their settings, and their frozen features."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.engine.context import Context
from gcl_jax.models.resnet import resnet


def make(config: ConfigDict) -> Any:
  """The ResNet of `arch`, `stem`, `width`, `dtype` and `remat`.

  See `gcl_jax.models.resnet.resnet`.
  """
  return resnet(
    config.arch, config.stem, config.width, config.dtype, config.remat
  )


def pooled(encoder: Any, mean: float, std: float) -> Callable:
  """fn(variables, batch) for `Context.map`: pooled features float32[B, D].

  Args:
    encoder: from `make`.
    mean, std: of training pixels scaled to [0, 1].
  """

  def one_batch(tree, batch):
    images = augment.normalise(batch["image"], mean, std)
    return encoder.apply(tree, images, train=False)[0]

  return one_batch


def headed(encoder: Any, head: Any, mean: float, std: float) -> Callable:
  """fn({"encoder", "head"}, batch) for `Context.map`: the head's output."""

  def one_batch(tree, batch):
    images = augment.normalise(batch["image"], mean, std)
    features, _ = encoder.apply(tree["encoder"], images, train=False)
    return head.apply(tree["head"], features)

  return one_batch


def features(
  context: Context,
  encoder: Any,
  variables: Any,
  pixels: np.ndarray,
  *,
  statistics: tuple[float, float],
  batch_size: int,
  name: str,
) -> np.ndarray:
  """Pooled features of every image in evaluation mode, float32[N, D].

  Args:
    context: of the stage.
    encoder: from `make`.
    variables: its params and batch_stats.
    pixels: uint8[N, H, W, C].
    statistics: mean and standard deviation of training pixels in [0, 1].
    batch_size: images at a time.
    name: of the progress bar and the throughput record.
  """
  return context.map(
    pooled(encoder, *statistics),
    variables,
    {"image": pixels},
    batch_size=batch_size,
    name=name,
  )
