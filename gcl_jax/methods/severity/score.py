"""Stage `score`: a severity for every image."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.gradients import gradcon
from gcl_jax.methods.severity import classifier, error_map, steps
from gcl_jax.methods.severity.gradcon import make_model
from gcl_jax.pipeline.prepared import Prepared

EXAMPLES = 6  # scans whose reconstruction the report shows


def run(context: Context) -> dict[str, Any]:
  """Scores every image by its id.

  Returns:
    `ids`, `score` float32[N] (what the bins are made of), and for the
    autoencoder source `recon`, `grad`, `gradcon` float32[N], `cos`
    float32[N, 4], `models` float32[N, M], the score under each model, `dead`
    int[4], image and model pairs without any gradient in a decoder layer,
    `engines` str[4], how each layer's gradients were measured, and `examples`
    (rows, reconstructions) for the report.
  """
  images = Prepared(context)
  config = context.config.score
  ids = images.ids
  if config.source == "autoencoder":
    return {"ids": ids, **autoencoder_scores(context, images)}
  if config.source == "random":
    draw = np.random.default_rng(context.config.seed)
    return {"ids": ids, "score": draw.random(len(images), np.float32)}
  score = classifier.scores(context, images, config.source)
  return {"ids": ids, "score": score.astype(np.float32)}


def autoencoder_scores(context: Context, images: Prepared) -> dict[str, Any]:
  """GradCON, gradient and reconstruction scores, cross-fitted.

  Under model k, as published: recon = mean squared error, grad = -mean_l
  cos_l, gradcon = recon + beta * grad, with beta in standard deviations of
  the error of healthy scans that model k has not seen. The score of this run
  is that of `score.mode`, with the error pooled by `score.pooling`. Models
  are put on one scale by the same scans; a healthy training scan takes the
  model that has not seen it, every other image the mean of all.
  """
  config = context.config.score
  artifact = context.load("gradcon")
  fold, unseen, found = artifact["fold"], [], []
  for number, model in sorted(artifact["models"].items()):
    found.append(_sweep(context, images, model, f"score/{number}"))
    unseen.append(_unseen_healthy(fold, int(number), model))
  recon, pooled, cos = (
    np.stack([f[name] for f in found], 1) for name in ("recon", "error", "cos")
  )
  grad = -cos.mean(-1)
  published = mode_scores(config, recon, grad, unseen)
  chosen = mode_scores(config, pooled, grad, unseen)[config.mode]
  use = _usable(fold, len(found))
  out = {
    mode: combined(levelled(values, unseen), use)
    for mode, values in published.items()
  }
  facts = {
    "dead": np.sum([(f["norm"] == 0).sum(0) for f in found], axis=0),
    "engines": _engines(context, images, artifact["models"]),
  }
  out["cos"] = np.where(use[..., None], cos, 0).sum(1) / use.sum(1)[:, None]
  out["models"] = levelled(chosen, unseen)
  out["score"] = combined(out["models"], use)
  facts["examples"] = _examples(context, images, out["score"], artifact)
  return facts | {name: np.asarray(v, np.float32) for name, v in out.items()}


def _examples(context: Context, images: Prepared, score, artifact) -> dict:
  """Six evaluation scans from the lowest to the highest score, as the first
  model reconstructs them, for the report."""
  order = np.flatnonzero(images.evaluation)
  order = order[np.argsort(score[order], kind="stable")]
  count = min(EXAMPLES, len(order))
  rows = order[np.linspace(0, len(order) - 1, count).astype(int)]
  model = make_model(context.config.autoencoder, images.pixels.shape[-1])
  found = context.map(
    lambda params, batch: model.apply(params, steps.unit_range(batch["image"])),
    artifact["models"][min(artifact["models"])]["params"],
    {"image": images.pixels[rows]},
    batch_size=count,
    name="score/examples",
  )
  return {"rows": rows, "reconstructions": found}


def mode_scores(
  config: Any, error: np.ndarray, grad: np.ndarray, unseen: list
) -> dict[str, np.ndarray]:
  """{mode: float[N, M]} from error and gradient term float[N, M]."""
  beta = _beta(config, error, unseen)
  return {"recon": error, "grad": grad, "gradcon": error + beta[None] * grad}


def _engines(context: Context, images: Prepared, models: dict) -> np.ndarray:
  """str[4]: the engine of each decoder layer, which is also said."""
  shape = images.pixels.shape[1:]
  model = make_model(context.config.autoencoder, shape[-1])
  params = next(iter(models.values()))["params"]
  plan = gradcon.plan(model, params, shape, context.config.score.engine)
  said = ", ".join(f"{layer} {engine}" for layer, engine in plan.items())
  context.telemetry.say(f"score: per-image gradients by {said}")
  return np.array(list(plan.values()))


def _sweep(context: Context, images: Prepared, artifact: dict, name: str):
  """recon, pooled error and cos of all images under one model."""
  config = context.config.score
  model = make_model(context.config.autoencoder, images.pixels.shape[-1])
  reference = artifact.get("reference")
  if not reference or not int(artifact["count"]):
    raise DataError(
      "the autoencoder checkpoint holds no reference gradients, without"
      " which there is no GradCON score: run the gradcon stage again"
    )
  tree = {
    "params": artifact["params"],
    "reference": tuple(r for _, r in sorted(reference.items())),
  }

  return context.map(
    scorer(config, model),
    tree,
    {"image": images.pixels},
    batch_size=config.batch_size,
    name=name,
  )


def scorer(config: Any, model: Any) -> Callable[[dict, dict], dict]:
  """fn({"params", "reference"}, batch) -> recon, error, cos, norm; for a map.

  Args:
    config: `config.score`.
    model: the autoencoder.
  """

  def one_batch(tree, batch):
    x = steps.unit_range(batch["image"])
    found = gradcon.scores(
      model,
      tree["params"],
      x,
      tree["reference"],
      engine=config.engine,
      chunk=config.chunk or None,
      dtype=config.dtype,
    )
    error = found.recon
    if config.pooling == "layers":
      error = error_map.by_layers(x - model.apply(tree["params"], x))
    return {
      "recon": found.recon,
      "error": error,
      "cos": found.cos,
      "norm": found.norm,
    }

  return one_batch


def _unseen_healthy(fold: np.ndarray, number: int, model: dict) -> np.ndarray:
  """Rows of healthy training scans that this model was not fitted to."""
  left_out = np.flatnonzero(fold == number)
  return left_out if len(left_out) else model["validation_rows"]


def _usable(fold: np.ndarray, models: int) -> np.ndarray:
  """bool[N, M]: may model m score image n?

  A healthy training scan of fold k only by model k; a scan of no fold by all.
  With a single model and no left-out fold everything is scored by it.
  """
  use = np.ones((len(fold), models), bool)
  if models > 1:
    for number in range(models):
      use[(fold >= 0) & (fold != number), number] = False
  return use


def _beta(config: Any, recon: np.ndarray, unseen: list) -> np.ndarray:
  """float[M]: beta on the scale of the reconstruction error."""
  if config.beta_scale == "absolute":
    return np.full(recon.shape[1], config.beta)
  spread = [recon[rows, m].std() for m, rows in enumerate(unseen)]
  return config.beta * np.array(spread)


def levelled(values: np.ndarray, unseen: list) -> np.ndarray:
  """Scores under M models on their mean scale.

  Args:
    values: float[N, M].
    unseen: per model, the rows of healthy scans it has not seen; their mean
      and standard deviation are made equal over models.

  Returns:
    float[N, M]; unchanged for one model.
  """
  if values.shape[1] == 1:
    return values
  mean = np.array([values[rows, m].mean() for m, rows in enumerate(unseen)])
  spread = np.array([values[rows, m].std() for m, rows in enumerate(unseen)])
  spread = np.where(spread > 0, spread, 1.0)
  return (values - mean) / spread * spread.mean() + mean.mean()


def combined(values: np.ndarray, use: np.ndarray) -> np.ndarray:
  """The mean over the models that may score an image, float[N].

  Args:
    values: float[N, M] of `levelled`.
    use: bool[N, M], at least one model per image.
  """
  return np.where(use, values, 0).sum(1) / use.sum(1)
