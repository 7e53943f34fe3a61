"""Stage `report`: what the score and the encoder are worth, in pictures."""

import json
from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.methods.severity import classifier, grade
from gcl_jax.methods.severity.gradcon import models_of
from gcl_jax.pipeline import report, report_labels
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.report import words
from gcl_jax.report import charts, distributions, html, tiles

METHOD = "severity"  # the name of this method's encoder in tables
NAMES = {
  "severity": "severity score (this run)",
  "severity.gradcon": "gradcon = error + beta * gradient term",
  "severity.grad": "gradient term alone",
  "severity.recon": "reconstruction error alone",
  "pca": "PCA error, 60 components",
  "edge": "edge energy",
  "brightness": "mean brightness",
}


def run(context: Context) -> dict[str, Any]:
  """Writes report.json and report.html into the run's folder."""
  images, config = Prepared(context), context.config
  grades = context.load("grade")
  metrics = json.loads(str(grades["metrics"]))
  metrics.update(json.loads(str(context.load("probe")["metrics"])))
  report_labels.write_tables(context, images, _scores(context))
  return report.write(
    context,
    metrics,
    title=f"Severity labels: {config.preset}",
    subtitle=_subtitle(context, images),
    cards=_cards(context),
    sections=_sections(context, images, grades["scores"], metrics),
    warnings=[
      *report.data_warnings(context, images),
      *_warnings(context, images),
      *(_weak_score(metrics) if _trained(config) else []),
      *report_labels.undefined_labels(images, metrics),
    ],
  )


def _scores(context) -> dict[str, np.ndarray]:
  """Columns of scores.csv."""
  found = context.load("score")
  names = [n for n in ("score", "recon", "grad", "gradcon") if n in found]
  bins = context.load("bin")["labels"]["severity"]
  return {name: found[name] for name in names} | {"bin": bins}


def _subtitle(context, images) -> str:
  train, held_out = images.train.sum(), images.evaluation.sum()
  patients = len(set(images.groups[images.table["pool"]].tolist()))
  return (
    f"{context.config.data.name}: {train} images to train on and {held_out}"
    f" kept for evaluation, from {patients} groups that never cross."
    f" Protocol {context.config.protocol}; seed {context.config.seed}."
  )


def _cards(context) -> list[tuple[str, str, str]]:
  """Headline figures, ours beside its opponent."""
  config = context.config
  fraction = max(config.probe.fractions)
  others = [name for name in ("simclr", "random") if name in config.arms]
  return [
    ("severity/spearman", "Score against true severity", "Spearman"),
    ("severity/auroc", "Severity score", "AUROC, healthy or diseased"),
    ("baseline/pca_auroc", "PCA error", "the label-free opponent"),
    ("probe/macro_auroc", "Probe on this encoder", "macro AUROC, all labels"),
    *(
      (f"probe/{n}@{fraction:g}/macro_auroc", f"Probe on {n}", "all labels")
      for n in others[:1]
    ),
  ]


def _sections(context, images, scores, metrics) -> list[html.Section]:
  """Every section whose facts exist in this run."""
  config, score = context.config, scores["severity"]
  made = [
    _severity(context, images, scores, metrics),
    _gallery(context, images, score),
    report.preparation(images, _preparation(config.preprocess)),
  ]
  if _trained(config):
    made.append(_autoencoder(context, images))
  names = (METHOD, *config.arms)
  return [
    *made,
    _bins(context, images),
    report.losses(
      context,
      ("supcon", *config.arms),
      "Losses of different methods are on different scales: compare shapes,"
      " not heights.",
    ),
    report_labels.embedding(context, images, score, "severity score"),
    report_labels.probe(context, images, metrics, names),
    report.data(images, report_labels.data_table(images)),
  ]


def _preparation(config) -> str:
  steps = [n for n in ("flatten", "normalise", "crop") if config[n]]
  size = " x ".join(map(str, config.size))
  return (
    f"As stored and as used ({', '.join(steps) or 'resized only'}; {size})."
    " No step looks at a label."
  )


def _severity(context, images, scores, metrics) -> html.Section:
  """The score by class, beside its opponents and the truth."""
  rows, kinds = images.evaluation, report_labels.classes_of(images)
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
    for name in ("severity", "pca", "edge", "brightness")
    if name in scores
  }
  return [
    html.Figure(
      picture,
      "The score beside label-free opponents on the same evaluation images;"
      " intervals by bootstrap over groups.",
    ),
    html.Figure(charts.roc(curves), "ROC curves, healthy or diseased."),
  ]


def _score_table(scores, metrics) -> html.Table:
  keys = ("auroc", "auroc_adjusted", "spearman")
  rows = [
    [
      NAMES[name],
      *(words(metrics.get(grade.metric_name(name, key))) for key in keys),
    ]
    for name in scores
  ]
  return html.Table(
    ("score", "AUROC", "AUROC without texture", "Spearman with truth"),
    rows,
    "Without texture: after regressing out brightness, spread, background,"
    " sharpness and export size, fitted on healthy training scans.",
    align="lrrr",
  )


def _gallery(context, images, score) -> html.Section:
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


def _autoencoder(context, images) -> html.Section:
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


def _bins(context, images) -> html.Section:
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


def _warnings(context, images) -> list[str]:
  """What a reader must know before trusting the score."""
  config = context.config
  if config.score.source in classifier.SOURCES:
    return [
      f"The score comes from a classifier ({config.score.source}) that was"
      " trained on all training labels: probes on a fraction of them are too"
      " good."
    ]
  if not _trained(config):
    return []
  artifact, notes = context.load("gradcon"), []
  seen = (artifact["fold"] >= 0) & images.table["pool"]
  if config.autoencoder.folds == 1 and seen.any():
    notes.append(
      f"{seen.sum()} healthy scans of the pool were scored by the model fitted"
      " to them: their scores are too low and the bins carry the label. Set"
      " autoencoder.folds to 2 or more."
    )
  for number, model in enumerate(models_of(artifact)):
    loss, mean = float(model["reconstruction"]), float(model["mean_image_loss"])
    if loss >= mean:
      notes.append(
        f"Autoencoder {number} reconstructs healthy scans no better"
        f" ({loss:.4f}) than the mean healthy image does ({mean:.4f})."
      )
  dead = np.asarray(context.load("score")["dead"])
  return notes + [
    f"Decoder layer {layer} has no gradient for {count} pairs of image and"
    " autoencoder: dead units. Their cosine counts as 0."
    for layer, count in enumerate(dead, 1)
    if count
  ]


def _trained(config) -> bool:
  """Whether the score is that of an autoencoder."""
  return config.score.source == "autoencoder"


def _weak_score(metrics: dict) -> list[str]:
  ours = (metrics.get("severity/auroc") or {}).get("value")
  pca = (metrics.get("baseline/pca_auroc") or {}).get("value")
  if ours is None or pca is None or ours >= pca:
    return []
  return [
    f"The severity score (AUROC {ours:.3f}) is below the error of a linear"
    f" PCA ({pca:.3f}): on this data the autoencoder does not earn its place."
  ]
