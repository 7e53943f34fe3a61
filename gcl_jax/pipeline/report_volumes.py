"""Sections of a report about few-label segmentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.evaluation.comparisons import verdict
from gcl_jax.evaluation.volumes import AMBIGUOUS
from gcl_jax.pipeline import gains, report_gains
from gcl_jax.pipeline.label_draws import (
  SCRATCH,
  SCRATCH_LONG,
  Fit,
  fits,
  labelled_patients,
)
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.report import Metrics, words
from gcl_jax.pipeline.sources import PARTS
from gcl_jax.report import charts, html, tiles


def cards(config: ConfigDict) -> list[tuple[str, str, str]]:
  """Headline figures for `report.write`."""
  first = config.segment.labelled[0]
  labels = f"{gains.label(first)} labelled patients"
  labels = "1 labelled" if first == 1 else labels
  ambiguous = (f"segment/{AMBIGUOUS}", "Dice, ambiguous pixels", labels)
  return [
    ("segment/dice/mean", f"Dice, {labels}", "mean over classes"),
    *([ambiguous] if config.segment.get("alike", ()) else []),
    ("segment/gain_over_scratch", "Gain over scratch", "Dice, paired"),
    ("segment/hd95/mean", "HD95", config.segment.unit),
    ("segment/ood/dice/mean", "Dice, other scanner", "out of distribution"),
  ]


def warnings(
  images: Prepared, size: tuple, metrics: Metrics, own: str
) -> list[str]:
  """Warnings on labelled voxels cut away and on volumes without HD95.

  Args:
    images: the prepared slices.
    size: (rows, columns) of `preprocess.size`.
    metrics: of the run.
    own: name of the method's own arm.
  """
  lost = {part: cropped(images, part) for part in PARTS}
  cut = [
    f"{count} of {part} ({100 * share:.2g} %, in {volumes} volumes)"
    for part, (count, share, volumes) in lost.items()
    if count
  ]
  notes = []
  if cut:
    notes.append(
      f"preprocess.size {size} cuts away labelled voxels: {', '.join(cut)}."
      " In test volumes they count as missed; a larger preprocess.size keeps"
      " them."
    )
  undefined = [
    metric["value"]
    for name, metric in metrics.items()
    if name.startswith(f"segment/{own}@") and name.endswith("mean/undefined")
  ]
  if any(undefined):
    notes.append(
      f"HD95 is undefined for {sum(undefined)} pairs of a volume and a class"
      " that the segmentation missed (or that are not there): its mean is over"
      " the others."
    )
  return notes


def steps_warning(metrics: Metrics, arms: Sequence[str]) -> list[str]:
  """A warning unless pre-training is seen to be worth its steps.

  Args:
    metrics: of the run.
    arms: names, the method's own last.
  """
  if SCRATCH_LONG not in arms:
    return [
      f"Arm {SCRATCH_LONG} was not run: a gain over {SCRATCH} does not say that"
      " pre-training is worth its steps, which fine-tuning could have had"
      f" (--config.arms=\"('{SCRATCH}','{SCRATCH_LONG}')\")."
    ]
  found = metrics.get(f"segment/gain_over_{SCRATCH_LONG}")
  if not found or found["value"] is None:
    return []
  word = verdict(found)
  if word.startswith("above"):
    return []
  return [
    f"Pre-training against fine-tuning from random weights for as many steps as"
    f" both together ({SCRATCH_LONG}): {results.interval(found)} in Dice,"
    f" {word}."
  ]


def cropped(images: Prepared, part: str) -> tuple[int, float, int]:
  """Labelled voxels of a part that the preparation cut away.

  Returns:
    Their number, their share of all labelled voxels, and the number of volumes
    that lose some.
  """
  here, table = images.part(part), images.table
  lost, labelled = (
    table[f"{kind}_voxels"][here] for kind in ("cropped", "labelled")
  )
  names = table["volume"][here][lost > 0]
  share = lost.sum() / max(labelled.sum(), 1)
  return int(lost.sum()), float(share), len(set(names.tolist()))


def sections(
  context: Context,
  images: Prepared,
  found: dict,
  metrics: Metrics,
  arms: Sequence[str],
) -> list[html.Section]:
  """What the segmentations are worth, look like, and by class.

  Args:
    context: of the report stage.
    images: the prepared slices.
    found: what `segment.run` left.
    metrics: of the run.
    arms: the method's own last.
  """
  return [
    _segmentation(context, images, found, metrics, arms),
    *report_gains.section(context.config, metrics, arms),
    _examples(context, images, found, arms),
    _classes(context, images, metrics, arms),
  ]


def _segmentation(context, images, found, metrics, arms) -> html.Section:
  config, rows, by_arm = context.config, [], {}
  columns = columns_of(config.segment)
  for labelled in config.segment.labelled:
    m = gains.label(labelled)
    for arm in arms:
      name = f"segment/{arm}@{m}"
      scores = gains.scores_of(found, config, arm, labelled, "eval")
      cells = [words(metrics.get(f"{name}/{key}")) for key in columns]
      rows.append([m, arm, *cells, gains.spread(scores["dice/mean"])])
      if gain := metrics.get(f"{name}/gain_over_{SCRATCH}"):
        by_arm[f"{arm}, M = {m}"] = gain
  caption = (
    "M patients with labels. Means over test volumes, classes and fine-tunes;"
    " intervals over test patients and draws of labelled patients, below five"
    " draws the range of their means; the sd is over fine-tunes. Failed: the"
    f" share of volumes and classes with a Dice below {gains.FAILURE}."
  )
  if tolerance := config.segment.tolerance:
    caption += (
      f" Surface Dice: the share of both surfaces within {tolerance:g} mm of"
      " the other, where the size of a voxel is known."
    )
  headers = ("M", "arm", *columns.values(), "sd of fits")
  blocks: list[Any] = [html.Table(headers, rows, caption)]
  if by_arm:
    blocks.append(report_gains.figure(by_arm, arms[-1]))
  if len(config.segment.labelled) > 1:
    curves = charts.curves(
      _by_labels(context, images, metrics, arms),
      "Dice",
      xlabel="patients with labels",
    )
    caption = "Mean Dice on test volumes by the number of labelled patients."
    blocks.append(html.Figure(curves, caption))
  return html.Section("Segmentation with few labels", blocks)


def columns_of(segment: ConfigDict) -> dict[str, str]:
  """Metric of an arm -> header of its column."""
  titles = gains.titles(segment)
  dice = {
    "dice/mean": titles.pop("dice"),
    "gain_over_scratch": "gain over scratch",
  }
  own = {
    name if name == AMBIGUOUS else f"{name}/mean": titles[name]
    for name in titles
  }
  return (
    dice | own | {"failures": "failed", "ood/dice/mean": "Dice, other data"}
  )


def _by_labels(context, images, metrics, arms) -> dict[str, tuple]:
  """Arm -> (patients with labels, Dice), fewest first."""
  every = labelled_patients(images)
  order = sorted(context.config.segment.labelled, key=lambda m: m or every)
  names = {arm: f"segment/{arm}@{{}}/dice/mean" for arm in arms}
  return {
    arm: (
      [m or every for m in order],
      [metrics[name.format(gains.label(m))]["value"] for m in order],
    )
    for arm, name in names.items()
  }


def _examples(context, images, found, arms) -> html.Section:
  rows = found["examples"]["rows"]
  maps = {"truth": np.asarray(images.masks[rows])}
  maps |= {arm: found["examples"]["predictions"][arm] for arm in arms}
  names = [str(images.table["volume"][row]) for row in rows]
  picture = tiles.overlays(images.pixels[rows], maps, images.classes, names)
  caption = f"Middle slices of test volumes; {_of(context, arms[-1])}."
  return html.Section("What it looks like", [html.Figure(picture, caption)])


def first_fit(config: ConfigDict, arm: str) -> Fit:
  """The fine-tune whose predictions and loss the report shows."""
  return fits(config.segment, [arm])[0]


def _of(context, arm) -> str:
  first = first_fit(context.config, arm)
  return (
    f"{gains.label(first.labelled)} labelled patients, draw {first.draw},"
    f" seed {first.seed}"
  )


def _classes(context, images, metrics, arms) -> html.Section:
  rows, titles = [], gains.titles(context.config.segment)
  titles.pop(AMBIGUOUS, None)
  for labelled in context.config.segment.labelled:
    for arm in arms:
      name = f"segment/{arm}@{gains.label(labelled)}"
      for kind in images.classes:
        scores = [metrics.get(f"{name}/{m}/{kind}") for m in titles]
        missing = metrics[f"{name}/hd95/{kind}/undefined"]["value"]
        cells = [gains.label(labelled), arm, kind, *map(words, scores)]
        rows.append([*cells, missing])
  headers = ("M", "arm", "class", *titles.values(), "volumes without HD95")
  return html.Section("By class", [html.Table(headers, rows)])


def fine_tuning(context: Context, arms: Sequence[str]) -> html.Section:
  """The loss of the first fine-tune of some arms, the method's own last."""
  curves = {}
  for arm in arms:
    fit = first_fit(context.config, arm)
    logged = results.history(context, "segment", fit.name)
    if "loss" in logged:
      curves[arm] = logged["loss"]
  picture = charts.curves(curves, "loss")
  caption = f"Loss on augmented slices: {_of(context, arms[-1])}."
  return html.Section("Fine-tuning", [html.Figure(picture, caption)])


def data_table(images: Prepared) -> html.Table:
  """Patients, volumes and slices of every part."""
  rows = []
  for part in PARTS:
    here = images.part(part)
    if here.any():
      patients = set(images.groups[here].tolist())
      volumes = set(images.table["volume"][here].tolist())
      slices = int(here.sum()), int((here & images.labelled).sum())
      lost, *_ = cropped(images, part)
      rows.append([part, len(patients), len(volumes), *slices, lost])
  headers = ("part", "patients", "volumes", "slices", "slices with class maps")
  return html.Table((*headers, "labelled voxels cut away"), rows)
