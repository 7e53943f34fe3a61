"""Intervals and differences against loops, scipy and simulated truths."""

import coverage
import numpy as np
import pytest
from scipy import stats

from gcl_jax.errors import DataError
from gcl_jax.evaluation import (
  by_label,
  comparisons,
  fits,
  intervals,
  metrics,
)
from gcl_jax.evaluation.over_draws import mean_over_fits


def sample(seed=0, positive=9, negative=14):
  """Labels, two correlated scores and patients in shuffled rows."""
  rng = np.random.default_rng(seed)
  found = coverage.patients(rng, (positive, negative), (0.8, 0.7), common=0.5)
  order = rng.permutation(len(found.labels))
  names = np.array([f"p{k}" for k in found.groups])
  return found.labels[order], found.scores[order].T, names[order]


def without_each(metric, *arrays, groups):
  """A metric of all rows, then without each patient."""
  keep = [np.ones(len(groups), bool), *(groups != g for g in np.unique(groups))]
  return np.array([metric(*(a[k] for a in arrays)) for k in keep])


def spread_of(values):
  """Jackknife standard error from pseudo-values, the textbook way."""
  count = len(values) - 1
  pseudo = [count * values[0] - (count - 1) * v for v in values[1:]]
  return np.std(pseudo, ddof=1) / np.sqrt(count)


def test_auroc_interval_is_students_t_on_the_logit():
  labels, (score, _), groups = sample()
  found = metrics.jackknife(metrics.auroc, labels, score, groups=groups)
  values = without_each(metrics.auroc, labels, score, groups=groups)
  value = values[0]
  half = stats.t.ppf(0.975, 9 - 1) * spread_of(values) / (value * (1 - value))
  logit = np.log(value / (1 - value))
  assert found == pytest.approx(
    {
      "value": value,
      "low": 1 / (1 + np.exp(half - logit)),
      "high": 1 / (1 + np.exp(-half - logit)),
      "n": 69,
      "groups": 23,
      "positive_groups": 9,
      "negative_groups": 14,
    },
    abs=1e-9,
  )


@pytest.mark.parametrize("metric", [metrics.spearman, metrics.kappa])
def test_correlations_use_fishers_z(metric):
  labels, (score, _), groups = sample()
  other = labels if metric is metrics.spearman else (score > 0.4).astype(float)
  arrays = (score, other) if metric is metrics.spearman else (labels, other)
  found = metrics.jackknife(metric, *arrays, groups=groups)
  values = without_each(metric, *arrays, groups=groups)
  half = stats.t.ppf(0.975, 23 - 1) * spread_of(values) / (1 - values[0] ** 2)
  for bound, sign in (("low", -1), ("high", 1)):
    expected = np.tanh(np.arctanh(values[0]) + sign * half)
    assert found[bound] == pytest.approx(expected, abs=1e-9)
  assert "positive_groups" not in found


def test_other_metrics_are_on_the_plain_scale():
  values = np.random.default_rng(0).normal(size=12) * 5 + 40
  found = metrics.jackknife(lambda x: float(np.mean(x)), values)
  half = stats.t.ppf(0.975, 11) * values.std(ddof=1) / np.sqrt(12)
  assert found["low"] == pytest.approx(values.mean() - half)
  assert found["high"] == pytest.approx(values.mean() + half)


def test_one_row_a_patient_is_the_default():
  labels, (score, _), _ = sample()
  plain = metrics.jackknife(metrics.auroc, labels, score)
  named = metrics.jackknife(
    metrics.auroc, labels, score, groups=np.arange(len(labels))
  )
  assert plain == named and plain["groups"] == len(labels)


def test_blocks_do_not_change_the_values(monkeypatch):
  labels, (score, _), groups = sample()
  whole = metrics.jackknife(metrics.auroc, labels, score, groups=groups)
  monkeypatch.setattr(intervals, "_BLOCK", 200)
  again = metrics.jackknife(metrics.auroc, labels, score, groups=groups)
  assert again == pytest.approx(whole, abs=1e-12)


def test_ends_of_the_scale_have_wilsons_interval():
  """Five of five patients found: not [1, 1]."""
  calls, labels = np.ones(15), np.repeat([1, 1, 0], 5)
  groups = np.arange(15)
  found = metrics.jackknife(metrics.sensitivity, labels, calls, groups=groups)
  expected = stats.binomtest(10, 10).proportion_ci(method="wilson")
  assert found["value"] == 1 and found["high"] == 1
  assert found["low"] == pytest.approx(expected.low, abs=1e-9)
  none = metrics.jackknife(metrics.specificity, labels, calls, groups=groups)
  expected = stats.binomtest(0, 5).proportion_ci(method="wilson")
  assert (none["value"], none["low"]) == (0, 0)
  assert none["high"] == pytest.approx(expected.high, abs=1e-9)
  # A perfect AUROC rests on its five negatives; images of one patient are one.
  twice = [np.repeat(x, 3) for x in (labels, labels + 0.5, groups)]
  area = metrics.jackknife(metrics.auroc, *twice[:2], groups=twice[2])
  expected = stats.binomtest(5, 5).proportion_ci(method="wilson")
  assert area["low"] == pytest.approx(expected.low, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_wilson_equals_scipy(share):
  expected = stats.binomtest(int(share * 20), 20).proportion_ci(method="wilson")
  assert intervals.wilson(share, 20) == pytest.approx(tuple(expected), abs=1e-9)


def test_fewer_than_five_patients_of_a_class_have_no_interval():
  for positive, negative, known in (
    (5, 5, True),
    (4, 30, False),
    (30, 4, False),
  ):
    labels, (score, _), groups = sample(1, positive, negative)
    found = metrics.jackknife(metrics.auroc, labels, score, groups=groups)
    assert (found["low"] is not None) == known
    assert 0 < found["value"] < 1
    calls = (score > 0).astype(float)
    for metric, count in (
      (metrics.sensitivity, positive),
      (metrics.specificity, negative),
    ):
      entry = metrics.jackknife(metric, labels, calls, groups=groups)
      assert (entry["low"] is not None) == (count >= 5), metric
      assert ("positive_groups" in entry) == (metric is metrics.sensitivity)


def test_a_figure_that_no_patient_changes_has_no_interval():
  """One right and one wrong call in every patient: no spread to judge by."""
  labels, calls = np.tile([1, 1], 8), np.tile([1, 0], 8)
  groups = np.repeat(np.arange(8), 2)
  found = metrics.jackknife(metrics.sensitivity, labels, calls, groups=groups)
  assert (found["value"], found["low"]) == (0.5, None)


def test_sensitivity_at_a_specificity_needs_twenty_negative_patients():
  metric = metrics.sensitivity_at_specificity
  for negative, known in ((19, False), (20, True)):
    labels, (score, _), groups = sample(3, 9, negative)
    found = metrics.jackknife(metric, labels, score, groups=groups)
    assert (found["low"] is not None) == known
    probability = {"a": 1 / (1 + np.exp(-score))}
    by_name = by_label.evaluate({"a": labels}, probability, groups)
    key = "a/sensitivity_at_90_specificity"
    assert by_name[key] == pytest.approx(found)
    assert by_name["a/auroc"]["low"] is not None


def test_undefined_has_neither_value_nor_interval():
  found = metrics.jackknife(metrics.auroc, np.zeros(8), np.arange(8.0))
  assert found["value"] is None and found["low"] is None
  assert found["positive_groups"] == 0


@pytest.mark.parametrize("metric", metrics._WEIGHTED, ids=lambda m: m.__name__)
def test_no_rows_are_undefined(metric):
  found = metrics.jackknife(metric, np.zeros(0), np.zeros(0))
  assert found["value"] is found["low"] is None and found["groups"] == 0


def test_groups_must_be_as_many_as_rows():
  with pytest.raises(DataError, match="3 groups for 4 rows"):
    metrics.jackknife(
      metrics.auroc, [0, 1, 0, 1], np.arange(4.0), groups=list("abc")
    )


def test_a_difference_is_paired_and_tested():
  labels, (first, second), groups = sample(2)
  found = metrics.paired(metrics.auroc, labels, first, second, groups)
  values = without_each(
    lambda y, a, b: metrics.auroc(y, a) - metrics.auroc(y, b),
    *(labels, first, second),
    groups=groups,
  )
  error = spread_of(values)
  assert found["value"] == pytest.approx(values[0])
  half = stats.t.ppf(0.975, 8) * error
  assert found["low"] == pytest.approx(values[0] - half)
  assert found["p"] == pytest.approx(2 * stats.t.sf(abs(values[0]) / error, 8))
  reach = stats.t.ppf(0.975, 8) + stats.t.ppf(0.8, 8)
  assert found["smallest"] == pytest.approx(reach * error)
  back = metrics.paired(metrics.auroc, labels, second, first, groups)
  assert back["value"] == -found["value"] and back["p"] == found["p"]
  same = metrics.paired(metrics.auroc, labels, first, first, groups)
  assert (same["value"], same["p"], same["low"]) == (0, 1, None)
  assert same["smallest"] is None
  few = metrics.paired(metrics.auroc, *(x[:9] for x in (labels, first, second)))
  assert few["p"] is None and few["low"] is None


def test_a_spread_that_is_rounding_is_none():
  """0.8 - 0.7 in every fit and patient: sums round, and nothing varies."""
  values = np.full((3, 9, 20), 0.8) - np.full((3, 9, 20), 0.7)
  found = mean_over_fits(values, np.arange(20), paired=True)
  assert found["value"] == pytest.approx(0.1)
  assert found["p"] is found["low"] is found["smallest"] is None
  support = intervals.Support(20, 20)
  none = comparisons.difference(np.linspace(1, 3, 21) * 1e-17, support)
  assert (none["p"], none["smallest"], none["low"]) == (1, None, None)


def test_holm_equals_a_loop_over_sorted_values():
  p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": None, "e": 0.005}
  expected = {"e": 0.02, "a": 0.03, "c": 0.06, "b": 0.06, "d": None}
  assert comparisons.holm(p) == pytest.approx(expected)
  entries = {name: {"p": value} for name, value in p.items()}
  found = comparisons.family(entries)
  assert {e["family"] for e in found.values()} == {4}
  assert found["c"]["p_holm"] == pytest.approx(0.06)
  assert comparisons.holm({"a": 0.7, "b": 0.9}) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
  "low, high, word",
  [
    (0.01, 0.2, "above"),
    (-0.2, -0.01, "below"),
    (-0.01, 0.2, "not told apart"),
    (0.0, 0.2, "not told apart"),
    (None, None, "not told apart"),
  ],
)
def test_words_follow_the_interval(low, high, word):
  assert comparisons.verdict({"low": low, "high": high}) == word


def test_words_tell_what_the_correction_took():
  entry = {"low": 0.01, "high": 0.2, "p_holm": 0.049}
  assert comparisons.verdict(entry) == "above"
  found = comparisons.verdict(entry | {"p_holm": 0.06})
  assert found == "above, but not after Holm's correction"
  within = {"low": -0.1, "high": 0.2, "p_holm": 0.06}
  assert comparisons.verdict(within) == "not told apart"


def two_way(table):
  """Variance components' variance of the mean, by sums over cells."""
  fits_, count = table.shape
  rows, columns, mean = table.mean(1), table.mean(0), table.mean()
  of_rows = sum((r - mean) ** 2 for r in rows) / (fits_ - 1) / fits_
  of_columns = sum((c - mean) ** 2 for c in columns) / (count - 1) / count
  rest = sum(
    (table[f, g] - rows[f] - columns[g] + mean) ** 2
    for f in range(fits_)
    for g in range(count)
  )
  both = rest / (fits_ - 1) / (count - 1) / fits_ / count
  return of_rows, of_columns, both


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_over_fits_is_the_two_way_analysis_of_a_mean(spread):
  """Means over patients: pseudo-values are the patients' values."""
  rng = np.random.default_rng(3)
  table = rng.normal(size=(6, 1)) * spread + rng.normal(size=(1, 11))
  table = table + rng.normal(size=(6, 11))
  left_out = [
    table.mean(1),
    *(np.delete(table, g, 1).mean(1) for g in range(11)),
  ]
  support = intervals.Support(11, 11)
  found = fits.over_fits(np.stack(left_out, 1), support, "plain")
  rows, columns, both = two_way(table)
  total = max(rows + columns - both, rows, columns)
  freedom = total**2 / (rows**2 / 5 + columns**2 / 10)
  half = stats.t.ppf(0.975, freedom) * np.sqrt(total)
  assert found["value"] == pytest.approx(table.mean())
  assert found["low"] == pytest.approx(table.mean() - half)
  assert found["fits"] == 6
  paired = fits.over_fits(np.stack(left_out, 1), support, paired=True)
  expected = 2 * stats.t.sf(abs(table.mean()) / np.sqrt(total), freedom)
  assert paired["p"] == pytest.approx(expected)
  single = fits.over_fits(np.stack(left_out, 1)[:1], support, "plain")
  assert single["low"] is None and single["value"] is not None


# Shares of 200 trials lie within 0.04 of the truth 99 times in 100. Means over
# labels, which are slow (fewer trials), and few patients are covered more often
# than asked.
@pytest.mark.parametrize(
  "case", coverage.CASES, ids=lambda case: f"{case.figure.__name__}{case[1:]}"
)
def test_intervals_cover(case):
  trials = 40 if case.figure is coverage.macro else 200
  found = coverage.coverage(case, trials)
  assert 0.90 <= found["jackknife"] <= 1.0
  assert max(found["below"], found["above"]) < 0.08
  assert found["none"] == 0


def test_the_percentile_bootstrap_covers_less_where_groups_are_few():
  """The reason for the jackknife."""
  case = coverage.Case(coverage.auroc, (98, 14), 0.94)
  found = coverage.coverage(case, 200)
  assert found["bootstrap"] < 0.92 <= found["jackknife"]


def test_overlap_of_intervals_finds_nothing():
  paired, overlap = coverage.power((60, 60), (0.9, 0.85), 60)
  assert paired > 0.4 and overlap < 0.1
