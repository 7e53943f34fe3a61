"""Stage `bin`: pseudo-labels from scores, with edges from the pool alone."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax import binning
from gcl_jax.engine.context import Context
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.pipeline.prepared import Prepared


def run(context: Context) -> dict[str, Any]:
  """Bins every image, with edges fitted on the pre-training pool alone.

  Returns:
    `ids`; `labels/<name>` int32[N] and `edges/<name>` for each label set that
    is made of a score; `facts` about them for the report.
  """
  images = Prepared(context)
  scores = context.load("score")
  check_same_ids(scores, images)
  pool = images.pool(context.config.protocol)
  out = {"ids": images.ids, "labels": {}, "edges": {}, "facts": {}}
  for name in score_labels(context.config):
    column = _score_column(name)
    if column not in scores:
      raise ConfigError(
        f"supcon.labels names {name!r}, but score.source"
        f" {context.config.score.source!r} left no score {column!r}"
      )
    values = np.asarray(scores[column], np.float64)
    repeats = None if "." in name else _repeats(context, scores, pool)
    bins = binned(values[pool], context.config, repeats)
    labels = binning.from_edges(values, bins.edges).labels
    if name == "shuffled":
      shuffle = np.random.default_rng(context.config.seed).permutation
      labels[pool] = shuffle(labels[pool])
    out["labels"][name] = labels
    out["edges"][name] = bins.edges
    out["facts"][name] = _facts(context, bins)
  return out


def check_same_ids(artifact: dict[str, Any], images: Prepared) -> None:
  """Raises DataError if scores or bins are not of the data stage's images."""
  if not np.array_equal(artifact["ids"], images.ids):
    raise DataError(
      "the scores belong to other images than the data stage holds now:"
      " delete the folders score and bin and run again"
    )


def score_labels(config: ConfigDict) -> tuple[str, ...]:
  """Label sets of the supcon stage that are bins of a score."""
  made = [n for n in config.supcon.labels if is_score_label(n)]
  return tuple(dict.fromkeys(["severity", *made]))


def is_score_label(name: str) -> bool:
  """True for severity, severity.<mode> and shuffled; others are columns."""
  return name in ("severity", "shuffled") or name.startswith("severity.")


def _score_column(name: str) -> str:
  return name.split(".", 1)[1] if "." in name else "score"


def _repeats(context: Context, scores: dict, pool: np.ndarray):
  """Scores, under all models, of the pool's images that no model was fitted to,
  float[R, M]; None with a single model.

  These images are binned by the mean over the M models, and the width follows
  that mean. A healthy training scan has the score of one model, whose noise is
  sqrt(M) times as large: one width serves both, that of the others.
  """
  models = scores.get("models")
  if models is None or models.shape[1] < 2:
    return None
  unseen = pool & (context.load("gradcon")["fold"] < 0)
  return models[unseen] if unseen.sum() > 1 else None


def binned(
  scores: np.ndarray, config: ConfigDict, repeatability: Any = None
) -> binning.Bins:
  """Bins of the pool's scores by the rule of `config.bin`.

  Args:
    scores: float[P], of the pool.
    config: of the run.
    repeatability: float[R, M], scores under M models whose mean is binned.

  Raises:
    ConfigError: more bins than images.
  """
  rule, count = config.bin.rule, config.bin.count
  if (
    rule not in ("choose", "finest")
    and count > len(scores)
    and not config.bin.allow_empty
  ):
    raise ConfigError(
      f"bin.count {count} is more than the {len(scores)} images of the pool:"
      " lower it, or set --config.bin.allow_empty=True"
    )
  if rule == "equal_width":
    return binning.equal_width(scores, count)
  if rule == "equal_count":
    return binning.equal_count(scores, count)
  return binning.choose(
    scores,
    repeatability=repeatability,
    averaged=1 if repeatability is None else repeatability.shape[1],
    batch_size=config.supcon.batch_size,
    finest=config.bin.rule == "finest",
  )


def _facts(context: Context, bins: binning.Bins) -> dict[str, Any]:
  facts = binning.describe(bins, context.config.supcon.batch_size)
  context.telemetry.say(
    f"{bins.rule}: {facts['occupied']} occupied bins, the largest holds"
    f" {facts['largest']} of {facts['images']} images, expected same-bin"
    f" images per anchor {facts['expected_positives']:.2f}"
  )
  return {**facts, "rule": bins.rule, "reason": bins.reason}
