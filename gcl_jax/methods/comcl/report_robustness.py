"""Sections of the report about the diagnosis as image quality falls."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.evaluation import robustness
from gcl_jax.methods.comcl import arms, handmade
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.methods.comcl.targets import outputs_of, targets_of
from gcl_jax.pipeline import report_comparisons, report_probe
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.report import Metrics, words
from gcl_jax.report import html

_FIGURES = {
  "accuracy": "accuracy",
  "majority": "majority share",
  "macro_auroc": "macro AUROC",
}
_CONDITION = "low quality among the evaluation images"


def names_of(config: ConfigDict, found: dict) -> list[str]:
  """Names of what was tested, this method's own arm first.

  Args:
    config: the whole configuration.
    found: the artifact of stage `diagnosis`.
  """
  every = (*arms.names(config), handmade.NAME)
  return [name for name in every if name in found["probabilities"]]


def kappa_of(config: ConfigDict) -> str:
  """What kappa is here, in words."""
  if config.diagnosis.loss == "sigmoid":
    return "mean of Cohen's kappas over findings"
  return "quadratic kappa"


def section(
  config: ConfigDict, metrics: Metrics, names: Sequence[str]
) -> html.Section:
  """Kappa of every arm at every share, its fall, and paired differences.

  Args:
    config: the whole configuration.
    metrics: of the run.
    names: from `names_of`; none without a diagnosis.
  """
  title = "Diagnosis as quality falls"
  if not names:
    text = "No diagnosis: the data set has no grades or findings to learn."
    return html.Section(title, [html.Text(text)])
  shares = tuple(config.quality.shares)
  entries = {
    name: {
      share: metrics[f"diagnosis/{name}/kappa@{robustness.percent(share)}"]
      for share in shares
    }
    for name in names
  }
  picture = report_probe.curves(
    entries, kappa_of(config), _CONDITION, lambda share: 100 * share
  )
  caption = (
    f"{kappa_of(config).capitalize()} by the share of evaluation images of low"
    " quality, with 95 % intervals by patient. The images degraded at one share"
    " are among those of the next. Whether two arms differ is in the tables of"
    " paired differences, not in their bands."
  )
  return html.Section(
    title,
    [
      html.Figure(picture, caption),
      *kappas(config, metrics, names),
      *differences(config, metrics, names),
      other_figures(config, metrics, names),
      by_output(config, metrics),
    ],
  )


def kappas(
  config: ConfigDict, metrics: Metrics, names: Sequence[str]
) -> list[html.Table]:
  """Kappa of every arm at every share, and its fall and slope."""
  percents = [robustness.percent(s) for s in config.quality.shares]
  kappa = kappa_of(config).capitalize()
  at = {f"kappa@{p}": f"{p} %" for p in percents}
  falls = {"kappa_fall": "fall", "kappa_slope": "slope"}
  caption = (
    f"Fall of kappa from {percents[0]} to {percents[-1]} % of low quality, and"
    " its slope (least squares) for a share from 0 to 1."
  )
  return [
    _by_arm(metrics, names, at, f"{kappa} by share of low quality."),
    _by_arm(metrics, names, falls, caption),
  ]


def _by_arm(metrics, names, columns, caption) -> html.Table:
  """A row for each arm, a column for each figure."""
  rows = [
    [name, *(words(metrics[f"diagnosis/{name}/{c}"]) for c in columns)]
    for name in names
  ]
  headers = ("arm", *columns.values())
  return html.Table(headers, rows, caption, align="l" + "r" * len(columns))


def differences(
  config: ConfigDict, metrics: Metrics, names: Sequence[str]
) -> list[html.Table]:
  """Paired differences of the own arm from the others, two families."""
  own, *others = names
  percents = [robustness.percent(s) for s in config.quality.shares]
  gains = {
    other: metrics[f"diagnosis/kappa_fall_gain_over_{other}"]
    for other in others
  }
  at = {
    f"{other}, {p} %": metrics[f"diagnosis/kappa@{p}_over_{other}"]
    for other in others
    for p in percents
  }
  tables = []
  if gains:
    of = f"the fall of kappa (each arm less {own}, so above 0 {own} falls less)"
    tables.append(report_comparisons.table(gains, of))
    of = f"kappa ({own} less each arm)"
    tables.append(report_comparisons.table(at, of))
  return tables


def other_figures(
  config: ConfigDict, metrics: Metrics, names: Sequence[str]
) -> html.Table:
  """Accuracy beside the majority share, and macro AUROC."""
  rows = []
  for name in names:
    for share in config.quality.shares:
      percent = robustness.percent(share)
      cells = []
      for figure in _FIGURES:
        entry = metrics[f"diagnosis/{name}/{figure}@{percent}"]
        if figure == "majority":
          entry = entry | {"low": None, "high": None}
        cells.append(words(entry))
      rows.append([name, f"{percent} %", *cells])
  caption = (
    "Majority share: the accuracy of always giving the commonest answer."
  )
  first = metrics[f"diagnosis/macro_auroc@{percent}"]
  if skipped := first.get("skipped"):
    caption += (
      f" The macro AUROC leaves out {', '.join(skipped)}: fewer than five"
      " patients with or without it."
    )
  headers = ("arm", "low quality", *_FIGURES.values())
  return html.Table(headers, rows, caption, align="lrrrr")


def by_output(config: ConfigDict, metrics: Metrics) -> html.Table:
  """AUROC of every grade or finding by this method's own arm."""
  percents = [robustness.percent(s) for s in config.quality.shares]
  prefix, first = "diagnosis/auroc/", f"@{percents[0]}"
  outputs = [
    name.removeprefix(prefix).removesuffix(first)
    for name in metrics
    if name.startswith(prefix) and name.endswith(first)
  ]
  rows = [
    [out, *(words(metrics[f"{prefix}{out}@{p}"]) for p in percents)]
    for out in outputs
  ]
  kind = "finding" if config.diagnosis.loss == "sigmoid" else "grade"
  caption = f"AUROC of each {kind} against the others, arm {arms.OWN}."
  headers = (kind, *(f"{p} %" for p in percents))
  return html.Table(headers, rows, caption, align="l" + "r" * len(percents))


def confusion(
  images: Prepared, quality: Quality, config: ConfigDict, found: dict
) -> list[html.Section]:
  """Confusion matrices of the own arm at the first and the last share.

  Args:
    images: the prepared images.
    quality: of the run.
    config: the whole configuration.
    found: the artifact of stage `diagnosis`.
  """
  if config.diagnosis.loss == "sigmoid" or "classifier" not in found:
    return []
  rows, versions = found["rows"], found["probabilities"][arms.OWN]
  truth = targets_of(images, config)[rows]
  scale, shares = config.diagnosis.grades, config.quality.shares
  tables = {}
  for who, groups in (("patient", images.groups[rows]), ("image", None)):
    for share in (shares[0], shares[-1]):
      low = quality.condition(share)[rows][:, None]
      called = np.where(low, versions["low"], versions["clean"]).argmax(1)
      counts = robustness.confusion(truth, called, scale, groups)
      caption = f"By {who}, {robustness.percent(share)} % of low quality."
      tables[who, share] = _matrix(counts, config, caption)
  by_patient = [t for (who, _), t in tables.items() if who == "patient"]
  by_image = [t for (who, _), t in tables.items() if who == "image"]
  text = (
    f"True grades in rows, those of arm {arms.OWN} in columns. A patient has"
    " the highest grade of its images, true and called."
  )
  folded = html.Details("The same by image", by_image)
  return [html.Section("Confusion", [html.Text(text), *by_patient, folded])]


def _matrix(counts: np.ndarray, config: ConfigDict, caption: str) -> html.Table:
  names = outputs_of(config, ())
  rows = [
    [name, *map(int, row), int(row.sum())]
    for name, row in zip(names, counts, strict=True)
  ]
  called = [f"called {k}" for k in range(len(names))]
  headers = ("true", *called, "in all")
  return html.Table(headers, rows, caption, align="l" + "r" * (len(names) + 1))
