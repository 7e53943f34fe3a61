"""Sections of the report about the score and the autoencoder behind it."""

import jax
import numpy as np

from gcl_jax.engine import results
from gcl_jax.methods.severity import grading, healthy, page_facts, steps
from gcl_jax.report import charts, distributions, html, tiles

NAMES = {
  "severity": "severity score (this run)",
  "severity.gradcon": "gradcon = error + beta * gradient term",
  "severity.grad": "gradient term alone",
  "severity.recon": "reconstruction error alone",
  "pca": "PCA error, 60 components",
  "edge": "edge energy",
  "brightness": "mean brightness",
}


def severity(images, scores, metrics, context) -> html.Section:
  """The score by class, beside its opponents and the truth."""
  rows = images.evaluation
  scores = {name: scores[name] for name in NAMES if name in scores}
  score = scores["severity"]
  edges = context.load("bin")["edges"]["severity"]
  blocks = [
    html.Figure(
      distributions.histogram_by_class(
        score[rows],
        page_facts.classes_of(images)[rows],
        edges if len(edges) <= 60 else None,
        xlabel="severity score",
      ),
      "Severity score of the evaluation images, by class. Dashed: bin edges.",
    )
  ]
  bars = {}
  for name in scores:
    found = metrics.get(grading.metric_name(name, "auroc"))
    if found:
      bars[NAMES.get(name, name)] = found
  if bars:
    ours = NAMES["severity"]
    blocks.append(
      html.Figure(
        charts.bars(
          bars,
          xlabel="AUROC, healthy against diseased",
          highlight=ours,
          reference=("chance", 0.5),
        ),
        "The score beside label-free opponents on the same evaluation images;"
        " intervals by bootstrap over groups.",
      )
    )
    known = rows & (images.healthy | images.diseased)
    diseased = images.diseased[known].astype(int)
    curves = {
      n: (diseased, scores[n][known])
      for n in ("severity", "pca", "edge", "brightness")
      if n in scores
    }
    blocks.append(
      html.Figure(charts.roc(curves), "ROC curves, healthy or diseased.")
    )
  blocks.append(_score_table(scores, metrics))
  truth = grading.truth_of(images)
  if truth is not None:
    blocks.append(
      html.Figure(
        distributions.scatter(
          truth[rows],
          score[rows],
          "true severity",
          "severity score",
          page_facts.classes_of(images)[rows],
        ),
        "Score against the known severity, patients no model has seen.",
      )
    )
  return html.Section("Severity", blocks)


def _score_table(scores, metrics) -> html.Table:
  rows = []
  for name in scores:
    cells = [
      metrics.get(grading.metric_name(name, key))
      for key in ("auroc", "auroc_adjusted", "spearman")
    ]
    rows.append(
      [
        NAMES.get(name, name),
        *("-" if c is None else results.interval(c) for c in cells),
      ]
    )
  return html.Table(
    ("score", "AUROC", "AUROC without texture", "Spearman with truth"),
    rows,
    "Without texture: after regressing out brightness, spread, background,"
    " sharpness and export size, fitted on healthy training scans.",
    align="lrrr",
  )


def gallery(context, images, score) -> html.Section:
  """Evaluation scans at equal steps of rank."""
  rows = np.flatnonzero(images.evaluation)
  order = rows[np.argsort(score[rows], kind="stable")]
  count = min(context.config.report.gallery, len(order))
  chosen = order[np.linspace(0, len(order) - 1, count).astype(int)]
  words = page_facts.classes_of(images)
  captions = [f"{words[r]}  {score[r]:.4g}" for r in chosen]
  return html.Section(
    "From the lowest to the highest score",
    [
      html.Figure(
        tiles.gallery(images.pixels[chosen], captions, columns=4),
        "Evaluation images at equal steps of rank.",
      )
    ],
  )


def autoencoder(context, images, score) -> html.Section:
  """Losses, and what the healthy model makes of scans."""
  artifact = context.load("gradcon")
  lines, references = {}, {}
  for number, model in sorted(artifact["models"].items()):
    logged = results.history(context, "gradcon", f"gradcon/{number}")
    for key in ("reconstruction", "validation_reconstruction"):
      if key in logged:
        kind = "validation" if "validation" in key else "training"
        lines[f"{kind} {number}"] = logged[key]
    references["mean healthy image"] = float(model["mean_image_loss"])
  blocks = [
    html.Figure(
      charts.curves(
        lines, "mean squared error", log=True, references=references
      ),
      "Reconstruction loss. Above the dashed line the model would be worse"
      " than predicting the mean healthy image.",
    ),
    _reconstructions(context, images, score, artifact),
  ]
  return html.Section("Autoencoder of healthy scans", blocks)


def _reconstructions(context, images, score, artifact) -> html.Figure:
  rows = np.flatnonzero(images.evaluation)
  order = rows[np.argsort(score[rows], kind="stable")]
  chosen = order[np.linspace(0, len(order) - 1, min(6, len(order))).astype(int)]
  model = healthy.make_model(
    context.config.autoencoder, images.pixels.shape[-1]
  )

  @jax.jit
  def both(params, pixels):
    x = steps.unit_range(pixels)
    return x, model.apply(params, x)

  first = sorted(artifact["models"])[0]
  params = artifact["models"][first]["params"]
  x, recon = map(np.asarray, both(params, images.pixels[chosen]))
  words = page_facts.classes_of(images)
  return html.Figure(
    tiles.reconstructions(x, recon, captions=[str(words[r]) for r in chosen]),
    "Evaluation scans from the lowest to the highest score, what the healthy"
    " model makes of them, and the difference.",
  )
