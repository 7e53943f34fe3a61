"""Encoders measured on the labelled images of a run, on equal terms."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import splits
from gcl_jax.engine import arrays
from gcl_jax.engine.context import Context
from gcl_jax.engine.tables import pack
from gcl_jax.errors import DataError
from gcl_jax.evaluation import by_label, crossfit, probe
from gcl_jax.pipeline import contrast, encoders, finetune
from gcl_jax.pipeline.prepared import Prepared

# What was chosen for every label, float64[K]; nan where there is no classifier
# or no such setting.
Chosen = dict[str, np.ndarray]


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


def chosen_of(choices: list[crossfit.Choice | None]) -> Chosen:
  """Arrays of `Choice`, one number a label; nan for None."""
  return {
    field: np.array(
      [np.nan if c is None else getattr(c, field) for c in choices], float
    )
    for field in crossfit.Choice._fields
  }


def settled(
  targets: np.ndarray,
  found: np.ndarray | None,
  fold: np.ndarray,
  balanced: bool,
) -> list[crossfit.Choice | None]:
  """Intercept and threshold of a network for each label.

  Args:
    targets: float[T, K] of the training rows.
    found: float[T, K], their probabilities out of fold, or None.
    fold: int[T].
    balanced: as in `crossfit.settle`.

  Returns:
    A choice for each label; None for labels of one class.
  """
  choices: list[crossfit.Choice | None] = []
  for k, y in enumerate(targets.T):
    known = ~np.isnan(y)
    if len(np.unique(y[known])) < 2:
      choices.append(None)
    elif found is None or not crossfit.complete(y, fold):
      choices.append(crossfit.settle(y[known], None, balanced))
    else:
      choice = crossfit.settle(y[known], found[known, k], balanced)
      choices.append(choice._replace(folds=len(np.unique(fold))))
  return choices


def _threshold(choice: Mapping[str, float], rows: int) -> dict[str, Any]:
  """Entry of a threshold in report.json: no figure, and so no interval.

  Args:
    choice: fields of `crossfit.Choice`.
    rows: number of evaluation images that it is applied to.
  """
  found = {"value": float(choice["threshold"]), "low": None, "high": None}
  found |= {"n": rows, "folds": int(choice["folds"])}
  if np.isnan(choice["penalty"]):
    return found
  return found | {"penalty": float(choice["penalty"])}


class Judge:
  """Measures encoders on the labelled images of a run.

  Attributes:
    images: the prepared images.
    rows: int[R], the labelled evaluation images.
    metrics: flat name -> entry of `evaluation.intervals`, recorded so far.
    tables: "<encoder>@<fraction>" -> `by_label.Table`, for differences.
    probabilities: encoder -> fraction -> float[R, K].
    chosen: encoder -> fraction -> `Chosen`.
    heads: encoder -> fraction -> label -> fields of `probe.Head`.
    classifiers: name of a fine-tune -> variables of encoder and head.
  """

  def __init__(self, context: Context, section: ConfigDict, batch_size: int):
    """Takes what `few_labels.run` takes."""
    self.context, self.batch_size = context, batch_size
    self.images = Prepared(context)
    self.encoder = encoders.make(section)
    self.statistics = self.images.pixel_statistics()
    self.views = contrast.views_of(section, *self.statistics)
    self.predictor = finetune.predictor(
      self.encoder, len(self.images.labels), self.statistics
    )
    here = labelled(self.images) & self.images.evaluation
    self.rows, self.metrics, self.tables = np.flatnonzero(here), {}, {}
    self.probabilities, self.chosen = {}, {}
    self.heads, self.classifiers = {}, {}

  def fractions(self) -> dict[float, np.ndarray]:
    """Rows of the labelled training part per fraction, nested by group."""
    config = self.context.config
    rows = np.flatnonzero(labelled(self.images) & self.images.train)
    masks = splits.nested_fractions(
      self.images.groups[rows],
      tuple(config.probe.fractions),
      config.seed,
      stratify=self._first_labels(rows),
    )
    return {fraction: rows[mask] for fraction, mask in masks.items()}

  def _first_labels(self, rows: np.ndarray) -> np.ndarray:
    """The first positive label of rows stratifies, for the rare labels."""
    targets = np.nan_to_num(targets_of(self.images, self.images.labels)[rows])
    return np.where(targets.any(1), targets.argmax(1), targets.shape[1])

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
  ) -> tuple[np.ndarray, Chosen]:
    """Probabilities float[R, K] after training end to end on the rows.

    Thresholds and intercepts come from fits of the same length on all but one
    part of the groups (`finetune.folds`), labels of one class are nan.
    """
    targets = targets_of(self.images, self.images.labels)[rows]
    trained = self._trained(rows, name, variables)
    found, fold = self._out_of_fold(rows, name, variables)
    balanced = self.context.config.finetune.balanced
    chosen = chosen_of(settled(targets, found, fold, balanced))
    head = trained["head"]["params"]
    shift = np.nan_to_num(chosen["shift"]).astype(head["bias"].dtype)
    head = trained["head"] | {"params": head | {"bias": head["bias"] + shift}}
    self.classifiers[name] = trained | {"head": head}
    values = self._predicted(self.classifiers[name], self.rows, name)
    both = ~np.isnan(chosen["threshold"])
    return np.where(both, values, np.nan), chosen

  def _out_of_fold(self, rows, name, variables):
    """Probabilities float[T, K] out of fold, or None, and folds int[T]."""
    config, groups = self.context.config, self.images.groups[rows]
    count = min(config.finetune.folds, len(np.unique(groups)))
    if count < 2:
      return None, np.zeros(len(rows), int)
    fold = splits.folds(groups, count, config.seed, self._first_labels(rows))
    if len(rows) - np.bincount(fold).max() < 2:
      return None, fold
    found = np.zeros((len(rows), len(self.images.labels)))
    for k in range(count):
      here, part = fold == k, f"{name}/without{k}"
      trained = self._trained(rows[~here], part, variables, len(rows))
      found[here] = self._predicted(trained, rows[here], part)
    return found, fold

  def _trained(self, rows, name, variables, batch_rows=None):
    images, context = self.images, self.context
    return finetune.fit(
      context,
      context.config.finetune,
      self.encoder,
      images.pixels,
      targets_of(images, images.labels),
      rows,
      views=self.views,
      ids=images.ids,
      name=name,
      variables=variables,
      batch_rows=batch_rows,
    )

  def _predicted(self, trained, rows, name) -> np.ndarray:
    return self.context.map(
      self.predictor,
      trained,
      {"image": arrays.Rows(self.images.pixels, rows)},
      batch_size=self.batch_size,
      name=f"{name}/predict",
    )

  def finetune(self, variables: Any, parts: Mapping, name: str) -> None:
    """Records a full fine-tune of an encoder at every fraction."""
    for fraction, rows in parts.items():
      stage = f"{name}@{fraction:g}"
      self.record(name, fraction, *self.finetuned(rows, stage, variables))

  def linear(self, features: np.ndarray, parts: Mapping, name: str) -> None:
    """Records linear probes, whose heads are kept, and nearest neighbours."""
    tested = features[self.rows]
    for fraction, train in parts.items():
      columns, choices, heads, near = [], [], {}, []
      for label in self.images.labels:
        rows = (
          features[train],
          np.asarray(self.images.table[label], float)[train],
          self.images.groups[train],
        )
        seed, config = self.context.config.seed, self.context.config.probe
        found = crossfit.linear(*rows, solver=config.solver, seed=seed)
        head, choice = found or (None, None)
        choices.append(choice)
        if head is not None:
          heads[label] = head._asdict()
        columns.append(head and probe.probability(head, tested))
        near.append(
          crossfit.neighbours(*rows, tested, k=config.neighbours, seed=seed)
        )
      self.heads.setdefault(name, {})[f"{fraction:g}"] = pack(heads)
      self.record(name, fraction, self._columns(columns), chosen_of(choices))
      self._record_neighbours(name, fraction, near)

  def _record_neighbours(self, name, fraction, near) -> None:
    votes = self._columns([found and found[0] for found in near])
    chosen = chosen_of([found and found[1] for found in near])
    knn = by_label.entries(self._table(votes, chosen["threshold"]))
    for metric in ("macro_auroc", "macro_f1"):
      self.metrics[f"probe/{name}@{fraction:g}/knn_{metric}"] = knn[metric]

  def record(
    self, name: str, fraction: float, values: np.ndarray, chosen: Chosen
  ) -> None:
    """Metrics of probabilities float[R, K] as probe/<name>@<fraction>/..."""
    key = f"{fraction:g}"
    self.probabilities.setdefault(name, {})[key] = values
    self.chosen.setdefault(name, {})[key] = chosen
    table = self._table(values, chosen["threshold"])
    self.tables[f"{name}@{key}"] = table
    self.metrics.update(
      {
        f"probe/{name}@{key}/{metric}": entry
        for metric, entry in by_label.entries(table).items()
      }
    )
    for k, label in enumerate(self.images.labels):
      if not np.isnan(chosen["threshold"][k]):
        rows = table.supports[f"{label}/auroc"].rows
        entry = _threshold({field: of[k] for field, of in chosen.items()}, rows)
        self.metrics[f"probe/{name}@{key}/{label}/threshold"] = entry

  def _columns(self, columns: list) -> np.ndarray:
    """Probabilities side by side; nan where a label could not be trained."""
    blank = np.full(len(self.rows), np.nan)
    return np.stack([blank if c is None else c for c in columns], 1)

  def _table(self, values, thresholds) -> by_label.Table:
    table, names = self.images.table, self.images.labels
    return by_label.table(
      {n: np.asarray(table[n], float)[self.rows] for n in names},
      {
        n: None if np.isnan(values[:, i]).all() else values[:, i]
        for i, n in enumerate(names)
      },
      self.images.groups[self.rows],
      thresholds=dict(zip(names, thresholds, strict=True)),
    )
