"""Stage `report`: what is left of a diagnosis when image quality falls."""

import json
from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.evaluation import comparisons, robustness
from gcl_jax.methods.comcl import (
  arms,
  pretrain,
  report_pictures,
  report_robustness,
  report_tables,
)
from gcl_jax.methods.comcl.diagnose import DEGRADED
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.methods.comcl.targets import nothing_to_diagnose
from gcl_jax.pipeline import report
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.report import html

MEASURED = ("detect", "patches", "diagnosis")  # stages with metrics
SELECTED = 0.05  # share of anchors below which nothing is learned
VARIANCE = 0.01  # of unit vectors within a pool, below which they are one
RANK = 2.0
POSITION = 0.55  # AUROC above which the place of a window gives it away
_LAST = 3  # logged values at the end of a pre-training


def run(context: Context) -> dict[str, Any]:
  """Writes report.json and report.html into the run's folder."""
  images, quality, config = Prepared(context), Quality(context), context.config
  found, metrics = context.load("diagnosis"), {}
  for stage in MEASURED:
    if stage in context.stage.inputs:
      metrics |= json.loads(str(context.load(stage)["metrics"]))
  names = report_robustness.names_of(config, found)
  report_tables.write(context, images, quality, found, names)
  return report.write(
    context,
    images,
    metrics,
    title=f"CoMCL: {config.preset}",
    subtitle=report.subtitle(context, images),
    cards=_cards(config, metrics),
    sections=_sections(context, images, quality, found, metrics, names),
    warnings=[
      *report.data_warnings(context, images),
      *diagnosis_warnings(config, images, metrics),
      *condition_warnings(config, quality, found["rows"]),
      *pretraining_warnings(context),
      *window_warnings(metrics),
      *(f"Missing: {note}." for note in context.load("patches")["notes"]),
    ],
  )


def _cards(config, metrics) -> list[tuple[str, str, str]]:
  """Headline figures: kappa at both ends, its fall, and the gain."""
  percents = [robustness.percent(s) for s in config.quality.shares]
  kappa = report_robustness.kappa_of(config)
  cards = [
    (f"diagnosis/kappa@{p}", f"Kappa, {p} % low quality", kappa)
    for p in (percents[0], percents[-1])
  ]
  fall = f"from {percents[0]} to {percents[-1]} % of low quality"
  cards.append(("diagnosis/kappa_fall", "Fall of kappa", fall))
  if DEGRADED in config.arms:
    note = f"than {DEGRADED}, paired by patient"
    cards.append(("diagnosis/kappa_fall_gain", "Smaller fall", note))
  note = "linear probe, by image"
  cards.append(("patch/lesion_auroc", "Lesion against artefact", note))
  return cards


def _sections(
  context, images, quality, found, metrics, names
) -> list[html.Section]:
  config = context.config
  pools, facts = pretrain.pools_of(context, arms.OWN, quality.low)
  picture = report_pictures.windows(
    quality.seen, pools, config.patches.size, config.report.pictures
  )
  return [
    report_robustness.section(config, metrics, names),
    *report_robustness.confusion(images, quality, config, found),
    *report_pictures.attributions(images, quality, found, names),
    report_pictures.degraded(images, quality, config),
    html.Section(
      "Windows", [picture, *report_tables.windows(config, metrics, facts)]
    ),
    report_tables.pretraining(context),
    report.preparation(images, _preparation(config.preprocess)),
    report.data(images, report_tables.data(images, quality, config)),
  ]


def _preparation(config) -> str:
  how = "cropped to the disc" if config.disc else "padded to a square"
  size = " x ".join(map(str, config.size))
  return f"As stored and as used ({how}; {size}). No step looks at a label."


def diagnosis_warnings(config, images, metrics) -> list[str]:
  """What to know of the diagnosis: none, rare grades, no gain."""
  if missing := nothing_to_diagnose(images, config):
    return [f"No diagnosis: {missing}."]
  notes = []
  last = robustness.percent(config.quality.shares[-1])
  if skipped := metrics[f"diagnosis/macro_auroc@{last}"].get("skipped"):
    kind = "Findings" if config.diagnosis.loss == "sigmoid" else "Grades"
    notes.append(
      f"{kind} {', '.join(skipped)}: fewer than five evaluation patients with"
      " or without. They have no interval and are not in the macro AUROC."
    )
  for name, what in (
    (f"diagnosis/kappa@{last}_over_{DEGRADED}", f"kappa at {last} %"),
    (f"diagnosis/kappa_fall_gain_over_{DEGRADED}", "the fall of kappa"),
  ):
    entry = metrics.get(name)
    if entry and not comparisons.verdict(entry).startswith("above"):
      notes.append(
        f"No better in {what} than {DEGRADED}, supervised training with the"
        f" same degradations as augmentation: {results.interval(entry)},"
        f" {comparisons.verdict(entry)}."
      )
  return notes


def condition_warnings(config, quality, rows) -> list[str]:
  """Conditions of more images of low quality than their name says, because
  the table itself calls more of them low.

  Args:
    config: the whole configuration.
    quality: of the run.
    rows: int[R], the evaluation images that are tested.
  """
  native = float(np.mean(quality.native[rows])) if len(rows) else 0.0
  half = 0.5 / max(len(rows), 1)
  over = [s for s in config.quality.shares if s < native - half]
  return [
    f"Figures at {robustness.percent(share)} % are of {100 * native:.1f} % of"
    " low quality: so many evaluation images are low by the table itself, and"
    " none is degraded on top."
    for share in over
  ]


def pretraining_warnings(context: Context) -> list[str]:
  """Arms whose anchors did not count, or whose embeddings fell together."""
  notes = []
  for arm in arms.trained(context.config):
    section, _ = arms.settings_of(context.config, arm)
    logged = results.history(context, arm, arm)
    kept = report_tables.named(logged, "kept/")
    means = {name: float(np.mean(values)) for name, (_, values) in kept.items()}
    if idle := [n for n, mean in means.items() if mean < SELECTED]:
      each = ", ".join(f"{100 * means[n]:.1f} % of {n}" for n in idle)
      notes.append(
        f"Arm {arm}: pacing {section.pacing} selected {each}: such anchors give"
        " no gradient."
      )
    notes += _collapsed(arm, logged)
  return notes


def _collapsed(arm, logged) -> list[str]:
  notes = []
  for prefix, bound, word in (
    ("variance/", VARIANCE, "variance"),
    ("rank/", RANK, "effective rank"),
  ):
    for pool, (_, values) in report_tables.named(logged, prefix).items():
      value = float(np.mean(values[-_LAST:]))
      if value < bound:
        notes.append(
          f"Arm {arm}: embeddings of {pool} fell together, their {word} is"
          f" {value:.3g} at the end."
        )
  return notes


def window_warnings(metrics) -> list[str]:
  """Whether the place of a window gives its level away."""
  found = metrics.get("patch/position_auroc")
  if not found or found["value"] is None or found["value"] <= POSITION:
    return []
  return [
    f"Place and black border of a window tell lesion from healthy windows with"
    f" an AUROC of {found['value']:.3f} (more than {POSITION}): an encoder can"
    " learn them instead of lesions. With healthy images patches.healthy"
    " matched avoids it."
  ]
