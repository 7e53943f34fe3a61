"""Frozen encoders: made by name, and run once over a data set."""

from typing import Any

import numpy as np

from gcl_jax import augment
from gcl_jax.engine import sweep
from gcl_jax.models.resnet import resnet


def make(config: Any) -> Any:
  """A ResNet as two pure functions; see `gcl_jax.models.resnet.resnet`.

  Args:
    config: with `arch`, `stem`, `width`, `dtype` and `remat`.
  """
  return resnet(
    config.arch, config.stem, config.width, config.dtype, config.remat
  )


def embedder(encoder: Any, head: Any, mean: float, std: float) -> Any:
  """fn(tree, batch) for a sweep: unit vectors float32[B, D] of a head."""

  def embed(tree, batch):
    images = augment.normalise(batch["image"], mean, std)
    features, _ = encoder.apply(tree["encoder"], images, train=False)
    return head.apply(tree["head"], features)

  return embed


def pooled(encoder: Any, mean: float, std: float) -> Any:
  """fn(variables, batch) for a sweep: pooled features float32[B, D]."""

  def one_batch(tree, batch):
    images = augment.normalise(batch["image"], mean, std)
    return encoder.apply(tree, images, train=False)[0]

  return one_batch


def features(
  encoder: Any,
  variables: Any,
  pixels: np.ndarray,
  *,
  mean: float,
  std: float,
  mesh: Any,
  mode: str,
  batch_size: int = 64,
  name: str = "features",
  telemetry: Any = None,
) -> np.ndarray:
  """Pooled features of every image in evaluation mode, float32[N, D].

  Args:
    encoder: a model of `make`.
    variables: its params and batch_stats.
    pixels: uint8[N, H, W, C].
    mean, std: of the pixels scaled to [0, 1], as in training.
    mesh, mode: see `gcl_jax.engine.parallel`.
    batch_size: images a step.
    name, telemetry: for the progress bar.
  """
  return sweep.map_examples(
    pooled(encoder, mean, std),
    variables,
    {"image": pixels},
    mesh=mesh,
    mode=mode,
    batch_size=batch_size,
    name=name,
    telemetry=telemetry,
  )
