"""Calibration, the constant's F1 and reliability against plain references."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from gcl_jax.evaluation import by_label, calibration, intervals, weighted
from gcl_jax.report import reliability


def rows(seed=0, count=120, true_slope=0.6):
  """Probabilities that are too extreme, labels, patients of three rows."""
  rng = np.random.default_rng(seed)
  logit = rng.normal(-0.5, 2, count)
  y = (rng.random(count) < special.expit(true_slope * logit + 0.3)) * 1.0
  return y, special.expit(logit), np.repeat(np.arange(count // 3), 3)


def slow_slope(y, p):
  x = special.logit(p)[:, None]
  model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
  return model.fit(x, y).coef_[0, 0]


def test_slope_is_that_of_a_logistic_regression_for_every_weighting():
  y, p, groups = rows()
  draws = np.random.default_rng(1).integers(0, 3, (5, len(y))).astype(float)
  found = calibration.slope(y, p, draws)
  for value, draw in zip(found, draws, strict=True):
    repeated = np.repeat(np.arange(len(y)), draw.astype(int))
    expected = slow_slope(y[repeated], p[repeated])
    assert value == pytest.approx(expected, abs=1e-4)
  assert found.std() > 0.01


def test_slope_finds_too_extreme_and_reversed_probabilities():
  y, p, _ = rows(count=6000)
  ones = np.ones((1, len(y)))
  assert calibration.slope(y, p, ones) == pytest.approx(0.6, abs=0.06)
  assert calibration.slope(y, 1 - p, ones) == pytest.approx(-0.6, abs=0.06)
  flat = special.expit(0.6 * special.logit(p) + 0.3)
  assert calibration.slope(y, flat, ones) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
  ("y", "p"),
  [
    ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),  # separated
    ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]),  # but for a tie
    ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),  # the wrong way round
    ([1, 1, 1, 1], [0.1, 0.2, 0.8, 0.9]),
    ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),
  ],
)
def test_slope_without_a_maximum_is_undefined(y, p):
  found = calibration.slope(np.array(y), np.array(p), np.ones((2, 4)))
  assert np.isnan(found).all() and found.shape == (2,)


def test_slope_takes_probabilities_of_0_and_1():
  y = np.array([0, 1, 0, 1, 1, 0])
  p = np.array([0, 0, 0.4, 0.6, 1, 1])
  found = calibration.slope(y, p, np.ones((1, 6)))[0]
  assert found == pytest.approx(slow_slope(y, np.clip(p, 1e-6, 1 - 1e-6)))


def test_brier_stands_beside_that_of_the_prevalence():
  y, p, groups = rows()
  found = by_label.evaluate({"dme": y}, {"dme": p}, groups)
  assert found["dme/brier"]["value"] == pytest.approx(sk.brier_score_loss(y, p))
  constant = np.full(len(y), y.mean())
  expected = sk.brier_score_loss(y, constant)
  assert found["dme/brier_prevalence"]["value"] == pytest.approx(expected)


def test_f1_stands_beside_that_of_calling_everything_positive():
  y, p, groups = rows()
  other = (np.arange(len(y)) % 5 == 0) * 1.0
  found = by_label.evaluate({"a": y, "b": other}, {"a": p, "b": p}, groups)
  each = [sk.f1_score(label, np.ones(len(y))) for label in (y, other)]
  assert found["a/f1_constant"]["value"] == pytest.approx(each[0])
  assert found["b/f1_constant"]["value"] == pytest.approx(each[1])
  macro = found["macro_f1_constant"]["value"]
  assert macro == pytest.approx(np.mean(each))
  called = by_label.evaluate({"a": y}, {"a": p}, groups, thresholds={"a": 0.0})
  assert called["a/f1"]["value"] == pytest.approx(each[0])


@pytest.mark.parametrize(
  "name", ["brier", "brier_prevalence", "calibration_slope"]
)
def test_intervals_of_calibration_are_plain_jackknives_by_patient(name):
  y, p, groups = rows()
  y[:4] = np.nan
  found = by_label.evaluate({"dme": y}, {"dme": p}, groups)[f"dme/{name}"]
  metric = {
    "brier": lambda y, p: np.mean((y - p) ** 2),
    "brier_prevalence": lambda y, p: y.mean() * (1 - y.mean()),
    "calibration_slope": slow_slope,
  }[name]
  known = ~np.isnan(y)
  values = [metric(y[known], p[known])]
  for group in np.unique(groups):  # the first has no label left: nothing goes
    kept = known & (groups != group)
    values.append(metric(y[kept], p[kept]))
  support = intervals.support_of(groups[known], y[known])
  expected = intervals.interval(np.array(values), support, "plain")
  for part in ("value", "low", "high"):
    assert found[part] == pytest.approx(expected[part], abs=2e-4)
  assert found["n"] == len(y) - 4


def test_sensitivity_at_90_specificity_is_given_by_label():
  y, p, groups = rows()
  found = by_label.evaluate({"dme": y}, {"dme": p}, groups)
  value = found["dme/sensitivity_at_90_specificity"]["value"]
  fpr, tpr, _ = sk.roc_curve(y, p, drop_intermediate=False)
  assert value == pytest.approx(tpr[fpr <= 0.1 + 1e-12].max())


def test_f1_of_the_constant_by_weights():
  y = np.array([1.0, 0, 0, 1])
  weights = np.array([[1.0, 1, 1, 1], [0, 2, 1, 1], [0, 0, 0, 0]])
  found = weighted.f1_constant(y, weights)
  np.testing.assert_allclose(found, [2 / 3, 0.4, np.nan])


def slow_reliability(y, p):
  """Sorted rows dealt out one after the other, the first bins one larger."""
  pairs = sorted(zip(p, y, strict=True), key=lambda pair: pair[0])
  count = max(1, min(10, len(pairs) // 10))
  sizes = [len(pairs) // count + (k < len(pairs) % count) for k in range(count)]
  points, at = [], 0
  for size in sizes:
    part = pairs[at : at + size]
    points.append([sum(column) / size for column in zip(*part, strict=True)])
    at += size
  return np.array(points).T


@pytest.mark.parametrize("count", [7, 39, 123])
def test_reliability_bins_hold_equally_many_rows(count):
  y, p, _ = rows(count=count)
  y, p = np.r_[y, np.nan, 1], np.r_[p, 0.5, np.nan]
  found = reliability.reliability_points(y, p)
  expected = slow_reliability(y[:-2], p[:-2])
  np.testing.assert_allclose(found, expected, atol=1e-12)
  assert expected.shape[1] == {7: 1, 39: 3, 123: 10}[count]


def test_reliability_is_drawn_or_says_why_not():
  y, p, _ = rows()
  picture = reliability.reliability({"dme": (y, p), "empty": ([], [])})
  assert b"dme" in picture and b"empty" not in picture
  assert b"Nothing to show" in reliability.reliability({"none": ([], [])})
  with pytest.raises(ValueError, match="0 or 1"):
    reliability.reliability({"dme": (y + 1, p)})
  with pytest.raises(ValueError, match="lengths differ"):
    reliability.reliability({"dme": (y, p[1:])})
