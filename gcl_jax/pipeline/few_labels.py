"""Encoders judged by classification with few labels.

Frozen features and a linear probe or nearest neighbours, or a fine-tune, on
nested fractions of the labelled training groups; metrics on the evaluation
groups with intervals by group.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import splits
from gcl_jax.engine.context import Context
from gcl_jax.engine.tables import pack
from gcl_jax.errors import DataError
from gcl_jax.evaluation import probe
from gcl_jax.pipeline import contrast, encoders, finetune
from gcl_jax.pipeline.prepared import Prepared

SUPERVISED = "supervised"  # the arm that is trained end to end


def run_supervised(
  context: Context, section: ConfigDict, batch_size: int
) -> dict[str, Any]:
  """A stage: the same network from random weights on each label fraction.

  Args:
    context: of the stage; `config.finetune` and `config.probe.fractions`.
    section: settings of the encoder and of its views.
    batch_size: images predicted at a time.

  Returns:
    `probabilities` {fraction: float32[R, K]}, `rows` int[R], the labelled
    evaluation images, and `classifiers`, the trained networks by name.
  """
  judge = Judge(context, section, batch_size)
  out = {}
  if not nothing_to_probe(judge.images):
    for fraction, rows in judge.fractions().items():
      name = f"{SUPERVISED}@{fraction:g}"
      out[f"{fraction:g}"] = judge.finetuned(rows, name)
  return {
    "probabilities": out,
    "rows": judge.rows,
    "classifiers": judge.classifiers,
  }


def run(
  context: Context,
  section: ConfigDict,
  stages: Mapping[str, str],
  batch_size: int,
) -> dict[str, Any]:
  """A stage: probes of every encoder at every label fraction.

  Args:
    context: of the stage; `config.probe` and `config.finetune`.
    section: settings of the encoders and of their views.
    stages: name of an encoder in the tables -> stage that left it, this
      method's own first.
    batch_size: images at a time.

  Returns:
    `metrics` (JSON), `features` float32[N, D] of this method's encoder, `rows`
    int[R], the labelled evaluation images, `probabilities/<encoder>` float[R,
    K] with all labels, `heads` (fields of `probe.Head` by encoder, fraction
    and label) and `classifiers` (networks of the fine-tunes by name). Without
    labels no metrics, and `rows` of all evaluation images.
  """
  judge = Judge(context, section, batch_size)
  ours = next(iter(stages))
  if missing := nothing_to_probe(judge.images):
    context.telemetry.say(f"no probe: {missing}")
    return {
      "metrics": np.array("{}"),
      "features": judge.features(ours, stages[ours]),
      "rows": np.flatnonzero(judge.images.evaluation),
      "probabilities": {},
      "heads": {},
      "classifiers": {},
    }
  parts, probabilities, kept = judge.fractions(), {}, None
  for name, stage in stages.items():
    if name == SUPERVISED:
      found = context.load(stage)["probabilities"]
      found = {float(f): values for f, values in found.items()}
    else:
      features = judge.features(name, stage)
      kept = features if name == ours else kept
      found = judge.linear(features, parts, name)
      if context.config.probe.finetune:
        judge.finetune(context.load(stage)["encoder"], parts, name)
    for fraction, values in found.items():
      judge.record(values, f"{name}@{fraction:g}")
    probabilities[name] = found[max(found)]
  _bare_names(judge.metrics, f"probe/{ours}@{max(parts):g}/")
  return {
    "metrics": np.array(json.dumps(judge.metrics)),
    "features": kept,
    "rows": judge.rows,
    "probabilities": probabilities,
    "heads": judge.heads,
    "classifiers": judge.classifiers,
    "train_sizes": np.array([len(r) for r in parts.values()]),
    "fractions": np.array(list(parts)),
  }


def targets_of(images: Prepared, names: tuple[str, ...]) -> np.ndarray:
  """float[N, K]: 1, 0 or nan per label column.

  Raises:
    DataError: no names.
  """
  if not names:
    raise DataError(
      "the data set has no label column: name some with"
      " --config.data.label_columns"
    )
  return np.stack([np.asarray(images.table[n], float) for n in names], 1)


def labelled(images: Prepared) -> np.ndarray:
  """bool[N]: images of the pool with at least one label."""
  if not images.labels:
    return np.zeros(len(images), bool)
  targets = targets_of(images, images.labels)
  return ~np.isnan(targets).all(1) & images.table["pool"]


def nothing_to_probe(images: Prepared) -> str:
  """Why there can be no probe, in words; "" if there can."""
  if not images.labels:
    return "the data set has no label column (--config.data.label_columns)"
  for part, name in ((images.train, "training"), (images.evaluation, "eval")):
    if (labelled(images) & part).sum() < 2:
      return f"fewer than two images of the {name} part have a label"
  return ""


def of_two_classes(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Sets labels with a single training class to nan, as a linear probe does.

  Macro means of all encoders then average the same labels.

  Args:
    targets: float[T, K] of the training rows.
    values: float[R, K], probabilities.
  """
  both = (targets == 0).any(0) & (targets == 1).any(0)
  return np.where(both, values, np.nan)


class Judge:
  """Measures encoders on the labelled images of a run.

  Attributes:
    images: the prepared images.
    rows: int[R], the labelled evaluation images.
    metrics: flat name -> {value, low, high, n}, recorded so far.
    heads: encoder -> fraction -> label -> fields of `probe.Head`.
    classifiers: name of a fine-tune -> variables of encoder and head.
  """

  def __init__(self, context: Context, section: ConfigDict, batch_size: int):
    """Takes what `run` takes."""
    self.context, self.batch_size = context, batch_size
    self.images = Prepared(context)
    self.encoder = encoders.make(section)
    self.statistics = self.images.pixel_statistics()
    self.views = contrast.views_of(section, *self.statistics)
    here = labelled(self.images) & self.images.evaluation
    self.rows, self.metrics = np.flatnonzero(here), {}
    self.heads, self.classifiers = {}, {}

  def fractions(self) -> dict[float, np.ndarray]:
    """Rows of the labelled training part per fraction, nested by group."""
    images, config = self.images, self.context.config
    rows = np.flatnonzero(labelled(images) & images.train)
    # The first positive label stratifies, so that rare labels are drawn.
    targets = np.nan_to_num(targets_of(images, images.labels))
    first = np.where(targets.any(1), targets.argmax(1), targets.shape[1])
    masks = splits.nested_fractions(
      images.groups[rows],
      tuple(config.probe.fractions),
      config.seed,
      stratify=first[rows],
    )
    return {fraction: rows[mask] for fraction, mask in masks.items()}

  def features(self, name: str, stage: str) -> np.ndarray:
    """float32[N, D]: frozen features of the encoder that a stage left."""
    return encoders.features(
      self.context,
      self.encoder,
      self.context.load(stage)["encoder"],
      self.images.pixels,
      statistics=self.statistics,
      batch_size=self.batch_size,
      name=f"features/{name}",
    )

  def finetuned(
    self, rows: np.ndarray, name: str, variables: Any = None
  ) -> np.ndarray:
    """float[R, K]: probabilities after training end to end on the rows."""
    images, context = self.images, self.context
    targets = targets_of(images, images.labels)
    trained = finetune.fit(
      context,
      context.config.finetune,
      self.encoder,
      images.pixels,
      targets,
      rows,
      views=self.views,
      ids=images.ids,
      name=name,
      variables=variables,
    )
    self.classifiers[name] = trained
    found = finetune.predict(
      context,
      self.encoder,
      trained,
      images.pixels[self.rows],
      labels=len(images.labels),
      statistics=self.statistics,
      batch_size=self.batch_size,
      name=f"{name}/predict",
    )
    return of_two_classes(targets[rows], found)

  def finetune(self, variables: Any, parts: Mapping, name: str) -> None:
    """Records a full fine-tune of an encoder at every fraction."""
    for fraction, rows in parts.items():
      stage = f"{name}+finetune@{fraction:g}"
      self.record(self.finetuned(rows, stage, variables), stage)

  def linear(self, features: np.ndarray, parts: Mapping, name: str) -> dict:
    """{fraction: float[R, K]} of linear probes, whose heads are kept; metrics
    of nearest neighbours are recorded."""
    config, found = self.context.config.probe, {}
    table, names = self.images.table, self.images.labels
    for fraction, train in parts.items():
      labels = {n: np.asarray(table[n], float)[train] for n in names}
      heads, near = {}, []
      for label, target in labels.items():
        heads |= probe.fit_linear(
          features[train],
          {label: target},
          solver=config.solver,
          seed=self.context.config.seed,
        )
        neighbours = features[train], target, features[self.rows]
        near.append(probe.knn(*neighbours, k=config.neighbours))
      self.heads.setdefault(name, {})[f"{fraction:g}"] = pack(
        {label: h._asdict() for label, h in heads.items() if h is not None}
      )
      tested = features[self.rows]
      found[fraction] = self._columns(
        [h and probe.probability(h, tested) for h in heads.values()]
      )
      knn = self._evaluate(self._columns(near))
      for metric in ("macro_auroc", "macro_f1"):
        key = f"probe/{name}@{fraction:g}/knn_{metric}"
        self.metrics[key] = knn[metric]
    return found

  def record(self, values: np.ndarray, name: str) -> None:
    """Metrics of probabilities float[R, K] as probe/<name>/..."""
    found = self._evaluate(values)
    self.metrics.update({f"probe/{name}/{k}": v for k, v in found.items()})

  def _columns(self, columns: list) -> np.ndarray:
    """Probabilities side by side; nan where a label could not be trained."""
    blank = np.full(len(self.rows), np.nan)
    return np.stack([blank if c is None else c for c in columns], 1)

  def _evaluate(self, values: np.ndarray) -> dict[str, Any]:
    table, names = self.images.table, self.images.labels
    labels = {n: np.asarray(table[n], float)[self.rows] for n in names}
    probabilities = {
      n: None if np.isnan(values[:, i]).all() else values[:, i]
      for i, n in enumerate(names)
    }
    groups = self.images.groups[self.rows]
    return probe.evaluate(labels, probabilities, groups)


def _bare_names(metrics: dict, prefix: str) -> None:
  """probe/<label>/auroc: this method's encoder, frozen, all labels."""
  for name in [n for n in metrics if n.startswith(prefix)]:
    metrics["probe/" + name.removeprefix(prefix)] = metrics[name]
