"""Stage `score`: severity score of every image."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.gradients import gradcon
from gcl_jax.methods.severity import classifier, error_map, folds, steps
from gcl_jax.methods.severity.gradcon import make_model, models_of
from gcl_jax.pipeline.prepared import Prepared

EXAMPLES = 6  # scans whose reconstruction the report shows


def run(context: Context) -> dict[str, Any]:
  """Scores every image.

  Returns:
    `ids` and `score` float32[N] (the input of the bins). For the autoencoder
    source also `recon`, `grad`, `gradcon` float32[N], `cos` float32[N, 4],
    `models` float32[N, M] (the score under each model), `levels` (`beta`,
    `mean` and `sd` of healthy scores, float[M] each, which scale a new image),
    `dead` int[4] (pairs of image and model whose gradient in a decoder layer is
    0), `engines` str[4] (the engine that measured each layer's gradients), and
    `examples` (rows, reconstructions) for the report. For a classifier its
    `network` and the other arguments of `classifier.score`.
  """
  images = Prepared(context)
  config = context.config.score
  ids = images.ids
  if config.source == "autoencoder":
    return {"ids": ids, **autoencoder_scores(context, images)}
  if config.source == "random":
    draw = np.random.default_rng(context.config.seed)
    return {"ids": ids, "score": draw.random(len(images), np.float32)}
  score, trained = classifier.scores(context, images, config.source)
  return {"ids": ids, "score": score.astype(np.float32), **trained}


def autoencoder_scores(context: Context, images: Prepared) -> dict[str, Any]:
  """GradCON, gradient and reconstruction scores, cross-fitted.

  Under model k, as published: recon = mean squared error, grad = -mean_l
  cos_l, gradcon = recon + beta * grad, with beta in standard deviations of
  the error of healthy scans that model k was not fitted to. The run's score is
  that of `score.mode`, with the error pooled by `score.pooling`. The same scans
  put all models on one scale; a healthy training scan takes the score of the
  model that left it out, every other image the mean over models.
  """
  config = context.config.score
  artifact = context.load("gradcon")
  fold, unseen, results = artifact["fold"], [], []
  for number, model in enumerate(models_of(artifact)):
    results.append(_sweep(context, images, model, f"score/{number}"))
    unseen.append(folds.unseen_healthy(fold, number, model["validation_rows"]))
  recon, pooled, cos = (
    np.stack([f[name] for f in results], 1)
    for name in ("recon", "error", "cos")
  )
  grad = -cos.mean(-1)
  published = mode_scores(recon, grad, _beta(config, recon, unseen))
  beta = _beta(config, pooled, unseen)
  chosen = mode_scores(pooled, grad, beta)[config.mode]
  use = folds.usable(fold, len(results))
  out = {
    mode: folds.scored(values, unseen, use)
    for mode, values in published.items()
  }
  levels = folds.levels_of(chosen, unseen)
  facts = {
    "dead": np.sum([(f["norm"] == 0).sum(0) for f in results], axis=0),
    "engines": _engines(context, images, artifact["models"]),
    "levels": {"beta": beta, "mean": levels[0], "sd": levels[1]},
  }
  out["cos"] = np.where(use[..., None], cos, 0).sum(1) / use.sum(1)[:, None]
  out["models"] = folds.levelled(chosen, levels)
  out["score"] = folds.combined(out["models"], use)
  facts["examples"] = _examples(context, images, out["score"], artifact)
  return facts | {name: np.asarray(v, np.float32) for name, v in out.items()}


def _examples(context: Context, images: Prepared, score, artifact) -> dict:
  """Reconstructions by the first model of six evaluation scans from the lowest
  to the highest score, for the report."""
  order = np.flatnonzero(images.evaluation)
  order = order[np.argsort(score[order], kind="stable")]
  count = min(EXAMPLES, len(order))
  rows = order[np.linspace(0, len(order) - 1, count).astype(int)]
  model = make_model(context.config.autoencoder, images.pixels.shape[-1])
  reconstructions = context.map(
    lambda params, batch: model.apply(params, steps.unit_range(batch["image"])),
    models_of(artifact)[0]["params"],
    {"image": images.pixels[rows]},
    batch_size=count,
    name="score/examples",
  )
  return {"rows": rows, "reconstructions": reconstructions}


def mode_scores(
  error: np.ndarray, grad: np.ndarray, beta: np.ndarray
) -> dict[str, np.ndarray]:
  """{mode: float[N, M]} from error and gradient term float[N, M].

  Args:
    error: of the reconstructions under M models.
    grad: -mean_l cos_l.
    beta: float[M], weight of the gradient term.
  """
  return {"recon": error, "grad": grad, "gradcon": error + beta[None] * grad}


def _engines(context: Context, images: Prepared, models: dict) -> np.ndarray:
  """Engine of each decoder layer, str[4]; also logged."""
  shape = images.pixels.shape[1:]
  model = make_model(context.config.autoencoder, shape[-1])
  params = next(iter(models.values()))["params"]
  plan = gradcon.plan(model, params, shape, context.config.score.engine)
  engines = ", ".join(f"{layer} {engine}" for layer, engine in plan.items())
  context.telemetry.say(f"score: per-image gradients by {engines}")
  return np.array(list(plan.values()))


def _sweep(context: Context, images: Prepared, artifact: dict, name: str):
  """Reconstruction error, pooled error and cosines under one model."""
  config = context.config.score
  model = make_model(context.config.autoencoder, images.pixels.shape[-1])
  reference = artifact.get("reference")
  if not reference or not int(artifact["count"]):
    raise DataError(
      "the autoencoder checkpoint holds no reference gradients, without"
      " which there is no GradCON score: run the gradcon stage again"
    )
  return context.map(
    scorer(config, model),
    tree_of(artifact),
    {"image": images.pixels},
    batch_size=config.batch_size,
    name=name,
  )


def tree_of(artifact: dict) -> dict[str, Any]:
  """Parameters and reference gradients of one model, for `scorer`."""
  reference = sorted(artifact["reference"].items())
  return {
    "params": artifact["params"],
    "reference": tuple(gradient for _, gradient in reference),
  }


def scorer(config: ConfigDict, model: Any) -> Callable[[dict, dict], dict]:
  """Function ({"params", "reference"}, batch) -> recon, error, cos, norm.

  Args:
    config: `config.score`.
    model: the autoencoder.
  """

  def one_batch(tree, batch):
    x = steps.unit_range(batch["image"])
    scores = gradcon.scores(
      model,
      tree["params"],
      x,
      tree["reference"],
      engine=config.engine,
      chunk=config.chunk or None,
      dtype=config.dtype,
    )
    error = scores.recon
    if config.pooling == "layers":
      error = error_map.by_layers(x - model.apply(tree["params"], x))
    return {
      "recon": scores.recon,
      "error": error,
      "cos": scores.cos,
      "norm": scores.norm,
    }

  return one_batch


def _beta(config: ConfigDict, recon: np.ndarray, unseen: list) -> np.ndarray:
  """Beta in units of the reconstruction error, float[M]."""
  if config.beta_scale == "absolute":
    return np.full(recon.shape[1], config.beta)
  spread = [recon[rows, m].std() for m, rows in enumerate(unseen)]
  return config.beta * np.array(spread)
