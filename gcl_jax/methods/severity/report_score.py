"""Sections of the report about the score, the autoencoder and the bins."""

import json

import numpy as np

from gcl_jax.engine import results
from gcl_jax.methods.severity import grade, opponents
from gcl_jax.methods.severity.gradcon import models_of
from gcl_jax.pipeline import report_comparisons, report_labels
from gcl_jax.pipeline.report import words
from gcl_jax.report import charts, distributions, html, tiles

NAMES = {
  "severity": "severity score (this run)",
  "severity.gradcon": "gradcon = error + beta * gradient term",
  "severity.grad": "gradient term alone",
  "severity.recon": "reconstruction error alone",
  **opponents.NAMES,
}


def severity(context, images, grades, metrics) -> html.Section:
  """The score by class, beside its opponents and the truth.

  Args:
    context: of stage `report`.
    images: the prepared images.
    grades: what stage `grade` left.
    metrics: the run's.
  """
  rows, scores = images.evaluation, grades["scores"]
  kinds = report_labels.classes_of(images)
  scores = {name: scores[name] for name in NAMES if name in scores}
  edges = context.load("bin")["edges"]["severity"]
  picture = distributions.histogram_by_class(
    scores["severity"][rows],
    kinds[rows],
    edges if len(edges) <= 60 else None,
    xlabel="severity score",
  )
  caption = (
    "Severity score of the evaluation images, by class. Dashed: edges of bins."
  )
  blocks = [html.Figure(picture, caption)]
  blocks += _opponents(images, scores, metrics)
  blocks.append(_score_table(scores, metrics))
  blocks += _unadjusted(json.loads(str(grades["unadjusted"])))
  blocks += [
    report_comparisons.table(entries, grade.FIGURES[key][2])
    for key in grade.COMPARED
    if (entries := grade.compared(metrics, key))
  ]
  truth = grade.truth_of(images)
  if truth is not None:
    picture = distributions.scatter(
      truth[rows],
      scores["severity"][rows],
      "true severity",
      "severity score",
      kinds[rows],
    )
    caption = "Score against the known severity, patients no model has seen."
    blocks.append(html.Figure(picture, caption))
  return html.Section("Severity", blocks)


def _opponents(images, scores, metrics) -> list[html.Figure]:
  """AUROC of every score as bars, and ROC curves of the label-free ones."""
  bars = {
    NAMES[name]: metrics[key]
    for name in scores
    if (key := grade.metric_name(name, "auroc")) in metrics
  }
  if not bars:
    return []
  picture = charts.bars(
    bars,
    xlabel="AUROC, healthy against diseased",
    highlight=NAMES["severity"],
    reference=("chance", 0.5),
  )
  known = images.evaluation & (images.healthy | images.diseased)
  diseased = images.diseased[known].astype(int)
  curves = {
    name: (diseased, scores[name][known])
    for name in ("severity", *opponents.NAMES)
    if name in scores
  }
  return [
    html.Figure(
      picture,
      "The score beside label-free opponents on the same evaluation images;"
      " intervals by the jackknife over groups. Which is the better one is"
      " told by the table of differences, not by these intervals.",
    ),
    html.Figure(charts.roc(curves), "ROC curves, healthy or diseased."),
  ]


def _score_table(scores, metrics) -> html.Table:
  rows = [
    [
      NAMES[name],
      *(
        words(metrics.get(grade.metric_name(name, key)))
        for key in grade.FIGURES
      ),
    ]
    for name in scores
  ]
  return html.Table(
    ("score", *(label for _, _, label in grade.FIGURES.values())),
    rows,
    "Without texture: after regressing out brightness, spread, background,"
    " sharpness and export size, fitted on healthy training scans that the"
    " score's models have not seen. Sensitivity: at the lowest threshold that"
    " leaves 90 % of the healthy evaluation scans below it. The PCAs are"
    " fitted to the same scans as the autoencoders.",
    align="l" + "r" * len(grade.FIGURES),
  )


def _unadjusted(reasons: dict[str, str]) -> list[html.Text]:
  """A line for each reason why scores have no AUROC without texture."""
  return [
    html.Text(
      "No AUROC without texture of"
      f" {', '.join(NAMES[name] for name in names)}: {why}."
    )
    for why, names in grade.by_reason(reasons).items()
  ]


def gallery(context, images, score) -> html.Section:
  """Evaluation scans at equal steps of rank."""
  rows = np.flatnonzero(images.evaluation)
  order = rows[np.argsort(score[rows], kind="stable")]
  count = min(context.config.report.gallery, len(order))
  chosen = order[np.linspace(0, len(order) - 1, count).astype(int)]
  kinds = report_labels.classes_of(images)
  captions = [f"{kinds[row]}  {score[row]:.4g}" for row in chosen]
  picture = tiles.gallery(images.pixels[chosen], captions, columns=4)
  return html.Section(
    "From the lowest to the highest score",
    [html.Figure(picture, "Evaluation images at equal steps of rank.")],
  )


def autoencoder(context, images) -> html.Section:
  """Losses, and what the healthy model makes of scans."""
  lines, references = {}, {}
  for number, model in enumerate(models_of(context.load("gradcon"))):
    logged = results.history(context, "gradcon", f"gradcon/{number}")
    for key in ("reconstruction", "validation_reconstruction"):
      if key in logged:
        kind = "validation" if "validation" in key else "training"
        lines[f"{kind} {number}"] = logged[key]
    references["mean healthy image"] = float(model["mean_image_loss"])
  curves = charts.curves(
    lines, "mean squared error", log=True, references=references
  )
  examples = context.load("score")["examples"]
  kinds = report_labels.classes_of(images)
  rows = examples["rows"]
  picture = tiles.reconstructions(
    images.pixels[rows].astype(np.float32) / 255,
    examples["reconstructions"],
    captions=[str(kinds[row]) for row in rows],
  )
  engines = enumerate(context.load("score")["engines"], 1)
  listed = ", ".join(f"layer {i} {name}" for i, name in engines)
  return html.Section(
    "Autoencoder of healthy scans",
    [
      html.Figure(
        curves,
        "Reconstruction loss. Above the dashed line the model would be worse"
        " than predicting the mean healthy image.",
      ),
      html.Figure(
        picture,
        "Evaluation scans from the lowest to the highest score, what the"
        " healthy model makes of them, and the difference.",
      ),
      html.Text(f"Engines of the decoder's per-image gradients: {listed}."),
    ],
  )


def bins(context, images) -> html.Section:
  """Rule, sizes and same-bin images of every label set made of a score."""
  artifact = context.load("bin")
  pool = images.pool(context.config.protocol)
  rows = []
  for name, facts in artifact["facts"].items():
    logged = results.history(context, "supcon", "supcon")
    logged = logged.get(f"positives/{name}")
    measured = None if logged is None else float(np.mean(logged[1]))
    counts = int(facts["occupied"]), int(facts["largest"])
    expected = float(facts["expected_positives"])
    rows.append([name, str(facts["rule"]), *counts, expected, measured])
  labels = artifact["labels"]["severity"][pool]
  counts = np.bincount(labels, minlength=len(artifact["edges"]["severity"]) - 1)
  headers = ("labels", "rule", "occupied bins", "largest bin")
  headers += ("expected same-bin images", "measured while training")
  caption = "Same-bin images: other images of an anchor's bin in its batch."
  picture = charts.bin_sizes(counts)
  return html.Section(
    "Bins",
    [
      html.Text(f"{artifact['facts']['severity']['reason']}."),
      html.Table(headers, rows, caption),
      html.Figure(picture, "Images of the pre-training pool per bin."),
    ],
  )
