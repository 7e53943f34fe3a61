"""Stage `grade`: evaluation of the scores, beside label-free opponents."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.engine.context import Context
from gcl_jax.evaluation import checked, comparisons, intervals, weighted
from gcl_jax.methods.severity import bin as bins
from gcl_jax.methods.severity import opponents, texture
from gcl_jax.pipeline import report_comparisons
from gcl_jax.pipeline.prepared import Prepared

TRUTH = "severity"  # meta column with the known severity of a phantom
# Figure -> its weighted metric, its scale, its words in tables.
FIGURES = {
  "auroc": (weighted.auroc, "logit", "AUROC"),
  "auroc_adjusted": (weighted.auroc, "logit", "AUROC without texture"),
  "sensitivity_at_90_specificity": (
    weighted.sensitivity_at_specificity,
    "logit",
    "sensitivity at 90 % specificity",
  ),
  "spearman": (weighted.spearman, "fisher", "Spearman with truth"),
}
COMPARED = ("auroc", "auroc_adjusted", "spearman")  # a family each


def run(context: Context) -> dict[str, Any]:
  """Scores of every image and their metrics on the evaluation groups.

  Returns:
    `scores` and `adjusted`: float[N] per name, the latter without what the
    device explains; `sick` float[N] as from `sick_of`; as JSON `metrics`, flat
    names -> entries, and `unadjusted`, name -> why a score is not adjusted.
  """
  images = Prepared(context)
  artifact = context.load("score")
  bins.check_same_ids(artifact, images)
  config = context.config.score
  trained = None
  if config.source == "autoencoder":
    trained = context.load("gradcon")
  scores = own_scores(artifact) | opponents.scores(images, trained)
  adjusted, reasons = texture.adjusted(images, scores, trained, config)
  metrics = measure(images, scores, adjusted)
  for line in lines(metrics, reasons):
    context.telemetry.say(line)
  return {
    "scores": scores,
    "adjusted": adjusted,
    "sick": sick_of(images),
    "metrics": json.dumps(metrics),
    "unadjusted": json.dumps(reasons),
  }


def own_scores(artifact: dict) -> dict[str, np.ndarray]:
  """This method's scores by name, float[N] each: that of the run, and of an
  autoencoder all modes as published."""
  modes = {
    f"severity.{mode}": artifact[mode]
    for mode in ("gradcon", "grad", "recon")
    if mode in artifact
  }
  return {"severity": artifact["score"]} | modes


def measure(
  images: Prepared,
  scores: Mapping[str, np.ndarray],
  adjusted: Mapping[str, np.ndarray],
) -> dict[str, dict]:
  """Figures of every score on the evaluation groups, and their differences.

  Args:
    images: the prepared images.
    scores: float[N] by name, `severity` among them.
    adjusted: likewise, without what the device explains.

  Returns:
    Entries by name: `severity/auroc`, `baseline/pca_auroc`, and differences
    `severity/auroc_over_pca` from `comparisons.family`. AUROC and sensitivity
    are of diseased against healthy and absent where one of the two is;
    Spearman is with the known severity, where there is one.
  """
  sick, truth = sick_of(images), truth_of(images)
  rows, found = images.evaluation & np.isfinite(sick), {}
  if len(set(sick[rows])) == 2:
    for key in ("auroc", "auroc_adjusted", "sensitivity_at_90_specificity"):
      chosen = adjusted if key == "auroc_adjusted" else scores
      found |= _figures(key, sick, chosen, images.groups, rows)
  if truth is not None:
    rows = images.evaluation & np.isfinite(truth)
    if rows.any():
      found |= _figures("spearman", truth, scores, images.groups, rows)
  return found


def left_out(
  key: str,
  truth: np.ndarray,
  scores: Mapping[str, np.ndarray],
  groups: np.ndarray,
) -> tuple[dict[str, np.ndarray], intervals.Support]:
  """A figure of several scores of the same rows, whole and by group left out.

  Args:
    key: of `FIGURES`.
    truth: float[N], 1 diseased and 0 healthy, or for Spearman any numbers.
    scores: float[N] by name.
    groups: [N] patients.

  Returns:
    float64[1 + G] by name, and what they rest on.

  Raises:
    DataError: a score or a truth that is not finite.
  """
  metric, scale, _ = FIGURES[key]
  check = checked.pair if scale == "fisher" else checked.binary
  pairs = {name: check(truth, score) for name, score in scores.items()}
  values = intervals.leave_one_out(
    lambda weights: {n: metric(*pair, weights) for n, pair in pairs.items()},
    len(truth),
    groups,
  )
  labels = None if scale == "fisher" else truth
  tail = key == "sensitivity_at_90_specificity"
  needed = intervals.FEWEST_IN_TAIL if tail else intervals.FEWEST
  return values, intervals.support_of(groups, labels, needed=needed)


def _figures(key, truth, scores, groups, rows) -> dict[str, dict]:
  """Entries of one figure, and its differences to those of the opponents."""
  if not scores:
    return {}
  chosen = {name: score[rows] for name, score in scores.items()}
  values, support = left_out(key, truth[rows], chosen, groups[rows])
  found = {
    metric_name(name, key): intervals.interval(v, support, FIGURES[key][1])
    for name, v in values.items()
  }
  if key not in COMPARED or "severity" not in values:
    return found
  differences = {
    f"severity/{key}_over_{name}": comparisons.difference(
      values["severity"] - values[name], support
    )
    for name in opponents.NAMES
    if name in values
  }
  return found | comparisons.family(differences)


def compared(metrics: Mapping[str, dict], key: str) -> dict[str, dict]:
  """Differences of the severity score to its opponents in one figure, by words.

  Args:
    metrics: from `measure`.
    key: of `COMPARED`.
  """
  return {
    f"severity score over {words}": metrics[f"severity/{key}_over_{name}"]
    for name, words in opponents.NAMES.items()
    if f"severity/{key}_over_{name}" in metrics
  }


def lines(metrics: Mapping[str, dict], reasons: Mapping[str, str]) -> list[str]:
  """What the log says: the figures of all scores, and the differences."""
  text = [
    f"{name}: {metric['value']:.3f}"
    for name, metric in metrics.items()
    if name.endswith(("auroc", "spearman")) and metric["value"] is not None
  ]
  text += [
    f"no AUROC without texture of {', '.join(names)}: {why}"
    for why, names in by_reason(reasons).items()
  ]
  for key in COMPARED:
    entries = compared(metrics, key)
    text += report_comparisons.lines(entries, FIGURES[key][2])
  return text


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
  """Names of the scores that are not adjusted, by the reason why."""
  return {
    why: [name for name in reasons if reasons[name] == why]
    for why in dict.fromkeys(reasons.values())
  }


def sick_of(images: Prepared) -> np.ndarray:
  """Disease of each image, float[N]: 1 diseased, 0 healthy, nan unknown.

  From the healthy column if the evaluation part has both classes; else (OLIVES)
  1 for an image with any positive label and 0 for one with none.
  """
  known = images.healthy | images.diseased
  if len(set(images.diseased[known & images.evaluation])) == 2:
    return np.where(known, images.diseased, np.nan)
  if not images.labels:
    return np.full(len(images), np.nan)
  targets = np.stack([np.asarray(images.table[n]) for n in images.labels], 1)
  positive = (targets == 1).any(1)
  return np.where(positive | ~np.isnan(targets).any(1), positive, np.nan)


def truth_of(images: Prepared) -> np.ndarray | None:
  """Known severity, float[N] with nan where unknown; None without a numeric
  column `severity`."""
  truth = images.table.get(TRUTH)
  if truth is None or np.asarray(truth).dtype.kind not in "fiub":
    return None
  return np.asarray(truth, float)


def metric_name(name: str, key: str) -> str:
  """Metric name of a score: severity/auroc, baseline/pca_auroc."""
  if name.startswith("severity"):
    return name.replace(".", "/") + "/" + key
  return f"baseline/{name}_{key}"
