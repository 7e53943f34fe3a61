"""Penalty, threshold and intercept of a classifier, from its training rows.

One rule for every classifier of a binary label. The groups (patients) of the
labelled training rows are dealt into folds; every row gets the probability of
a classifier that was fitted without its fold. Of several penalties the one with
the least log loss of these probabilities is taken, then the intercept, then the
threshold with the largest F1. Evaluation rows take no part.

Log loss and not AUROC chooses the penalty: with a handful of positive groups
AUROC takes few values, and it would compare probabilities across folds, whose
classifiers differ in their scale.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from gcl_jax.data import splits
from gcl_jax.data.text import one_forms
from gcl_jax.evaluation import probe

# C of the logistic regression: one fixed where folds are impossible, or one of
# these. A small C is a strong penalty.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 5
_EDGE = 1e-9  # nearest that a probability comes to 0 and 1 in a logarithm

Fit = Callable[[np.ndarray, float | None], np.ndarray]


class Choice(NamedTuple):
  """What the labelled training rows say about a classifier of one label.

  Attributes:
    penalty: C of the logistic regression; None for other classifiers.
    shift: what is added to the logit of every probability.
    threshold: shifted probability from which a row is called positive.
    folds: number of folds; 0 where there could be none.
  """

  penalty: float | None
  shift: float
  threshold: float
  folds: int


def folds_of(
  y: np.ndarray, groups: np.ndarray, seed: int = 0
) -> np.ndarray | None:
  """Deals the groups of the labelled rows into at most 5 folds.

  The groups with the rarer class are spread over the folds.

  Args:
    y: float[N] of 1, 0 or NaN.
    groups: [N].
    seed: of the draw.

  Returns:
    int[N], -1 for rows without a label; None where the other folds would lack
    a class, which is so if a class has fewer than two groups.
  """
  known = ~np.isnan(y)
  y, of_known = y[known], one_forms(groups, "groups")[known]
  having = [np.unique(of_known[y == side]) for side in (1, 0)]
  rarer = np.isin(of_known, min(having, key=len))
  count = len(np.unique(of_known))
  if min(map(len, having)) < 2:
    return None
  fold = np.full(len(known), -1)
  fold[known] = splits.folds(of_known, min(FOLDS, count), seed, rarer)
  return fold if complete(y, fold[known]) else None


def complete(y: np.ndarray, fold: np.ndarray) -> bool:
  """Whether the labels outside each fold are of both classes.

  Args:
    y: float[N] of 1, 0 or NaN.
    fold: int[N], -1 for rows of no fold.
  """
  return all(
    {0.0, 1.0} <= set(y[(fold != k) & (fold >= 0)].tolist())
    for k in np.unique(fold[fold >= 0])
  )


def out_of_fold(
  fit: Callable[[np.ndarray], np.ndarray], y: np.ndarray, fold: np.ndarray
) -> np.ndarray:
  """Probabilities float64[N] of classifiers that have not seen a row's fold.

  Args:
    fit: labels float[N], NaN = not to be used -> probabilities float[N] of all
      rows.
    y: float[N] of 1, 0 or NaN.
    fold: int[N], -1 for rows of no fold, whose probability is NaN.
  """
  found = np.full(len(y), np.nan)
  for k in np.unique(fold[fold >= 0]):
    here = fold == k
    found[here] = fit(np.where(here | (fold < 0), np.nan, y))[here]
  return found


def choose(
  fit: Fit,
  y: np.ndarray,
  groups: np.ndarray,
  *,
  penalties: Sequence[float | None] = (None,),
  balanced: bool = True,
  seed: int = 0,
) -> Choice:
  """Chooses penalty, intercept and threshold on out-of-fold probabilities.

  Args:
    fit: (labels float[N], NaN = not to be used; penalty) -> probabilities
      float[N] of all rows.
    y: float[N] of 1, 0 or NaN, both classes among them.
    groups: [N].
    penalties: to choose from, strongest first; of equal losses the first.
    balanced: as in `settle`.
    seed: of the folds.
  """
  fold = folds_of(y, groups, seed)
  known = ~np.isnan(y)
  if fold is None:
    fixed = None if penalties[0] is None else probe.INVERSE_PENALTY
    return settle(y[known], None, balanced)._replace(penalty=fixed)
  found = {
    penalty: out_of_fold(lambda labels, c=penalty: fit(labels, c), y, fold)
    for penalty in penalties
  }
  best = min(
    penalties, key=lambda penalty: log_loss(y[known], found[penalty][known])
  )
  choice = settle(y[known], found[best][known], balanced)
  return choice._replace(penalty=best, folds=int(fold.max()) + 1)


def settle(
  y: np.ndarray, probability: np.ndarray | None, balanced: bool = True
) -> Choice:
  """Intercept and threshold of a classifier without a penalty.

  Args:
    y: float[N] of 1 and 0, both among them.
    probability: float[N], out of fold; None where there is none: then the
      intercept is moved by the log odds of the labels, which is what balanced
      classes took from it, and the threshold is a balanced probability of 0.5.
    balanced: whether the classes were weighted to the same total, so that the
      mean probability has to be brought back to the share of positives; else
      the intercept stays.
  """
  if probability is None:
    shift = float(special.logit(np.mean(y))) if balanced else 0.0
    return Choice(None, shift, float(special.expit(shift)), 0)
  shift = recalibration(y, probability) if balanced else 0.0
  threshold = best_threshold(y, shifted(probability, shift))
  return Choice(None, shift, threshold, 0)


def shifted(probability: np.ndarray, shift: float) -> np.ndarray:
  """Probabilities with `shift` added to their logit; unchanged for 0."""
  if not shift:
    return probability
  return special.expit(special.logit(probability) + shift)


def recalibration(y: np.ndarray, probability: np.ndarray) -> float:
  """Shift of the logit that makes the mean probability the share of positives.

  Args:
    y: float[N] of 1 and 0, both among them.
    probability: float[N]; taken to be 1e-9 or more away from 0 and 1.
  """
  logit = special.logit(np.clip(probability, _EDGE, 1 - _EDGE))
  wanted, reach = np.mean(y), 30 + np.abs(logit).max()
  return optimize.brentq(
    lambda shift: np.mean(special.expit(logit + shift)) - wanted, -reach, reach
  )


def best_threshold(y: np.ndarray, probability: np.ndarray) -> float:
  """Threshold with the largest F1; of equal ones that which calls fewest.

  Args:
    y: float[N] of 1 and 0, with a 1 among them.
    probability: float[N].

  Returns:
    A number half-way between the least probability that is called positive
    and the next below it, or 0 if there is none.
  """
  values, member = np.unique(probability, return_inverse=True)
  hits = np.cumsum(np.bincount(member, y, len(values))[::-1])[::-1]
  called = np.cumsum(np.bincount(member, None, len(values))[::-1])[::-1]
  f1 = 2 * hits / (called + y.sum())
  best = len(values) - 1 - int(np.argmax(f1[::-1]))
  below = values[best - 1] if best else 0.0
  return float((values[best] + below) / 2)


def log_loss(y: np.ndarray, probability: np.ndarray) -> float:
  """Mean over both classes of the mean -log(probability of the class).

  Args:
    y: float[N] of 1 and 0, both among them.
    probability: float[N]; taken to be 1e-9 or more away from 0 and 1.
  """
  of_class = np.where(y == 1, probability, 1 - probability)
  loss = -np.log(np.maximum(of_class, _EDGE))
  return float((loss[y == 1].mean() + loss[y == 0].mean()) / 2)


def linear(
  x: np.ndarray,
  y: np.ndarray,
  groups: np.ndarray,
  *,
  solver: str = "lbfgs",
  seed: int = 0,
) -> tuple[probe.Head, Choice] | None:
  """Linear probe of one label with its penalty, intercept and threshold.

  Args:
    x: float[N, D], training features.
    y: float[N] of 1, 0 or NaN.
    groups: [N].
    solver, seed: as in `probe.fit_linear`; "sgd" has no penalty and does not
      weight the classes.

  Returns:
    The probe of all rows, its intercept shifted, and what was chosen; None if
    training holds one class only.
  """

  def head(labels, penalty, **options):
    if penalty is not None:
      options["penalty"] = penalty
    options |= {"solver": solver, "seed": seed}
    return probe.fit_linear(x, {"label": labels}, **options)["label"]

  def fit(labels, penalty):
    # Coarser than the last fit: half the time, the same choice.
    return probe.probability(head(labels, penalty, tolerance=1e-4), x)

  if not {0.0, 1.0} <= set(np.asarray(y).tolist()):
    return None
  weighted = solver == "lbfgs"
  choice = choose(
    fit,
    y,
    groups,
    penalties=PENALTIES if weighted else (None,),
    balanced=weighted,
    seed=seed,
  )
  found = head(y, choice.penalty)
  return found._replace(bias=found.bias + choice.shift), choice


def neighbours(
  x: np.ndarray,
  y: np.ndarray,
  groups: np.ndarray,
  test_x: np.ndarray,
  *,
  k: int,
  seed: int = 0,
) -> tuple[np.ndarray, Choice] | None:
  """Votes of the nearest neighbours float64[M], and their threshold.

  Args:
    x, y, groups, seed: as in `linear`; out of fold, a row's own groups have no
      vote.
    test_x: float[M, D].
    k: number of neighbours.
  """
  votes = probe.knn(x, y, test_x, k=k)
  if votes is None:
    return None
  choice = choose(
    lambda labels, _: probe.knn(x, labels, x, k=k),
    y,
    groups,
    balanced=False,
    seed=seed,
  )
  return votes, choice
