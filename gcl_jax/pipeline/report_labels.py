"""Sections of a report about encoders judged with few labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcl_jax.engine.context import Context
from gcl_jax.pipeline import few_labels, report
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.report import Metrics, words
from gcl_jax.report import charts, distributions, html, projection

_BY_ENCODER = {
  "macro_auroc": "macro AUROC",
  "weighted_auroc": "weighted AUROC",
  "macro_f1": "macro F1",
  "knn_macro_auroc": "kNN macro AUROC",
}
_BY_LABEL = {
  "auroc": "AUROC",
  "ap": "AP",
  "f1": "F1",
  "sensitivity": "sensitivity",
  "specificity": "specificity",
  "accuracy": "accuracy",
}


def classes_of(images: Prepared) -> np.ndarray:
  """A word per image, str[N]: healthy, its label, "several" or "unknown"."""
  words_ = []
  for row in range(len(images)):
    labels = [n for n in images.labels if images.table[n][row] == 1]
    specific = [n for n in labels if n != "diseased"]
    if images.healthy[row]:
      words_.append("healthy")
    elif len(specific) == 1:
      words_.append(specific[0])
    elif len(specific) > 1:
      words_.append("several")
    else:
      words_.append("diseased" if images.diseased[row] else "unknown")
  return np.array(words_)


def write_tables(
  context: Context, images: Prepared, scores: dict[str, np.ndarray]
) -> None:
  """Writes scores.csv, predictions.csv and features.npz, by id.

  Args:
    context: of stage `report`, with stage `probe` among its inputs.
    images: the prepared images.
    scores: header -> float[N], the columns of scores.csv.
  """
  found, table = context.load("probe"), images.table
  columns = {name: table[name] for name in ("id", "group", "part")}
  report.write_table(context, "scores.csv", columns | scores)
  rows = found["rows"]
  columns = {n: table[n][rows] for n in (*columns, *images.labels)}
  for encoder, values in found["probabilities"].items():
    for k, label in enumerate(images.labels):
      columns[f"{label} by {encoder}"] = values[:, k]
  report.write_table(context, "predictions.csv", columns)
  report.write_features(context, images, found["features"])


def data_table(images: Prepared) -> html.Table:
  """Images of every class in training, in evaluation, and outside the pool."""
  kinds = classes_of(images)
  rows = []
  for name in sorted(set(kinds.tolist())):
    here = kinds == name
    parts = (images.train, images.evaluation, ~images.table["pool"])
    rows.append([name, *(int((here & part).sum()) for part in parts)])
  headers = ("class", "training images", "evaluation images", "healthy only")
  return html.Table(headers, rows)


def undefined_labels(images: Prepared, metrics: Metrics) -> list[str]:
  """A warning on labels whose AUROC is undefined, or that there is no probe."""
  if missing := few_labels.nothing_to_probe(images):
    return [f"No probe: {missing}."]
  undefined = [
    name
    for name in images.labels
    if (metrics.get(f"probe/{name}/auroc") or {}).get("value") is None
  ]
  if not undefined:
    return []
  return [
    f"AUROC is undefined for {', '.join(undefined)}: one class only in the"
    " evaluation or training part. Means are over the other labels."
  ]


def embedding(
  context: Context, images: Prepared, score: np.ndarray, label: str
) -> html.Section:
  """Frozen features of evaluation images in the plane, by score and class.

  Args:
    context: of the report stage; `config.report.embedding` and
      `embedding_points`.
    images: the prepared images.
    score: float[N], which colours the points.
    label: name of the score.
  """
  artifact, config = context.load("probe"), context.config.report
  kinds, blocks = classes_of(images), []
  for method in dict.fromkeys(("pca", config.embedding)):
    points, kept = projection.project_2d(
      artifact["features"][artifact["rows"]],
      method,
      context.config.seed,
      limit=config.embedding_points,
    )
    shown = artifact["rows"][kept]
    name = {"pca": "Principal components", "tsne": "t-SNE"}[method]
    by_score = distributions.embedding(
      points, score[shown], kind="continuous", label=label
    )
    by_class = distributions.embedding(points, kinds[shown], label="class")
    blocks += [
      html.Figure(
        by_score,
        f"{name} of the frozen features of the evaluation images, by score.",
      ),
      html.Figure(by_class, f"The same {name} by class."),
    ]
  return html.Section("What the encoder sees", blocks)


def probe(
  context: Context, images: Prepared, metrics: Metrics, names: Sequence[str]
) -> html.Section:
  """Every encoder at every label fraction, then label by label.

  Args:
    context: of the report stage.
    images: the prepared images.
    metrics: of the run.
    names: the encoders, this method's own first.
  """
  title = "What the encoder is worth"
  if missing := few_labels.nothing_to_probe(images):
    return html.Section(title, [html.Text(f"No probe: {missing}.")])
  blocks: list[Any] = []
  for fraction in sorted(context.config.probe.fractions, reverse=True):
    bars = {n: metrics[f"probe/{n}@{fraction:g}/macro_auroc"] for n in names}
    picture = charts.bars(
      bars,
      xlabel="macro AUROC",
      highlight=names[0],
      reference=("chance", 0.5),
    )
    blocks.append(
      html.Figure(
        picture,
        f"Linear probe on {fraction:.0%} of the labelled training groups."
        " supervised = the same network trained end to end.",
      )
    )
  blocks.append(_per_encoder(context, metrics, names))
  blocks.append(_per_label(images, metrics))
  blocks.append(_roc(context, images, names[0]))
  return html.Section(title, blocks)


def _per_encoder(context, metrics, names) -> html.Table:
  """One row for each encoder, frozen or fine-tuned, and label fraction."""
  if context.config.probe.finetune:
    names = [*names, *(f"{n}+finetune" for n in names)]
  rows = []
  for name in names:
    for fraction in sorted(context.config.probe.fractions):
      prefix = f"probe/{name}@{fraction:g}"
      found = [metrics.get(f"{prefix}/{column}") for column in _BY_ENCODER]
      if any(found):
        rows.append([name, f"{fraction:.0%}", *map(words, found)])
  return html.Table(
    ("encoder", "groups", *_BY_ENCODER.values()),
    rows,
    "Share of the labelled training groups; undefined labels are left out of"
    " the means.",
    align="lrrrrr",
  )


def _per_label(images, metrics) -> html.Table:
  rows = [
    [n, *(words(metrics.get(f"probe/{n}/{column}")) for column in _BY_LABEL)]
    for n in images.labels
  ]
  return html.Table(
    ("label", *_BY_LABEL.values()),
    rows,
    "Each label, this method's frozen encoder, the largest fraction.",
    align="lrrrrrr",
  )


def _roc(context, images, name) -> html.Figure:
  artifact = context.load("probe")
  values, rows = artifact["probabilities"][name], artifact["rows"]
  curves = {}
  for i, label in enumerate(images.labels[:6]):
    truth = np.asarray(images.table[label], float)[rows]
    if not np.isnan(values[:, i]).any():
      curves[label] = (truth, values[:, i])
  picture = charts.roc(curves)
  return html.Figure(picture, "ROC of the linear probe, one curve a label.")
