"""Metrics of one ordinal grade, with joint intervals by patient."""

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import metrics, weighted


def evaluate(
  grades: np.ndarray,
  probabilities: np.ndarray,
  groups: np.ndarray | None = None,
  *,
  samples: int = 1000,
  seed: int = 0,
) -> dict[str, dict]:
  """Agreement and separation of K grades, with joint intervals by patient.

  The predicted grade is the most probable one, the lower of equal ones.
  Patients are drawn once for all metrics. Rows without a grade are drawn with
  their patients and not scored.

  Args:
    grades: int[N] of 0 to K - 1, or -1 = missing.
    probabilities: float[N, K] of the grades in their order, K at least 2; any
      values where the grade is missing.
    groups: [N] patients; None = every image on its own.
    samples: bootstrap draws.
    seed: of the draws.

  Returns:
    Flat dict: `accuracy`; `majority`, the accuracy of always predicting the
    most frequent grade (of a draw, in that draw), which `accuracy` has to
    beat; `kappa`, with quadratic weights on the scale of all K grades, those
    that do not occur included; `auroc/<k>` of grade k against the others;
    `macro_auroc`, the mean of those defined. Each is {value, low, high, n} as
    from `metrics.bootstrap`, n being the rows with a grade, and value None
    where undefined: the AUROC of a grade that no row or every row has, kappa
    where truth and prediction are one grade throughout.

  Raises:
    DataError: shapes that do not fit, a grade that is not on the scale, or a
      probability of a graded row that is not finite.
  """
  grades, probabilities = _check(grades, probabilities)
  known = grades >= 0
  graded, called = grades[known], probabilities[known]

  def of_draws(weights):
    return _all_metrics(graded, called, weights[:, known])

  result = metrics.joint_bootstrap(of_draws, len(grades), groups, samples, seed)
  return {key: found | {"n": len(graded)} for key, found in result.items()}


def _all_metrics(grades, probabilities, weights) -> dict[str, np.ndarray]:
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
    "kappa": weighted.kappa(grades, called, weights, "quadratic", scale),
    **dict(zip(names, aurocs, strict=True)),
    "macro_auroc": weighted.mean_of_defined(aurocs, np.ones_like(aurocs)),
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
