"""Stage `report`: segmentations, and what uncertainty goes along with."""

from typing import Any

from gcl_jax.engine.context import Context
from gcl_jax.methods.pixel_global import arms, measure, report_pictures
from gcl_jax.methods.pixel_global import report_pretraining as pretraining
from gcl_jax.methods.pixel_global import report_warnings as notes
from gcl_jax.pipeline import gains, report, report_gains, report_volumes
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.report import html

# Metric -> what it is in words, and what it counts.
_FIGURES = {
  "uncertainty_rank": (
    "uncertainty with the marker outside the view (Spearman)",
    "cells of look-alike classes",
  ),
  "uncertainty_rank_partial": (
    "the same given border distance and number of matches",
    "cells of look-alike classes",
  ),
  "border_rank": (
    "uncertainty with the distance to the view's border",
    "cells",
  ),
  "error_rank": (
    "uncertainty with the distance of matched pairs",
    "matched cells",
  ),
  "gap": ("mean |S(P) - P|, what the stabilizer moves", "views"),
  "weight_spread": ("standard deviation of the weights, of mean 1", "views"),
  "unmatched": ("share of views without a pair", "views"),
  "spread": ("variance of pixel embeddings, 0 to 1", "slices"),
  "effective_rank": ("effective rank of pixel embeddings", "slices"),
  "deviation": ("mean standard deviation of their dimensions", "slices"),
}


def run(context: Context) -> dict[str, Any]:
  """Writes report.json and report.html into the run's folder."""
  images, config = Prepared(context), context.config
  found, names = context.load("segment"), arms.names(config)
  cells = context.load("uncertainty")
  alike = codes(images.classes, config.segment.alike)
  metrics = gains.metrics(found, config, names, arms.BASELINES)
  metrics |= measure.metrics(cells, alike)
  for line in report_gains.lines(config, metrics, names):
    context.telemetry.say(line)
  gains.write_tables(context, images, found, names)
  tuned = [arm for arm in (*arms.BASELINES, arms.OWN) if arm in names]
  return report.write(
    context,
    images,
    metrics,
    title=f"Pixel-global: {config.preset}",
    subtitle=report_volumes.subtitle(context, images),
    cards=_cards(config),
    sections=[
      *report_volumes.sections(context, images, found, metrics, names),
      *_uncertainty(cells, metrics, alike),
      *pretraining.sections(context),
      report_volumes.fine_tuning(context, tuned),
      report.data(images, report_volumes.data_table(images)),
    ],
    warnings=[
      *report.data_warnings(context, images),
      *report_volumes.warnings(
        images, tuple(config.preprocess.size), metrics, arms.OWN
      ),
      *report_volumes.steps_warning(metrics, names),
      *notes.of_gains(metrics),
      *notes.of_uncertainty(cells, metrics, config.pretrain.weighting),
      *notes.of_pretraining(context),
    ],
  )


def codes(classes: tuple[str, ...], alike: tuple[str, ...]) -> tuple[int, ...]:
  """Numbers in class maps of the classes that look alike."""
  return tuple(classes.index(name) + 1 for name in alike)


def _cards(config) -> list[tuple[str, str, str]]:
  """Those of segmentation, the gain over PixPro, and the uncertainty."""
  return [
    *report_volumes.cards(config),
    ("segment/gain_over_pixpro", "Gain over PixPro", "Dice, paired"),
    (
      "pixel/uncertainty_rank",
      "Uncertainty where the marker is outside",
      "rank correlation",
    ),
  ]


def _uncertainty(cells, metrics, alike) -> list[html.Section]:
  """What uncertainty goes along with, and where it lies."""
  if not len(cells["ids"]):
    text = "The pixel branch of this run has no uncertainty to look at."
    return [html.Section("Uncertainty", [html.Text(text)])]
  rows = [
    [words, report.words(entry), f"{entry['n']:,} {unit}"]
    for name, (words, unit) in _FIGURES.items()
    for entry in [metrics[f"pixel/{name}"]]
  ]
  caption = (
    f"Two views of {len(cells['ids'])} evaluation slices. Intervals leave"
    " patients out. Undefined: the data set has no marker, or no classes were"
    " named in segment.alike."
  )
  table = html.Table(("figure", "value", "of"), rows, caption, align="lrl")
  return [
    html.Section(
      "Uncertainty", [table, report_pictures.by_border(cells, alike)]
    ),
    html.Section(
      "Weights and pairs",
      [report_pictures.weights(cells), report_pictures.matched(cells)],
    ),
  ]
