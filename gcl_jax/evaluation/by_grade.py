"""Metrics of one ordinal grade, with intervals by patient."""

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import intervals, weighted
from gcl_jax.evaluation.by_label import Table, entries


def evaluate(
  grades: np.ndarray,
  probabilities: np.ndarray,
  groups: np.ndarray | None = None,
) -> dict[str, dict]:
  """Agreement and separation of K grades, with intervals by patient.

  The predicted grade is the most probable one, the lower of equal ones.

  Args:
    grades: int[N] of 0 to K - 1, or -1 = missing; such rows are not scored.
    probabilities: float[N, K] of the grades in their order, K at least 2; any
      values where the grade is missing.
    groups: [N] patients; None = every image on its own.

  Returns:
    Flat dict of entries of `intervals`: `accuracy`; `majority`, the accuracy of
    always predicting the most frequent grade, which `accuracy` has to beat;
    `kappa`, with quadratic weights on the scale of all K grades, those that do
    not occur included; `auroc/<k>` of grade k against the others;
    `macro_auroc`, the mean of those that 5 groups have and 5 have not, its
    `skipped` naming the others. The value is None where undefined: the AUROC
    of a grade that no row or every row has, kappa where truth and prediction
    are one grade throughout.

  Raises:
    DataError: shapes that do not fit, a grade that is not on the scale, or a
      probability of a graded row that is not finite.
  """
  return entries(table(grades, probabilities, groups))


def table(
  grades: np.ndarray,
  probabilities: np.ndarray,
  groups: np.ndarray | None = None,
) -> Table:
  """Figures on all rows and without each group; arguments of `evaluate`."""
  grades, probabilities = _check(grades, probabilities)
  known, scale = grades >= 0, probabilities.shape[1]
  groups = np.arange(len(grades)) if groups is None else np.asarray(groups)
  if len(groups) != len(grades):
    raise DataError(f"{len(groups)} groups for {len(grades)} rows")
  grades, probabilities, groups = (
    values[known] for values in (grades, probabilities, groups)
  )
  each = [intervals.support_of(groups, grades == k) for k in range(scale)]
  kept = [k for k in range(scale) if each[k].fewest >= intervals.FEWEST]
  values = intervals.leave_one_out(
    lambda weights: _all_metrics(grades, probabilities, kept, weights),
    len(grades),
    groups,
  )
  supports = {f"auroc/{k}": support for k, support in enumerate(each)}
  supports["macro_auroc"] = min(
    (each[k] for k in kept), key=lambda s: s.fewest, default=each[0]
  )
  every = dict.fromkeys(values, intervals.support_of(groups))
  skipped = tuple(str(k) for k in range(scale) if k not in kept)
  return Table(values, every | supports, skipped)


def _all_metrics(grades, probabilities, kept, weights) -> dict:
  """Every metric for each weighting of the graded rows: name -> float64[S]."""
  scale = probabilities.shape[1]
  names = [f"auroc/{k}" for k in range(scale)]
  if not len(grades):
    nothing = np.full(len(weights), np.nan)
    names = ["accuracy", "majority", "kappa", *names, "macro_auroc"]
    return dict.fromkeys(names, nothing)
  called = probabilities.argmax(1)
  aurocs = np.stack(
    [
      weighted.auroc(grades == k, probabilities[:, k], weights)
      for k in range(scale)
    ]
  )
  return {
    "accuracy": weighted.accuracy(grades, called, weights),
    "majority": weighted.majority(grades, weights),
    "kappa": weighted.kappa(grades, called, weights, "quadratic"),
    **dict(zip(names, aurocs, strict=True)),
    "macro_auroc": aurocs[kept].mean(0) if kept else aurocs[0] * np.nan,
  }


def _check(grades, probabilities) -> tuple[np.ndarray, np.ndarray]:
  grades = np.asarray(grades)
  probabilities = np.asarray(probabilities, np.float64)
  shape = probabilities.shape
  if grades.ndim != 1 or shape[:1] != grades.shape or len(shape) != 2:
    raise DataError(
      "grades need a row of probabilities each, [N] and [N, K], got"
      f" {grades.shape} and {shape}"
    )
  if shape[1] < 2:
    raise DataError(f"a scale needs at least two grades, got {shape[1]}")
  odd = grades[~np.isin(grades, np.arange(-1, shape[1]))]
  if len(odd):
    raise DataError(
      f"grades must be 0 to {shape[1] - 1}, or -1 = missing, found {odd[0]:g}"
    )
  grades = grades.astype(np.int64)
  bad = int((~np.isfinite(probabilities).all(1) & (grades >= 0)).sum())
  if bad:
    raise DataError(f"{bad} graded rows have a NaN or infinite probability")
  return grades, probabilities
