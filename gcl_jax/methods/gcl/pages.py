"""The report, section by section, in reading order."""

from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.methods.gcl import arms, figures, training_pages
from gcl_jax.methods.gcl.slices import Slices
from gcl_jax.report import charts, html
from gcl_jax.report.tiles import overlays


def sections(
  context: Any, slices: Slices, found: dict, metrics: dict
) -> list[html.Section]:
  """Every section whose facts exist in this run."""
  return [
    _segmentation(context, slices, found, metrics),
    _examples(context, slices, found),
    _classes(context, slices, metrics),
    *training_pages.sections(context),
    _data(context, slices),
    _throughput(context),
    html.settings(context.config.to_dict()),
  ]


def _label(labelled: int) -> str:
  return str(labelled or "all")


def _segmentation(context, slices, found, metrics) -> html.Section:
  config, rows, gains = context.config, [], {}
  for labelled in config.segment.labelled:
    for arm in arms.names(config):
      name = f"segment/{arm}@{_label(labelled)}"
      scores = figures.scores_of(found, config, arm, labelled, "eval")
      rows.append(
        [
          _label(labelled),
          arm,
          *(
            _words(metrics.get(f"{name}/{key}"))
            for key in (
              "dice/mean",
              "gain_over_scratch",
              "hd95/mean",
              "ood/dice/mean",
            )
          ),
          figures.spread(scores["dice/mean"]),
        ]
      )
      if gain := metrics.get(f"{name}/gain_over_scratch"):
        gains[f"{arm}, M = {_label(labelled)}"] = gain
  blocks: list[Any] = [
    html.Table(
      (
        "M",
        "arm",
        "Dice",
        "gain over scratch",
        "HD95 in mm",
        "Dice, other data",
        "sd of fits",
      ),
      rows,
      caption="M patients with labels. Means over test volumes, classes, draws"
      " and seeds; intervals over test patients, draws and seeds (none where"
      " there was one fine-tune only); the sd is over draws and seeds.",
    )
  ]
  if gains:
    blocks.append(
      html.Figure(
        charts.bars(
          gains,
          xlabel="gain in Dice over scratch",
          highlight=[name for name in gains if name.startswith("gcl,")],
          reference=("no gain", 0.0),
        ),
        "Difference to the same U-Net trained from random weights on the same"
        " labelled patients with the same seeds, paired by volume.",
      )
    )
  if len(config.segment.labelled) > 1:
    blocks.append(
      html.Figure(
        charts.curves(
          _by_labels(context, slices, metrics),
          "Dice",
          xlabel="patients with labels",
        ),
        "Mean Dice on test volumes by the number of labelled patients.",
      )
    )
  return html.Section("Segmentation with few labels", blocks)


def _by_labels(context, slices, metrics) -> dict[str, tuple]:
  """Arm -> (patients with labels, Dice), fewest first."""
  everyone = slices.labelled_patients
  order = sorted(context.config.segment.labelled, key=lambda m: m or everyone)
  return {
    arm: (
      [m or everyone for m in order],
      [metrics[f"segment/{arm}@{_label(m)}/dice/mean"]["value"] for m in order],
    )
    for arm in arms.names(context.config)
  }


def _words(metric: dict | None) -> str:
  """An interval, or a dash where an arm has no such figure."""
  return "-" if metric is None else results.interval(metric)


def _examples(context, slices, found) -> html.Section:
  rows = found["examples"]["rows"]
  maps = {"truth": np.asarray(slices.masks[rows])} | {
    arm: found["examples"]["predictions"][arm]
    for arm in arms.names(context.config)
  }
  first = figures.first_fit(context.config, "gcl")
  return html.Section(
    "What it looks like",
    [
      html.Figure(
        overlays(
          slices.pixels[rows],
          maps,
          slices.classes,
          [str(slices.table["volume"][row]) for row in rows],
        ),
        f"Middle slices of test volumes; {_label(first.labelled)} labelled"
        f" patients, draw {first.draw}, seed {first.seed}.",
      )
    ],
  )


def _classes(context, slices, metrics) -> html.Section:
  rows = []
  for labelled in context.config.segment.labelled:
    for arm in arms.names(context.config):
      name = f"segment/{arm}@{_label(labelled)}"
      for kind in slices.classes:
        dice = metrics.get(f"{name}/dice/{kind}")
        distance = metrics.get(f"{name}/hd95/{kind}")
        rows.append(
          [
            _label(labelled),
            arm,
            kind,
            results.interval(dice),
            results.interval(distance),
            metrics[f"{name}/hd95/{kind}/undefined"]["value"],
          ]
        )
  table = html.Table(
    (
      "M",
      "arm",
      "class",
      "Dice",
      "HD95 in mm",
      "volumes without HD95",
    ),
    rows,
  )
  return html.Section("By class", [table])


def _data(context, slices) -> html.Section:
  rows = []
  for part in ("train", "eval", "ood"):
    here = slices.part(part)
    if here.any():
      rows.append(
        [
          part,
          len(set(slices.groups[here].tolist())),
          len(set(slices.table["volume"][here].tolist())),
          int(here.sum()),
          int((here & slices.labelled).sum()),
          slices.cropped(part)[0],
        ]
      )
  headers = ("part", "patients", "volumes", "slices", "slices with class maps")
  table = html.Table((*headers, "labelled voxels cut away"), rows)
  bad = context.load("data")["quarantine"]
  blocks: list[Any] = [table]
  if len(bad):
    listed = html.Table(
      ("id", "reason"), [[str(cell) for cell in row] for row in bad]
    )
    blocks.append(html.Details(f"{len(bad)} slices left out", [listed]))
  return html.Section("Data", blocks)


def _throughput(context) -> html.Section:
  columns = ("images_per_s", "data_wait", "mfu", "peak_bytes", "compile_s")
  rows = [
    [name, *(facts.get(c) for c in columns)]
    for name, facts in results.throughput(context).items()
    if not name.startswith("predict ")
  ]
  headers = (
    "fit",
    "images/s",
    "share waiting for data",
    "MFU",
    "peak bytes",
    "compile s",
  )
  return html.Section("Speed", [html.Table(headers, rows)])
