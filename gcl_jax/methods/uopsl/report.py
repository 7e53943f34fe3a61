"""Stage `report`: what OCT adds to fundus images with few labels."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.evaluation import comparisons
from gcl_jax.methods.uopsl import arms, draws, figures, report_pictures
from gcl_jax.pipeline import report, report_comparisons
from gcl_jax.pipeline.report import Metrics, words
from gcl_jax.report import charts, html

COLLAPSED = 0.01  # variance of unit vectors below which they are one
ALIKE = 0.9  # cosine of two sites after centring above which they are one
_FIGURES = {
  "accuracy": "balanced accuracy",
  "confounded": "accuracy within confounded pairs",
  "macro_auroc": "macro AUROC",
}
_LAST = 3  # logged values at the end of a pre-training


def run(context: Context) -> dict[str, Any]:
  """Writes report.json and report.html into the run's folder."""
  found, config = draws.sources_of(context), context.config
  tested, seen = context.load("fundus"), context.load("sites")
  metrics = json.loads(str(tested["metrics"])) | json.loads(
    str(seen["metrics"])
  )
  _write_tables(context, found, tested)
  return report.write(
    context,
    found.fundus,
    metrics,
    title=f"UOPSL: {config.preset}",
    subtitle=report.subtitle(context, found.fundus)
    + f" OCT: {int(draws.known(found.oct).sum())} scans of known class.",
    cards=_cards(config),
    sections=_sections(context, found, tested, seen, metrics),
    warnings=[
      *report.data_warnings(context, found.fundus),
      *diagnosis_warnings(config, metrics),
      *text_warnings(config, found),
      *pretraining_warnings(context),
    ],
  )


def _cards(config) -> list[tuple[str, str, str]]:
  at = figures.label(draws.name_of(config.fundus.headline))
  return [
    (
      f"fundus/accuracy@{at}",
      f"Balanced accuracy, {at} labels",
      "fundus alone",
    ),
    (
      "fundus/confounded_accuracy",
      "Within confounded pairs",
      "0.5 by chance",
    ),
    (
      "fundus/gain_over_text",
      "Gain over text",
      f"than {arms.TEXT}, paired by patient",
    ),
    ("zeroshot/accuracy", "Unseen classes", "by their descriptions alone"),
    ("sites/zone_auroc", "Attention for the zone", "AUROC by image"),
  ]


def _sections(context, found, tested, seen, metrics) -> list[html.Section]:
  config = context.config
  return [
    classification(config, metrics),
    zero_shot(config, metrics),
    *report_pictures.sites(found, config, seen),
    report_pictures.plane(found, config, seen),
    *report_pictures.pairs(found, config, tested),
    pretraining(context),
    report.preparation(
      found.fundus, "As stored and as used. No step looks at a label."
    ),
    report.data(found.fundus, _data(found, tested)),
  ]


def classification(config, metrics: Metrics) -> html.Section:
  """Figures of every arm by the number of labels, and paired differences."""
  counts = [figures.label(n) for n in draws.labelled_counts(config)]
  blocks: list[Any] = []
  for prefix, how in (("fundus", "fine-tuned"), ("probe", "linear probe")):
    names = [
      arm
      for arm in arms.names(config)
      if f"{prefix}/{arm}/accuracy@{counts[0]}" in metrics
    ]
    for figure, title in _FIGURES.items():
      entries = {
        arm: [metrics[f"{prefix}/{arm}/{figure}@{c}"] for c in counts]
        for arm in names
      }
      rows = [[arm, *map(words, row)] for arm, row in entries.items()]
      headers = ("arm", *(f"{c} labels" for c in counts))
      caption = f"{title.capitalize()}, {how}, evaluation patients."
      align = "l" + "r" * len(counts)
      blocks.append(html.Table(headers, rows, caption, align=align))
    blocks += differences(config, metrics, prefix, how)
  return html.Section("Fundus alone, few labels", blocks)


def differences(config, metrics: Metrics, prefix: str, how: str) -> list:
  """Paired differences of this method from every other arm."""
  tables = []
  for figure in ("accuracy", "confounded"):
    family = {
      f"{name.split('_over_')[1]}, {name.split('@')[1].split('_over_')[0]}"
      " labels": entry
      for name, entry in metrics.items()
      if name.startswith(f"{prefix}/{figure}@") and "_over_" in name
    }
    if family:
      of = f"{_FIGURES[figure]} ({how}; {arms.OWN} less each arm)"
      tables.append(report_comparisons.table(family, of))
  return tables


def zero_shot(config, metrics: Metrics) -> html.Section:
  """Accuracy by descriptions alone, of each arm."""
  rows = [
    [
      arm,
      *(
        words(metrics.get(name.replace("/", f"/{arm}/")))
        for name in (figures.UNSEEN, figures.EVERY)
      ),
    ]
    for arm in arms.trained(config)
  ]
  chance = metrics[figures.UNSEEN].get("chance")
  caption = "No label of a fundus image of these classes was seen."
  if chance:
    caption += f" Chance among them is {chance:.2f}."
  headers = ("arm", "unseen classes, among themselves", "all, among all")
  return html.Section(
    "By description alone", [html.Table(headers, rows, caption, align="lrr")]
  )


def pretraining(context: Context) -> html.Section:
  """Losses of all arms and the terms of this method's own."""
  trained = arms.trained(context.config)
  at = draws.name_of(context.config.fundus.headline)
  lines, figures_ = {}, []
  for arm in trained:
    logged = results.history(context, arm, f"{arm}/{at}")
    if "loss" in logged:
      lines[arm] = logged["loss"]
    if arm == arms.OWN:
      kept = {
        name: series
        for name, series in logged.items()
        if name.endswith("_text") or name in ("site", "diversity")
      }
      figures_.append(
        html.Figure(
          charts.curves(kept, "term"), f"Terms of arm {arm}, before weights."
        )
      )
  caption = (
    "Losses of arms with different terms are on different scales: compare"
    " shapes."
  )
  picture = html.Figure(charts.curves(lines, "loss"), caption)
  return html.Section("Pre-training", [picture, *figures_])


def diagnosis_warnings(config, metrics: Metrics) -> list[str]:
  """What to know of the figures: no gain, no pairs, nothing unseen."""
  notes = []
  gain = metrics["fundus/gain_over_text"]
  if arms.TEXT in config.arms and not comparisons.verdict(gain).startswith(
    "above"
  ):
    notes.append(
      f"No better than {arms.TEXT}, texts that say where lesions lie without"
      f" OCT: {results.interval(gain)}, {comparisons.verdict(gain)}."
    )
  at = figures.label(draws.name_of(config.fundus.headline))
  skipped = metrics[f"fundus/macro_auroc@{at}"].get("skipped")
  if skipped:
    notes.append(
      f"Classes {', '.join(skipped)}: fewer than five evaluation patients with"
      " or without. They are not in the macro AUROC."
    )
  if "paired" in config.arms:
    notes.append(
      "Arm paired knows which OCT scan belongs to which photograph: a bound, no"
      " competitor."
    )
  by_class = [a for a in arms.names(config) if _by_class(config, a)]
  if by_class:
    notes.append(
      f"Arms {', '.join(by_class)} draw OCT scans by the class of the labelled"
      " photographs."
    )
  return notes


def text_warnings(config, found: draws.Sources) -> list[str]:
  """Where texts of photographs without a label tell their classes."""
  images, captions = found.fundus, found.captions
  there = set(images.table["class"][draws.known(images)].tolist())
  rows = captions.of_classes(places=False)
  looks = {
    int(captions.table.target[row])
    for name, row in zip(captions.classes, rows, strict=True)
    if name in there
  }
  if not config.pretrain.rest or len(looks) < len(there):
    return []
  return [
    "Texts without a place (pretrain.rest) tell all classes of the training"
    " photographs apart: pre-training knows the classes of all of them, and the"
    " numbers of labels are those of the fine-tune. Arms without pre-training"
    " know fewer."
  ]


def _by_class(config, arm: str) -> bool:
  settings = arms.settings_of(config, arm)
  return arm not in arms.UNTRAINED and settings.oct_draw == "class"


def pretraining_warnings(context: Context) -> list[str]:
  """Arms whose vectors or sites fell together."""
  notes = []
  at = draws.name_of(context.config.fundus.headline)
  for arm in arms.trained(context.config):
    logged = results.history(context, arm, f"{arm}/{at}")
    last = {
      name: float(np.mean(values[-_LAST:]))
      for name, (_, values) in logged.items()
    }
    for name, value in last.items():
      if name.startswith("variance/") and value < COLLAPSED:
        pool = name.removeprefix("variance/")
        notes.append(
          f"Arm {arm}: vectors of {pool} images fell together, their variance"
          f" is {value:.3g} at the end."
        )
    if last.get("sites/cosine", 0) > ALIKE:
      notes.append(
        f"Arm {arm}: two sites are nearly one, their cosine after centring is"
        f" {last['sites/cosine']:.2f}."
      )
  return notes


def _data(found: draws.Sources, tested: Mapping) -> html.Table:
  """Images of every class in each part and modality."""
  classes, scans = found.fundus.table["class"], found.oct.table["class"]
  labelled = {
    name: np.isin(found.fundus.ids, ids)
    for name, ids in tested["labelled"].items()
  }
  rows = []
  for name in (*found.captions.classes, ""):
    here, of_oct = classes == name, scans == name
    rows.append(
      [
        name or "unknown",
        int((here & found.fundus.train).sum()),
        *(int((here & chosen).sum()) for chosen in labelled.values()),
        int((here & found.fundus.evaluation).sum()),
        int((of_oct & found.oct.train).sum()),
      ]
    )
  headers = (
    *("class", "fundus, training"),
    *(f"{figures.label(name)} labels" for name in labelled),
    *("fundus, evaluation", "OCT, training"),
  )
  return html.Table(headers, rows, align="l" + "r" * (len(headers) - 1))


def _write_tables(context: Context, found: draws.Sources, tested: dict) -> None:
  """Writes scores.csv (which images are labelled, and their class),
  predictions.csv (of the most labels) and features.npz, by id."""
  table = found.fundus.table
  columns = {name: table[name] for name in ("id", "group", "part", "class")}
  labelled = {
    f"labelled {figures.label(name)}": np.isin(found.fundus.ids, ids).astype(
      int
    )
    for name, ids in tested["labelled"].items()
  }
  report.write_table(context, "scores.csv", columns | labelled)
  rows = tested["rows"]
  columns = {name: values[rows] for name, values in columns.items()}
  most = draws.most(context.config)
  for arm in arms.names(context.config):
    values = tested["probabilities"][arm][most]
    for k, name in enumerate(tested["names"]):
      columns[f"{name} by {arm}"] = values[:, k]
  report.write_table(context, "predictions.csv", columns)
  report.write_features(context, found.fundus, tested["features"])
