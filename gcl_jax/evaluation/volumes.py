"""Segmentation scored by volume and class: Dice and HD95 in mm.

Slices of a volume share a patient and small classes live in few of them, so
the unit is the volume, not the slice and not the pooled pixels of a fold.
"""

from collections.abc import Sequence

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import masks, metrics

METRICS = ("dice", "hd95")


def volume_scores(
  truths: Sequence[np.ndarray],
  predictions: Sequence[np.ndarray],
  spacings: Sequence[Sequence[float]],
  names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Dice and HD95 of every volume, by class and their mean over classes.

  Args:
    truths: V label maps int[S, H, W], sizes may differ; 0 is the background.
    predictions: V label maps, each of its truth's shape.
    spacings: V times (slice, row, column) size of a voxel, in mm.
    names: of the foreground classes, labels 1 to len(names).

  Returns:
    "dice/<name>" in [0, 1] and "hd95/<name>" in mm, float64[V] each, nan where
    undefined: Dice where truth and prediction are both empty, HD95 where
    either is. "dice/mean" and "hd95/mean" are the means over the classes that
    are defined in that volume.

  Raises:
    DataError: no volume, lists of different length, shapes that differ, labels
      that have no name, spacing that is not three positive numbers.
  """
  _check(truths, predictions, spacings, names)
  table = np.full((len(METRICS), len(truths), len(names)), np.nan)
  for v, volume in enumerate(zip(truths, predictions, spacings, strict=True)):
    truth, prediction, spacing = volume
    for c in range(len(names)):
      pair = np.asarray(truth) == c + 1, np.asarray(prediction) == c + 1
      values = masks.dice(*pair), masks.hd95(*pair, spacing)
      table[:, v, c] = [np.nan if x is None else x for x in values]
  scores = {}
  for metric, rows in zip(METRICS, table, strict=True):
    for c, name in enumerate(names):
      scores[f"{metric}/{name}"] = rows[:, c]
    scores[f"{metric}/mean"] = np.array([_mean(row) for row in rows])
  return scores


def summarise(
  scores: dict[str, np.ndarray],
  groups: np.ndarray | None = None,
  *,
  samples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, dict[str, float | int | None]]:
  """Means over volumes, then over classes, with intervals by patient.

  A class counts the same however many volumes it is defined in. Where some
  are undefined, the value of "dice/mean" therefore differs from the mean of
  `scores["dice/mean"]`.

  Args:
    scores: what `volume_scores` returns.
    groups: [V] patient of each volume; None = every volume on its own.
    samples, seed, level: of the bootstrap, see `metrics.bootstrap`.

  Returns:
    For each key of `scores` a dict: `value`, `low`, `high` and `n`, the number
    of volumes, as `metrics.bootstrap`, and `undefined`, how many volumes (of
    "mean": how many pairs of a volume and a class) have no value. A method
    that misses a class has no HD95 there: read it beside `undefined`.
  """
  result = {}
  for key in scores:
    metric, name = key.split("/", 1)
    columns = [key] if name != "mean" else _classes(scores, metric)
    rows = np.stack([scores[column] for column in columns], axis=1)
    result[key] = metrics.bootstrap(
      class_mean, rows, groups=groups, samples=samples, seed=seed, level=level
    )
    result[key]["undefined"] = int(np.isnan(rows).sum())
  return result


def class_mean(rows: np.ndarray) -> float | None:
  """Mean over volumes, then over classes: float[V, K] with nan -> a number.

  A class that is undefined in every volume is left out; None when all are.
  """
  mean = _mean(np.array([_mean(column) for column in rows.T]))
  return None if np.isnan(mean) else float(mean)


def _classes(scores, metric) -> list[str]:
  mean = f"{metric}/mean"
  return [k for k in scores if k.startswith(f"{metric}/") and k != mean]


def _mean(values: np.ndarray) -> float:
  """Mean of what is not nan; nan where all are."""
  defined = values[~np.isnan(values)]
  return defined.mean() if len(defined) else np.nan


def _check(truths, predictions, spacings, names) -> None:
  counts = len(truths), len(predictions), len(spacings)
  if not counts[0] or len(set(counts)) > 1:
    raise DataError(
      "volumes need as many truths as predictions and spacings, at least one,"
      f" got {counts[0]}, {counts[1]} and {counts[2]}"
    )
  if "mean" in names or len(set(names)) < len(names) or not names:
    raise DataError(f"class names must differ and not be 'mean': {names}")
  for v in range(counts[0]):
    shapes = np.shape(truths[v]), np.shape(predictions[v])
    if len(shapes[0]) != 3 or shapes[0] != shapes[1]:
      raise DataError(
        f"volume {v}: truth and prediction must be int[S, H, W] of one shape,"
        f" got {shapes[0]} and {shapes[1]}"
      )
    for labels in (truths[v], predictions[v]):
      odd = np.setdiff1d(labels, np.arange(len(names) + 1))
      if len(odd):
        raise DataError(
          f"volume {v} holds label {odd[0]}, but {len(names)} classes are named"
        )
    spacing = np.asarray(spacings[v], float)
    if spacing.shape != (3,) or not (spacing > 0).all():
      raise DataError(
        f"volume {v}: spacing must be three sizes in mm, got {spacings[v]}"
      )
