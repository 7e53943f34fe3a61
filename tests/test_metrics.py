"""Metrics against scikit-learn, scipy and brute force."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from gcl_jax.errors import DataError
from gcl_jax.evaluation import draws, metrics, weighted

ROWS = st.lists(
  st.tuples(st.integers(0, 1), st.integers(-4, 4), st.integers(0, 1)),
  min_size=1,
  max_size=40,
)


def columns(rows):
  return (np.array(column) for column in zip(*rows, strict=True))


def same(found, expected):
  return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-12)


@settings(deadline=None, max_examples=200)
@given(ROWS)
def test_scores_with_ties_equal_scikit_learn(rows):
  labels, scores, _ = columns(rows)
  scores = scores / 3
  if 0 < labels.sum() < len(labels):
    assert same(metrics.auroc(labels, scores), sk.roc_auc_score(labels, scores))
  else:
    assert metrics.auroc(labels, scores) is None
  if labels.sum():
    assert same(
      metrics.average_precision(labels, scores),
      sk.average_precision_score(labels, scores),
    )
  else:
    assert metrics.average_precision(labels, scores) is None


@settings(deadline=None, max_examples=200)
@given(ROWS)
def test_counts_equal_scikit_learn_and_undefined_is_none(rows):
  labels, _, calls = columns(rows)
  nan = {"zero_division": np.nan}
  pairs = [
    (metrics.accuracy, sk.accuracy_score(labels, calls)),
    (metrics.sensitivity, sk.recall_score(labels, calls, **nan)),
    (metrics.specificity, sk.recall_score(1 - labels, 1 - calls, **nan)),
    (metrics.f1, sk.f1_score(labels, calls, **nan)),
  ]
  for metric, expected in pairs:
    found = metric(labels, calls)
    if np.isnan(expected):
      assert found is None, metric
    else:
      assert same(found, expected), metric


@settings(deadline=None, max_examples=100)
@given(
  st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40
  ),
  st.sampled_from([None, "linear", "quadratic"]),
  st.sampled_from([None, 5, 7]),
)
def test_kappa_equals_scikit_learn(rows, weights, grades):
  first, second = columns(rows)
  assume(len(set(first)) > 1)
  found = metrics.kappa(first, second, weights, grades)
  whole = range(min(*first, *second), max(*first, *second) + 1)
  labels = whole if grades is None else range(grades)
  expected = sk.cohen_kappa_score(first, second, labels=labels, weights=weights)
  assert same(found, expected)


def test_kappa_of_one_grade_is_undefined():
  assert metrics.kappa([1, 1], [1, 1]) is None
  with pytest.raises(ValueError, match="cubic"):
    metrics.kappa([0, 1], [0, 1], "cubic")
  for odd in (3, -1, 0.5):
    with pytest.raises(DataError, match=f"0 to 2, found {odd:g}"):
      metrics.kappa([0, 1], [odd, 1], "quadratic", grades=3)


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_spearman_equals_scipy(rows):
  _, first, second = columns(rows)
  if len(set(first)) > 1 and len(set(second)) > 1:
    assert same(
      metrics.spearman(first, second), stats.spearmanr(first, second)[0]
    )
  else:
    assert metrics.spearman(first, second) is None


def test_weighted_metrics_equal_scikit_learn_with_weights():
  rng = np.random.default_rng(0)
  labels, weights = rng.integers(0, 2, 50), rng.integers(0, 4, (6, 50))
  scores, calls = rng.integers(0, 9, 50) / 9, rng.integers(0, 2, 50)
  as_floats = (labels.astype(float), scores, weights.astype(float))
  auroc, ap = weighted.auroc(*as_floats), weighted.average_precision(*as_floats)
  f1 = weighted.f1(labels, calls, weights.astype(float))
  kappa = weighted.kappa(labels, calls, weights.astype(float), "quadratic")
  for draw, w in enumerate(weights):
    given_weights = {"sample_weight": w}
    assert same(auroc[draw], sk.roc_auc_score(labels, scores, **given_weights))
    assert same(
      ap[draw], sk.average_precision_score(labels, scores, **given_weights)
    )
    assert same(f1[draw], sk.f1_score(labels, calls, **given_weights))
    assert same(
      kappa[draw],
      sk.cohen_kappa_score(labels, calls, weights="quadratic", **given_weights),
    )


def test_monotone_maps_and_sign_of_auroc():
  rng = np.random.default_rng(0)
  labels, scores = rng.integers(0, 2, 80), rng.normal(size=80)
  value = metrics.auroc(labels, scores)
  assert metrics.auroc(labels, np.exp(scores)) == value
  assert same(metrics.auroc(labels, -scores), 1 - value)


@pytest.mark.parametrize(
  "labels, scores",
  [([0, 1], [0.5, np.nan]), ([0, np.nan], [1, 2]), ([0, 2], [1, 2])],
)
def test_bad_values_are_refused(labels, scores):
  with pytest.raises(DataError):
    metrics.auroc(labels, scores)


def test_shapes_and_soft_predictions_are_refused():
  with pytest.raises(DataError, match="length"):
    metrics.f1([0, 1], [1])
  with pytest.raises(DataError, match="0 or 1"):
    metrics.f1([0, 1], [0.2, 0.9])
  assert metrics.accuracy([], []) is None


def surface(mask):
  """Elements with a neighbour along an axis that is outside, by loops."""
  points = []
  for point in np.argwhere(mask):
    for axis in range(mask.ndim):
      for move in (-1, 1):
        other = point.copy()
        other[axis] += move
        inside = (other >= 0).all() and (other < mask.shape).all()
        if not (inside and mask[tuple(other)]):
          points.append(tuple(point))
  return np.array(sorted(set(points)), float)


@pytest.mark.parametrize("shape", [(9, 11), (5, 6, 7)])
@pytest.mark.parametrize("seed", range(4))
def test_dice_and_hd95_by_brute_force(shape, seed):
  rng = np.random.default_rng(seed)
  a, b = rng.random(shape) < 0.25, rng.random(shape) < 0.1
  spacing = rng.uniform(0.5, 3, len(shape))
  first, second = surface(a) * spacing, surface(b) * spacing
  distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
  expected = max(
    np.percentile(distance.min(1), 95), np.percentile(distance.min(0), 95)
  )
  assert metrics.hd95(a, b, spacing) == pytest.approx(expected, abs=1e-12)
  assert metrics.hd95(b, a, spacing) == pytest.approx(expected, abs=1e-12)
  assert same(metrics.dice(a, b), sk.f1_score(a.ravel(), b.ravel()))


def test_solid_masks_at_the_border():
  a, b = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
  a[:10], b[:13] = True, True  # only the lower side differs, by 3 rows
  full = np.ones((6, 6), bool)
  assert metrics.hd95(a, b, (2.0, 1.0)) == 6.0
  assert metrics.hd95(full, full) == 0.0


def test_empty_masks_are_undefined():
  empty, full = np.zeros((3, 3)), np.ones((3, 3))
  assert metrics.dice(empty, empty) is None and metrics.dice(empty, full) == 0
  assert metrics.hd95(empty, full) is None and metrics.hd95(full, empty) is None
  with pytest.raises(DataError):
    metrics.dice(empty, np.ones((3, 4)))


def patients(seed=0, count=30):
  rng = np.random.default_rng(seed)
  groups = np.repeat(np.arange(count), rng.integers(1, 9, count))
  labels = rng.integers(0, 2, count)[groups]
  scores = (
    labels + rng.normal(size=count)[groups] + rng.normal(size=len(groups))
  )
  return labels, scores, groups.astype(str)


ALL = [
  metrics.auroc,
  metrics.average_precision,
  metrics.spearman,
]
CALLED = [
  metrics.accuracy,
  metrics.sensitivity,
  metrics.specificity,
  metrics.f1,
  metrics.kappa,
]


@pytest.mark.parametrize("metric", ALL + CALLED, ids=lambda m: m.__name__)
def test_fast_draws_equal_one_by_one(metric):
  labels, scores, groups = patients()
  other = (scores > 0.5).astype(int) if metric in CALLED else scores
  options = {"groups": groups, "samples": 60, "seed": 3}
  fast = metrics.bootstrap(metric, labels, other, **options)
  slow = metrics.bootstrap(lambda *a: metric(*a), labels, other, **options)
  assert fast["low"] < fast["value"] < fast["high"]
  assert fast == pytest.approx(slow, abs=1e-12)


def test_whole_patients_are_drawn():
  groups = np.array(["b", "a", "b", "c", "a", "a"])
  for weights in draws.resample(6, groups, 50, 0):
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()


def test_blocks_do_not_change_the_draws(monkeypatch):
  whole = np.concatenate(list(draws.resample(7, None, 20, 1)))
  monkeypatch.setattr(draws, "_BLOCK", 21)
  parts = list(draws.resample(7, None, 20, 1))
  assert len(parts) == 7 and (np.concatenate(parts) == whole).all()


def test_intervals_cover_about_as_often_as_they_say():
  """The mean of normal patients: 95 % intervals, 30 patients, 300 trials."""
  rng = np.random.default_rng(0)
  hits, by_image = 0, 0
  for trial in range(300):
    values = np.repeat(rng.normal(size=30), 5)
    groups = np.repeat(np.arange(30), 5)
    options = {"samples": 200, "seed": trial}
    found = metrics.bootstrap(np.mean, values, groups=groups, **options)
    hits += found["low"] <= 0 <= found["high"]
    found = metrics.bootstrap(np.mean, values, **options)
    by_image += found["low"] <= 0 <= found["high"]
  assert 0.89 < hits / 300 < 0.98
  assert by_image / 300 < 0.75  # the error that groups are for


def test_undefined_draws():
  labels, scores = np.array([0] * 40 + [1]), np.arange(41.0)
  # One positive patient is absent from 37 % of draws: still an interval.
  found = metrics.bootstrap(metrics.auroc, labels, scores)
  assert (found["value"], found["low"], found["high"]) == (1, 1, 1)
  groups = np.array([0] * 40 + [1])  # two patients: half are one-class
  found = metrics.bootstrap(metrics.auroc, labels, scores, groups=groups)
  assert found["value"] == 1 and found["n"] == 41
  alone = metrics.bootstrap(metrics.auroc, labels, scores, groups=groups * 0)
  assert alone == {"value": 1.0, "low": None, "high": None, "n": 41}
  none = metrics.bootstrap(metrics.auroc, labels * 0, scores)
  assert none == {"value": None, "low": None, "high": None, "n": 41}
  mostly = draws.summary(0.5, np.array([0.4, np.nan, np.nan]), 9)
  assert mostly["low"] is None and mostly["value"] == 0.5


def test_groups_must_match_the_rows():
  with pytest.raises(DataError, match="groups"):
    metrics.bootstrap(metrics.auroc, [0, 1], [0.1, 0.2], groups=["a"])
