"""Stage `report`: report.json and report.html."""

import math
from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.methods.gcl import arms, figures, pages
from gcl_jax.methods.gcl.slices import PARTS, Slices
from gcl_jax.report import html


def run(context: Any) -> dict[str, Any]:
  """Writes both files; returns the metrics."""
  slices = Slices(context)
  found = context.load("segment")
  metrics = figures.all_metrics(found, context.config)
  rate = figures.conflict_rate(context)
  if rate is not None:
    metrics["gcl/conflict_rate"] = rate
  notes = warnings_of(context, slices, metrics)
  results.write(context, metrics, notes)
  html.write(
    context.workdir / "report.html",
    title=f"GCL: {context.config.preset}",
    subtitle=_subtitle(context, slices),
    cards=_cards(context, metrics),
    sections=pages.sections(context, slices, found, metrics),
    footer=f"gcl_jax, method gcl, seed {context.config.seed}."
    " Not for clinical use.",
    warnings=notes,
  )
  return {"metrics": np.array(results.dumps(metrics))}


def warnings_of(context: Any, slices: Slices, metrics: dict) -> list[str]:
  """What a reader must know before trusting a figure."""
  notes = []
  bad = context.load("data")["quarantine"]
  if len(bad):
    notes.append(
      f"{len(bad)} slices were left out, unreadable or copies of test volumes;"
      " they are listed under Data."
    )
  notes += cropped_note(slices, tuple(context.config.preprocess.size))
  if context.config.protocol == "transductive":
    notes.append(
      "Protocol transductive: pre-training saw the test patients without their"
      " labels, as in the paper's relatives."
    )
  for arm in arms.names(context.config):
    if arm != "scratch" and (stuck := figures.not_learned(context, arm)):
      notes.append(
        f"Arm {arm}: the loss of {', '.join(stuck)} ended near or above its"
        " floor log(n - 1), that of equal embeddings: it was not learned."
      )
  if 2 * context.mesh.size > _fewest_patients(context.config):
    notes.append(
      "The pixel branch pairs and contrasts what is on one device, and here a"
      " device holds fewer than two patients of a batch: it never compared"
      " patients. Raise pretrain.patients_per_batch or lower devices."
    )
  undefined = sum(
    metric["value"]
    for name, metric in metrics.items()
    if name.startswith("segment/gcl@") and name.endswith("mean/undefined")
  )
  if undefined:
    notes.append(
      f"HD95 is undefined for {undefined} pairs of a volume and a class that"
      " the segmentation missed (or that are not there): its mean is over the"
      " others."
    )
  return notes


def _fewest_patients(config: Any) -> float:
  """Patients of a batch of the arms with a pixel branch; infinity without."""
  counts = [
    settings.patients_per_batch
    for settings in (arms.settings_of(config, a) for a in arms.names(config))
    if settings.pixel and settings.patients_per_batch
  ]
  return min(counts, default=math.inf)


def cropped_note(slices: Slices, size: tuple[int, int]) -> list[str]:
  """One line on labelled voxels that were cut away, none where none was."""
  lost = {part: slices.cropped(part) for part in PARTS}
  words = [
    f"{count} of {part} ({100 * share:.2g} %, in {volumes} volumes)"
    for part, (count, share, volumes) in lost.items()
    if count
  ]
  if not words:
    return []
  return [
    f"preprocess.size {size} cuts away labelled voxels: {', '.join(words)}."
    " In test volumes they count as missed; a larger preprocess.size keeps"
    " them."
  ]


def _subtitle(context: Any, slices: Slices) -> str:
  config = context.config
  groups = {
    part: len(set(slices.groups[slices.part(part)].tolist()))
    for part in ("train", "eval", "ood")
  }
  other = f" and {groups['ood']} of another kind" if groups["ood"] else ""
  return (
    f"{config.data.name}: pre-trained on {groups['train']} patients without"
    f" class maps, fine-tuned with those of few, tested on {groups['eval']}"
    f" patients{other}. Protocol {config.protocol}; seed {config.seed}."
  )


def _cards(context: Any, metrics: dict) -> list[html.Card]:
  first = context.config.segment.labelled[0]
  labels = f"{first or 'all'} labelled patients" if first != 1 else "1 labelled"
  wanted = [
    ("segment/dice/mean", f"Dice, {labels}", "mean over classes"),
    ("segment/gain_over_scratch", "Gain over scratch", "Dice, paired"),
    ("segment/hd95/mean", "HD95", "mm"),
    ("segment/ood/dice/mean", "Dice, other scanner", "out of distribution"),
  ]
  cards = []
  for key, label, note in wanted:
    found = metrics.get(key)
    if found:
      interval = None if found["low"] is None else (found["low"], found["high"])
      cards.append(html.Card(label, found["value"], interval, note))
  return cards
