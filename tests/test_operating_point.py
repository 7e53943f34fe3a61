"""Sensitivity at a given specificity against a loop over thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcl_jax.errors import DataError
from gcl_jax.evaluation import metrics, weighted

ROWS = st.lists(
  st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=1, max_size=40
)


def by_loop(labels, scores, specificity=0.9):
  """Every threshold in turn, with counts of calls; None with one class."""
  positives, negatives = sum(labels == 1), sum(labels == 0)
  if not positives or not negatives:
    return None
  best = 0.0
  for threshold in [*scores, np.inf]:
    called = [score >= threshold for score in scores]
    pairs = list(zip(labels, called, strict=True))
    rejected = sum(y == 0 and not call for y, call in pairs)
    if rejected / negatives >= specificity:
      found = sum(y == 1 and bool(call) for y, call in pairs) / positives
      best = max(best, found)
  return best


def drawn(seed=0, count=40):
  rng = np.random.default_rng(seed)
  groups = np.repeat(np.arange(count), rng.integers(1, 5, count))
  labels = rng.integers(0, 2, count)[groups]
  scores = 1.5 * labels + rng.normal(size=len(groups)).round(1)
  return labels, scores, groups


@settings(deadline=None, max_examples=200)
@given(ROWS, st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]))
def test_it_is_the_best_of_all_thresholds(rows, specificity):
  labels, scores = (np.array(column) for column in zip(*rows, strict=True))
  found = metrics.sensitivity_at_specificity(labels, scores, specificity)
  expected = by_loop(labels, scores, specificity)
  assert found is expected is None or found == pytest.approx(expected)


def test_exactly_nine_of_ten_negatives_suffice():
  scores = np.array([*range(10), 8.5, 9.0])
  labels = np.array([0] * 10 + [1, 1])
  assert metrics.sensitivity_at_specificity(labels, scores) == 1.0
  assert metrics.sensitivity_at_specificity(labels, scores, 0.95) == 0.0


def test_weights_count_rows():
  labels, scores, _ = drawn(1)
  weights = np.random.default_rng(2).integers(0, 4, (7, len(labels)))
  found = weighted.sensitivity_at_specificity(
    labels.astype(float), scores, weights.astype(float)
  )
  for value, counts in zip(found, weights, strict=True):
    repeated = by_loop(np.repeat(labels, counts), np.repeat(scores, counts))
    assert value == pytest.approx(repeated)


def test_one_class_is_undefined():
  for labels in (np.zeros(3), np.ones(3)):
    assert metrics.sensitivity_at_specificity(labels, np.arange(3.0)) is None


def test_the_threshold_is_chosen_anew_without_each_group():
  labels, scores, groups = drawn(count=60)
  found = metrics.jackknife(
    metrics.sensitivity_at_specificity, labels, scores, groups=groups
  )
  left = [groups != group for group in np.unique(groups)]
  values = np.array([by_loop(labels[rows], scores[rows]) for rows in left])
  spread = np.sqrt((len(left) - 1) * values.var())
  assert found["value"] == by_loop(labels, scores)
  # The interval is symmetric on the logit scale, its slope 1 / (p (1 - p)).
  logit = [np.log(found[k] / (1 - found[k])) for k in ("low", "value", "high")]
  assert logit[2] - logit[1] == pytest.approx(logit[1] - logit[0])
  share = found["value"] * (1 - found["value"])
  reach = (logit[2] - logit[1]) * share / spread
  assert 2.0 < reach < 2.1  # Student's t of 20 to 40 degrees of freedom
  sides = found["positive_groups"], found["negative_groups"]
  assert sides == tuple(len(set(groups[labels == side])) for side in (1, 0))


def test_values_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match="specificity"):
    metrics.sensitivity_at_specificity([0, 1], [0.0, 1.0], 90)
  with pytest.raises(DataError, match="0 or 1"):
    metrics.sensitivity_at_specificity([0, 2], [0.0, 1.0])
