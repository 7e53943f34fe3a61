"""Metrics of several binary labels at once, with joint intervals by patient."""

from collections.abc import Mapping

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import metrics, weighted

_SCORED = {"auroc": weighted.auroc, "ap": weighted.average_precision}
_CALLED = {
  "f1": weighted.f1,
  "accuracy": weighted.accuracy,
  "sensitivity": weighted.sensitivity,
  "specificity": weighted.specificity,
}


def evaluate(
  labels: Mapping[str, np.ndarray],
  probabilities: Mapping[str, np.ndarray | None],
  groups: np.ndarray | None = None,
  *,
  thresholds: Mapping[str, float] | None = None,
  samples: int = 1000,
  seed: int = 0,
) -> dict[str, dict]:
  """Metrics per label and over labels, with joint intervals by patient.

  Patients are drawn once for all labels, so the interval of a mean over labels
  reflects the correlation of labels within a patient. A label that is undefined
  on all rows (one class) is left out of the means and named under `skipped`.

  Args:
    labels: name -> float[N] of 1, 0 or NaN.
    probabilities: name -> float[N], or None without a probe.
    groups: [N] patients; None makes every image its own group.
    thresholds: name -> probability from which a row is called positive; 0.5 if
      not given.
    samples: number of bootstrap draws.
    seed: seed of the draws.

  Returns:
    Flat dict: `<label>/auroc`, `/ap`, `/f1`, `/accuracy`, `/sensitivity`,
    `/specificity`, and `macro_auroc`, `macro_f1`, `weighted_auroc` (weighted by
    the number of positives, its n being the rows with any label). Each is
    {value, low, high, n} as from `metrics.bootstrap`; means also have `skipped`
    (names) if any label was skipped.

  Raises:
    DataError: lengths differ, or a probability is not finite.
  """
  rows = len(next(iter(labels.values())))
  labels = {name: check_label(name, y, rows) for name, y in labels.items()}
  calls = {
    name: _prepare(name, y, probabilities[name], (thresholds or {}).get(name))
    for name, y in labels.items()
  }
  result = metrics.joint_bootstrap(
    lambda weights: _all_metrics(calls, weights), rows, groups, samples, seed
  )
  for key, found in result.items():
    found["n"] = _used(key, labels)
  skipped = [n for n in labels if result[f"{n}/auroc"]["value"] is None]
  for mean in ("macro_auroc", "macro_f1", "weighted_auroc") if skipped else ():
    result[mean]["skipped"] = skipped
  return result


def check_label(name: str, y: np.ndarray, rows: int) -> np.ndarray:
  """float64[rows] of 1, 0 and NaN; raises `DataError` for anything else."""
  y = np.asarray(y, np.float64)
  if y.shape != (rows,):
    raise DataError(f"label {name!r}: shape {y.shape} for {rows} images")
  odd = y[~np.isnan(y) & (y != 0) & (y != 1)]
  if len(odd):
    raise DataError(f"label {name!r} must be 1, 0 or missing, found {odd[0]:g}")
  return y


def _used(key: str, labels: Mapping[str, np.ndarray]) -> int:
  """Number of rows with this label, or with any label for means over labels."""
  if "/" in key:
    return int(np.sum(~np.isnan(labels[key.rsplit("/", 1)[0]])))
  return int(np.sum(np.any([~np.isnan(y) for y in labels.values()], axis=0)))


def _prepare(name, label, probability, threshold):
  """Rows, labels, probabilities and predictions where the label is known."""
  if probability is None:
    return None
  probability = np.asarray(probability, np.float64)
  if probability.shape != label.shape:
    raise DataError(
      f"label {name!r}: {len(label)} rows but probabilities of shape"
      f" {probability.shape}"
    )
  rows = ~np.isnan(label)
  if not np.isfinite(probability[rows]).all():
    raise DataError(f"label {name!r}: a probability is NaN or infinite")
  label, probability = label[rows], probability[rows]
  called = probability >= (0.5 if threshold is None else threshold)
  return rows, label, probability, called.astype(np.float64)


def _all_metrics(calls, weights) -> dict[str, np.ndarray]:
  """Every metric of every label for each weighting: name -> float[S]."""
  result, support = {}, []
  undefined = np.full(len(weights), np.nan)
  for name, prepared in calls.items():
    if prepared is None or not len(prepared[1]):
      result |= {f"{name}/{m}": undefined for m in (*_SCORED, *_CALLED)}
      support.append(np.zeros(len(weights)))
      continue
    rows, label, probability, called = prepared
    used = weights[:, rows]
    support.append(used @ label)
    for metric, function in _SCORED.items():
      result[f"{name}/{metric}"] = function(label, probability, used)
    for metric, function in _CALLED.items():
      result[f"{name}/{metric}"] = function(label, called, used)
  auroc = _stack(result, calls, "auroc")
  # F1 of a label with one class is meaningless: it is left out of both means.
  f1 = np.where(np.isnan(auroc), np.nan, _stack(result, calls, "f1"))
  result["macro_auroc"] = weighted.mean_of_defined(auroc, np.ones_like(auroc))
  result["macro_f1"] = weighted.mean_of_defined(f1, np.ones_like(f1))
  result["weighted_auroc"] = weighted.mean_of_defined(auroc, np.stack(support))
  return result


def _stack(result, calls, metric) -> np.ndarray:
  return np.stack([result[f"{name}/{metric}"] for name in calls])
