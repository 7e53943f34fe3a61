"""An encoder and a linear head trained together on labels.

From pre-trained weights this is a full fine-tune; from random weights it is
the supervised reference.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gcl_jax import augment, losses
from gcl_jax.engine import feed, parallel
from gcl_jax.engine.context import Context
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create, descend
from gcl_jax.engine.train import Step, Training, batch_of
from gcl_jax.errors import DataError
from gcl_jax.models import heads
from gcl_jax.pipeline import encoders


def classify_step(
  encoder: Any,
  head: Any,
  optimizer: optax.GradientTransformation,
  *,
  views: dict[str, Any],
  kind: str = "sigmoid",
) -> Step:
  """One step of classification on augmented images.

  batch["target"] is float32[B, K] of 1, 0 or nan = missing for "sigmoid", and
  float32[B] of grades 0 to K - 1 or nan for "softmax" and "ordinal"; the mean
  is over the labels that are there, in the whole batch over all devices.

  Args:
    encoder, head: models; batch statistics live in state.extra.
    optimizer: an optax transformation.
    views: keywords of `augment.crop`.
    kind: of `losses.cross_entropy`; weights float32[K] of the classes are in
      state.extra["class_weights"] where there are any.
  """

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    images = augment.crop(keys, batch["image"], **views)

    def objective(params):
      features, stats = encoder.apply(
        {
          "params": params["encoder"],
          "batch_stats": state.extra["batch_stats"],
        },
        images,
        train=True,
        axis_name=axis_name,
      )
      value = losses.cross_entropy(
        head.apply(params["head"], features),
        batch["target"],
        kind=kind,
        class_weights=state.extra.get("class_weights"),
        axis_name=axis_name,
      )
      return value, stats

    state, value = descend(state, objective, optimizer, axis_name)
    return state, {"loss": value}

  return step


def outputs(kind: str, labels: int) -> int:
  """Number of logits: one less than the grades for "ordinal"."""
  return labels - 1 if kind == "ordinal" else labels


def training(
  config: ConfigDict,
  encoder: Any,
  shape: tuple[int, ...],
  labels: int,
  views: dict[str, Any],
  variables: Any = None,
  batch_size: int | None = None,
  class_weights: np.ndarray | None = None,
) -> Training:
  """Encoder and head on binary labels, or on grades.

  Args:
    config: `batch_size`, `steps`, `learning_rate`, `optimizer`, `loss`; a
      short warm-up, then cosine.
    encoder: from `encoders.make`.
    shape: (H, W, C) of the images.
    labels: K, the number of labels, or of grades.
    views: keywords of `augment.crop`.
    variables: the encoder's start; None draws it.
    batch_size: where it is not the configured one.
    class_weights: float[K]; None weighs all the same.
  """
  kind = config.loss
  head = heads.linear(outputs(kind, labels))
  optimizer = make_optimizer(
    config.optimizer,
    config.learning_rate,
    steps=config.steps,
    warmup_steps=config.steps // 20,
    schedule="cosine",
    weight_decay=1e-4,
  )
  return Training(
    classify_step(encoder, head, optimizer, views=views, kind=kind),
    _initial(encoder, head, optimizer, shape, class_weights),
    batch_of(
      batch_size or config.batch_size,
      image=(np.uint8, *shape),
      target=(np.float32, *([labels] if kind == "sigmoid" else [])),
    ),
    () if variables is None else (variables,),
  )


def _initial(
  encoder, head, optimizer, shape, class_weights
) -> Callable[..., State]:
  def init(key, variables=None):
    for_encoder, for_head, for_steps = jax.random.split(key, 3)
    begin = variables
    if begin is None:
      begin = encoder.init(for_encoder, shape)
    params = {
      "encoder": begin["params"],
      "head": head.init(for_head, (encoder.feature_dim,)),
    }
    extra = {"batch_stats": begin["batch_stats"]}
    if class_weights is not None:
      extra["class_weights"] = jnp.asarray(class_weights, jnp.float32)
    return create(params, optimizer, for_steps, extra)

  return init


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
) -> dict[str, Any]:
  """Trains encoder and head on the labelled ones among the rows.

  A stopped run goes on from the last checkpoint of the fit of this name.

  Args:
    context: of the stage.
    config: as in `training`.
    encoder: from `encoders.make`.
    pixels: uint8[N, H, W, C].
    targets: float[N, K] of 1, 0, nan = missing; or float[N] of grades.
    rows: int[R], positions of the rows that may be used.
    views: keywords of `augment.crop`.
    ids: str[N], of the images.
    name: of the fit.
    variables: the encoder's start; None draws it.
    labels: K of grades; binary labels have as many as columns.
    class_weights: as in `training`.

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
  size = parallel.divisible(min(config.batch_size, len(rows)), context.mesh)
  arrays = {"image": pixels, "target": np.asarray(targets, np.float32)}
  seed = context.config.seed
  state = context.fit(
    training(
      config,
      encoder,
      pixels.shape[1:],
      labels or targets.shape[1],
      views,
      variables,
      size,
      class_weights,
    ),
    lambda start: feed.batches(
      arrays, size, seed=seed, start=start, steps=config.steps, rows=rows
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


def predict(
  context: Context,
  encoder: Any,
  trained: dict[str, Any],
  pixels: np.ndarray,
  *,
  labels: int,
  statistics: tuple[float, float],
  batch_size: int,
  name: str,
  kind: str = "sigmoid",
) -> np.ndarray:
  """Probabilities float32[N, K] of a trained classifier in evaluation mode.

  Those of "softmax" and "ordinal" sum to 1 over the K grades.

  Args:
    context: of the stage.
    encoder: from `encoders.make`.
    trained: from `fit`.
    pixels: uint8[N, H, W, C].
    labels: K, of labels or grades.
    kind: as in `classify_step`.
    statistics: mean and standard deviation of training pixels in [0, 1].
    batch_size: images at a time.
    name: of the progress bar and the throughput record.
  """
  head = heads.linear(outputs(kind, labels))
  logits = encoders.headed(encoder, head, *statistics)
  probabilities = {
    "sigmoid": jax.nn.sigmoid,
    "softmax": jax.nn.softmax,
    "ordinal": losses.ordinal_probabilities,
  }[kind]
  return context.map(
    lambda tree, batch: probabilities(logits(tree, batch)),
    trained,
    {"image": pixels},
    batch_size=batch_size,
    name=name,
  )
