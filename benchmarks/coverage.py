"""How often 95 % intervals cover: simulated patients with a known truth.

  python benchmarks/coverage.py --trials=2000

Prints one row for each figure and number of groups: the share of trials in
which the interval of the jackknife (`gcl_jax.evaluation.intervals`, over draws
of labelled patients that of `over_draws`, none below five) and that of the
percentile bootstrap cover the truth, and how often the truth lies below or
above that of the jackknife; then the power of paired differences beside that of
the rule "the two intervals do not overlap". 3 minutes on one core.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import scipy.stats
from scipy import special

from gcl_jax.evaluation import by_label, comparisons, fits, intervals, metrics
from gcl_jax.evaluation.over_draws import mean_over_fits, weighted_mean

IMAGES = 3  # of a patient
SHARED = 0.6  # of the variance of a score lies between patients
DRAWS = 300  # of the bootstrap


class Sample(NamedTuple):
  """Images of simulated patients.

  Attributes:
    labels: float64[N], 1 or 0.
    scores: float64[N, M] of M models that are correlated.
    groups: int[N].
  """

  labels: np.ndarray
  scores: np.ndarray
  groups: np.ndarray


def patients(
  rng: np.random.Generator,
  counts: tuple[int, int],
  aurocs: Iterable[float],
  common: float = 0.0,
) -> Sample:
  """Normal scores of patients that are positive or negative as a whole.

  Args:
    rng: of the draws.
    counts: positive and negative patients.
    aurocs: true AUROC of every model.
    common: correlation of the models' scores within a class.
  """
  shift = np.sqrt(2) * scipy.stats.norm.ppf(np.array(list(aurocs)))
  total, models = sum(counts), len(shift)
  groups = np.repeat(np.arange(total), IMAGES)
  labels = np.repeat(np.repeat([1.0, 0.0], counts), IMAGES)

  def noise(rows):
    both, own = rng.normal(size=(rows, 1)), rng.normal(size=(rows, models))
    return np.sqrt(common) * both + np.sqrt(1 - common) * own

  scores = np.sqrt(SHARED) * noise(total)[groups]
  scores += np.sqrt(1 - SHARED) * noise(len(groups))
  return Sample(labels, scores + shift * labels[:, None], groups)


def auroc(rng, counts, truth) -> tuple[dict, dict]:
  """AUROC of one model: entries of the jackknife and of the bootstrap."""
  labels, scores, groups = patients(rng, counts, [truth])
  arrays = metrics.auroc, labels, scores[:, 0]
  return metrics.jackknife(*arrays, groups=groups), metrics.bootstrap(
    *arrays, groups=groups, samples=DRAWS, seed=int(rng.integers(2**31))
  )


def sensitivity(rng, counts, truth) -> tuple[dict, dict]:
  """Sensitivity of calls that are positive with the probability `truth`; those
  of a patient agree more often than by chance."""
  groups = np.repeat(np.arange(counts[0]), IMAGES)
  own, shared = rng.normal(size=len(groups)), rng.normal(size=counts[0])[groups]
  latent = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * own
  calls = (special.ndtr(latent) < truth).astype(float)
  arrays = metrics.sensitivity, np.ones(len(groups)), calls
  return metrics.jackknife(*arrays, groups=groups), metrics.bootstrap(
    *arrays, groups=groups, samples=DRAWS, seed=int(rng.integers(2**31))
  )


def correlation(rng, counts, truth) -> tuple[dict, dict]:
  """Spearman's correlation of two normal quantities of patients."""
  count, _ = counts
  normal = 2 * np.sin(np.pi * truth / 6)  # Pearson's, for this Spearman's
  first, second = rng.normal(size=(2, count))
  second = normal * first + np.sqrt(1 - normal**2) * second
  arrays = metrics.spearman, first, second
  return metrics.jackknife(*arrays), metrics.bootstrap(
    *arrays, samples=DRAWS, seed=int(rng.integers(2**31))
  )


def macro(rng, counts, truth) -> tuple[dict, None]:
  """Mean AUROC over four labels of different frequency of the same patients."""
  total, fewest = sum(counts), counts[0]
  groups = np.repeat(np.arange(total), IMAGES)
  shift = np.sqrt(2) * scipy.stats.norm.ppf(truth)
  labels, probabilities = {}, {}
  for k in range(4):
    positive = rng.permutation(total) < fewest * (k + 1)
    noise = np.sqrt(SHARED) * rng.normal(size=total)[groups]
    noise += np.sqrt(1 - SHARED) * rng.normal(size=len(groups))
    labels[f"label{k}"] = positive[groups].astype(float)
    scores = noise + shift * positive[groups]
    probabilities[f"label{k}"] = special.expit(scores)
  found = by_label.evaluate(labels, probabilities, groups)
  return found["macro_auroc"], None


def paired(rng, counts, truth) -> tuple[dict, None]:
  """Difference of two models' AUROC on the same images."""
  labels, scores, groups = patients(rng, counts, truth, common=0.7)
  return metrics.paired(
    metrics.auroc, labels, scores[:, 0], scores[:, 1], groups
  ), None


def seeds(rng, counts, truth) -> tuple[dict, None]:
  """Mean AUROC of three seeds whose true values vary by 0.02."""
  shift = rng.normal(size=3) * 0.02
  sample = patients(rng, counts, np.clip(truth + shift, 0.5, 0.99), common=0.7)
  each = intervals.leave_one_out(
    lambda weights: {
      str(k): metrics.of_weights(
        metrics.auroc, (sample.labels, sample.scores[:, k]), weights
      )
      for k in range(3)
    },
    len(sample.labels),
    sample.groups,
  )
  support = intervals.support_of(sample.groups, sample.labels)
  return fits.over_fits(np.stack(list(each.values())), support), None


def draws(rng, counts, truth) -> tuple[dict, dict]:
  """Mean Dice over `counts` draws of labelled patients and test patients; the
  bootstrap resamples both."""
  values = truth + 0.05 * rng.normal(size=(counts[0], 1))
  values = values + 0.03 * rng.normal(size=counts[1])
  values = (values + 0.03 * rng.normal(size=counts))[None]
  weights = [
    rng.multinomial(count, np.full(count, 1 / count), DRAWS) for count in counts
  ]
  means = weighted_mean(values, *weights)
  low, high = np.quantile(means, (0.025, 0.975))
  found = mean_over_fits(values, np.arange(counts[1]), samples=DRAWS)
  return found, {"low": low, "high": high}


class Case(NamedTuple):
  """A figure, the numbers of patients and its true value."""

  figure: Callable[..., tuple]
  counts: tuple[int, int]
  truth: float | tuple[float, float]


CASES = (
  Case(auroc, (98, 14), 0.94),
  Case(auroc, (98, 14), 0.8),
  Case(auroc, (6, 6), 0.8),
  Case(auroc, (12, 30), 0.7),
  Case(auroc, (30, 30), 0.9),
  Case(auroc, (8, 60), 0.98),
  Case(sensitivity, (12, 0), 0.8),
  Case(sensitivity, (40, 0), 0.95),
  Case(correlation, (12, 0), 0.6),
  Case(correlation, (40, 0), 0.9),
  Case(macro, (8, 50), 0.8),
  Case(paired, (98, 14), (0.94, 0.91)),
  Case(paired, (12, 12), (0.8, 0.8)),
  Case(seeds, (98, 14), 0.85),
  Case(draws, (5, 20), 0.8),
  Case(draws, (9, 20), 0.8),
  Case(draws, (9, 12), 0.8),
)
THREE_DRAWS = Case(draws, (3, 20), 0.8)  # too few for an interval


def coverage(case: Case, trials: int, seed: int = 0) -> dict[str, float]:
  """Shares of trials in which intervals cover the truth.

  Returns:
    `jackknife`, `bootstrap` (nan where it is not tried), `below` and `above`:
    trials in which the truth lies below or above the jackknife's interval;
    `none`: trials without one, which count for nothing else but the bootstrap
    over draws.
  """
  rng = np.random.default_rng(seed)
  truth = np.subtract(*case.truth) if case.figure is paired else case.truth
  found = [case.figure(rng, case.counts, case.truth) for _ in range(trials)]
  known = [one for one, _ in found if one["low"] is not None]
  below = _share([truth < one["low"] for one in known])
  above = _share([truth > one["high"] for one in known])
  others = [
    other["low"] <= truth <= other["high"]
    for one, other in found
    if other and (one["low"] is not None or case.figure is draws)
  ]
  return {
    "jackknife": 1 - below - above,
    "bootstrap": _share(others),
    "below": below,
    "above": above,
    "none": 1 - len(known) / trials,
  }


def _share(hits: list[bool]) -> float:
  return float(np.mean(hits)) if hits else np.nan


def power(
  counts: tuple[int, int], aurocs: tuple[float, float], trials: int
) -> tuple[float, float]:
  """Share of trials that find a true difference: by the paired interval, and
  by two single intervals that do not overlap."""
  rng, hits = np.random.default_rng(1), np.zeros((trials, 2))
  for trial in range(trials):
    labels, scores, groups = patients(rng, counts, aurocs, common=0.7)
    difference = metrics.paired(metrics.auroc, labels, *scores.T, groups)
    hits[trial, 0] = comparisons.verdict(difference) == "above"
    one, other = (
      metrics.jackknife(metrics.auroc, labels, column, groups=groups)
      for column in scores.T
    )
    hits[trial, 1] = one["low"] > other["high"]
  return tuple(hits.mean(0))


def main() -> int:
  """Prints the tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--trials", type=int, default=2000)
  trials = parser.parse_args().trials
  heads = ("jackknife", "bootstrap", "below", "above", "none")
  print("| figure | groups | truth |", " | ".join(heads), "|")
  print("|" + " --- |" * (len(heads) + 3))
  for case in (*CASES, THREE_DRAWS):
    found = coverage(case, trials)
    cells = " | ".join(f"{found[head]:.3f}" for head in heads)
    name = case.figure.__name__
    print(f"| {name} | {case.counts} | {case.truth} | {cells} |", flush=True)
  for counts, aurocs in (((98, 14), (0.94, 0.91)), ((60, 60), (0.9, 0.85))):
    both = power(counts, aurocs, trials)
    print(
      f"power, {counts} groups, AUROC {aurocs}: paired {both[0]:.3f}, intervals"
      f" that do not overlap {both[1]:.3f}"
    )
  return 0


if __name__ == "__main__":
  sys.exit(main())
