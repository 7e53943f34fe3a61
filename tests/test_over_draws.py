"""Means over draws of labelled patients: intervals, ranges and coverage."""

import coverage
import numpy as np
import pytest
from scipy import stats

from gcl_jax.evaluation.over_draws import mean_over_fits


def table(draws=6, patients=8, seed=0, spread=(0.05, 0.08, 0.02)):
  """Dice float64[1, D, V] of a two-way model, one volume a patient."""
  rng = np.random.default_rng(seed)
  of_draws, of_patients, both = (
    scale * rng.normal(size=size)
    for scale, size in zip(
      spread, [(draws, 1), patients, (draws, patients)], strict=True
    )
  )
  return (0.8 + of_draws + of_patients + both)[None]


def slow_error(values):
  """Two-way random effects from the mean squares of [D, G], one volume each;
  the error and Satterthwaite's degrees of freedom."""
  rows, columns = values.shape
  centre = values.mean()
  between_rows = sum(
    columns * (values[i].mean() - centre) ** 2 for i in range(rows)
  )
  between_columns = sum(
    rows * (values[:, j].mean() - centre) ** 2 for j in range(columns)
  )
  rest = 0.0
  for i in range(rows):
    for j in range(columns):
      fitted = values[i].mean() + values[:, j].mean() - centre
      rest += (values[i, j] - fitted) ** 2
  cells = rows * columns
  of_rows = between_rows / (rows - 1) / cells
  of_columns = between_columns / (columns - 1) / cells
  both = rest / (rows - 1) / (columns - 1) / cells
  total = max(of_rows + of_columns - both, of_rows, of_columns)
  terms = of_rows**2 / (rows - 1) + of_columns**2 / (columns - 1)
  return np.sqrt(total), total**2 / terms


def test_the_interval_is_that_of_the_two_way_model():
  values = table()
  found = mean_over_fits(values, np.arange(8))
  error, freedom = slow_error(values[0])
  low, high = stats.t.interval(0.95, freedom, values.mean(), error)
  assert found["value"] == pytest.approx(values.mean())
  assert (found["low"], found["high"]) == pytest.approx((low, high))
  assert (found["n"], found["groups"]) == (8, 8)
  assert (found["fits"], found["draws"]) == (6, 6)
  assert "range" not in found and "p" not in found


def test_a_difference_has_p_and_the_smallest_that_would_be_found():
  values = table(spread=(0.02, 0.02, 0.02)) - 0.77
  found = mean_over_fits(values, np.arange(8), paired=True)
  error, freedom = slow_error(values[0])
  p = 2 * stats.t.sf(values.mean() / error, freedom)
  assert found["p"] == pytest.approx(p)
  reach = stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)
  assert found["smallest"] == pytest.approx(reach * error)
  assert (found["low"] > 0) == (found["p"] < 0.05)


def test_a_wider_bootstrap_gives_the_interval_and_its_p():
  """Interaction alone: the bootstrap, which counts it three times, is wider."""
  values = table(12, 30, seed=3, spread=(0.0, 0.0, 0.3)) - 0.78
  options = dict(paired=True, samples=3000, seed=4)
  found = mean_over_fits(values, np.arange(30), **options)
  error, freedom = slow_error(values[0])
  low, high = stats.t.interval(0.95, freedom, values.mean(), error)
  rng = np.random.default_rng(99)
  means = [
    values[0][rng.integers(0, 12, 12)][:, rng.integers(0, 30, 30)].mean()
    for _ in range(6000)
  ]
  wide = np.subtract(*np.quantile(means, (0.975, 0.025)))
  assert wide > 1.15 * (high - low)
  assert found["high"] - found["low"] == pytest.approx(wide, rel=0.06)
  centre = (found["low"] + found["high"]) / 2
  assert centre == pytest.approx(found["value"])
  used = wide / 2 / stats.t.ppf(0.975, freedom)
  p = 2 * stats.t.sf(abs(found["value"]) / used, freedom)
  assert found["p"] == pytest.approx(p, abs=0.03)
  assert found["p"] > 2 * stats.t.sf(abs(found["value"]) / error, freedom)
  assert mean_over_fits(values, np.arange(30), **options) == found


def test_few_draws_give_a_range_and_few_patients_no_interval():
  values = table(draws=4)
  for paired in (False, True):
    found = mean_over_fits(values, np.arange(8), paired=paired)
    each = values[0].mean(1)
    assert found["low"] is found["high"] is None
    assert found["range"] == pytest.approx([each.min(), each.max()])
    assert found.get("p") is None and found.get("smallest") is None
  five = mean_over_fits(table(draws=5), np.arange(8))
  assert five["low"] < five["value"] < five["high"]
  values = table(draws=9, patients=4)
  found = mean_over_fits(values, np.arange(4))
  assert found["low"] is None and found["draws"] == 9
  alone = mean_over_fits(values[:, :1], np.arange(4))
  assert alone["low"] is None and "range" not in alone


def test_fits_of_one_draw_are_averaged_first():
  rng = np.random.default_rng(3)
  of_draws = table(draws=6)
  draws = np.tile(np.arange(6), 3)
  values = of_draws[:, draws] + 0.01 * rng.normal(size=(1, 18, 8))
  means = np.stack([values[:, draws == d].mean(1) for d in range(6)], 1)
  found = mean_over_fits(values, np.arange(8), draws=draws)
  expected = mean_over_fits(means, np.arange(8))
  assert found | {"fits": 6} == pytest.approx(expected)
  assert (found["fits"], found["draws"]) == (18, 6)
  apart = mean_over_fits(values, np.arange(8))
  assert apart["high"] - apart["low"] < found["high"] - found["low"]
  three = mean_over_fits(values[:, :9], np.arange(8), draws=[0, 1, 2] * 3)
  assert three["low"] is None and three["draws"] == 3
  with pytest.raises(ValueError, match="2 names of draws for 9 fits"):
    mean_over_fits(values[:, :9], np.arange(8), draws=[0, 1])


def test_two_volumes_of_a_patient_count_as_one():
  values = table()
  once = mean_over_fits(values, np.array(list("abcdefgh")))
  twice = mean_over_fits(
    np.repeat(values, 2, 2), np.repeat(list("abcdefgh"), 2)
  )
  assert twice | {"n": 8} == pytest.approx(once)
  assert twice["n"] == 16


def test_what_is_undefined_is_left_out():
  values = np.array([[[0.5, np.nan], [0.7, np.nan]], [[0.2, 0.4], [0.2, 0.4]]])
  found = mean_over_fits(values, np.array(["a", "b"]))
  assert found["value"] == pytest.approx((0.6 + 0.3) / 2)
  nothing = mean_over_fits(np.full((1, 6, 7), np.nan), np.arange(7))
  assert nothing["value"] is None and nothing["n"] == nothing["groups"] == 0
  assert nothing["low"] is None and "range" not in nothing
  # A volume that has no value in any fit is none of the test volumes.
  values = np.concatenate([table(), np.full((1, 6, 1), np.nan)], 2)
  found = mean_over_fits(values, np.arange(9))
  assert found == mean_over_fits(table(), np.arange(8))
  # A draw that misses one of two classes everywhere still has an interval.
  both = np.concatenate([table(), table(seed=1)])
  both[1, 2] = np.nan
  found = mean_over_fits(both, np.arange(8))
  expected = (both[0].mean() + np.nanmean(both[1])) / 2
  assert found["value"] == pytest.approx(expected)
  assert found["low"] < expected < found["high"] < found["low"] + 0.4


def test_a_share_of_none_has_wilson_s_interval():
  found = mean_over_fits(np.zeros((3, 9, 12)), np.arange(12), scale="logit")
  z = stats.norm.ppf(0.975)
  assert (found["low"], found["high"]) == pytest.approx(
    (0, z**2 / (12 + z**2)), abs=1e-12
  )


def test_the_bootstrap_of_three_draws_covers_too_little():
  """The reason for a range. From five draws on, tests/test_intervals.py."""
  found = coverage.coverage(coverage.THREE_DRAWS, 300)
  assert found["none"] == 1 and 0.6 < found["bootstrap"] < 0.85
