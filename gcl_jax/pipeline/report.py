"""What the reports of all methods have in common."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gcl_jax import disk
from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.pipeline import report_comparisons
from gcl_jax.pipeline.census import census
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.report import charts, html, tiles

Metrics = Mapping[str, dict]
TRAINING = "training: "  # begins a sentence of `config.tuned`
_SPEED = {
  "images_per_s": "images/s",
  "data_wait": "share waiting for data",
  "mfu": "MFU",
  "peak_bytes": "peak bytes",
  "compile_s": "compile s",
}


def write(
  context: Context,
  images: Prepared,
  metrics: Metrics,
  *,
  title: str,
  subtitle: str,
  cards: Sequence[tuple[str, str, str]],
  sections: Sequence[html.Section],
  warnings: Sequence[str],
) -> dict[str, Any]:
  """Writes report.json for machines and report.html for people.

  Args:
    context: of stage `report`, whose inputs are the stages to list.
    images: the prepared images, which are counted.
    metrics: flat name -> {value, low, high, n}.
    title, subtitle: of the page.
    cards: (metric, label, note) of the headline figures; absent ones are left
      out.
    sections: the method's own, in reading order; speed and settings follow.
    warnings: what a reader must know before trusting a figure.

  Returns:
    The artifact of the stage.
  """
  method, seed = context.config.method, context.config.seed
  warnings = [*warnings, *chosen(context.config.tuned)]
  results.write(context, metrics, warnings, census(images))
  html.write(
    context.workdir / "report.html",
    title=title,
    subtitle=subtitle,
    cards=[
      _card(metrics[key], label, note)
      for key, label, note in cards
      if metrics.get(key)
    ],
    sections=[
      *sections,
      files(),
      speed(context),
      html.settings(context.config.to_dict()),
    ],
    footer=f"gcl_jax, method {method}, seed {seed}. Not for clinical use.",
    warnings=warnings,
  )
  return {"metrics": np.array(results.dumps(metrics))}


def subtitle(context: Context, images: Prepared) -> str:
  """Data set, images of both parts, groups, protocol and seed."""
  config, train, held_out = context.config, images.train, images.evaluation
  groups = len(set(images.groups[images.table["pool"]].tolist()))
  return (
    f"{config.data.name}: {train.sum()} images to train on and"
    f" {held_out.sum()} kept for evaluation, from {groups} groups that never"
    f" cross. Protocol {config.protocol}; seed {config.seed}."
  )


def chosen(tuned: Sequence[str]) -> list[str]:
  """A warning for each sentence of `tuned` that is not about training data.

  >>> chosen(("a rate by the AUROC", "training: 400 steps by the Dice"))
  ['Chosen on evaluation data: a rate by the AUROC.']
  """
  return [
    f"Chosen on evaluation data: {sentence.rstrip('.')}."
    for sentence in tuned
    if not sentence.startswith(TRAINING)
  ]


LEAVES = (
  *("report.json", "report.html"),
  *("scores.csv", "predictions.csv", "features.npz"),
)


def write_table(
  context: Context, name: str, columns: Mapping[str, Sequence]
) -> None:
  """Writes a CSV into the run's folder, one row per image or volume.

  Args:
    context: of stage `report`.
    name: of the file, one of `LEAVES`.
    columns: header -> values, as many each; nan becomes an empty cell.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(columns)
  for row in zip(*columns.values(), strict=True):
    writer.writerow(["" if value != value else value for value in row])
  disk.write_text(context.workdir / name, text.getvalue())


def write_features(
  context: Context, images: Prepared, features: np.ndarray
) -> None:
  """Writes features.npz: `ids` str[N] and `features` float32[N, D]."""
  path = context.workdir / "features.npz"
  temporary = path.with_name(".features.npz")
  np.savez(temporary, ids=images.ids.astype(str), features=features)
  temporary.replace(path)


def files() -> html.Section:
  """The section that names what a finished run can be used for."""
  rows = [
    ["scores.csv", "scores of images, or figures of test volumes"],
    ["predictions.csv", "predictions of evaluation images"],
    ["features.npz", "ids and features of all images"],
  ]
  text = (
    "These files lie in the folder of the run and are joined by id."
    " gcl_jax.load(folder) opens the run and treats new images as it did."
  )
  return html.Section(
    "Files", [html.Text(text), html.Table(("file", "holds"), rows)]
  )


def _card(metric: dict, label: str, note: str) -> html.Card:
  """A headline figure; a paired difference with its verdict."""
  if metric.get("p") is not None:
    note += f": {report_comparisons.conclusion(metric)}"
  if metric.get("range"):
    low, high = metric["range"]
    note += f"; range over draws {low:.3f} to {high:.3f}"
  interval = None if metric["low"] is None else (metric["low"], metric["high"])
  return html.Card(label, metric["value"], interval, note, "p" in metric)


def words(metric: dict | None) -> str:
  """A metric with its interval, or a dash where there is none."""
  return "-" if metric is None else results.interval(metric)


def data_warnings(context: Context, images: Prepared) -> list[str]:
  """What the data and the protocol make doubtful about every figure."""
  found, notes = images.artifact, []
  if len(found["quarantine"]):
    notes.append(
      f"{len(found['quarantine'])} images were left out, unreadable or copies"
      " of evaluation images; they are listed under Data."
    )
  if len(found["overlapping_groups"]):
    notes.append(
      f"{len(found['overlapping_groups'])} groups are in both the training and"
      " the evaluation part, because allow_group_overlap or the named split"
      " says so: figures on evaluation images are too good."
    )
  if pairs := found["near_copies"].tolist():
    shown = ", ".join(f"{a} and {b} ({value})" for a, b, value in pairs[:10])
    notes.append(
      f"{len(pairs)} evaluation images look like a training image (correlation"
      f" of their details): {shown}. If they are one scan, give them one group:"
      " figures on them are too good."
    )
  if context.config.protocol == "transductive":
    notes.append(
      "Protocol transductive: pre-training saw the evaluation images without"
      " their labels, as in the paper."
    )
  return notes


def data(images: Prepared, table: html.Table) -> html.Section:
  """The section about the data: a method's table, and what was left out."""
  blocks: list[Any] = [table]
  if len(bad := images.artifact["quarantine"]):
    rows = [[str(cell) for cell in row] for row in bad]
    listed = html.Table(("id", "reason"), rows)
    blocks.append(html.Details(f"{len(bad)} images left out", [listed]))
  return html.Section("Data", blocks)


def losses(context: Context, arms: Sequence[str], caption: str) -> html.Section:
  """Curves of the loss that each arm's stage logged."""
  lines = {}
  for name in arms:
    logged = results.history(context, name, name)
    if "loss" in logged:
      lines[name] = logged["loss"]
  picture = charts.curves(lines, "contrastive loss")
  return html.Section("Pre-training", [html.Figure(picture, caption)])


def speed(context: Context) -> html.Section:
  """Throughput of every fit and of every pass over the data set."""
  found = results.throughput(context)
  rows = [
    [name, *(facts.get(c) for c in _SPEED)] for name, facts in found.items()
  ]
  skipped = ", ".join(
    f"{facts['skipped']} of {name}"
    for name, facts in found.items()
    if facts.get("skipped")
  )
  blocks: list[Any] = [html.Table(("fit", *_SPEED.values()), rows)]
  if skipped:
    blocks.insert(0, html.Text(f"Steps skipped as not finite: {skipped}."))
  return html.Section("Speed", blocks)


def preparation(images: Prepared, caption: str) -> html.Section:
  """Images as stored beside what the networks see."""
  raw, rows = images.artifact["raw_samples"], images.artifact["sample_rows"]
  pairs = [(raw[str(i)], images.pixels[row]) for i, row in enumerate(rows)]
  names = [str(images.ids[row]) for row in rows]
  picture = tiles.before_after(pairs, names)
  return html.Section("Preparation", [html.Figure(picture, caption)])
