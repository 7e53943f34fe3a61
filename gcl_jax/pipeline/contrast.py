"""Contrastive pre-training of a ResNet: SupCon, SimCLR, MoCo v2 and PCL.

All of them share encoder, initial weights, views, batch size, optimiser and
number of steps, so that what they learn can be compared.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create
from gcl_jax.engine.train import Training, batch_of
from gcl_jax.errors import DataError
from gcl_jax.models import heads
from gcl_jax.pipeline import clustering, encoders
from gcl_jax.pipeline.contrast_steps import moco_step, supcon_step

LOSSES = ("supcon", "soft", "moco", "pcl")


class Networks(NamedTuple):
  """Encoder, projection head and optimiser; batch statistics in state.extra."""

  encoder: Any
  head: Any
  optimizer: optax.GradientTransformation


class Plan(NamedTuple):
  """Numbers of a run of pre-training.

  Attributes:
    pool: images that pre-training sees.
    total: images of the data set.
    epoch: steps of an epoch.
    steps: of all epochs.
  """

  pool: int
  total: int
  epoch: int
  steps: int


def plan(
  config: ConfigDict, pool: int, total: int, section: str = "pretrain"
) -> Plan:
  """The plan of `epochs` epochs of batches of `batch_size`.

  Args:
    config: `epochs` and `batch_size`.
    pool, total: of `Plan`.
    section: name of `config`, for the message.

  Raises:
    DataError: the pool is smaller than a batch.
  """
  size = config.batch_size
  if pool < size:
    raise DataError(
      f"the pre-training pool has {pool} images, fewer than one batch of"
      f" {size}: lower --config.{section}.batch_size"
    )
  epoch = pool // size
  return Plan(pool, total, epoch, int(config.epochs * epoch))


def networks(config: ConfigDict, numbers: Plan) -> Networks:
  """Networks and optimiser of a contrastive section.

  Args:
    config: of the encoder (`encoders.make`), `head_hidden`, `head_out`,
      `optimizer`, `learning_rate`, `warmup_epochs`, `schedule`, `momentum`,
      `weight_decay`.
    numbers: from `plan`.
  """
  warmup = int(config.warmup_epochs * numbers.epoch)
  return Networks(
    encoders.make(config),
    heads.projection(config.head_hidden, config.head_out),
    make_optimizer(
      config.optimizer,
      config.learning_rate,
      steps=numbers.steps,
      warmup_steps=min(warmup, max(numbers.steps - 1, 0)),
      schedule=config.schedule,
      momentum=config.momentum,
      weight_decay=config.weight_decay,
    ),
  )


def views_of(config: ConfigDict, mean: float, std: float) -> dict[str, Any]:
  """Keywords of `augment.two_crops`; mean and sd of the pool's pixels."""
  return dict(
    crop_scale=tuple(config.crop_scale),
    flip=config.flip,
    brightness=config.brightness,
    contrast=config.contrast,
    saturation=config.saturation,
    hue=config.hue,
    jitter=config.jitter,
    grayscale=config.grayscale,
    blur=config.blur,
    noise=config.noise,
    mean=mean,
    std=std,
  )


def training(
  config: ConfigDict,
  loss: str,
  label_names: tuple[str, ...],
  shape: tuple[int, ...],
  numbers: Plan,
  statistics: tuple[float, float],
) -> Training:
  """What is trained with a loss; the same first weights for every loss.

  Args:
    config: as of `networks` and `views_of`, and `temperature`, `batch_size`,
      `block_size`, `label_weights`, `kernel_width`, `queue`,
      `momentum_encoder`, `clusters`.
    loss: one of `LOSSES`; "supcon" without label sets is SimCLR.
    label_names: label sets of "supcon", keys of the batch with int32[B].
    shape: (H, W, C) of the images.
    numbers: from `plan`.
    statistics: mean and standard deviation of the pool's pixels in [0, 1].
  """
  nets = networks(config, numbers)
  views = views_of(config, *statistics)
  if loss in ("moco", "pcl"):
    step = moco_step(
      *nets,
      temperature=config.temperature,
      momentum=config.momentum_encoder,
      prototypes=loss == "pcl",
      views=views,
    )
  else:
    step = supcon_step(
      *nets,
      label_names=label_names,
      label_weights=tuple(config.label_weights) if label_names else (),
      temperature=config.temperature,
      block_size=config.block_size or None,
      soft_width=config.kernel_width if loss == "soft" else 0.0,
      views=views,
    )
  columns = {name: (np.int32,) for name in label_names}
  if loss == "soft":
    columns["score"] = (np.float32,)
  batch = batch_of(config.batch_size, image=(np.uint8, *shape), **columns)
  return Training(step, _initial(config, nets, loss, shape, numbers), batch)


def _initial(config, nets, loss, shape, numbers) -> Callable[..., State]:
  def init(key):
    for_encoder, for_head, for_steps = jax.random.split(key, 3)
    variables = nets.encoder.init(for_encoder, shape)
    params = {
      "encoder": variables["params"],
      "head": nets.head.init(for_head, (nets.encoder.feature_dim,)),
    }
    extra = {"batch_stats": variables["batch_stats"]}
    if loss in ("moco", "pcl"):
      queue = jax.random.normal(
        for_head, (min(config.queue, numbers.pool), config.head_out)
      )
      queue /= jnp.linalg.norm(queue, axis=1, keepdims=True)
      teacher = {"params": params, "batch_stats": variables["batch_stats"]}
      extra |= {"teacher": teacher, "queue": queue}
    if loss == "pcl":
      extra["clusters"] = clustering.none_yet(
        config, numbers.pool, numbers.total
      )
    return create(params, nets.optimizer, for_steps, extra)

  return init


def encoder_of(state: State) -> dict[str, Any]:
  """The encoder's params and batch_stats as an artifact, without the head."""
  variables = {
    "params": state.params["encoder"],
    "batch_stats": state.extra["batch_stats"],
  }
  return jax.tree.map(np.asarray, variables)
