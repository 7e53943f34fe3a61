"""An encoder and a linear head trained together on labels.

From pre-trained weights this is a full fine-tune; from random weights it is
the supervised reference.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import jax
import numpy as np
from ml_collections import ConfigDict

from gcl_jax import losses
from gcl_jax.engine import feed, parallel
from gcl_jax.engine.context import Context
from gcl_jax.engine.train import Training
from gcl_jax.errors import DataError
from gcl_jax.losses.segmentation import inverse_frequency
from gcl_jax.models import heads
from gcl_jax.pipeline import encoders
from gcl_jax.pipeline.finetune_steps import (
  Transform,
  arguments_of,
  outputs,
  training,
)


def fit(
  context: Context,
  config: ConfigDict,
  encoder: Any,
  pixels: np.ndarray,
  targets: np.ndarray,
  rows: np.ndarray,
  *,
  views: dict[str, Any],
  ids: np.ndarray,
  name: str,
  variables: Any = None,
  labels: int | None = None,
  class_weights: np.ndarray | None = None,
  batch_rows: int | None = None,
  transform: Transform | None = None,
  shared: Training | None = None,
) -> dict[str, Any]:
  """Trains encoder and head on the labelled ones among the rows.

  A batch has as many rows as configured, or as there are. A stopped run goes on
  from the last checkpoint of the fit of this name.

  Args:
    context: of the stage.
    config: as in `finetune_steps.training`, and `balanced`.
    encoder: from `encoders.make`.
    pixels: array-like uint8[N, H, W, C] (see `engine.arrays`).
    targets: float[N, K] of 1, 0, nan = missing; or float[N] of grades.
    rows: int[R], positions of the rows that may be used.
    views: keywords of `augment.crop`.
    ids: str[N], of the images.
    name: of the fit.
    variables: the encoder's start; None draws it.
    labels: K of grades; binary labels have as many as columns.
    class_weights: as in `finetune_steps.training`; None takes those of
      `config.balanced`.
    batch_rows: number of rows that sets the size of a batch instead; rows are
      then drawn as often as it takes.
    transform: of the images before their views, as in
      `finetune_steps.classify_step`.
    shared: from `finetune_steps.training` with this encoder, views and size of
      a batch; fits that are given the same one take one program. None makes it.

  Returns:
    `encoder` (params, batch_stats) and `head` variables, numpy.

  Raises:
    DataError: fewer than two labelled rows, or a grade off the scale.
  """
  if config.loss != "sigmoid":
    targets = _grades(targets, labels, name)
  missing = np.isnan(targets[rows])
  rows = rows[~missing.reshape(len(rows), -1).all(1)]
  if len(rows) < 2:
    raise DataError(f"{name}: {len(rows)} labelled images are too few to train")
  size = min(config.batch_size, batch_rows or len(rows))
  size = parallel.divisible(size, context.mesh)
  drawn = np.tile(rows, -(-size // len(rows)))
  if class_weights is None and config.balanced:
    class_weights = _balanced(targets[rows], labels)
  arrays = {"image": pixels, "target": np.asarray(targets, np.float32)}
  seed, labels = context.config.seed, labels or targets.shape[1]
  if shared is None:
    shared = training(
      config,
      encoder,
      pixels.shape[1:],
      labels,
      views,
      batch_size=size,
      transform=transform,
    )
  if size != shared.batch["image"].shape[0]:
    raise ValueError(f"{name}: batches of {size}, not those of the shared step")
  begin = arguments_of(config, labels, variables, class_weights)
  state = context.fit(
    shared._replace(arguments=begin),
    lambda start: feed.batches(
      arrays, size, seed=seed, start=start, steps=config.steps, rows=drawn
    ),
    steps=config.steps,
    name=name,
    seed=seed,
    ids=ids,
    checkpoints=context.checkpoints(f"checkpoints-{quote(name, '')}", keep=1),
    save_every=max(1, config.steps // 3),
  )
  found = {
    "encoder": {
      "params": state.params["encoder"],
      "batch_stats": state.extra["batch_stats"],
    },
    "head": state.params["head"],
  }
  return jax.tree.map(np.asarray, found)


def _balanced(targets: np.ndarray, labels: int | None) -> np.ndarray:
  """Class weights: both values of a label, or every grade, weigh the same."""
  if targets.ndim == 2:
    return losses.balanced(targets)
  known = np.where(np.isnan(targets), -1, targets).astype(int)
  return inverse_frequency(known, labels)


def _grades(targets: np.ndarray, labels: int | None, name: str) -> np.ndarray:
  """Grades float[N], -1 as nan; DataError for any that is off the scale."""
  grades = np.where(targets == -1, np.nan, np.asarray(targets, float))
  if grades.ndim != 1 or labels is None or labels < 2:
    raise DataError(
      f"{name}: grades must be [N] and at least 2, got shape {grades.shape} and"
      f" {labels} grades"
    )
  known = np.flatnonzero(~np.isnan(grades))
  odd = known[~np.isin(grades[known], np.arange(labels))]
  if len(odd):
    raise DataError(
      f"{name}: row {odd[0]} has grade {grades[odd[0]]:g}, not one of 0 to"
      f" {labels - 1}"
    )
  return grades


def predictor(
  encoder: Any,
  labels: int,
  statistics: tuple[float, float],
  kind: str = "sigmoid",
) -> Callable:
  """fn(trained, batch) for `Context.map`: probabilities float32[B, K].

  It is a classifier of `fit` in evaluation mode. Made once, it is compiled once
  a stage, whatever number of classifiers it is given. The probabilities of
  "softmax" and "ordinal" sum to 1 over the K grades.

  Args:
    encoder: from `encoders.make`.
    labels: K, of labels or grades.
    statistics: mean and standard deviation of training pixels in [0, 1].
    kind: of `losses.cross_entropy`.
  """
  head = heads.linear(outputs(kind, labels))
  logits = encoders.headed(encoder, head, *statistics)
  probabilities = {
    "sigmoid": jax.nn.sigmoid,
    "softmax": jax.nn.softmax,
    "ordinal": losses.ordinal_probabilities,
  }[kind]
  return lambda trained, batch: probabilities(logits(trained, batch))
