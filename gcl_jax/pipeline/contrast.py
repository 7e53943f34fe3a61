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

from gcl_jax import augment, losses
from gcl_jax.collectives import gather, pmean
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create, update
from gcl_jax.engine.train import Step, Training, batch_of
from gcl_jax.errors import DataError
from gcl_jax.models import heads
from gcl_jax.pipeline import clustering, encoders

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


def plan(config: ConfigDict, pool: int, total: int) -> Plan:
  """The plan of `epochs` epochs of batches of `batch_size`.

  Raises:
    DataError: the pool is smaller than a batch.
  """
  size = config.batch_size
  if pool < size:
    raise DataError(
      f"the pre-training pool has {pool} images, fewer than one batch of"
      f" {size}: lower the batch_size of pre-training"
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
    jitter=config.jitter,
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
      extra |= dict(
        slow=params, slow_stats=variables["batch_stats"], queue=queue
      )
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


def supcon_step(
  encoder: Any,
  head: Any,
  optimizer: optax.GradientTransformation,
  *,
  label_names: tuple[str, ...] = (),
  label_weights: tuple[float, ...] = (),
  temperature: float = 0.07,
  block_size: int | None = None,
  soft_width: float = 0.0,
  views: dict[str, Any] | None = None,
) -> Step:
  """One step of supervised contrastive pre-training; no labels = SimCLR.

  loss = sum_k weight_k * SupCon(z, labels_k). The weights should sum to one
  if losses of several label sets are to be on the scale of one.

  Args:
    encoder, head: models; batch statistics live in state.extra.
    optimizer: an optax transformation.
    label_names: keys of the batch with int[B] labels.
    label_weights: one weight per label set.
    temperature: of the softmax.
    block_size: rows and columns of a loss block, None = dense.
    soft_width: above 0, `batch["score"]` float[B] gives the affinity
      exp(-(difference / soft_width)^2 / 2) in place of label equality.
    views: keywords of `augment.two_crops`.
  """

  def contrast(z, batch, axis_name):
    common = dict(
      temperature=temperature, axis_name=axis_name, block_size=block_size
    )
    if soft_width:
      near = losses.kernel(soft_width)
      return losses.soft_supcon(z, near, meta=batch["score"], **common)
    if not label_names:
      return losses.supcon(z, **common)
    terms = [
      weight * losses.supcon(z, batch[name], **common)
      for name, weight in zip(label_names, label_weights, strict=True)
    ]
    return sum(terms)

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    images = augment.two_crops(keys, batch["image"], **(views or {}))

    def objective(params):
      stats = state.extra["batch_stats"]
      z, stats = _embed(encoder, head, params, stats, images, axis_name)
      return contrast(z, batch, axis_name), stats

    (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(
      state.params
    )
    value, grads = pmean((value, grads), axis_name)
    extra = {**state.extra, "batch_stats": stats}
    state = update(state, grads, optimizer, extra)
    metrics = {"loss": value}
    for name in label_names:
      metrics[f"positives/{name}"] = losses.positives_per_anchor(
        batch[name], axis_name=axis_name
      )
    return state, metrics

  return step


def moco_step(
  encoder: Any,
  head: Any,
  optimizer: optax.GradientTransformation,
  *,
  temperature: float = 0.07,
  momentum: float = 0.999,
  prototypes: bool = False,
  views: dict[str, Any] | None = None,
) -> Step:
  """One step of MoCo v2, or of PCL when `prototypes` is set.

  The query is the first view through the encoder, the key the second view
  through the momentum encoder; state.extra["queue"] float32[Q, D] holds the
  keys of the last Q images. PCL adds the prototype term of the clusterings
  in state.extra["clusters"], once there is one.
  """

  def step(state, batch, *, axis_name=None):
    sample = augment.sample_keys(state.key, state.step, batch["index"])
    images = augment.two_crops(sample, batch["image"], **(views or {}))
    slow = optax.incremental_update(
      state.params, state.extra["slow"], 1 - momentum
    )
    key, slow_stats = _embed(
      encoder, head, slow, state.extra["slow_stats"], images[:, 1:], axis_name
    )
    key = jax.lax.stop_gradient(key[:, 0])

    def objective(params):
      query, stats = _embed(
        encoder,
        head,
        params,
        state.extra["batch_stats"],
        images[:, :1],
        axis_name,
      )
      query = query[:, 0]
      queue = state.extra["queue"]
      value = losses.info_nce(query, key, queue, temperature=temperature)
      if prototypes:
        value += _prototype_term(query, batch["index"], state.extra["clusters"])
      return value, stats

    (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(
      state.params
    )
    value, grads = pmean((value, grads), axis_name)
    keys = gather(key, axis_name)
    queue = jnp.concatenate([keys, state.extra["queue"]])[
      : state.extra["queue"].shape[0]
    ]
    extra = {
      **state.extra,
      "batch_stats": stats,
      "slow": slow,
      "slow_stats": slow_stats,
      "queue": queue,
    }
    state = update(state, grads, optimizer, extra)
    return state, {"loss": value}

  return step


def _prototype_term(query, index, clusters):
  """Mean ProtoNCE over the clusterings; 0 before the first clustering."""
  value = losses.prototype_nce(
    query,
    clusters["centroids"],
    [assignment[index] for assignment in clusters["assignments"]],
    clusters["densities"],
  )
  return clusters["ready"] * value


def _embed(encoder, head, params, batch_stats, images, axis_name):
  """Images of V views, float32[B, V, ...] -> unit vectors float32[B, V, D]."""
  rows, views = images.shape[:2]
  features, batch_stats = encoder.apply(
    {"params": params["encoder"], "batch_stats": batch_stats},
    images.reshape(rows * views, *images.shape[2:]),
    train=True,
    axis_name=axis_name,
  )
  unit = head.apply(params["head"], features)
  return unit.reshape(rows, views, -1), batch_stats
