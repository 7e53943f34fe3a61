"""Stage `report`: segmentations, and conflicts between the meta labels."""

import math
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.methods.gcl import arms
from gcl_jax.pipeline import gains, report, report_gains, report_volumes
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.report import charts, html

COMPARED = {
  "parameters": "the encoder's parameters",
  "features": "the encoder's map of each slice (their mean over slices)",
}


def run(context: Context) -> dict[str, Any]:
  """Writes report.json and report.html into the run's folder."""
  images, config = Prepared(context), context.config
  found, names = context.load("segment"), arms.names(config)
  metrics = gains.metrics(found, config, names, arms.BASELINES)
  if rate := conflict_rate(context):
    metrics["gcl/conflict_rate"] = rate
  for line in report_gains.lines(config, metrics, names):
    context.telemetry.say(line)
  gains.write_tables(context, images, found, names)
  tuned = [arm for arm in (*arms.BASELINES, arms.OWN) if arm in names]
  return report.write(
    context,
    images,
    metrics,
    title=f"GCL: {config.preset}",
    subtitle=report_volumes.subtitle(context, images),
    cards=report_volumes.cards(config),
    sections=[
      *report_volumes.sections(context, images, found, metrics, names),
      *_pretraining(context),
      report_volumes.fine_tuning(context, tuned),
      report.data(images, report_volumes.data_table(images)),
    ],
    warnings=warnings_of(context, images, metrics),
  )


def warnings_of(context: Context, images: Prepared, metrics: dict) -> list[str]:
  """What a reader must know before trusting a figure."""
  config = context.config
  size = tuple(config.preprocess.size)
  notes = report.data_warnings(context, images)
  notes += report_volumes.warnings(images, size, metrics, arms.OWN)
  notes += report_volumes.steps_warning(metrics, arms.names(config))
  for arm in arms.trained(config):
    if stuck := _not_learned(context, arm):
      notes.append(
        f"Arm {arm}: the loss of {', '.join(stuck)} ended near or above its"
        " floor log(n - 1), that of equal embeddings: it was not learned."
      )
  if 2 * context.mesh.size > _fewest_patients(config):
    notes.append(
      "The pixel branch pairs and contrasts what is on one device, and here a"
      " device holds fewer than two patients of a batch: it never compared"
      " patients. Raise pretrain.patients_per_batch or lower devices."
    )
  return notes


def conflict_rate(context: Context) -> dict | None:
  """Share of conflicting pairs of labels: its mean over the n logged steps."""
  history = results.history(context, arms.OWN, arms.OWN)
  logged = history.get("conflict_rate")
  if not logged:
    return None
  return gains.count(float(np.mean(logged[1])), len(logged[1]))


def floor(config: ConfigDict) -> float:
  """log(n - 1) of n = 2 B views: the loss when all embeddings are equal."""
  return math.log(2 * config.pretrain.batch_size - 1)


def _not_learned(context, arm) -> list[str]:
  """Meta labels whose last logged losses are within 1 % of the floor."""
  bound = floor(context.config)
  losses = _named(results.history(context, arm, arm), "loss/")
  return [
    name
    for name, (_, values) in losses.items()
    if np.mean(values[-3:]) > 0.99 * bound
  ]


def _fewest_patients(config) -> float:
  """Patients of a batch of the arms with a pixel branch; infinity without."""
  each = [arms.settings_of(config, arm) for arm in arms.names(config)]
  counts = [s.patients_per_batch for s in each if s.pixel]
  return min(filter(None, counts), default=math.inf)


def _pretraining(context) -> list[html.Section]:
  """Losses of every arm's meta labels, and how their gradients conflict."""
  blocks = []
  for arm in arms.trained(context.config):
    history = results.history(context, arm, arm)
    for prefix, branch in (("", ""), ("pixel_", " of pixels")):
      if losses := _named(history, f"{prefix}loss/"):
        blocks.append(_losses(context, arm, losses, branch))
      if cosines := _named(history, f"{prefix}cos/"):
        cosines["share below 0"] = history[f"{prefix}conflict_rate"]
        blocks.append(_cosines(context, arm, cosines, branch))
  return [html.Section("Pre-training", blocks)] if blocks else []


def _losses(context, arm, losses, branch) -> html.Figure:
  bound = floor(context.config)
  caption = f"Arm {arm}: the contrast{branch} by each meta label."
  references = {}
  if not branch:
    references = {"equal embeddings": bound}
    caption += (
      f" At log(n - 1) = {bound:.2f} all embeddings are equal and the label is"
      " not learned."
    )
  picture = charts.curves(losses, "loss", references=references)
  return html.Figure(picture, caption)


def _cosines(context, arm, curves, branch) -> html.Figure:
  level = arms.settings_of(context.config, arm).level
  return html.Figure(
    charts.curves(curves, "cosine", references={"no conflict": 0.0}),
    f"Arm {arm}: cosines of the meta labels' gradients{branch} by"
    f" {COMPARED[level]} before mitigation; below 0 they contradict each"
    " other. Beside them the share of the pairs that do.",
  )


def _named(history, prefix) -> dict:
  """The logged series under a prefix, without it."""
  return {
    name.removeprefix(prefix): series
    for name, series in history.items()
    if name.startswith(prefix)
  }
