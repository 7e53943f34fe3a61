"""Tables and curves of encoders judged with few labels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
}
_ALONE = ("macro_f1_constant", "f1_constant", "brier_prevalence")  # no interval
_BY_LABEL = (
  (
    {
      "auroc": "AUROC",
      "ap": "AP",
      "sensitivity_at_90_specificity": "sensitivity at 90 % specificity",
    },
    "Each label, this method's frozen encoder, the largest fraction.",
  ),
  (
    {
      "f1": "F1",
      "f1_constant": "F1 of all positive",
      "sensitivity": "sensitivity",
      "specificity": "specificity",
      "accuracy": "accuracy",
    },
    "The same at the threshold that was chosen out of fold.",
  ),
  (
    {
      "brier": "Brier",
      "brier_prevalence": "Brier of prevalence",
      "calibration_slope": "calibration slope",
    },
    "Calibration of the same. Probabilities are those of balanced classes with"
    " the intercept brought back to the share of positives; a slope below 1"
    " says that they are too extreme.",
  ),
)


def left_out(metrics: Metrics) -> dict[str, str]:
  """Labels that the means leave out -> why, in words."""
  skipped = (metrics.get("probe/macro_auroc") or {}).get("skipped", ())
  return {name: _why(metrics[f"probe/{name}/auroc"]) for name in skipped}


def _why(auroc: Mapping[str, Any]) -> str:
  for side in ("positive", "negative"):
    if auroc[f"{side}_groups"] < FEWEST:
      return f"{auroc[f'{side}_groups']} {side} evaluation groups"
  return "one class only in the training part"


def left_out_in_words(
  metrics: Metrics, names: Sequence[str], fractions: Sequence[float]
) -> str:
  """Sentences on the labels that means leave out, at some fractions or all.

  Args:
    metrics: of the run.
    names: of the encoders, this method's own first.
    fractions: of the labelled training groups.
  """
  always = left_out(metrics)
  each = "; ".join(f"{name} ({why})" for name, why in always.items())
  text = f" Means leave out {each}." if each else ""
  for fraction in fractions:
    mean = metrics.get(f"probe/{names[0]}@{fraction:g}/macro_auroc") or {}
    more = [name for name in mean.get("skipped", ()) if name not in always]
    if more:
      text += (
        f" At {100 * fraction:g} % of the groups they also leave out"
        f" {', '.join(more)} (one class only among the labelled images), so"
        " they are not means of the same labels."
      )
  return text


def learning_curves(
  metrics: Metrics, names: Sequence[str], fractions: Sequence[float]
) -> html.Figure:
  """Macro AUROC over label fractions, a line with a band for each encoder.

  Args:
    metrics: of the run.
    names: of the encoders.
    fractions: of the labelled training groups, ascending.
  """
  entries = {
    name: {f: metrics[f"probe/{name}@{f:g}/macro_auroc"] for f in fractions}
    for name in names
  }
  return html.Figure(
    curves(entries, "macro AUROC"),
    "Linear probes by share of the labelled training groups, with 95 %"
    " intervals. supervised = the same network trained end to end. The same"
    " evaluation groups serve all lines: whether two differ is in the table of"
    " paired differences, not in their bands."
    + left_out_in_words(metrics, names, fractions),
  )


def curves(
  entries: Mapping[str, Mapping[float, dict]],
  ylabel: str,
  xlabel: str = "labelled training groups",
  scale: Callable[[float], float] = np.log,
) -> bytes:
  """Lines over shares with the intervals of their entries, as SVG.

  Args:
    entries: name of a line -> share -> entry of `intervals`.
    ylabel: name of the figure.
    xlabel: what the shares are of.
    scale: share -> place on the axis.
  """
  lines, bands = {}, {}
  shares = sorted({s for of_line in entries.values() for s in of_line})
  ticks = {float(scale(s)): f"{100 * s:g} %" for s in shares}
  step = 0.008 * (max(ticks) - min(ticks)) if ticks else 0
  for number, (name, of_line) in enumerate(entries.items()):
    found = sorted(of_line.items())
    # A little apart, so that every interval is seen.
    at = step * (number - (len(entries) - 1) / 2)
    x = [scale(share) + at for share, _ in found]
    value, low, high = (
      [entry[key] for _, entry in found] for key in ("value", "low", "high")
    )
    lines[name], bands[name] = (x, value), (low, high)
  return charts.curves(lines, ylabel, xlabel=xlabel, bands=bands, ticks=ticks)


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
      found = _cells(metrics, f"probe/{name}@{fraction:g}", _BY_ENCODER)
      rows.append([name, f"{100 * fraction:g} %", *found])
  caption = (
    "Share of the labelled training groups. Penalty and thresholds are chosen"
    " by cross-fitting inside them. F1 of all positive: of calling every image"
    " positive, which an F1 has to beat."
    + left_out_in_words(metrics, names, fractions)
  )
  headers = ("encoder", "groups", *_BY_ENCODER.values())
  return html.Table(headers, rows, caption, align="lr" + "r" * len(_BY_ENCODER))


def per_label(labels: Sequence[str], metrics: Metrics) -> list[html.Table]:
  """Each label by the own frozen encoder and all labels, in three tables."""
  skipped, tables = left_out(metrics), []
  for columns, caption in _BY_LABEL:
    rows = [[n, *_cells(metrics, f"probe/{n}", columns)] for n in labels]
    headers = ["label", *columns.values()]
    if skipped:
      headers.append("not in the means")
      rows = [[*row, skipped.get(row[0], "")] for row in rows]
    align = "l" + "r" * len(columns) + "l" * bool(skipped)
    tables.append(html.Table(headers, rows, caption, align=align))
  return tables


def _cells(metrics: Metrics, prefix: str, columns: Iterable[str]) -> list[str]:
  """Words of several figures; those of a constant guess without interval."""
  found = []
  for column in columns:
    entry = metrics.get(f"{prefix}/{column}")
    if entry and column in _ALONE:
      entry = entry | {"low": None, "high": None}
    found.append(words(entry))
  return found


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
