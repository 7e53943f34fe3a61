"""Rows 34 and 35: scores that cannot be binned, or only in few bins."""

import numpy as np
import pytest

from gcl_jax import binning
from gcl_jax.errors import ConfigError, DataError

RULES = {
  "equal_width": lambda scores: binning.equal_width(scores, 5),
  "equal_count": lambda scores: binning.equal_count(scores, 5),
  "choose": lambda scores: binning.choose(scores, batch_size=8),
  "finest": lambda scores: binning.choose(scores, batch_size=8, finest=True),
}


@pytest.mark.parametrize("value", [0.0, -3.5, 1e300, 5e-324])
@pytest.mark.parametrize("size", [1, 2, 500])
@pytest.mark.parametrize("rule", RULES)
def test_row34_equal_scores_are_refused(rule, size, value):
  with pytest.raises(DataError, match=r"1 distinct value for \d+ bins"):
    RULES[rule](np.full(size, value))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", [*RULES, "from_edges"])
def test_row35_scores_that_are_no_number_are_listed(rule, bad):
  scores = np.linspace(0, 1, 60)
  scores[[3, 17]] = bad
  rules = RULES | {
    "from_edges": lambda scores: binning.from_edges(scores, [0.0, 0.5, 1.0])
  }
  with pytest.raises(DataError, match=r"2 of 60 scores.*rows 3, 17\)"):
    rules[rule](scores)


@pytest.mark.parametrize(
  "edges", [[0.0], [], [0.0, np.nan], [0.0, np.inf], [1.0, 0.0], [[0.0, 1.0]]]
)
def test_row35_edges_that_are_none(edges):
  with pytest.raises(DataError, match="edges must"):
    binning.from_edges(np.array([0.5]), edges)


@pytest.mark.parametrize("rule", RULES)
def test_row35_ties_share_a_bin_and_are_counted(rule):
  scores = np.repeat([0.0, 0.25, 1.0], [90, 5, 5])
  bins = RULES[rule](np.random.default_rng(0).permutation(scores))
  for value in (0.0, 0.25, 1.0):
    share = RULES[rule](scores).labels[scores == value]
    assert len(set(share.tolist())) == 1
  told = binning.describe(bins, 8)
  assert told["images"] == 100 and told["occupied"] <= 3
  assert told["occupied"] < told["requested"] or told["requested"] <= 3
  assert told["largest"] >= 90 and told["largest_share"] >= 0.9
  assert np.bincount(bins.labels).sum() == 100
  assert np.isfinite([float(value) for value in told.values()]).all()


def test_row35_ties_that_meet_no_limit_are_told():
  bins = binning.choose(np.repeat([0.0, 1.0], [99, 1]), batch_size=64)
  assert "no number of bins meets the limits" in bins.reason


@pytest.mark.parametrize("rule", RULES)
def test_row35_fewer_scores_than_bins(rule):
  scores = np.array([0.3, 0.1, 0.2])
  bins = RULES[rule](scores)
  assert (np.argsort(bins.labels, kind="stable") == [1, 2, 0]).all()
  told = binning.describe(bins, 64)
  assert told["images"] == 3 and told["occupied"] <= 3
  assert told["requested"] >= told["occupied"]
  again = binning.from_edges(scores, bins.edges)
  np.testing.assert_array_equal(again.labels, bins.labels)


@pytest.mark.parametrize("scores", [[], [[1.0, 2.0]], 3.0])
def test_row35_scores_of_no_shape(scores):
  for rule in RULES.values():
    with pytest.raises(DataError, match="non-empty vector"):
      rule(np.array(scores, float))


@pytest.mark.parametrize("bins", [1, 0, -4])
def test_row35_too_few_bins(bins):
  for rule in (binning.equal_width, binning.equal_count):
    with pytest.raises(ConfigError, match="2 or more"):
      rule(np.array([0.0, 1.0]), bins)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("low", [-1.7e308, 0.0, 1.0, 1e-310])
def test_row35_scores_at_the_ends_of_float64(rule, low):
  """For every range of scores, labels are valid and edges finite."""
  high = {-1.7e308: 1.7e308, 0.0: 5e-324, 1.0: 1 + 2e-16, 1e-310: 1e308}[low]
  scores = np.array([low, high] * 6)
  try:
    bins = RULES[rule](scores)
  except DataError as error:
    assert "\n" not in str(error)
    return
  assert np.isfinite(bins.edges).all() and (np.diff(bins.edges) >= 0).all()
  assert bins.labels.min() >= 0 and bins.labels.max() < bins.requested
  assert (bins.labels[::2] < bins.labels[1]).all()
