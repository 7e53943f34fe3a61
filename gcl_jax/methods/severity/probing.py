"""Stages `supervised` and `probe`: what each encoder is worth on few labels."""

import json
from typing import Any

import numpy as np

from gcl_jax.data import splits
from gcl_jax.evaluation import encoders, probe
from gcl_jax.methods.severity import classify, pretrain
from gcl_jax.methods.severity.images import Images

METHOD = "severity"  # the name of this method's encoder in the tables


def labelled(images: Images) -> np.ndarray:
  """bool[N]: images of the pool with at least one label."""
  if not images.labels:
    return np.zeros(len(images), bool)
  targets = classify.targets_of(images, images.labels)
  return ~np.isnan(targets).all(1) & images.table["pool"]


def nothing_to_probe(images: Images) -> str:
  """Why there can be no probe, in words; "" if there can."""
  if not images.labels:
    return "the data set has no label column (--config.data.label_columns)"
  for part, name in ((images.train, "training"), (images.evaluation, "eval")):
    if (labelled(images) & part).sum() < 2:
      return f"fewer than two images of the {name} part have a label"
  return ""


def fractions(context: Any, images: Images) -> dict[float, np.ndarray]:
  """Rows of the labelled training part per label fraction, nested by group."""
  rows = np.flatnonzero(labelled(images) & images.train)
  stratify = _stratum(images)[rows]
  masks = splits.nested_fractions(
    images.groups[rows],
    tuple(context.config.probe.fractions),
    context.config.seed,
    stratify=stratify,
  )
  return {fraction: rows[mask] for fraction, mask in masks.items()}


def _stratum(images: Images) -> np.ndarray:
  """The first positive label of each image, so that rare labels are drawn."""
  targets = np.nan_to_num(classify.targets_of(images, images.labels))
  return np.where(targets.any(1), targets.argmax(1), targets.shape[1])


def eval_rows(images: Images) -> np.ndarray:
  """Labelled rows of the evaluation groups."""
  return np.flatnonzero(labelled(images) & images.evaluation)


def run_supervised(context: Any) -> dict[str, Any]:
  """The same network from random weights on each label fraction."""
  images = Images(context)
  rows = eval_rows(images)
  out = {}
  if nothing_to_probe(images):
    return {"probabilities": out, "rows": rows}
  for fraction, train_rows in fractions(context, images).items():
    name = f"supervised@{fraction:g}"
    trained = classify.fit(
      context, images, None, images.labels, train_rows, name
    )
    found = classify.probabilities(
      context, images, trained, images.labels, rows, name
    )
    out[f"{fraction:g}"] = _of_two_classes(images, train_rows, found)
  return {"probabilities": out, "rows": rows}


def run_probe(context: Any) -> dict[str, Any]:
  """Frozen features once per encoder, then probes at every label fraction.

  Returns:
    `metrics` (json), `features` of this method's encoder on the evaluation
    rows, `rows`, and `probabilities/<encoder>` [R, K] with all labels. Without
    labels no metrics, and the features of all evaluation images.
  """
  images = Images(context)
  if missing := nothing_to_probe(images):
    context.telemetry.say(f"no probe: {missing}")
    return _without_probe(context, images)
  rows, parts = eval_rows(images), fractions(context, images)
  metrics, probabilities, kept = {}, {}, None
  for name in encoder_names(context.config):
    if name == "supervised":
      found = context.load("supervised")["probabilities"]
      found = {float(f): values for f, values in found.items()}
    else:
      features = _features(context, images, name)
      kept = features[rows] if name == METHOD else kept
      found = _linear(context, images, features, parts, rows, metrics, name)
      if context.config.probe.finetune:
        _finetune(context, images, parts, rows, metrics, name)
    for fraction, values in found.items():
      _record(context, images, rows, values, metrics, f"{name}@{fraction:g}")
    probabilities[name] = found[max(found)]
  _bare_names(metrics, max(parts))
  return {
    "metrics": np.array(json.dumps(metrics)),
    "features": kept,
    "rows": rows,
    "probabilities": probabilities,
    "train_sizes": np.array([len(r) for r in parts.values()]),
    "fractions": np.array(list(parts)),
  }


def _without_probe(context: Any, images: Images) -> dict[str, Any]:
  rows = np.flatnonzero(images.evaluation)
  return {
    "metrics": np.array("{}"),
    "features": _features(context, images, METHOD)[rows],
    "rows": rows,
    "probabilities": {},
  }


def encoder_names(config: Any) -> tuple[str, ...]:
  """This method's encoder first, then the references."""
  return (METHOD, *config.references)


def _features(context: Any, images: Images, name: str) -> np.ndarray:
  config = context.config
  stage = "supcon" if name == METHOD else name
  mean, std = images.pixel_statistics()
  size = config.score.batch_size
  return encoders.features(
    pretrain.make_encoder(config.supcon),
    context.load(stage)["encoder"],
    images.pixels,
    mean=mean,
    std=std,
    mesh=context.mesh,
    mode=context.mode,
    batch_size=size,
    name=f"features/{name}",
    telemetry=context.telemetry,
  )


def _linear(context, images, features, parts, rows, metrics, name):
  """{fraction: float[R, K]} of linear probes; kNN goes into the metrics."""
  config, found = context.config.probe, {}
  for fraction, train in parts.items():
    linear, near = [], []
    for label in images.labels:
      target = np.asarray(images.table[label], float)[train]
      linear.append(
        probe.linear_probe(
          features[train],
          target,
          features[rows],
          solver=config.solver,
          seed=context.config.seed,
        )
      )
      near.append(
        probe.knn(features[train], target, features[rows], k=config.neighbours)
      )
    found[fraction] = _columns(linear, len(rows))
    knn = _evaluate(context, images, rows, _columns(near, len(rows)))
    for metric in ("macro_auroc", "macro_f1"):
      metrics[f"probe/{name}@{fraction:g}/knn_{metric}"] = knn[metric]
  return found


def _columns(columns: list, rows: int) -> np.ndarray:
  """Probabilities side by side; nan where a label could not be trained."""
  blank = np.full(rows, np.nan)
  return np.stack([blank if c is None else c for c in columns], 1)


def _finetune(context, images, parts, rows, metrics, name):
  start = context.load("supcon" if name == METHOD else name)["encoder"]
  for fraction, train in parts.items():
    stage = f"{name}+finetune@{fraction:g}"
    trained = classify.fit(context, images, start, images.labels, train, stage)
    found = classify.probabilities(
      context, images, trained, images.labels, rows, stage
    )
    found = _of_two_classes(images, train, found)
    _record(context, images, rows, found, metrics, stage)


def _of_two_classes(images, train, found) -> np.ndarray:
  """nan where training held one class, as from a linear probe: means over
  labels of different encoders are then over the same labels."""
  targets = classify.targets_of(images, images.labels)[train]
  both = (targets == 0).any(0) & (targets == 1).any(0)
  return np.where(both, found, np.nan)


def _evaluate(context, images, rows, values) -> dict[str, Any]:
  labels = {n: np.asarray(images.table[n], float)[rows] for n in images.labels}
  probabilities = {
    n: None if np.isnan(values[:, i]).all() else values[:, i]
    for i, n in enumerate(images.labels)
  }
  found = probe.evaluate(
    labels,
    probabilities,
    images.groups[rows],
    samples=context.config.probe.bootstrap,
    seed=context.config.seed,
  )
  keys = ("value", "low", "high", "n")
  return {name: {k: metric[k] for k in keys} for name, metric in found.items()}


def _record(context, images, rows, values, metrics, name) -> None:
  found = _evaluate(context, images, rows, values)
  metrics.update({f"probe/{name}/{key}": v for key, v in found.items()})


def _bare_names(metrics: dict, fraction: float) -> None:
  """probe/<label>/auroc: this method's encoder, frozen, all labels."""
  prefix = f"probe/{METHOD}@{fraction:g}/"
  for name in [n for n in metrics if n.startswith(prefix)]:
    metrics["probe/" + name.removeprefix(prefix)] = metrics[name]
