"""Bins against exact arithmetic, the paper's table and slow loops."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcl_jax import binning
from gcl_jax.errors import ConfigError, DataError

NUMBERS = st.lists(st.integers(-1000, 1000), min_size=3, max_size=60).filter(
  lambda values: len(set(values)) > 1
)


def exact_equal_width(values, bins):
  """max(0, ceil((x - min) / w) - 1) in rational numbers."""
  low = Fraction(min(values))
  width = (Fraction(max(values)) - low) / bins
  return [max(0, math.ceil((Fraction(x) - low) / width) - 1) for x in values]


def slow_equal_count(values, bins):
  ranks = [sum(other < x for other in values) for x in values]
  return [rank * bins // len(values) for rank in ranks]


@settings(deadline=None, max_examples=200)
@given(NUMBERS, st.integers(2, 50))
def test_equal_width_is_the_published_rule_exactly(values, bins):
  bins = min(bins, len(values))
  found = binning.equal_width(np.array(values, float), bins)
  assert found.labels.tolist() == exact_equal_width(values, bins)


@pytest.mark.parametrize("bins", [2, 10, 50, 1000])
def test_equal_width_on_continuous_scores(bins):
  scores = np.random.default_rng(0).lognormal(size=1000)
  found = binning.equal_width(scores, bins)
  assert found.labels.tolist() == exact_equal_width(scores.tolist(), bins)
  assert found.labels.dtype == np.int32
  assert found.edges.dtype == np.float64 and len(found.edges) == bins + 1
  assert (found.edges[0], found.edges[-1]) == (scores.min(), scores.max())


def test_an_integer_on_an_edge_falls_below_it():
  scores = np.arange(41.0, 98.0)  # BCVA letters; width 5.6, edge at 69
  labels = binning.equal_width(scores, 10).labels
  assert labels[scores == 69] == 4 and labels[scores == 70] == 5


@settings(deadline=None, max_examples=200)
@given(NUMBERS, st.integers(2, 50))
def test_equal_count_is_the_rank_rule(values, bins):
  bins = min(bins, len(values))
  found = binning.equal_count(np.array(values, float), bins)
  assert found.labels.tolist() == slow_equal_count(values, bins)


@settings(deadline=None, max_examples=200)
@given(NUMBERS, st.integers(2, 50), st.booleans())
def test_edges_give_the_labels_back_and_ties_share(values, bins, wide):
  scores = np.array(values, np.float64) / 7
  rule = binning.equal_width if wide else binning.equal_count
  found = rule(scores, min(bins, len(values)))
  again = binning.from_edges(scores, found.edges)
  assert (again.labels == found.labels).all()
  for value in set(values):
    assert len(set(found.labels[scores == value / 7])) == 1
  order = np.argsort(scores, kind="stable")
  assert (np.diff(found.labels[order]) >= 0).all()
  assert found.labels.min() == 0 and found.labels.max() < found.requested


def test_invariances():
  scores = np.random.default_rng(1).normal(size=500)
  wide = binning.equal_width(scores, 20).labels
  assert (binning.equal_width(4 * scores + 3, 20).labels == wide).all()
  even = binning.equal_count(scores, 20).labels
  assert (binning.equal_count(np.exp(3 * scores), 20).labels == even).all()
  assert (np.bincount(even) == 25).all()


def test_other_scores_are_clipped_to_the_pool():
  edges = binning.equal_width(np.array([0.0, 1, 2, 3, 4]), 4).edges
  labels = binning.from_edges(np.array([-9.0, 0.0, 2.5, 4.0, 99.0]), edges)
  assert labels.labels.tolist() == [0, 0, 2, 3, 3]


@pytest.mark.parametrize("rule", [binning.equal_width, binning.equal_count])
def test_bad_scores_are_refused(rule):
  with pytest.raises(ValueError, match=r"2 of 4 .*rows 1, 3"):
    rule(np.array([0.0, np.nan, 1.0, np.inf]), 2)
  with pytest.raises(DataError, match="1 distinct value for 5 bins"):
    rule(np.full(9, 0.25), 5)
  # More bins than images is no mistake of the rule: most bins stay empty.
  labels = rule(np.arange(3.0), 5).labels
  assert len(set(labels)) == 3 and labels.max() < 5
  with pytest.raises(ConfigError):
    rule(np.array([0.0, 1.0]), 1)
  with pytest.raises(DataError):
    rule(np.zeros(0), 2)


def test_bad_edges_are_refused():
  for edges in ([0.0], [0.0, np.nan], [1.0, 0.0]):
    with pytest.raises(DataError):
      binning.from_edges(np.array([0.5]), np.array(edges))


@pytest.mark.parametrize(
  "bins, expected, share",
  [(10, 6.30, 0.999), (50, 1.26, 0.720), (1000, 0.062, 0.060)],
)
def test_describe_meets_the_collision_table(bins, expected, share):
  pool = np.random.default_rng(0).permutation(62126).astype(float)
  found = binning.describe(binning.equal_count(pool, bins), 64)
  assert found["expected_positives"] == pytest.approx(expected, abs=5e-3)
  assert found["anchors_with_positive"] == pytest.approx(share, abs=1e-3)
  assert found["occupied"] == found["requested"] == bins


def test_describe_is_what_random_batches_hold():
  rng = np.random.default_rng(0)
  bins = binning.equal_width(rng.lognormal(size=60), 12)
  found = binning.describe(bins, 16)
  others, lonely = [], []
  for _ in range(4000):
    labels = bins.labels[rng.choice(60, 16, replace=False)]
    same = (labels[:, None] == labels).sum(1) - 1
    others.append(same.mean())
    lonely.append((same > 0).mean())
  assert np.mean(others) == pytest.approx(found["expected_positives"], rel=0.02)
  assert np.mean(lonely) == pytest.approx(
    found["anchors_with_positive"], rel=0.02
  )
  assert found["largest"] == np.bincount(bins.labels).max()
  assert found["largest_share"] == found["largest"] / 60


@pytest.mark.parametrize("size", [20, 300, 5000])
@pytest.mark.parametrize("batch_size", [16, 64, 256])
def test_choose_keeps_the_limits(size, batch_size):
  scores = np.random.default_rng(size).lognormal(size=size)
  bins = binning.choose(scores, batch_size=batch_size)
  expected = binning.describe(bins, batch_size)["expected_positives"]
  others = min(batch_size, size) - 1
  assert 1 <= expected <= max(1, 0.2 * others)
  assert f"{bins.requested} equal" in bins.reason


def test_choose_follows_the_noise_of_the_score():
  rng = np.random.default_rng(0)
  truth = rng.uniform(size=4000)

  def chosen(noise):
    # An offset between models is no noise of the ranking and must not count.
    models = truth[:, None] + noise * rng.normal(size=(4000, 3)) + [0, 5, -2]
    return binning.choose(truth, repeatability=models)

  width = 1.96 * math.sqrt(2) * 0.02
  bins = chosen(0.02)
  assert bins.rule == "equal_width"
  assert bins.requested == pytest.approx(1 / width, rel=0.06)
  assert "repeatability" in bins.reason and "3 models" in bins.reason
  assert chosen(0.04).requested < bins.requested
  coarse = chosen(0.5)  # noise would ask for 2 bins: the limit says 5
  assert 5 <= coarse.requested <= 7 and "moved" in coarse.reason


@pytest.mark.parametrize("averaged", [1, 2, 5])
def test_bins_of_a_mean_are_as_narrow_as_the_mean_repeats(averaged):
  """Width 1.96 sqrt(2) s / sqrt(M), the limits of agreement of two means."""
  rng = np.random.default_rng(1)
  truth, noise = rng.uniform(size=6000), 0.03
  models = truth[:, None] + noise * rng.normal(size=(6000, 5))
  scores = models[:, :averaged].mean(1)
  bins = binning.choose(scores, repeatability=models, averaged=averaged)
  width = 1.96 * math.sqrt(2) * noise / math.sqrt(averaged)
  assert np.diff(bins.edges)[0] == pytest.approx(width, rel=0.06)
  again = truth + noise * rng.normal(size=(averaged, 6000)).mean(0)
  share = np.mean(np.abs(scores - again) < np.diff(bins.edges)[0])
  assert share == pytest.approx(0.95, abs=0.015)
  assert (f"for a mean of {averaged}" in bins.reason) == (averaged > 1)
  with pytest.raises(ValueError, match="averaged"):
    binning.choose(scores, repeatability=models, averaged=0)


def test_choose_leaves_equal_width_when_an_outlier_squeezes_it():
  scores = np.append(np.random.default_rng(0).normal(size=400), 1e9)
  bins = binning.choose(scores)
  assert bins.rule == "equal_count"
  assert 1 <= binning.describe(bins, 64)["expected_positives"] <= 12.6
  assert "no number of equal-width bins" in bins.reason


def test_the_finest_bins_leave_just_one_positive():
  scores = np.random.default_rng(0).lognormal(size=1300)
  bins = binning.choose(scores, batch_size=64, finest=True)
  expected = binning.describe(bins, 64)["expected_positives"]
  assert 1 <= expected < 1.1
  assert bins.requested > binning.choose(scores, batch_size=64).requested
  assert "the finest rule" in bins.reason


def test_choose_with_ties_says_what_it_cannot_meet():
  scores = np.array([0.0] * 90 + [1.0] * 10)
  assert "no number of bins meets" in binning.choose(scores).reason
  with pytest.raises(DataError, match="1 distinct value"):
    binning.choose(np.zeros(10))


def test_choose_refuses_bad_repeats():
  scores = np.arange(9.0)
  for bad in (np.zeros((1, 2)), np.zeros((9, 1)), np.full((9, 2), np.nan)):
    with pytest.raises(DataError):
      binning.choose(scores, repeatability=bad)
