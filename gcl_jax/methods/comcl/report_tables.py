"""Tables of the report: windows, pre-training, the data, files by id."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.methods.comcl import arms
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.methods.comcl.targets import outputs_of, targets_of
from gcl_jax.pipeline import report, report_comparisons
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.report import Metrics, words
from gcl_jax.report import charts, html

# What every pre-training logs beside its loss: prefix -> name, in words.
MONITORS = {
  "kept/": "share of anchors that count",
  "variance/": "variance within a pool",
  "rank/": "effective rank of a pool",
}
PLACE = "place"  # a probe of the place of a window, without an encoder
_PATCHES = {
  "lesion_auroc": "lesion against artefact, AUROC",
  "quality_auroc": "quality, AUROC",
  "effective_rank": "effective rank",
}

_BOXES = {
  "boxes": "all",
  "boxes/part": "not on a training image",
  "boxes/not_diseased": "on an image not known to be diseased",
  "boxes/confidence": "of too low a confidence",
  "boxes/size": "larger than a window",
  "boxes/margin": "too near the edge of the image",
  "boxes/false": "on healthy images, used as healthy windows",
}


def pretraining(context: Context) -> html.Section:
  """Losses of all arms, and what was logged of each arm beside it."""
  trained = arms.trained(context.config)
  caption = "Losses of different kinds are on different scales: compare shapes."
  section = report.losses(context, trained, caption)
  blocks = list(section.blocks)
  for arm in trained:
    logged, figures = results.history(context, arm, arm), []
    for prefix, name in MONITORS.items():
      lines = named(logged, prefix)
      if lines:
        picture = charts.curves(lines, name)
        figures.append(html.Figure(picture, f"Arm {arm}: {name}."))
    if arm == arms.OWN:
      blocks += figures
    elif figures:
      blocks.append(html.Details(f"Arm {arm}", figures))
  return html.Section(section.title, blocks)


def named(logged: dict[str, tuple], prefix: str) -> dict[str, tuple]:
  """The logged series under a prefix, without it, pairs as "a against b"."""
  return {
    name.removeprefix(prefix).replace("|", " against "): series
    for name, series in logged.items()
    if name.startswith(prefix)
  }


def windows(
  config: ConfigDict, metrics: Metrics, facts: dict[str, int]
) -> list[html.Table]:
  """What windows tell: probes of every encoder, the detector, the pools.

  Args:
    config: the whole configuration.
    metrics: of the run.
    facts: counts of `pools.build`, of this method's own arm.
  """
  tables = _probes(config, metrics)
  singles = {
    "patch/position_auroc": "place and border of a window alone, AUROC",
    "detector/recall": "lesions that the detector finds",
    "detector/false_boxes": "false boxes of an image",
  }
  rows = [[t, words(metrics[k])] for k, t in singles.items() if k in metrics]
  if rows:
    tables.append(html.Table(("figure", "value"), rows, align="lr"))
  return [*tables, *_pools(facts)]


def _probes(config: ConfigDict, metrics: Metrics) -> list[html.Table]:
  """Probes of every encoder, and paired differences in lesion AUROC."""
  names, tables = (*arms.trained(config), PLACE), []
  prefixes = {name: f"patch/{name}/" for name in names}
  prefixes[arms.OWN] = "patch/"
  rows = {
    name: [metrics.get(f"{prefix}{figure}") for figure in _PATCHES]
    for name, prefix in prefixes.items()
  }
  rows = [[name, *map(words, row)] for name, row in rows.items() if any(row)]
  if rows:
    caption = (
      "Linear probes on windows of evaluation images, by the encoder of each"
      " arm before the fine-tune. Quality: lower is less about quality."
    )
    headers = ("arm", *_PATCHES.values())
    tables.append(html.Table(headers, rows, caption, align="lrrr"))
  family = {
    name: metrics[key]
    for name in names
    if (key := f"patch/lesion_auroc_over_{name}") in metrics
  }
  if family:
    of = f"AUROC of lesion against artefact ({arms.OWN} less each arm)"
    tables.append(report_comparisons.table(family, of))
  return tables


def _pools(facts: dict[str, int]) -> list[html.Table]:
  """Images and windows of each level, and what became of the boxes."""
  rows = [
    [level.replace("_", ", "), facts[f"images/{level}"], count]
    for name, count in facts.items()
    if (level := name.removeprefix("windows/")) != name
  ]
  levels = html.Table(
    ("level", "training images", "boxes of windows"), rows, align="lrr"
  )
  rows = [
    [words_, facts[key]] for key, words_ in _BOXES.items() if key in facts
  ]
  caption = (
    "A box that is not used is counted by the first of these rules that it"
    " breaks."
  )
  return [levels, html.Table(("boxes", "number"), rows, caption, align="lr")]


def data(images: Prepared, quality: Quality, config: ConfigDict) -> html.Table:
  """Images of every grade (or finding) and quality in each part."""
  names = outputs_of(config, images.labels)
  if config.diagnosis.loss == "sigmoid":
    kinds = {n: np.asarray(images.table[n], float) == 1 for n in names}
  else:
    grades = targets_of(images, config)
    kinds = {name: grades == k for k, name in enumerate(names)}
    kinds["unknown"] = np.isnan(grades)
  parts = {"training": images.train, "evaluation": images.evaluation}
  rows = [
    [
      kind,
      *(
        int((here & part & low).sum())
        for part in parts.values()
        for low in (~quality.low, quality.low)
      ),
    ]
    for kind, here in kinds.items()
  ]
  every = [
    int((part & low).sum())
    for part in parts.values()
    for low in (~quality.low, quality.low)
  ]
  headers = [
    f"{part}, {low}" for part in parts for low in ("good", "low quality")
  ]
  caption = (
    "Images by quality, of evaluation images in the first condition. Images"
    f" that the table itself calls low: {int(quality.native.sum())}."
  )
  return html.Table(("images", *headers), [*rows, ["all", *every]], caption)


def write(
  context: Context,
  images: Prepared,
  quality: Quality,
  found: dict[str, Any],
  names: Sequence[str],
) -> None:
  """Writes scores.csv, predictions.csv and features.npz, by id.

  Args:
    context: of stage `report`.
    images: the prepared images.
    quality: of the run.
    found: the artifact of stage `diagnosis`.
    names: its arms, this method's own first.
  """
  config, table = context.config, images.table
  columns = {name: table[name] for name in ("id", "group", "part")}
  scores = {
    "low": quality.low.astype(int),
    "native": quality.native.astype(int),
    "order": quality.order,
  }
  report.write_table(context, "scores.csv", columns | scores)
  if config.diagnosis.loss == "sigmoid":
    truths = {name: table[name] for name in images.labels}
  else:
    truths = {"grade": targets_of(images, config)}
  rows = found["rows"]
  columns = {n: v[rows] for n, v in (columns | truths).items()}
  for arm in names:
    for version, suffix in (("clean", ""), ("low", " degraded")):
      values = found["probabilities"][arm][version]
      for k, output in enumerate(outputs_of(config, images.labels)):
        columns[f"{output} by {arm}{suffix}"] = values[:, k]
  report.write_table(context, "predictions.csv", columns)
  report.write_features(context, images, found["features"])
