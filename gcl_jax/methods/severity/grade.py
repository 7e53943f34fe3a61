"""Stage `grade`: evaluation of the scores, with label-free baselines."""

import json
from typing import Any

import numpy as np

from gcl_jax.engine.context import Context
from gcl_jax.evaluation import label_free, metrics
from gcl_jax.methods.severity import bin as bins
from gcl_jax.pipeline.prepared import Prepared

TRUTH = "severity"  # meta column with the known severity of a phantom


def run(context: Context) -> dict[str, Any]:
  """Scores of every image and their metrics on the evaluation groups.

  Returns:
    `scores`: float[N] per name; `metrics`: flat names -> {value, low, high, n}
    as JSON.
  """
  images = Prepared(context)
  scores = scores_of(context, images)
  metrics_ = measure(images, scores)
  for name, metric in metrics_.items():
    if name.endswith(("auroc", "spearman")) and metric["value"] is not None:
      context.telemetry.say(f"{name}: {metric['value']:.3f}")
  return {"scores": scores, "metrics": json.dumps(metrics_)}


def scores_of(context: Context, images: Prepared) -> dict[str, np.ndarray]:
  """Scores by name, float[N] each: this method's modes and the baselines.

  pca, edge and brightness use no label; the PCA is fitted on the same healthy
  training scans as the autoencoders.
  """
  artifact = context.load("score")
  bins.check_same_ids(artifact, images)
  scores = {"severity": artifact["score"]}
  for mode in ("gradcon", "grad", "recon"):
    if mode in artifact:
      scores[f"severity.{mode}"] = artifact[mode]
  healthy = images.healthy & (images.table["part"] == "train")
  pixels = np.asarray(images.pixels)
  components = min(60, healthy.sum() - 1)
  if components > 0:
    scores["pca"] = label_free.pca_error(pixels[healthy], pixels, components)
  scores["edge"] = label_free.edge_energy(pixels)
  scores["brightness"] = label_free.brightness(pixels)
  return scores


def measure(images: Prepared, scores: dict) -> dict[str, Any]:
  """Metrics of each score on the evaluation groups, intervals by group."""
  out = {}
  for name, score in scores.items():
    auroc = metric_name(name, "auroc")
    out.update(_auroc(images, score, auroc))
    adjusted = _without_texture(images, score)
    if adjusted is not None:
      out.update(_auroc(images, adjusted, f"{auroc}_adjusted"))
    if truth_of(images) is not None:
      out[metric_name(name, "spearman")] = _spearman(images, score)
  return out


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


def _auroc(images, score, key) -> dict[str, Any]:
  """AUROC of diseased against healthy; empty if one of the two is absent."""
  sick = sick_of(images)
  rows = images.evaluation & np.isfinite(sick)
  if len(set(sick[rows])) < 2:
    return {}
  value = metrics.jackknife(
    metrics.auroc,
    sick[rows].astype(int),
    score[rows],
    groups=images.groups[rows],
  )
  return {key: value}


def _spearman(images, score) -> dict[str, Any]:
  truth = truth_of(images)
  rows = images.evaluation & np.isfinite(truth)
  return metrics.jackknife(
    metrics.spearman, truth[rows], score[rows], groups=images.groups[rows]
  )


def _without_texture(images: Prepared, score: np.ndarray):
  """Score after regressing out the effects of device and exposure.

  Fitted on the healthy training scans; None if there are too few.
  """
  fit = np.flatnonzero(images.healthy & (images.table["part"] == "train"))
  columns = [images.artifact["texture"]]
  for name in ("source_width", "source_height"):
    if name in images.table:
      columns.append(np.asarray(images.table[name], float)[:, None])
  features = np.concatenate(columns, 1)
  # Export sizes may be missing, in the second data set or in single rows.
  features = features[:, np.isfinite(features).all(0)]
  if len(fit) < 3 * features.shape[1]:
    return None
  return label_free.regress_out(score, features, fit)
