"""Sections of the report about the encoder: its map and its probes."""

from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.methods.severity import page_facts, probing
from gcl_jax.report import charts, distributions, html, projection


def embedding(context, images, score) -> html.Section:
  """Frozen features in the plane, by score and by class."""
  artifact = context.load("probe")
  config = context.config.report
  rows = artifact["rows"]
  words = page_facts.classes_of(images)
  blocks = []
  for method in dict.fromkeys(("pca", config.embedding)):
    points, kept = projection.project_2d(
      artifact["features"],
      method,
      context.config.seed,
      limit=config.embedding_points,
    )
    shown = rows[kept]
    name = {"pca": "Principal components", "tsne": "t-SNE"}[method]
    blocks += [
      html.Figure(
        distributions.embedding(
          points, score[shown], kind="continuous", label="severity score"
        ),
        f"{name} of the frozen features of the evaluation images, by score.",
      ),
      html.Figure(
        distributions.embedding(points, words[shown], label="class"),
        f"The same {name} by class.",
      ),
    ]
  return html.Section("What the encoder sees", blocks)


def probe(context, images, metrics) -> html.Section:
  """Every encoder at every label fraction, then label by label."""
  config = context.config
  if missing := probing.nothing_to_probe(images):
    return html.Section(
      "What the encoder is worth", [html.Text(f"No probe: {missing}.")]
    )
  names = probing.encoder_names(config)
  fractions = sorted(config.probe.fractions)
  blocks: list[Any] = []
  for fraction in reversed(fractions):
    bars = {n: metrics[f"probe/{n}@{fraction:g}/macro_auroc"] for n in names}
    blocks.append(
      html.Figure(
        charts.bars(
          bars,
          xlabel="macro AUROC",
          highlight=probing.METHOD,
          reference=("chance", 0.5),
        ),
        f"Linear probe on {fraction:.0%} of the labelled training groups."
        " supervised = the same network trained end to end.",
      )
    )
  blocks.append(_per_encoder(context, metrics))
  blocks.append(_per_label(images, metrics))
  blocks.append(_probe_roc(context, images))
  return html.Section("What the encoder is worth", blocks)


def _per_encoder(context, metrics) -> html.Table:
  """One row for each encoder, frozen or fine-tuned, and label fraction."""
  columns = ("macro_auroc", "weighted_auroc", "macro_f1", "knn_macro_auroc")
  names = probing.encoder_names(context.config)
  if context.config.probe.finetune:
    names += tuple(f"{n}+finetune" for n in names)
  rows = []
  for name in names:
    for fraction in sorted(context.config.probe.fractions):
      found = [metrics.get(f"probe/{name}@{fraction:g}/{c}") for c in columns]
      if any(found):
        cells = ["-" if f is None else results.interval(f) for f in found]
        rows.append([name, f"{fraction:.0%}", *cells])
  return html.Table(
    (
      "encoder",
      "groups",
      "macro AUROC",
      "weighted AUROC",
      "macro F1",
      "kNN macro AUROC",
    ),
    rows,
    "Share of the labelled training groups; undefined labels are left out of"
    " the means.",
    align="lrrrrr",
  )


def _per_label(images, metrics) -> html.Table:
  columns = ("auroc", "ap", "f1", "sensitivity", "specificity", "accuracy")
  rows = [
    [n, *(results.interval(metrics.get(f"probe/{n}/{c}")) for c in columns)]
    for n in images.labels
  ]
  return html.Table(
    ("label", "AUROC", "AP", "F1", "sensitivity", "specificity", "accuracy"),
    rows,
    "Each label, this method's frozen encoder, the largest fraction.",
    align="lrrrrrr",
  )


def _probe_roc(context, images) -> html.Figure:
  artifact = context.load("probe")
  values, rows = artifact["probabilities"][probing.METHOD], artifact["rows"]
  curves = {}
  for i, name in enumerate(images.labels[:6]):
    truth = np.asarray(images.table[name], float)[rows]
    if not np.isnan(values[:, i]).any():
      curves[name] = (truth, values[:, i])
  return html.Figure(
    charts.roc(curves), "ROC of the linear probe, one curve a label."
  )
