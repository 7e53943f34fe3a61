"""Metrics of one of several classes, with intervals by patient."""

from collections.abc import Sequence

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import intervals, weighted
from gcl_jax.evaluation.by_label import Table, entries

PAIRS = "confounded"


def evaluate(
  truth: np.ndarray,
  probabilities: np.ndarray,
  groups: np.ndarray | None = None,
  pairs: Sequence[tuple[int, int]] = (),
) -> dict[str, dict]:
  """Accuracy and separation of K classes without an order.

  The called class is the most probable one, the first of equal ones.

  Args:
    truth: int[N] of 0 to K - 1, or -1 = missing; such rows are not scored.
    probabilities: float[N, K], K at least 2; any values where the class is
      missing.
    groups: [N] patients; None = every image on its own.
    pairs: classes that are hard to tell apart.

  Returns:
    Flat dict of entries of `intervals`: `accuracy`, the mean over the classes
    that occur of the share of their rows that is called right (balanced: 1 / K
    by chance); `confounded`, the mean over `pairs` of the balanced accuracy
    within a pair, of its rows alone, called by the larger of its two
    probabilities (0.5 by chance), undefined without pairs; `auroc/<k>` of class
    k against the others; `macro_auroc`, the mean of those that 5 groups have
    and 5 have not, its `skipped` naming the others. Undefined figures are None.

  Raises:
    DataError: shapes that do not fit, a class that there is not, or a
      probability of a scored row that is not finite.
  """
  return entries(table(truth, probabilities, groups, pairs))


def table(
  truth: np.ndarray,
  probabilities: np.ndarray,
  groups: np.ndarray | None = None,
  pairs: Sequence[tuple[int, int]] = (),
) -> Table:
  """Figures on all rows and without each group; arguments of `evaluate`."""
  truth, probabilities = _checked(truth, probabilities, pairs)
  groups = np.arange(len(truth)) if groups is None else np.asarray(groups)
  if len(groups) != len(truth):
    raise DataError(f"{len(groups)} groups for {len(truth)} rows")
  known, count = truth >= 0, probabilities.shape[1]
  truth, probabilities, groups = (
    values[known] for values in (truth, probabilities, groups)
  )
  each = [intervals.support_of(groups, truth == k) for k in range(count)]
  kept = [k for k in range(count) if each[k].fewest >= intervals.FEWEST]
  values = intervals.leave_one_out(
    lambda weights: _figures(truth, probabilities, kept, pairs, weights),
    len(truth),
    groups,
  )
  supports = {f"auroc/{k}": support for k, support in enumerate(each)}
  least = min((each[k] for k in kept), key=lambda s: s.fewest, default=each[0])
  paired = np.isin(truth, np.unique(np.array(pairs, int)))
  supports |= {
    "macro_auroc": least,
    "accuracy": intervals.support_of(groups),
    PAIRS: intervals.support_of(groups[paired]),
  }
  skipped = tuple(str(k) for k in range(count) if k not in kept)
  return Table(values, supports, skipped)


def balanced(
  truth: np.ndarray, called: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Mean over classes of the share of their weight that is called right.

  Args:
    truth, called: int[N].
    weights: float64[S, N] >= 0.

  Returns:
    float64[S]; a class without weight does not count, nan if none has any.
  """
  names = np.unique(truth)
  total = weights @ (truth[:, None] == names)
  right = weights @ ((truth[:, None] == names) & (called == truth)[:, None])
  there = total > 0
  share = np.where(there, right / np.where(there, total, 1), 0)
  count = there.sum(1)
  return np.where(count > 0, share.sum(1) / np.maximum(count, 1), np.nan)


def _figures(truth, probabilities, kept, pairs, weights) -> dict:
  """Every figure for each weighting: name -> float64[S]."""
  count, nothing = probabilities.shape[1], np.full(len(weights), np.nan)
  found = {"accuracy": balanced(truth, probabilities.argmax(1), weights)}
  within = []
  for pair in pairs:
    rows = np.isin(truth, pair)
    called = np.asarray(pair)[probabilities[rows][:, list(pair)].argmax(1)]
    within.append(balanced(truth[rows], called, weights[:, rows]))
  found[PAIRS] = np.mean(within, axis=0) if within else nothing
  for k in range(count):
    y = (truth == k).astype(np.float64)
    found[f"auroc/{k}"] = (
      weighted.auroc(y, probabilities[:, k], weights) if len(y) else nothing
    )
  aurocs = [found[f"auroc/{k}"] for k in kept]
  found["macro_auroc"] = np.mean(aurocs, axis=0) if aurocs else nothing
  return found


def _checked(truth, probabilities, pairs) -> tuple[np.ndarray, np.ndarray]:
  truth = np.asarray(truth)
  probabilities = np.asarray(probabilities, np.float64)
  if probabilities.ndim != 2 or probabilities.shape[1] < 2:
    raise DataError(
      f"probabilities must be [N, K] of 2 classes or more, got shape"
      f" {probabilities.shape}"
    )
  if truth.shape != probabilities.shape[:1] or truth.dtype.kind not in "iu":
    raise DataError(
      f"classes must be int [N] as probabilities {probabilities.shape}, got"
      f" {truth.dtype} {truth.shape}"
    )
  count = probabilities.shape[1]
  odd = [k for k in truth.tolist() if not -1 <= k < count]
  if odd := [*odd, *(k for pair in pairs for k in pair if not 0 <= k < count)]:
    raise DataError(f"class {odd[0]} is not one of 0 to {count - 1}")
  if not np.isfinite(probabilities[truth >= 0]).all():
    raise DataError("a row of known class has a NaN or infinite probability")
  return truth.astype(int), probabilities
