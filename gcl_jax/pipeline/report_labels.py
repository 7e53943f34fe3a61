"""Sections of a report about encoders judged with few labels."""

from collections.abc import Sequence

import numpy as np

from gcl_jax.engine.context import Context
from gcl_jax.pipeline import few_labels, report, report_probe
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.report import Metrics
from gcl_jax.report import charts, distributions, html, projection
from gcl_jax.report.reliability import reliability


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

  predictions.csv has the probabilities of the largest label fraction; those of
  every fraction are in the artifact of stage `probe`.

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
  for encoder, by_fraction in found["probabilities"].items():
    values = by_fraction[max(by_fraction, key=float)]
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
  """A warning on labels that the means leave out, or that there is no probe."""
  if missing := few_labels.nothing_to_probe(images):
    return [f"No probe: {missing}."]
  left_out = report_probe.left_out(metrics)
  if not left_out:
    return []
  each = "; ".join(f"{name} ({why})" for name, why in left_out.items())
  return [f"Means over labels leave out {each}."]


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
  config = context.config.probe
  fractions = sorted(config.fractions)
  artifact, named = context.load("probe"), list(names)
  if config.finetune:
    named += [name + few_labels.FINETUNED for name in names]
  named = [name for name in named if name in artifact["probabilities"]]
  key = f"{max(fractions):g}"
  own = artifact["probabilities"][names[0]][key]
  truths = _truths(images, artifact["rows"], own)
  return html.Section(
    title,
    [
      report_probe.learning_curves(metrics, named, fractions),
      *report_probe.differences(metrics, names, fractions),
      report_probe.per_encoder(metrics, named, fractions),
      *report_probe.per_label(images.labels, metrics),
      html.Figure(
        charts.roc(truths), "ROC of the linear probe, one curve a label."
      ),
      html.Figure(
        reliability(truths),
        "Reliability of the linear probe: bins of equally many evaluation"
        " images. The probe is fitted to balanced classes; its intercept is"
        " then moved so that the mean probability out of fold is the share of"
        " positives among the labelled training images.",
      ),
      report_probe.chosen(images.labels, artifact["chosen"]),
    ],
  )


def _truths(images, rows, values) -> dict[str, tuple]:
  """Label and probability of the first labels that have a classifier."""
  return {
    label: (np.asarray(images.table[label], float)[rows], values[:, i])
    for i, label in enumerate(images.labels[:6])
    if not np.isnan(values[:, i]).any()
  }
