"""The step of an encoder and a linear head on labels, and its fit."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from gcl_jax import augment, losses
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create, descend
from gcl_jax.engine.train import Step, Training, batch_of
from gcl_jax.models import heads

Transform = Callable[[jax.Array, jax.Array], jax.Array]


def classify_step(
  encoder: Any,
  head: Any,
  optimizer: optax.GradientTransformation,
  *,
  views: dict[str, Any],
  kind: str = "sigmoid",
  transform: Transform | None = None,
) -> Step:
  """One step of classification on augmented images.

  batch["target"] is float32[B, K] of 1, 0 or nan = missing for "sigmoid", and
  float32[B] of grades 0 to K - 1 or nan for "softmax" and "ordinal"; the mean
  is over the labels that are there, in the whole batch over all devices.

  Args:
    encoder, head: models; batch statistics live in state.extra.
    optimizer: an optax transformation.
    views: keywords of `augment.crop`.
    kind: of `losses.cross_entropy`; its class weights are in
      state.extra["class_weights"].
    transform: (keys[B], uint8[B, H, W, C]) -> images on the scale of 0 to 255,
      such as a random degradation, of which the views are taken.
  """

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    images = batch["image"]
    if transform is not None:
      # The view takes the children 0 to 3 of a key.
      images = transform(
        jax.vmap(lambda key: jax.random.fold_in(key, 4))(keys), images
      )
    images = augment.crop(keys, images, **views)

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
        class_weights=state.extra["class_weights"],
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
  transform: Transform | None = None,
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
    class_weights: of `losses.cross_entropy`; None weighs all the same.
    transform: as of `classify_step`.
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
    classify_step(
      encoder, head, optimizer, views=views, kind=kind, transform=transform
    ),
    _initial(encoder, head, optimizer, shape),
    batch_of(
      batch_size or config.batch_size,
      image=(np.uint8, *shape),
      target=(np.float32, *([labels] if kind == "sigmoid" else [])),
    ),
    arguments_of(config, labels, variables, class_weights),
  )


def arguments_of(
  config: ConfigDict,
  labels: int,
  variables: Any = None,
  class_weights: np.ndarray | None = None,
) -> tuple:
  """Arguments of the first state of a fit: class weights, and the encoder's
  start where there is one; see `training`."""
  if class_weights is None:
    kinds = (labels, 2) if config.loss == "sigmoid" else labels
    class_weights = np.ones(kinds)
  weights = np.asarray(class_weights, np.float32)
  return (weights,) if variables is None else (weights, variables)


def _initial(encoder, head, optimizer, shape) -> Callable[..., State]:
  def init(key, class_weights, variables=None):
    for_encoder, for_head, for_steps = jax.random.split(key, 3)
    begin = variables
    if begin is None:
      begin = encoder.init(for_encoder, shape)
    params = {
      "encoder": begin["params"],
      "head": head.init(for_head, (encoder.feature_dim,)),
    }
    extra = {
      "batch_stats": begin["batch_stats"],
      "class_weights": class_weights,
    }
    return create(params, optimizer, for_steps, extra)

  return init
