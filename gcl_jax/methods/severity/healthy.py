"""Stage `gradcon`: autoencoders of healthy anatomy, one per cross-fitting fold.

A healthy training scan that is also in the pre-training pool must not be
scored by a model that was fitted to it: its score would be too low, and the
bins would carry the label. So the healthy training groups are cut into folds
and every fold is left out by one model.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.data import splits
from gcl_jax.engine import (
  checkpoint,
  distributed,
  feed,
  parallel,
  programs,
  train,
)
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create
from gcl_jax.errors import DataError
from gcl_jax.gradients import gradcon
from gcl_jax.methods.severity import steps
from gcl_jax.methods.severity.images import Images
from gcl_jax.models.autoencoder import autoencoder

MAX_VALIDATION = 256  # healthy scans, enough for the mean of an error


def make_model(config: Any, channels: int) -> Any:
  """The autoencoder of `config.autoencoder`."""
  padding = config.padding if config.padding == "paper28" else 1
  return autoencoder(
    channels, padding, tuple(config.widths), config.initialiser
  )


def run(context: Any) -> dict[str, Any]:
  """Trains one autoencoder per fold.

  Returns:
    `models` (params, reference, mean_image_loss, validation loss per fold)
    and `fold` int[N]: the fold of each healthy training image, -1 for every
    other image.
  """
  images = Images(context)
  config = context.config.autoencoder
  fold = fold_of(images, config.folds, context.config.seed)
  model = make_model(config, images.pixels.shape[-1])
  models = {}
  for number in range(config.folds):
    directory = context.folder / f"fold{number}"
    if not directory.exists():
      trained = _train(context, model, images, fold, number)
      distributed.on_main(
        functools.partial(checkpoint.save_artifact, directory, trained)
      )
    models[str(number)] = checkpoint.load_artifact(directory)
  return {"models": models, "fold": fold}


def fold_of(images: Images, folds: int, seed: int) -> np.ndarray:
  """int[N]: which model must not see a healthy training image; else -1.

  With one fold no model leaves anything out. Where there are healthy scans
  outside the pool it is then fitted on those alone, so that no scan of the
  pool is scored by a model that has seen it.
  """
  fold = np.full(len(images), -1)
  usable = images.healthy & (images.table["part"] == "train")
  if folds > 1:
    fold[usable] = splits.folds(images.groups[usable], folds, seed)
    return fold
  apart = usable & ~images.table["pool"]
  fold[apart if apart.any() else usable] = folds
  return fold


def fit_rows(images: Images, fold: np.ndarray, number: int, config: Any, seed):
  """Rows to fit and rows to validate on, in different groups.

  Raises:
    DataError: too few healthy groups for two parts.
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


def absolute_alpha(config: Any, mean_loss: float) -> float:
  """alpha on the scale of the loss it is added to."""
  if config.alpha_scale == "loss":
    return float(config.alpha * mean_loss)
  return float(config.alpha)


def adam(config: Any) -> Any:
  """The optimiser of `config.autoencoder`."""
  return make_optimizer(
    "adam",
    config.learning_rate,
    steps=config.steps,
    schedule=config.schedule,
  )


def _train(context, model, images: Images, fold, number: int) -> dict:
  config = context.config.autoencoder
  seed = context.config.seed
  fit, held_out = fit_rows(images, fold, number, config, seed)
  pixels = images.pixels[fit]
  mean_loss = mean_image_loss(pixels)
  alpha = absolute_alpha(config, mean_loss)
  optimizer = adam(config)
  shape = images.pixels.shape[1:]
  key = jax.random.fold_in(jax.random.key(seed), number)
  state = parallel.init_replicated(
    lambda key, alpha: initial(model, optimizer, key, shape, alpha),
    context.mesh,
    key,
    np.float32(alpha),
  )
  batch_size = parallel.divisible(
    min(config.batch_size, len(fit)), context.mesh
  )
  check = _validation(
    context, model, images.pixels[held_out[:MAX_VALIDATION]], mean_loss
  )
  state = train.fit(
    steps.gradcon_step(
      model,
      optimizer,
      alpha=None if alpha else 0.0,  # a constant 0 spares a backward pass
      rule=config.reference,
      flip=config.flip,
    ),
    state,
    lambda start: feed.batches(
      {"image": pixels},
      batch_size,
      seed=seed + number,
      start=start,
      steps=config.steps,
    ),
    steps=config.steps,
    mesh=context.mesh,
    mode=context.mode,
    name=f"gradcon/{number}",
    telemetry=context.telemetry,
    checkpoints=context.checkpoints(f"checkpoints{number}"),
    save_every=config.eval_every,
    every=config.eval_every,
    on_every=check,
    steps_per_dispatch=context.config.steps_per_dispatch,
    max_skipped=context.config.max_skipped,
    log_every=context.config.log_every,
    ids=images.table["id"][fit],
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
    "alpha": np.float32(alpha),
    "validation_rows": held_out,
  }


def initial(
  model: Any, optimizer: Any, key: jax.Array, shape: Any, alpha: Any
) -> State:
  """The state before the first step; also holds the best state so far."""
  params = model.init(key, shape)
  reference = gradcon.start(model.decoder_weights(params))
  best = dict(
    params=params,
    reference=reference,
    value=jnp.inf,
    reconstruction=jnp.inf,
    step=jnp.int32(0),
  )
  extra = {
    "alpha": alpha,
    "reference": reference,
    "best": best,
    "stale": jnp.int32(0),
  }
  return create(params, optimizer, key, extra)


def _validation(context, model, pixels, mean_loss: float):
  """on_every: validation J, the best state so far, and early stop.

  The best parameters and references live in the state, so that a resumed run
  ends where an uninterrupted one does.
  """
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
