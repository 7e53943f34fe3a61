"""Stage `report`: report.json for machines, report.html for people."""

import json
from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.results import dumps
from gcl_jax.methods.severity import classify, pages, probing
from gcl_jax.methods.severity.images import Images
from gcl_jax.report import html


def run(context: Any) -> dict[str, Any]:
  """Writes report.json and report.html into the run's folder."""
  images = Images(context)
  grades = context.load("grade")
  metrics = json.loads(grades["metrics"])
  metrics.update(json.loads(str(context.load("probe")["metrics"])))
  notes = warnings_of(context, images, metrics)
  results.write(context, metrics, notes)
  html.write(
    context.workdir / "report.html",
    title=f"Severity labels: {context.config.preset}",
    subtitle=_subtitle(context, images),
    cards=_cards(context, metrics),
    sections=pages.sections(context, images, grades["scores"], metrics),
    footer=f"gcl_jax, method severity, seed {context.config.seed}."
    " Not for clinical use.",
    warnings=notes,
  )
  return {"metrics": np.array(dumps(metrics))}


def _subtitle(context: Any, images: Images) -> str:
  train, held_out = images.train.sum(), images.evaluation.sum()
  patients = len(set(images.groups[images.table["pool"]].tolist()))
  return (
    f"{context.config.data.name}: {train} images to train on and {held_out}"
    f" kept for evaluation, from {patients} groups that never cross."
    f" Protocol {context.config.protocol}; seed {context.config.seed}."
  )


def _cards(context: Any, metrics: dict) -> list[html.Card]:
  """Headline figures: those that exist, ours beside its opponent."""
  wanted = [
    ("severity/spearman", "Score against true severity", "Spearman"),
    ("severity/auroc", "Severity score", "AUROC, healthy or diseased"),
    ("baseline/pca_auroc", "PCA error", "the label-free opponent"),
    ("probe/macro_auroc", "Probe on this encoder", "macro AUROC, all labels"),
  ]
  other = _largest(context, "simclr") or _largest(context, "random")
  if other:
    wanted.append((f"{other}/macro_auroc", f"Probe on {other[6:]}", ""))
  cards = []
  for key, label, note in wanted:
    found = metrics.get(key)
    if found:
      interval = None if found["low"] is None else (found["low"], found["high"])
      cards.append(html.Card(label, found["value"], interval, note))
  return cards


def _largest(context: Any, name: str) -> str:
  if name not in context.config.references:
    return ""
  return f"probe/{name}@{max(context.config.probe.fractions):g}"


def data_notes(data: dict[str, Any]) -> list[str]:
  """What stage `data` left that makes figures on evaluation images doubtful."""
  notes = []
  if len(data["quarantine"]):
    notes.append(
      f"{len(data['quarantine'])} images were left out, unreadable or copies of"
      " evaluation images; they are listed under Data."
    )
  if len(data["overlapping_groups"]):
    notes.append(
      f"{len(data['overlapping_groups'])} groups are in both the training and"
      " the evaluation part, because allow_group_overlap or the named split"
      " says so: figures on evaluation images are too good."
    )
  if pairs := data["near_copies"].tolist():
    shown = ", ".join(f"{a} and {b} ({value})" for a, b, value in pairs[:10])
    notes.append(
      f"{len(pairs)} evaluation images look like a training image (correlation"
      f" of their details): {shown}. If they are one scan, give them one group:"
      " figures on them are too good."
    )
  return notes


def warnings_of(context: Any, images: Images, metrics: dict) -> list[str]:
  """What a reader must know before trusting a number."""
  notes = data_notes(context.load("data"))
  if context.config.protocol == "transductive":
    notes.append(
      "Protocol transductive: pre-training saw the evaluation images without"
      " their labels, as in the paper."
    )
  if context.config.score.source in classify.SOURCES:
    notes.append(
      f"The score comes from a classifier ({context.config.score.source}) that"
      " was trained on all training labels: probes on a fraction of them are"
      " too good."
    )
  notes += _seen_by_the_model(context, images)
  notes += _weak_autoencoder(context) + _dead_layers(context)
  notes += _weak_score(metrics)
  if missing := probing.nothing_to_probe(images):
    return [*notes, f"No probe: {missing}."]
  undefined = [
    name
    for name in images.labels
    if (metrics.get(f"probe/{name}/auroc") or {}).get("value") is None
  ]
  if undefined:
    notes.append(
      f"AUROC is undefined for {', '.join(undefined)}: one class only in the"
      " evaluation or training part. Means are over the other labels."
    )
  return notes


def _seen_by_the_model(context: Any, images: Images) -> list[str]:
  """Healthy scans of the pool that the only model was fitted to."""
  config = context.config
  if config.score.source != "autoencoder" or config.autoencoder.folds > 1:
    return []
  seen = (context.load("gradcon")["fold"] >= 0) & images.table["pool"]
  if not seen.any():
    return []
  return [
    f"{seen.sum()} healthy scans of the pool were scored by the model fitted"
    " to them: their scores are too low and the bins carry the label. Set"
    " autoencoder.folds to 2 or more."
  ]


def _weak_autoencoder(context: Any) -> list[str]:
  if context.config.score.source != "autoencoder":
    return []
  notes = []
  for number, model in sorted(context.load("gradcon")["models"].items()):
    loss, mean = float(model["reconstruction"]), float(model["mean_image_loss"])
    if loss >= mean:
      notes.append(
        f"Autoencoder {number} reconstructs healthy scans no better"
        f" ({loss:.4f}) than the mean healthy image does ({mean:.4f})."
      )
  return notes


def _dead_layers(context: Any) -> list[str]:
  if context.config.score.source != "autoencoder":
    return []
  dead = np.asarray(context.load("score")["dead"])
  return [
    f"Decoder layer {layer} has no gradient for {count} pairs of image and"
    " autoencoder: dead units. Their cosine counts as 0."
    for layer, count in enumerate(dead, 1)
    if count
  ]


def _weak_score(metrics: dict) -> list[str]:
  ours = (metrics.get("severity/auroc") or {}).get("value")
  pca = (metrics.get("baseline/pca_auroc") or {}).get("value")
  if ours is None or pca is None or ours >= pca:
    return []
  return [
    f"The severity score (AUROC {ours:.3f}) is below the error of a linear"
    f" PCA ({pca:.3f}): on this data the autoencoder does not earn its place."
  ]
