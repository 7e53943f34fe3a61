"""Metrics of several binary labels at once, with joint intervals by patient."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import calibration, comparisons, intervals, weighted

_SCORED = {
  "auroc": weighted.auroc,
  "ap": weighted.average_precision,
  "sensitivity_at_90_specificity": weighted.sensitivity_at_specificity,
  "brier": calibration.brier,
  "brier_prevalence": calibration.brier_prevalence,
  "calibration_slope": calibration.slope,
}
_CALLED = {
  "f1": weighted.f1,
  "f1_constant": lambda y, _, weights: weighted.f1_constant(y, weights),
  "accuracy": weighted.accuracy,
  "sensitivity": weighted.sensitivity,
  "specificity": weighted.specificity,
}
_SIDES = {"sensitivity": (1,), "specificity": (0,)}  # others need both
_NEEDED = {"sensitivity_at_90_specificity": intervals.FEWEST_IN_TAIL}
# Names of figures that are no shares in [0, 1] with a spread at both ends.
_PLAIN = ("brier", "brier_prevalence", "calibration_slope")
MEANS = ("macro_auroc", "macro_f1", "macro_f1_constant", "weighted_auroc")


class Table(NamedTuple):
  """Figures of one model on the evaluation rows, whole and by group left out.

  Attributes:
    values: name -> float64[1 + G] from `intervals.leave_one_out`.
    supports: name -> what the figure rests on.
    skipped: labels (or grades) that the means leave out.
  """

  values: dict[str, np.ndarray]
  supports: dict[str, intervals.Support]
  skipped: tuple[str, ...]


def evaluate(
  labels: Mapping[str, np.ndarray],
  probabilities: Mapping[str, np.ndarray | None],
  groups: np.ndarray | None = None,
  *,
  thresholds: Mapping[str, float] | None = None,
) -> dict[str, dict]:
  """Metrics per label and over labels, with intervals by patient.

  Args:
    labels: name -> float[N] of 1, 0 or NaN.
    probabilities: name -> float[N], or None without a probe.
    groups: [N] patients; None makes every image its own group.
    thresholds: name -> probability from which a row is called positive; 0.5 if
      not given.

  Returns:
    Flat dict: `<label>/auroc`, `/ap`, `/sensitivity_at_90_specificity`, the
    calibration `/brier`, `/brier_prevalence` (of giving every row the share of
    positives) and `/calibration_slope`, and at the threshold `/f1`,
    `/f1_constant` (of calling every row positive), `/accuracy`, `/sensitivity`,
    `/specificity`; and the means `macro_auroc`, `macro_f1`,
    `macro_f1_constant`, `weighted_auroc` (weighted by the number of positives,
    its n being the rows with any label). Each is an entry of `intervals`; its
    groups with a positive and with a negative row are, of a mean, those of the
    label that has fewest. Means leave out labels with fewer than 5 positive or
    negative groups, and name them under `skipped`.

  Raises:
    DataError: lengths differ, or a probability is not finite.
  """
  return entries(table(labels, probabilities, groups, thresholds=thresholds))


def entries(found: Table) -> dict[str, dict]:
  """Every figure of a table with its interval, as from `evaluate`."""
  result = {
    name: intervals.interval(values, found.supports[name], _scale_of(name))
    for name, values in found.values.items()
  }
  for mean in MEANS if found.skipped else ():
    if mean in result:
      result[mean]["skipped"] = list(found.skipped)
  return result


def _scale_of(name: str) -> str:
  """The scale of a figure's interval, as for `intervals.interval`."""
  if name.endswith("kappa"):
    return "fisher"
  return "plain" if name.endswith(_PLAIN) else "logit"


def differences(ours: Table, theirs: Table) -> dict[str, dict]:
  """Paired differences, ours less theirs, by name of the figure.

  Args:
    ours, theirs: tables of the same labels and rows.

  Raises:
    DataError: the means of the two are over different labels.
  """
  if ours.skipped != theirs.skipped:
    raise DataError(
      f"means that leave out {ours.skipped} and {theirs.skipped} cannot be"
      " compared: give both models the same labels"
    )
  return {
    name: comparisons.difference(
      values - theirs.values[name], ours.supports[name]
    )
    for name, values in ours.values.items()
  }


def table(
  labels: Mapping[str, np.ndarray],
  probabilities: Mapping[str, np.ndarray | None],
  groups: np.ndarray | None = None,
  *,
  thresholds: Mapping[str, float] | None = None,
) -> Table:
  """Figures on all rows and without each group; arguments of `evaluate`."""
  if not labels:
    raise DataError("no label: metrics need at least one")
  for name, threshold in (thresholds or {}).items():
    if name in probabilities and probabilities[name] is not None:
      _check_threshold(name, threshold)
  rows = len(next(iter(labels.values())))
  labels = {name: check_label(name, y, rows) for name, y in labels.items()}
  calls = {
    name: _prepare(name, y, probabilities[name], (thresholds or {}).get(name))
    for name, y in labels.items()
  }
  groups = np.arange(rows) if groups is None else np.asarray(groups)
  supports = _supports(labels, groups)
  kept = tuple(
    name
    for name, found in calls.items()
    if found and supports[f"{name}/auroc"].fewest >= intervals.FEWEST
  )
  values = intervals.leave_one_out(
    lambda weights: _all_metrics(calls, kept, weights), rows, groups
  )
  skipped = tuple(name for name in labels if name not in kept)
  supports |= _of_means(labels, kept, supports, groups, values)
  return Table(values, supports, skipped)


def check_label(name: str, y: np.ndarray, rows: int) -> np.ndarray:
  """float64[rows] of 1, 0 and NaN; raises `DataError` for anything else."""
  y = np.asarray(y, np.float64)
  if y.shape != (rows,):
    raise DataError(f"label {name!r}: shape {y.shape} for {rows} images")
  odd = y[~np.isnan(y) & (y != 0) & (y != 1)]
  if len(odd):
    raise DataError(f"label {name!r} must be 1, 0 or missing, found {odd[0]:g}")
  return y


def _check_threshold(name: str, threshold: float) -> None:
  if not np.isfinite(threshold):
    raise DataError(f"label {name!r}: threshold {threshold} is no number")


def _supports(labels, groups) -> dict[str, intervals.Support]:
  """What every figure of every label rests on."""
  found = {}
  for name, y in labels.items():
    known = ~np.isnan(y)
    for metric in (*_SCORED, *_CALLED):
      found[f"{name}/{metric}"] = intervals.support_of(
        groups[known],
        y[known],
        _SIDES.get(metric, (1, 0)),
        _NEEDED.get(metric, intervals.FEWEST),
      )
  return found


def _of_means(labels, kept, supports, groups, values) -> dict:
  """Of the means: rows with any label, and the fewest groups of a label.

  Degrees of freedom are the mean of the labels' own, weighted by the variances
  of their AUROC: right for labels that vary together, and fewer than
  Satterthwaite's for others.
  """
  known = np.any([~np.isnan(y) for y in labels.values()], axis=0)
  each = [supports[f"{name}/auroc"] for name in kept]
  support = intervals.support_of(groups[known])._replace(
    positive=min((s.positive for s in each), default=0),
    negative=min((s.negative for s in each), default=0),
  )
  errors = [intervals.standard_error(values[f"{name}/auroc"]) for name in kept]
  variances = np.square(errors)
  if variances.sum() > 0:
    degrees = np.average([s.freedom for s in each], weights=variances)
    support = support._replace(degrees=float(degrees))
  return dict.fromkeys(MEANS, support)


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


def _all_metrics(calls, kept, weights) -> dict[str, np.ndarray]:
  """Every metric of every label for each weighting: name -> float[S]."""
  result, positives = {}, {}
  undefined = np.full(len(weights), np.nan)
  for name, prepared in calls.items():
    if prepared is None or not len(prepared[1]):
      result |= {f"{name}/{m}": undefined for m in (*_SCORED, *_CALLED)}
      continue
    rows, label, probability, called = prepared
    used = weights[:, rows]
    positives[name] = used @ label
    for metric, function in _SCORED.items():
      result[f"{name}/{metric}"] = function(label, probability, used)
    for metric, function in _CALLED.items():
      result[f"{name}/{metric}"] = function(label, called, used)
  if not kept:
    return result | dict.fromkeys(MEANS, undefined)
  auroc, f1, constant = (
    np.stack([result[f"{name}/{metric}"] for name in kept])
    for metric in ("auroc", "f1", "f1_constant")
  )
  support = np.stack([positives[name] for name in kept])
  return result | {
    "macro_auroc": auroc.mean(0),
    "macro_f1": f1.mean(0),
    "macro_f1_constant": constant.mean(0),
    "weighted_auroc": (auroc * support).sum(0) / support.sum(0),
  }
