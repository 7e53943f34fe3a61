"""What pre-training on slices has in common, whatever its loss."""

import numpy as np
import optax
from ml_collections import ConfigDict

from gcl_jax.engine import feed
from gcl_jax.engine.context import Context
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State
from gcl_jax.engine.train import Training
from gcl_jax.errors import DataError
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.sampling import Sampler


def pool_of(
  images: Prepared, settings: ConfigDict, protocol: str
) -> np.ndarray:
  """Rows int[P] that pre-training may see.

  Args:
    images: the prepared slices.
    settings: of the arm, `batch_size`.
    protocol: "strict" or "transductive".

  Raises:
    DataError: fewer slices than a batch.
  """
  pool, size = np.flatnonzero(images.pool(protocol)), settings.batch_size
  if len(pool) < size:
    raise DataError(
      f"the pre-training pool has {len(pool)} slices, fewer than one batch of"
      f" {size}: lower --config.pretrain.batch_size"
    )
  return pool


def optimizer_of(settings: ConfigDict) -> optax.GradientTransformation:
  """The optimiser of an arm; `warmup` is a share of its `steps`."""
  return make_optimizer(
    settings.optimizer,
    settings.learning_rate,
    steps=settings.steps,
    warmup_steps=int(settings.warmup * settings.steps),
    schedule=settings.schedule,
    momentum=settings.momentum,
    weight_decay=settings.weight_decay,
  )


def fit(
  context: Context,
  training: Training,
  images: Prepared,
  arrays: dict[str, np.ndarray],
  rows_at: Sampler,
  steps: int,
  arm: str,
) -> State:
  """The state after `steps` steps of an arm, saved five times on the way.

  Args:
    context: of the stage.
    training: what is trained.
    images: the prepared slices.
    arrays: the columns of a batch, a row for every slice.
    rows_at: step -> the rows of its batch.
    steps: of the arm.
    arm: its name.
  """
  config = context.config
  return context.fit(
    training,
    lambda start: feed.batches_from(
      arrays, rows_at, start=start, steps=steps, workers=config.workers
    ),
    steps=steps,
    name=arm,
    seed=config.seed,
    ids=images.ids,
    save_every=max(1, steps // 5),
  )
