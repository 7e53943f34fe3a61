"""Encoder and linear head trained together on labels.

From pre-trained weights this is a full fine-tune; from random weights it is
the supervised-from-scratch reference.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gcl_jax import augment
from gcl_jax.collectives import pmean
from gcl_jax.engine import feed, parallel, sweep, train
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create, update
from gcl_jax.errors import DataError
from gcl_jax.models import heads


def classify_step(
  encoder: Any,
  head: Any,
  optimizer: optax.GradientTransformation,
  *,
  views: dict[str, Any],
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
  """One step on several binary labels: mean sigmoid cross-entropy.

  batch["target"] float32[B, K] holds 1, 0 or nan = missing; the mean is over
  the labels that are there, in the whole batch over all devices.

  Args:
    encoder, head: models; batch statistics live in state.extra.
    optimizer: an optax transformation.
    views: keywords of `augment.crop`.
  """

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    images = augment.crop(keys, batch["image"], **views)
    known = ~jnp.isnan(batch["target"])
    target = jnp.where(known, batch["target"], 0.0)
    share = pmean(known.mean(dtype=jnp.float32), axis_name)

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
      logits = head.apply(params["head"], features)
      terms = optax.sigmoid_binary_cross_entropy(logits, target)
      value = jnp.where(known, terms, 0.0).mean() / jnp.maximum(share, 1e-8)
      return value, stats

    (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(
      state.params
    )
    value, grads = pmean((value, grads), axis_name)
    state = update(state, grads, optimizer, {"batch_stats": stats})
    return state, {"loss": value}

  return step


def optimizer_of(config: Any) -> optax.GradientTransformation:
  """The optimiser of `config.finetune`: a short warm-up, then cosine."""
  return make_optimizer(
    config.optimizer,
    config.learning_rate,
    steps=config.steps,
    warmup_steps=config.steps // 20,
    schedule="cosine",
    weight_decay=1e-4,
  )


def initial(
  encoder: Any,
  head: Any,
  optimizer: optax.GradientTransformation,
  shape: tuple[int, ...],
  variables: Any = None,
) -> Callable[[jax.Array], State]:
  """key -> the state before the first step.

  Args:
    encoder, head: models.
    optimizer: an optax transformation.
    shape: (H, W, C) of the images.
    variables: the encoder's start; None draws it.
  """

  def init(key):
    for_encoder, for_head, for_steps = jax.random.split(key, 3)
    begin = variables
    if begin is None:
      begin = encoder.init(for_encoder, shape)
    params = {
      "encoder": begin["params"],
      "head": head.init(for_head, (encoder.feature_dim,)),
    }
    extra = {"batch_stats": begin["batch_stats"]}
    return create(params, optimizer, for_steps, extra)

  return init


def train_classifier(
  encoder: Any,
  variables: Any,
  pixels: np.ndarray,
  targets: np.ndarray,
  rows: np.ndarray,
  *,
  config: Any,
  views: dict[str, Any],
  mesh: Any,
  mode: str,
  seed: int,
  name: str,
  telemetry: Any = None,
  checkpoints: Any = None,
) -> dict[str, Any]:
  """Trains encoder and head on the labelled rows.

  Args:
    encoder: a model of `encoders.make`.
    variables: its start, or None for random weights.
    pixels: uint8[N, H, W, C].
    targets: float[N, K] of 1, 0, nan.
    rows: positions of the rows to train on.
    config: batch_size, steps, learning_rate, optimizer.
    views: keywords of `augment.crop`.
    mesh, mode: see `gcl_jax.engine.parallel`.
    seed: of the weights, the order and the views.
    name, telemetry, checkpoints: as in `gcl_jax.engine.train.fit`.

  Returns:
    `encoder` (params, batch_stats) and `head` variables, numpy.

  Raises:
    DataError: fewer than two rows.
  """
  if len(rows) < 2:
    raise DataError(f"{name}: {len(rows)} labelled images are too few to train")
  size = parallel.divisible(min(config.batch_size, len(rows)), mesh)
  head = heads.linear(targets.shape[1])
  optimizer = optimizer_of(config)
  init = initial(encoder, head, optimizer, pixels.shape[1:], variables)
  arrays = {"image": pixels, "target": np.asarray(targets, np.float32)}
  state = train.fit(
    classify_step(encoder, head, optimizer, views=views),
    parallel.init_replicated(init, mesh, jax.random.key(seed)),
    lambda first: feed.batches(
      arrays, size, seed=seed, start=first, steps=config.steps, rows=rows
    ),
    steps=config.steps,
    mesh=mesh,
    mode=mode,
    name=name,
    telemetry=telemetry,
    checkpoints=checkpoints,
    save_every=max(1, config.steps // 3) if checkpoints else 0,
  )
  return jax.tree.map(
    np.asarray,
    {
      "encoder": {
        "params": state.params["encoder"],
        "batch_stats": state.extra["batch_stats"],
      },
      "head": state.params["head"],
    },
  )


def predict(
  encoder: Any,
  trained: dict[str, Any],
  pixels: np.ndarray,
  *,
  labels: int,
  mean: float,
  std: float,
  mesh: Any,
  mode: str,
  batch_size: int = 64,
  name: str = "predict",
  telemetry: Any = None,
) -> np.ndarray:
  """Probabilities float32[N, K] of a trained classifier in eval mode."""
  head = heads.linear(labels)

  def one_batch(tree, batch):
    images = augment.normalise(batch["image"], mean, std)
    features, _ = encoder.apply(tree["encoder"], images, train=False)
    return jax.nn.sigmoid(head.apply(tree["head"], features))

  return sweep.map_examples(
    one_batch,
    trained,
    {"image": pixels},
    mesh=mesh,
    mode=mode,
    batch_size=batch_size,
    name=name,
    telemetry=telemetry,
  )
