"""The report, section by section, in reading order."""

from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.methods.severity import page_facts, probe_pages, score_pages
from gcl_jax.methods.severity.images import Images
from gcl_jax.report import charts, html, tiles


def sections(
  context: Any, images: Images, scores: dict, metrics: dict
) -> list[html.Section]:
  """Every section whose facts exist in this run."""
  made = [
    score_pages.severity(images, scores, metrics, context),
    score_pages.gallery(context, images, scores["severity"]),
    _preparation(context, images),
  ]
  if context.config.score.source == "autoencoder":
    made.append(score_pages.autoencoder(context, images, scores["severity"]))
  made += [
    _bins(context, images),
    _pretraining(context),
    probe_pages.embedding(context, images, scores["severity"]),
    probe_pages.probe(context, images, metrics),
    _data(context, images),
    _throughput(context),
    html.settings(context.config.to_dict()),
  ]
  return made


def _preparation(context, images) -> html.Section:
  data = context.load("data")
  raw, rows = data["raw_samples"], data["sample_rows"]
  pairs = [(raw[str(i)], images.pixels[row]) for i, row in enumerate(rows)]
  on = [
    name
    for name in ("flatten", "normalise", "crop")
    if context.config.preprocess[name]
  ]
  size = " x ".join(map(str, context.config.preprocess.size))
  return html.Section(
    "Preparation of the scans",
    [
      html.Figure(
        tiles.before_after(pairs, [str(images.table["id"][r]) for r in rows]),
        f"As stored and as used ({', '.join(on) or 'resized only'}; {size})."
        " No step looks at a label.",
      )
    ],
  )


def _bins(context, images) -> html.Section:
  artifact = context.load("bin")
  pool = images.pool(context.config.protocol)
  rows = []
  for name, facts in artifact["facts"].items():
    rows.append(
      [
        name,
        str(facts["rule"]),
        int(facts["occupied"]),
        int(facts["largest"]),
        float(facts["expected_positives"]),
        _measured(context, name),
      ]
    )
  labels = artifact["labels"]["severity"][pool]
  counts = np.bincount(labels, minlength=len(artifact["edges"]["severity"]) - 1)
  return html.Section(
    "Bins",
    [
      html.Text(str(artifact["facts"]["severity"]["reason"])),
      html.Table(
        (
          "labels",
          "rule",
          "occupied bins",
          "largest bin",
          "expected same-bin images",
          "measured while training",
        ),
        rows,
        "Same-bin images: other images of an anchor's bin in its batch.",
      ),
      html.Figure(
        charts.bin_sizes(counts), "Images of the pre-training pool per bin."
      ),
    ],
  )


def _measured(context, name):
  logged = results.history(context, "supcon", "supcon").get(f"positives/{name}")
  return None if logged is None else float(np.mean(logged[1]))


def _pretraining(context) -> html.Section:
  lines = {}
  for name in ("supcon", *context.config.references):
    logged = results.history(context, name, name)
    if "loss" in logged:
      lines[name] = logged["loss"]
  return html.Section(
    "Pre-training",
    [
      html.Figure(
        charts.curves(lines, "contrastive loss"),
        "Losses of different methods are on different scales: compare shapes,"
        " not heights.",
      )
    ],
  )


def _data(context, images) -> html.Section:
  words, rows = page_facts.classes_of(images), []
  for name in sorted({str(word) for word in words}):
    here = words == name
    rows.append(
      [
        name,
        int((here & images.train).sum()),
        int((here & images.evaluation).sum()),
        int((here & ~images.table["pool"]).sum()),
      ]
    )
  table = html.Table(
    ("class", "training images", "evaluation images", "healthy only"), rows
  )
  bad = context.load("data")["quarantine"]
  blocks: list[Any] = [table]
  if len(bad):
    listed = html.Table(
      ("id", "reason"), [[str(cell) for cell in row] for row in bad]
    )
    blocks.append(html.Details(f"{len(bad)} images left out", [listed]))
  return html.Section("Data", blocks)


def _throughput(context) -> html.Section:
  columns = ("images_per_s", "data_wait", "mfu", "peak_bytes", "compile_s")
  found = results.throughput(context)
  rows = [
    [stage, *(facts.get(c) for c in columns)] for stage, facts in found.items()
  ]
  skipped = ", ".join(
    f"{facts['skipped']} of {stage}"
    for stage, facts in found.items()
    if facts.get("skipped")
  )
  return html.Section(
    "Speed",
    [
      *_engines(context),
      *(
        [html.Text(f"Steps skipped as not finite: {skipped}.")] * bool(skipped)
      ),
      html.Table(
        (
          "stage",
          "images/s",
          "share waiting for data",
          "MFU",
          "peak bytes",
          "compile s",
        ),
        rows,
      ),
    ],
  )


def _engines(context) -> list:
  engines = context.load("score").get("engines")
  if engines is None:
    return []
  listed = ", ".join(f"layer {i} {name}" for i, name in enumerate(engines, 1))
  return [html.Text(f"Per-image gradients of the decoder: {listed}.")]
