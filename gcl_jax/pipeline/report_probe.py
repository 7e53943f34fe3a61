"""Tables and curves of encoders judged with few labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gcl_jax.evaluation.intervals import FEWEST
from gcl_jax.pipeline import few_labels, report_comparisons
from gcl_jax.pipeline.report import Metrics, words
from gcl_jax.report import charts, html

_BY_ENCODER = {
  "macro_auroc": "macro AUROC",
  "weighted_auroc": "weighted AUROC",
  "macro_f1": "macro F1",
  "macro_f1_constant": "F1 of all positive",
  "knn_macro_auroc": "kNN macro AUROC",
  "knn_macro_f1": "kNN macro F1",
}
_BY_LABEL = {
  "auroc": "AUROC",
  "ap": "AP",
  "sensitivity_at_90_specificity": "sensitivity at 90 % specificity",
  "brier": "Brier",
  "brier_prevalence": "Brier of prevalence",
  "calibration_slope": "calibration slope",
}
_BY_CALL = {
  "f1": "F1",
  "f1_constant": "F1 of all positive",
  "sensitivity": "sensitivity",
  "specificity": "specificity",
  "accuracy": "accuracy",
}


def left_out(metrics: Metrics) -> dict[str, str]:
  """Labels that the means leave out -> why, in words."""
  skipped = (metrics.get("probe/macro_auroc") or {}).get("skipped", ())
  return {name: _why(metrics[f"probe/{name}/auroc"]) for name in skipped}


def _why(auroc: Mapping[str, Any]) -> str:
  for side in ("positive", "negative"):
    if auroc[f"{side}_groups"] < FEWEST:
      return f"{auroc[f'{side}_groups']} {side} evaluation groups"
  return "one class only in the training part"


def learning_curves(
  metrics: Metrics, names: Sequence[str], fractions: Sequence[float]
) -> html.Figure:
  """Macro AUROC over label fractions, a line with a band for each encoder.

  Args:
    metrics: of the run.
    names: of the encoders.
    fractions: of the labelled training groups, ascending.
  """
  x, lines, bands = np.log(fractions), {}, {}
  for name in names:
    entries = [metrics[f"probe/{name}@{f:g}/macro_auroc"] for f in fractions]
    value, low, high = (
      [entry[key] for entry in entries] for key in ("value", "low", "high")
    )
    lines[name], bands[name] = (x, value), (low, high)
  picture = charts.curves(
    lines,
    "macro AUROC",
    xlabel="labelled training groups",
    bands=bands,
    ticks={at: f"{100 * f:g} %" for at, f in zip(x, fractions, strict=True)},
  )
  return html.Figure(
    picture,
    "Linear probes by share of the labelled training groups, with 95 %"
    " intervals. supervised = the same network trained end to end. The same"
    " evaluation groups serve all lines: whether two differ is in the table of"
    " paired differences, not in their bands.",
  )


def differences(
  metrics: Metrics, names: Sequence[str], fractions: Sequence[float]
) -> list[html.Table]:
  """Paired differences of the own encoder from every arm, two families."""
  found = []
  for figure, of in (("macro_auroc", "macro AUROC"), ("macro_f1", "macro F1")):
    family = few_labels.main_family(metrics, names, fractions, figure)
    if family:
      found.append(report_comparisons.table(family, of))
  return found


def per_encoder(
  metrics: Metrics, names: Sequence[str], fractions: Sequence[float]
) -> html.Table:
  """One row for each encoder, frozen or fine-tuned, and label fraction."""
  rows = []
  for name in names:
    for fraction in fractions:
      prefix = f"probe/{name}@{fraction:g}"
      found = [metrics.get(f"{prefix}/{column}") for column in _BY_ENCODER]
      rows.append([name, f"{100 * fraction:g} %", *map(words, found)])
  caption = (
    "Share of the labelled training groups. Penalty and thresholds are chosen"
    " by cross-fitting inside them. F1 of all positive: of calling every image"
    " positive, which an F1 has to beat."
  )
  if skipped := left_out(metrics):
    each = "; ".join(f"{name} ({why})" for name, why in skipped.items())
    caption += f" Means leave out {each}."
  headers = ("encoder", "groups", *_BY_ENCODER.values())
  return html.Table(headers, rows, caption, align="lr" + "r" * len(_BY_ENCODER))


def per_label(labels: Sequence[str], metrics: Metrics) -> list[html.Table]:
  """Each label by the own frozen encoder and all labels, in two tables."""
  skipped = left_out(metrics)
  tables = []
  for columns, caption in (
    (
      _BY_LABEL,
      "Each label, this method's frozen encoder, the largest fraction: ranking"
      " and calibration. Probabilities are those of balanced classes with the"
      " intercept brought back to the share of positives; a slope below 1 says"
      " that they are too extreme.",
    ),
    (_BY_CALL, "The same at the threshold chosen out of fold."),
  ):
    rows = [
      [n, *(words(metrics.get(f"probe/{n}/{c}")) for c in columns)]
      + ([skipped.get(n, "")] if skipped else [])
      for n in labels
    ]
    headers = (
      "label",
      *columns.values(),
      *["not in the means"][: bool(skipped)],
    )
    align = "l" + "r" * len(columns) + "l" * bool(skipped)
    tables.append(html.Table(headers, rows, caption, align=align))
  return tables


def chosen(
  labels: Sequence[str], found: Mapping[str, Mapping[str, dict]]
) -> html.Details:
  """What cross-fitting chose for every encoder, fraction and label.

  Args:
    labels: K names.
    found: encoder -> fraction -> fields of `crossfit.Choice`, float64[K].
  """
  rows = [
    [
      *(encoder, f"{100 * float(fraction):g} %", label),
      *(_number(of[field][k]) for field in ("penalty", "threshold", "shift")),
      f"{of['folds'][k]:g}" if of["folds"][k] else "none",
    ]
    for encoder, by_fraction in found.items()
    for fraction, of in by_fraction.items()
    for k, label in enumerate(labels)
    if not np.isnan(of["threshold"][k])
  ]
  headers = ("encoder", "groups", "label", "C", "threshold", "shift", "folds")
  caption = (
    "C: inverse penalty of a linear probe. Shift: of the logit, to the share of"
    " positives. Without folds C is 0.1 and the threshold a balanced"
    " probability of 0.5."
  )
  table = html.Table(headers, rows, caption, align="lrlrrrr")
  return html.Details("Chosen penalties and thresholds", [table])


def _number(value: float) -> str:
  return "-" if np.isnan(value) else f"{value:.3g}"
