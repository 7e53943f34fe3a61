"""Metrics of few-label segmentation: means with intervals, paired gains."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import Context
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import volumes
from gcl_jax.pipeline import report
from gcl_jax.pipeline.label_draws import fits
from gcl_jax.pipeline.prepared import Prepared


def label(labelled: int) -> str:
  """M patients with labels in names of metrics: a number, or "all" for 0."""
  return str(labelled or "all")


def scores_of(
  found: dict, config: ConfigDict, arm: str, labelled: int, part: str
) -> dict[str, np.ndarray]:
  """{"dice/..": float64[fits, V]} of an arm, fits in order of draw and seed.

  Args:
    found: what `segment.run` left.
    config: of the run.
    arm, labelled, part: which scores.
  """
  each = [
    unpack(found["fits"][fit.name][part])
    for fit in fits(config.segment, [arm])
    if fit.labelled == labelled and part in found["fits"][fit.name]
  ]
  if not each:
    return {}
  return {name: np.stack([e[name] for e in each]) for name in each[0]}


def metrics(
  found: dict, config: ConfigDict, arms: Sequence[str], against: Sequence[str]
) -> dict[str, dict]:
  """Flat name -> {value, low, high, n}.

  `segment/<arm>@<M>/...` of every arm, and without the arm the figures of the
  method's own at the first M of `segment.labelled`. Intervals as in
  `volumes.mean_over_fits`.

  Args:
    found: what `segment.run` left.
    config: of the run.
    arms: the method's own last.
    against: arms that every arm's Dice is compared with, paired by volume.
  """
  out = {}
  for labelled in config.segment.labelled:
    for arm in arms:
      others = [name for name in against if name in arms and name != arm]
      out |= _of_arm(found, config, arm, labelled, others)
  ours = f"segment/{arms[-1]}@{label(config.segment.labelled[0])}/"
  for name in [name for name in out if name.startswith(ours)]:
    out[f"segment/{name.removeprefix(ours)}"] = out[name]
  return out


def _of_arm(found, config, arm, labelled, others) -> dict[str, dict]:
  out = {}
  for part, prefix in (("eval", ""), ("ood", "ood/")):
    name = f"segment/{arm}@{label(labelled)}/{prefix}"
    scores = scores_of(found, config, arm, labelled, part)
    if not scores:
      continue
    groups = found["tests"][part]["groups"]
    for key, values in scores.items():
      metric, _, kind = key.partition("/")
      columns = _classes(scores, metric) if kind == "mean" else values[None]
      out[name + key] = _interval(columns, groups, config)
      if metric == "hd95":
        missing = int(np.isnan(columns).sum())
        out[f"{name}{key}/undefined"] = count(missing, columns.size)
    for other in others:
      theirs = scores_of(found, config, other, labelled, part)
      difference = _classes(scores, "dice") - _classes(theirs, "dice")
      gain = _interval(difference, groups, config)
      out[f"{name}gain_over_{other}"] = gain
  return out


def _interval(values, groups, config) -> dict:
  return volumes.mean_over_fits(
    values,
    groups,
    draws=len(config.segment.draws),
    samples=config.report.bootstrap,
    seed=config.seed,
  )


def _classes(scores: dict, metric: str) -> np.ndarray:
  """float64[K, fits, V] of the classes of a metric."""
  mean = f"{metric}/mean"
  names = [k for k in scores if k.startswith(f"{metric}/") and k != mean]
  return np.stack([scores[name] for name in names])


def write_tables(
  context: Context, images: Prepared, found: dict, arms: Sequence[str]
) -> None:
  """Writes scores.csv, predictions.csv and features.npz of a run.

  scores.csv has a row for every fine-tune and test volume; predictions.csv one
  for every test slice, with the pixels that the network of the method's own
  arm gives to each class; the class maps are in the artifact of the stage.

  Args:
    context: of stage `report`.
    images: the prepared slices.
    found: what `segment.run` left.
    arms: the method's own last.
  """
  rows = []
  for fit in fits(context.config.segment, arms):
    for part, test in found["tests"].items():
      scores = unpack(found["fits"][fit.name][part])
      for v, volume in enumerate(test["volumes"]):
        row = {"volume": volume, "group": test["groups"][v], "part": part}
        row |= fit._asdict() | {name: x[v] for name, x in scores.items()}
        rows.append(row)
  table = {name: [row[name] for row in rows] for name in rows[0]}
  report.write_table(context, "scores.csv", table)
  network = found["networks"][arms[-1]]
  chosen, maps = network["rows"], network["maps"]
  names = ("id", "volume", "group", "part")
  columns = {name: images.table[name][chosen] for name in names}
  for k, name in enumerate(images.classes, 1):
    columns[f"pixels of {name}"] = (maps == k).sum(axis=(1, 2))
  report.write_table(context, "predictions.csv", columns)
  report.write_features(context, images, found["features"])


def count(value: float, n: int) -> dict:
  """A metric without an interval."""
  return {"value": value, "low": None, "high": None, "n": n}


def spread(values: np.ndarray) -> float | None:
  """Standard deviation over draws and seeds of the mean over volumes."""
  per_fit = np.array([_mean(row) for row in values])
  return float(per_fit.std(ddof=1)) if len(per_fit) > 1 else None


def _mean(values: np.ndarray) -> float:
  defined = values[~np.isnan(values)]
  return defined.mean() if len(defined) else np.nan
