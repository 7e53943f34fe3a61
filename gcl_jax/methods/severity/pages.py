"""The sections of the report: pictures and tables, one function each."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gcl_jax.engine.telemetry import read_metrics
from gcl_jax.methods.severity import grading, healthy, probing, steps
from gcl_jax.methods.severity.images import Images
from gcl_jax.report import figures, html, projection, tiles

NAMES = {
  "severity": "severity score (this run)",
  "severity.gradcon": "gradcon = error + beta * gradient term",
  "severity.grad": "gradient term alone",
  "severity.recon": "reconstruction error alone",
  "pca": "PCA error, 60 components",
  "edge": "edge energy",
  "brightness": "mean brightness",
}


def sections(
  context: Any, images: Images, scores: dict, metrics: dict
) -> list[html.Section]:
  """Every section whose facts exist in this run."""
  made = [
    _severity(images, scores, metrics, context),
    _gallery(context, images, scores["severity"]),
    _preparation(context, images),
  ]
  if context.config.score.source == "autoencoder":
    made.append(_autoencoder(context, images, scores["severity"]))
  made += [
    _bins(context, images),
    _pretraining(context),
    _embedding(context, images, scores["severity"]),
    _probe(context, images, metrics),
    _data(context, images),
    _throughput(context),
    html.settings(context.config.to_dict()),
  ]
  return made


def throughput(context: Any) -> dict[str, dict]:
  """Name of each fit or sweep -> images/s, data wait, memory, compile time."""
  found = {}
  for stage in context.stage.inputs:
    found |= context.manifest(stage)["throughput"]
  return found


def history(context: Any, stage: str, fit: str) -> dict[str, tuple]:
  """Metric -> (steps, values) that a fit of a stage logged."""
  series: dict[str, tuple[list, list]] = {}
  for record in read_metrics(context.workdir / stage):
    if record["name"] != fit:
      continue
    for name, value in record.items():
      if name not in ("name", "step", "time") and value is not None:
        steps_, values = series.setdefault(name, ([], []))
        steps_.append(record["step"])
        values.append(value)
  return series


def classes_of(images: Images) -> np.ndarray:
  """A word per image: healthy, its labels, or unknown."""
  words = []
  for row in range(len(images)):
    labels = [n for n in images.labels if images.table[n][row] == 1]
    specific = [n for n in labels if n != "diseased"]
    if images.healthy[row]:
      words.append("healthy")
    elif len(specific) == 1:
      words.append(specific[0])
    elif len(specific) > 1:
      words.append("several")
    else:
      words.append("diseased" if images.diseased[row] else "unknown")
  return np.array(words)


def _interval(metric: dict | None) -> str:
  if not metric or metric["value"] is None:
    return "undefined"
  if metric["low"] is None:
    return f"{metric['value']:.3f}"
  return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _severity(images, scores, metrics, context) -> html.Section:
  rows = images.evaluation
  score = scores["severity"]
  edges = context.load("bin")["edges"]["severity"]
  blocks = [
    html.Figure(
      figures.histogram_by_class(
        score[rows],
        classes_of(images)[rows],
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
        figures.bars(
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
    truth = images.diseased[known].astype(int)
    curves = {
      n: (truth, scores[n][known])
      for n in ("severity", "pca", "edge", "brightness")
      if n in scores
    }
    blocks.append(
      html.Figure(figures.roc(curves), "ROC curves, healthy or diseased.")
    )
  blocks.append(_score_table(scores, metrics))
  if grading.TRUTH in images.table:
    blocks.append(
      html.Figure(
        figures.scatter(
          np.asarray(images.table[grading.TRUTH], float)[rows],
          score[rows],
          "true severity",
          "severity score",
          classes_of(images)[rows],
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
        *("-" if c is None else _interval(c) for c in cells),
      ]
    )
  return html.Table(
    ("score", "AUROC", "AUROC without texture", "Spearman with truth"),
    rows,
    "Without texture: after regressing out brightness, spread, background,"
    " sharpness and export size, fitted on healthy training scans.",
    align="lrrr",
  )


def _gallery(context, images, score) -> html.Section:
  rows = np.flatnonzero(images.evaluation)
  order = rows[np.argsort(score[rows], kind="stable")]
  count = min(context.config.report.gallery, len(order))
  chosen = order[np.linspace(0, len(order) - 1, count).astype(int)]
  words = classes_of(images)
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


def _autoencoder(context, images, score) -> html.Section:
  artifact = context.load("gradcon")
  lines, references = {}, {}
  for number, model in sorted(artifact["models"].items()):
    logged = history(context, "gradcon", f"gradcon/{number}")
    for key in ("reconstruction", "validation_reconstruction"):
      if key in logged:
        lines[f"{key.replace('_', ' ')}, model {number}"] = logged[key]
    references["mean healthy image"] = float(model["mean_image_loss"])
  blocks = [
    html.Figure(
      figures.curves(
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
  x = steps.unit_range(jnp.asarray(images.pixels[chosen]))
  first = sorted(artifact["models"])[0]
  recon = np.asarray(model.apply(artifact["models"][first]["params"], x))
  words = classes_of(images)
  return html.Figure(
    tiles.reconstructions(
      np.asarray(x), recon, captions=[str(words[r]) for r in chosen]
    ),
    "Evaluation scans from the lowest to the highest score, what the healthy"
    " model makes of them, and the difference.",
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
        figures.bin_sizes(counts), "Images of the pre-training pool per bin."
      ),
    ],
  )


def _measured(context, name):
  logged = history(context, "supcon", "supcon").get(f"positives/{name}")
  return None if logged is None else float(np.mean(logged[1]))


def _pretraining(context) -> html.Section:
  lines = {}
  for name in ("supcon", *context.config.references):
    logged = history(context, name, name)
    if "loss" in logged:
      lines[name] = logged["loss"]
  return html.Section(
    "Pre-training",
    [
      html.Figure(
        figures.curves(lines, "contrastive loss"),
        "Losses of different methods are on different scales: compare shapes,"
        " not heights.",
      )
    ],
  )


def _embedding(context, images, score) -> html.Section:
  artifact = context.load("probe")
  config = context.config.report
  rows = artifact["rows"]
  words = classes_of(images)
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
        figures.embedding(
          points, score[shown], kind="continuous", label="severity score"
        ),
        f"{name} of the frozen features of the evaluation images, by score.",
      ),
      html.Figure(
        figures.embedding(points, words[shown], label="class"),
        f"The same {name} by class.",
      ),
    ]
  return html.Section("What the encoder sees", blocks)


def _probe(context, images, metrics) -> html.Section:
  config = context.config
  names = probing.encoder_names(config)
  fractions = sorted(config.probe.fractions)
  blocks: list[Any] = []
  for fraction in reversed(fractions):
    bars = {n: metrics[f"probe/{n}@{fraction:g}/macro_auroc"] for n in names}
    blocks.append(
      html.Figure(
        figures.bars(
          bars,
          xlabel="macro AUROC",
          highlight=probing.METHOD,
          reference=("chance", 0.5),
        ),
        f"Linear probe on {fraction:.0%} of the labelled training groups."
        " supervised = the same network trained end to end.",
      )
    )
  table = []
  for n in names:
    for fraction in fractions:
      key = f"probe/{n}@{fraction:g}"
      table.append(
        [n, f"{fraction:.0%}"]
        + [
          _interval(metrics.get(f"{key}/{m}"))
          if f"{key}/{m}" in metrics
          else "-"
          for m in (
            "macro_auroc",
            "weighted_auroc",
            "macro_f1",
            "knn_macro_auroc",
          )
        ]
      )
  blocks.append(
    html.Table(
      (
        "encoder",
        "groups",
        "macro AUROC",
        "weighted AUROC",
        "macro F1",
        "kNN macro AUROC",
      ),
      table,
      align="lrrrrr",
    )
  )
  blocks.append(_per_label(images, metrics))
  blocks.append(_probe_roc(context, images))
  return html.Section("What the encoder is worth", blocks)


def _per_label(images, metrics) -> html.Table:
  columns = ("auroc", "ap", "f1", "sensitivity", "specificity", "accuracy")
  rows = [
    [n, *(_interval(metrics.get(f"probe/{n}/{c}")) for c in columns)]
    for n in images.labels
  ]
  return html.Table(
    ("label", "AUROC", "AP", "F1", "sensitivity", "specificity", "accuracy"),
    rows,
    "Each label, this method's frozen encoder, all training labels.",
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
    figures.roc(curves), "ROC of the linear probe, one curve a label."
  )


def _data(context, images) -> html.Section:
  words, rows = classes_of(images), []
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
  rows = [
    [stage, *(facts.get(c) for c in columns)]
    for stage, facts in throughput(context).items()
  ]
  return html.Section(
    "Speed",
    [
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
      )
    ],
  )
