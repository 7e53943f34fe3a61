"""One diagnosis under several conditions, such as falling image quality.

A condition is named by the share of images that it changes. All arms are tested
on the same rows in every condition, so that falls and differences are paired:
leaving a patient out leaves it out of both sides.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import (
  by_grade,
  by_label,
  comparisons,
  intervals,
  weighted,
)
from gcl_jax.evaluation.by_label import Table

MEANS = ("kappa", "accuracy", "majority", "macro_auroc")


def evaluate(
  truth: np.ndarray,
  predictions: Mapping[str, Mapping[float, np.ndarray]],
  groups: np.ndarray | None = None,
  names: Sequence[str] | None = None,
) -> dict[str, dict]:
  """Figures of every arm in every condition, and what changes between them.

  Args:
    truth: int[N] of grades, -1 = missing, or float[N, K] of findings, 1, 0 or
      nan = missing.
    predictions: arm -> share of the condition -> probabilities float[N, K]; the
      arm that is compared with the others comes first. All arms have the same
      shares, in any order.
    groups: [N] patients; None = every row on its own.
    names: of the K findings; None numbers them.

  Returns:
    Flat dict of entries of `intervals`, `<arm>/<figure>@<percent>` of every
    figure of `table`; of every arm `<arm>/kappa_fall`, kappa in the condition
    of the smallest share less that of the largest, and `<arm>/kappa_slope`, the
    least-squares slope of kappa over the shares (per share of 1). Of the first
    arm against each other one `kappa@<percent>_over_<other>`, a family of all
    arms and conditions, and `kappa_fall_gain_over_<other>`, the other's fall
    less its own, a family of its own. The last four are entries of
    `comparisons.difference`. Undefined figures are None.

  Raises:
    DataError: shapes that do not fit, arms of different shares, or what
      `by_grade.evaluate` and `by_label.evaluate` refuse.
  """
  shares = _common_shares(predictions)
  tables = {
    arm: [table(truth, by_share[s], groups, names) for s in shares]
    for arm, by_share in predictions.items()
  }
  found = {
    f"{arm}/{figure}@{percent(share)}": entry
    for arm, of_arm in tables.items()
    for share, of_share in zip(shares, of_arm, strict=True)
    for figure, entry in by_label.entries(of_share).items()
  }
  support = next(iter(tables.values()))[0].supports["kappa"]
  kappas = {
    arm: np.stack([t.values["kappa"] for t in of_arm])
    for arm, of_arm in tables.items()
  }
  for arm, kappa in kappas.items():
    for name, values in (
      ("fall", fall(kappa)),
      ("slope", slope(kappa, shares)),
    ):
      entry = comparisons.difference(values, support)
      found[f"{arm}/kappa_{name}"] = entry
  return found | _differences(kappas, shares, support)


def table(
  truth: np.ndarray,
  probabilities: np.ndarray,
  groups: np.ndarray | None = None,
  names: Sequence[str] | None = None,
) -> Table:
  """Figures of one arm in one condition, on all rows and without each group.

  Of grades they are those of `by_grade`. Of findings, called from a probability
  of 0.5 on, they are means over the findings that 5 groups have and 5 have not:
  `kappa` of Cohen's kappas, `accuracy`, `majority` (of always giving the more
  frequent answer) and `macro_auroc`; and `auroc/<finding>`.

  Args:
    truth, groups, names: as for `evaluate`.
    probabilities: float[N, K].
  """
  truth = np.asarray(truth)
  if truth.ndim == 1:
    return by_grade.table(truth, probabilities, groups)
  truth = truth.astype(np.float64)
  probabilities = np.asarray(probabilities, np.float64)
  if truth.ndim != 2 or truth.shape != probabilities.shape:
    raise DataError(
      f"findings {truth.shape} and probabilities {probabilities.shape} differ"
    )
  rows, count = truth.shape
  names = [str(n) for n in (range(count) if names is None else names)]
  groups = np.arange(rows) if groups is None else np.asarray(groups)
  truth = np.stack(
    [
      by_label.check_label(n, y, rows)
      for n, y in zip(names, truth.T, strict=True)
    ],
    1,
  )
  known = ~np.isnan(truth)
  if not np.isfinite(probabilities[known]).all():
    raise DataError("a known finding has a NaN or infinite probability")
  each = [
    intervals.support_of(groups[known[:, k]], truth[known[:, k], k])
    for k in range(count)
  ]
  kept = [k for k in range(count) if each[k].fewest >= intervals.FEWEST]
  values = intervals.leave_one_out(
    lambda weights: _of_findings(truth, probabilities, names, kept, weights),
    rows,
    groups,
  )
  least = min((each[k] for k in kept), key=lambda s: s.fewest, default=each[0])
  supports = dict.fromkeys(MEANS, least)
  supports |= {f"auroc/{n}": s for n, s in zip(names, each, strict=True)}
  skipped = tuple(names[k] for k in range(count) if k not in kept)
  return Table(values, supports, skipped)


def fall(kappa: np.ndarray) -> np.ndarray:
  """The first condition less the last, float64[1 + G] of float64[C, 1 + G]."""
  return kappa[0] - kappa[-1]


def slope(kappa: np.ndarray, shares: Sequence[float]) -> np.ndarray:
  """Least-squares slope over C shares, float64[1 + G] of float64[C, 1 + G]."""
  centred = np.asarray(shares, np.float64) - np.mean(shares)
  return centred @ kappa / (centred**2).sum()


def percent(share: float) -> str:
  """A share as it stands in the names of figures.

  >>> percent(0.33), percent(1.0)
  ('33', '100')
  """
  return f"{100 * share:g}"


def confusion(
  truth: np.ndarray,
  called: np.ndarray,
  scale: int,
  groups: np.ndarray | None = None,
) -> np.ndarray:
  """Counts of true (rows) and called grades (columns), int64[scale, scale].

  Args:
    truth: int[N] of grades, -1 = missing; such rows do not count.
    called: int[N] of grades.
    scale: number of grades.
    groups: [N] patients: each is counted once, with the highest grade of its
      images, true and called. None counts images.
  """
  known = truth >= 0
  truth, called = truth[known].astype(int), called[known].astype(int)
  if groups is not None:
    _, member = np.unique(np.asarray(groups)[known], return_inverse=True)
    both = np.zeros((2, member.max(initial=-1) + 1), int)
    np.maximum.at(both[0], member, truth)
    np.maximum.at(both[1], member, called)
    truth, called = both
  counts = np.bincount(truth * scale + called, minlength=scale * scale)
  return counts.reshape(scale, scale)


def _of_findings(truth, probabilities, names, kept, weights) -> dict:
  """Every metric of findings for each weighting: name -> float64[S]."""
  each = {"kappa": {}, "accuracy": {}, "majority": {}, "macro_auroc": {}}
  for k in range(len(names)):
    known = ~np.isnan(truth[:, k])
    y, p, used = truth[known, k], probabilities[known, k], weights[:, known]
    nothing = np.full(len(weights), np.nan)
    each["macro_auroc"][k] = weighted.auroc(y, p, used) if len(y) else nothing
    if k in kept:
      called = (p >= 0.5).astype(np.float64)
      each["kappa"][k] = weighted.kappa(y, called, used)
      each["accuracy"][k] = weighted.accuracy(y, called, used)
      each["majority"][k] = weighted.majority(y, used)
  found = {
    name: np.mean([of_name[k] for k in kept], axis=0)
    if kept
    else np.full(len(weights), np.nan)
    for name, of_name in each.items()
  }
  aurocs = {f"auroc/{n}": each["macro_auroc"][k] for k, n in enumerate(names)}
  return found | aurocs


def _common_shares(predictions) -> list[float]:
  """The shares of every arm, ascending; DataError where they differ."""
  sets = {arm: sorted(by_share) for arm, by_share in predictions.items()}
  shares = next(iter(sets.values()), [])
  if len(shares) < 2 or any(other != shares for other in sets.values()):
    raise DataError(
      f"every arm needs the same two or more conditions, got {sets}"
    )
  return shares


def _differences(kappas, shares, support) -> dict[str, dict]:
  """Paired differences of the first arm from every other one."""
  ours, *others = kappas
  at, gains = {}, {}
  for other in others:
    for share, own, theirs in zip(
      shares, kappas[ours], kappas[other], strict=True
    ):
      name = f"kappa@{percent(share)}_over_{other}"
      at[name] = comparisons.difference(own - theirs, support)
    gains[f"kappa_fall_gain_over_{other}"] = comparisons.difference(
      fall(kappas[other]) - fall(kappas[ours]), support
    )
  return comparisons.family(at) | comparisons.family(gains)
