"""Stage `gradcon`: autoencoders of healthy anatomy, one per cross-fitting fold.

A healthy training scan of the pre-training pool must not be scored by a model
fitted to it: its score would be too low, and the bins would encode the label.
So the healthy training groups are split into folds, each left out by one model.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import splits
from gcl_jax.engine import checkpoint, distributed, feed, parallel, programs
from gcl_jax.engine.context import Context
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import create
from gcl_jax.engine.train import Training, batch_of
from gcl_jax.errors import DataError
from gcl_jax.gradients import gradcon
from gcl_jax.methods.severity import steps
from gcl_jax.models.autoencoder import autoencoder
from gcl_jax.pipeline.prepared import Prepared

MAX_VALIDATION = 256  # healthy scans, enough to estimate a mean error


def make_model(config: ConfigDict, channels: int) -> Any:
  """Autoencoder of `config.autoencoder`."""
  padding = config.padding if config.padding == "paper28" else 1
  return autoencoder(
    channels, padding, tuple(config.widths), config.initialiser
  )


def models_of(artifact: dict) -> list[dict]:
  """The models of stage `gradcon` in the order of their folds."""
  return [artifact["models"][str(k)] for k in range(len(artifact["models"]))]


def run(context: Context) -> dict[str, Any]:
  """Trains one autoencoder per fold.

  Returns:
    `models` (params, reference, mean_image_loss, validation loss per fold)
    and `fold` int[N]: the fold of each healthy training image, -1 for every
    other image.
  """
  images = Prepared(context)
  config = context.config.autoencoder
  fold = fold_of(images, config.folds, context.config.seed)
  models = {}
  for number in range(config.folds):
    directory = context.folder / f"fold{number}"
    if not directory.exists():
      trained = _train(context, images, fold, number)
      distributed.on_main(
        functools.partial(checkpoint.save_artifact, directory, trained)
      )
    models[str(number)] = checkpoint.load_artifact(directory)
  return {"models": models, "fold": fold}


def fold_of(images: Prepared, folds: int, seed: int) -> np.ndarray:
  """Number of the model that leaves out a healthy training image, int[N].

  It is -1 for all other images. With one fold nothing is left out; if there are
  healthy scans outside the pool, the model is fitted on those alone, so that no
  scan of the pool is scored by a model fitted to it.
  """
  fold = np.full(len(images), -1)
  usable = images.healthy & (images.table["part"] == "train")
  if folds > 1:
    fold[usable] = splits.folds(images.groups[usable], folds, seed)
    return fold
  apart = usable & ~images.table["pool"]
  fold[apart if apart.any() else usable] = folds
  return fold


def fit_rows(
  images: Prepared, fold: np.ndarray, number: int, config: ConfigDict, seed
):
  """Rows to fit on and rows to validate on, from different groups.

  Raises:
    DataError: fewer than two healthy groups.
  """
  seen = np.flatnonzero((fold >= 0) & (fold != number))
  groups = images.groups[seen]
  if len(set(groups)) < 2:
    raise DataError(
      f"{len(set(groups))} healthy training groups for fold {number}: at"
      " least 2 are needed; lower --config.autoencoder.folds or add patients"
    )
  held_out = splits.split_by_group(
    groups, config.validation_fraction, seed + number
  )
  return seen[~held_out], seen[held_out]


def mean_image_loss(pixels: np.ndarray) -> float:
  """Mean squared error of predicting the mean image, pixels in [0, 1]."""
  mean, square, count = 0.0, 0.0, 0
  for start in range(0, len(pixels), 256):
    block = np.asarray(pixels[start : start + 256], np.float64) / 255
    mean, square = mean + block.sum(0), square + (block**2).sum(0)
    count += len(block)
  return float((square / count - (mean / count) ** 2).mean())


def absolute_alpha(config: ConfigDict, mean_loss: float) -> float:
  """Alpha in units of the loss."""
  if config.alpha_scale == "loss":
    return float(config.alpha * mean_loss)
  return float(config.alpha)


def training(
  config: ConfigDict, shape: tuple[int, ...], alpha: Any
) -> Training:
  """Training of one fold's autoencoder.

  Args:
    config: `config.autoencoder`.
    shape: (H, W, C) of the images.
    alpha: float32 scalar in units of the loss, from `absolute_alpha`.
  """
  model = make_model(config, shape[-1])
  optimizer = make_optimizer(
    "adam",
    config.learning_rate,
    steps=config.steps,
    schedule=config.schedule,
  )
  step = steps.gradcon_step(
    model,
    optimizer,
    alpha=None if alpha else 0.0,  # a constant 0 saves a backward pass
    rule=config.reference,
    flip=config.flip,
  )

  def init(key, alpha):
    params = model.init(key, shape)
    reference = gradcon.start(model.decoder_weights(params))
    best = dict(
      params=params,
      reference=reference,
      value=jnp.inf,
      reconstruction=jnp.inf,
      step=jnp.int32(0),
    )
    extra = dict(
      alpha=alpha, reference=reference, best=best, stale=jnp.int32(0)
    )
    return create(params, optimizer, key, extra)

  batch = batch_of(config.batch_size, image=(np.uint8, *shape))
  return Training(step, init, batch, (alpha,))


def _train(context, images: Prepared, fold, number: int) -> dict:
  config = context.config.autoencoder
  seed = context.config.seed
  fit, held_out = fit_rows(images, fold, number, config, seed)
  pixels = images.pixels[fit]
  mean_loss = mean_image_loss(pixels)
  alpha = np.float32(absolute_alpha(config, mean_loss))
  batch_size = parallel.divisible(
    min(config.batch_size, len(fit)), context.mesh
  )
  validation = images.pixels[held_out[:MAX_VALIDATION]]
  state = context.fit(
    training(config, pixels.shape[1:], alpha),
    lambda start: feed.batches(
      {"image": pixels},
      batch_size,
      seed=seed + number,
      start=start,
      steps=config.steps,
    ),
    steps=config.steps,
    name=f"gradcon/{number}",
    seed=seed,
    stream=number,
    ids=images.ids[fit],
    checkpoints=context.checkpoints(f"checkpoints{number}"),
    save_every=config.eval_every,
    every=config.eval_every,
    on_every=_validation(context, validation, mean_loss),
  )
  best = jax.tree.map(np.asarray, state.extra["best"])
  return {
    "params": best["params"],
    "reference": {f"d{i + 1}": r for i, r in enumerate(best["reference"].mean)},
    "count": best["reference"].count,
    "validation": best["value"],
    "reconstruction": best["reconstruction"],
    "best_step": best["step"],
    "mean_image_loss": np.float32(mean_loss),
    "alpha": alpha,
    "validation_rows": held_out,
  }


def _validation(context, pixels, mean_loss: float):
  """Callback `on_every`: validation J, best state so far, early stopping.

  The best parameters and references are part of the state, so that a resumed
  run gives the same result as an uninterrupted one.
  """
  model = make_model(context.config.autoencoder, pixels.shape[-1])
  size = min(64, len(pixels))
  blocks = [
    jax.device_put(pixels[i : i + size])
    for i in range(0, len(pixels) - size + 1, size)
  ]
  patience = context.config.autoencoder.patience
  telemetry = context.telemetry

  def validate(state, blocks):
    values = [
      gradcon.loss(
        model,
        state.params,
        steps.unit_range(block),
        state.extra["reference"],
        alpha=state.extra["alpha"],
      )
      for block in blocks
    ]
    value = jnp.stack([v for v, _ in values]).mean()
    recon = jnp.stack([aux["recon"] for _, aux in values]).mean()
    old = state.extra["best"]
    new = dict(
      params=state.params,
      reference=state.extra["reference"],
      value=value,
      reconstruction=recon,
      step=state.step,
    )
    better = value < old["value"]
    best = jax.tree.map(lambda n, o: jnp.where(better, n, o), new, old)
    stale = jnp.where(better, 0, state.extra["stale"] + 1)
    extra = {**state.extra, "best": best, "stale": stale}
    return state.replace(extra=extra), value, recon

  program = None

  def on_every(state):
    nonlocal program
    program = program or programs.compile_once(jax.jit(validate), state, blocks)
    state, value, recon = program(state, blocks)
    if recon >= mean_loss:
      telemetry.say(
        f"step {int(state.step)}: reconstruction loss {float(recon):.4f} is"
        f" not below that of the mean healthy image, {mean_loss:.4f}"
      )
    metrics = {
      "validation": float(value),
      "validation_reconstruction": float(recon),
      "mean_image_loss": mean_loss,
    }
    return state, metrics, int(state.extra["stale"]) >= patience

  return on_every
