"""Stage `report`: what the score and the encoder are worth, in pictures."""

import json
from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.evaluation import comparisons
from gcl_jax.methods.severity import classifier, report_score
from gcl_jax.methods.severity.config import OWN
from gcl_jax.methods.severity.gradcon import models_of
from gcl_jax.pipeline import report, report_labels
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.report import html


def run(context: Context) -> dict[str, Any]:
  """Writes report.json and report.html into the run's folder."""
  images, config = Prepared(context), context.config
  grades = context.load("grade")
  metrics = json.loads(str(grades["metrics"]))
  metrics.update(json.loads(str(context.load("probe")["metrics"])))
  report_labels.write_tables(context, images, _scores(context))
  return report.write(
    context,
    images,
    metrics,
    title=f"Severity labels: {config.preset}",
    subtitle=report.subtitle(context, images),
    cards=_cards(context),
    sections=_sections(context, images, grades, metrics),
    warnings=[
      *report.data_warnings(context, images),
      *_warnings(context, images),
      *(_weak_score(metrics, config.score) if _trained(config) else []),
      *report_labels.undefined_labels(images, metrics),
    ],
  )


def _scores(context) -> dict[str, np.ndarray]:
  """Columns of scores.csv."""
  found = context.load("score")
  names = [n for n in ("score", "recon", "grad", "gradcon") if n in found]
  bins = context.load("bin")["labels"]["severity"]
  return {name: found[name] for name in names} | {"bin": bins}


def _cards(context) -> list[tuple[str, str, str]]:
  """Headline figures, ours beside its opponent."""
  config = context.config
  fraction = max(config.probe.fractions)
  others = [name for name in ("simclr", "random") if name in config.arms]
  return [
    ("severity/spearman", "Score against true severity", "Spearman"),
    ("severity/auroc", "Severity score", "AUROC, healthy or diseased"),
    (
      _against_pca(config.score),
      "Against a PCA",
      "AUROC, pooled alike, paired",
    ),
    ("probe/macro_auroc", "Probe on this encoder", "macro AUROC, all labels"),
    *(
      (f"probe/{n}@{fraction:g}/macro_auroc", f"Probe on {n}", "all labels")
      for n in others[:1]
    ),
    *(
      (f"probe/macro_auroc_over_{n}", f"Probe over {n}", "macro AUROC, paired")
      for n in others[:1]
    ),
  ]


def _sections(context, images, grades, metrics) -> list[html.Section]:
  """Every section whose facts exist in this run."""
  config, score = context.config, grades["scores"]["severity"]
  made = [
    report_score.severity(context, images, grades, metrics),
    report_score.gallery(context, images, score),
    report.preparation(images, _preparation(config.preprocess)),
  ]
  if _trained(config):
    made.append(report_score.autoencoder(context, images))
  names = (OWN, *config.arms)
  return [
    *made,
    report_score.bins(context, images),
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


def _against_pca(config) -> str:
  """Metric name of the difference to a PCA whose error is pooled alike."""
  alike = "pca_layers" if config.pooling == "layers" else "pca"
  return f"severity/auroc_over_{alike}"


def _weak_score(metrics: dict, config) -> list[str]:
  """A warning unless the score is above a PCA pooled alike, by the interval of
  their paired difference.

  Args:
    metrics: the run's.
    config: `config.score`.
  """
  found = metrics.get(_against_pca(config))
  if found is None or found["value"] is None:
    return []
  word = comparisons.verdict(found)
  if word.startswith("above"):
    return []
  told = f"the difference is {results.interval(found)}"
  if word.startswith("below"):
    return [
      "The severity score's AUROC is below that of a linear PCA pooled alike"
      f" ({told}): on this data the autoencoder does not earn its place."
    ]
  if found["low"] is None:
    power = "from too few groups for an interval"
  else:
    power = f"and {found['smallest']:.3f} could be shown here"
  return [
    "The severity score's AUROC is not told apart from that of a linear PCA"
    f" pooled alike ({told}, {power}): this data does not show that the"
    " autoencoder earns its place."
  ]
