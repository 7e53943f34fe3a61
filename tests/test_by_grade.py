"""Metrics of a grade against scikit-learn on repeated rows."""

import chex
import numpy as np
import pytest
from sklearn import metrics as sk

from gcl_jax.errors import DataError
from gcl_jax.evaluation import by_grade, intervals, metrics

SCALE = 5
KEYS = ["accuracy", "majority", "kappa"]
KEYS += [*(f"auroc/{k}" for k in range(SCALE)), "macro_auroc"]


def results(absent=(), rows=90):
  """Grades that patients share in part; some are missing."""
  rng = np.random.default_rng(3)
  groups = np.repeat([f"p{k}" for k in range(rows // 3)], 3)
  grades = np.repeat(rng.integers(0, SCALE, rows // 3), 3)
  grades = np.clip(grades + rng.integers(-1, 2, rows), 0, SCALE - 1)
  grades[np.isin(grades, absent)] = 0
  grades[::11] = -1
  distance = np.abs(np.arange(SCALE) - grades[:, None])
  probabilities = np.exp(-distance - rng.exponential(2, (rows, SCALE)))
  probabilities /= probabilities.sum(1, keepdims=True)
  probabilities[grades < 0] = np.nan  # not looked at
  return grades, probabilities, groups


def slow(grades, probabilities):
  """Of graded rows, by scikit-learn, nan where undefined."""
  called = probabilities.argmax(1)
  if not len(grades):
    return dict.fromkeys(KEYS, np.nan)
  found = {
    "accuracy": sk.accuracy_score(grades, called),
    "majority": max(np.mean(grades == k) for k in range(SCALE)),
    "kappa": np.nan,
  }
  if len(set(grades) | set(called)) > 1:
    found["kappa"] = sk.cohen_kappa_score(
      grades, called, labels=range(SCALE), weights="quadratic"
    )
  for k in range(SCALE):
    one = grades == k
    both = 0 < one.sum() < len(one)
    area = sk.roc_auc_score(one, probabilities[:, k]) if both else np.nan
    found[f"auroc/{k}"] = area
  areas = [a for k, a in found.items() if k[:5] == "auroc" and not np.isnan(a)]
  found["macro_auroc"] = np.mean(areas) if areas else np.nan
  return found


def without_each_group(grades, probabilities, groups, key):
  """Slow leave-one-out values of a metric, the first of all rows."""
  masks = [
    np.ones(len(grades), bool),
    *(groups != g for g in np.unique(groups)),
  ]
  return np.array([slow(grades[m], probabilities[m])[key] for m in masks])


@pytest.mark.parametrize("absent", [(), (1, 3), (1, 2, 3, 4)])
def test_values_and_intervals_equal_scikit_learn(absent):
  grades, probabilities, groups = results(absent)
  found = by_grade.evaluate(grades, probabilities, groups)
  assert list(found) == KEYS
  known = grades >= 0
  grades, probabilities, groups = (
    x[known] for x in (grades, probabilities, groups)
  )
  for key in KEYS:
    values = without_each_group(grades, probabilities, groups, key)
    support = intervals.support_of(groups)
    if key.startswith("auroc"):
      support = intervals.support_of(groups, grades == int(key[-1]))
    scale = "fisher" if key == "kappa" else "logit"
    expected = intervals.interval(values, support, scale)
    if key != "macro_auroc":
      assert found[key] == pytest.approx(expected, abs=1e-12), key
    elif "skipped" not in found[key]:
      assert found[key]["value"] == pytest.approx(values[0], abs=1e-12)
  undefined = [k for k in range(SCALE) if found[f"auroc/{k}"]["value"] is None]
  assert undefined == list(absent if len(absent) < 4 else range(SCALE))


def test_the_mean_leaves_out_grades_that_few_patients_have():
  grades, probabilities, groups = results()
  whole = by_grade.evaluate(grades, probabilities, groups)["macro_auroc"]
  assert "skipped" not in whole
  rare = grades == 4
  keep = np.unique(groups[rare])[:3]
  drop = rare & ~np.isin(groups, keep)
  found = by_grade.evaluate(np.where(drop, -1, grades), probabilities, groups)
  assert found["macro_auroc"]["skipped"] == ["4"]
  others = [found[f"auroc/{k}"]["value"] for k in range(4)]
  assert found["macro_auroc"]["value"] == pytest.approx(np.mean(others))
  assert found["auroc/4"]["value"] is not None
  assert found["auroc/4"]["low"] is None
  assert found["auroc/4"]["positive_groups"] == 3


def test_kappa_is_on_the_whole_scale():
  """Without grades 2 and 3, a step from 1 to 4 still costs nine."""
  grades = np.array([0, 0, 1, 1, 4, 4, 0, 4])
  called = np.array([0, 1, 1, 0, 4, 1, 0, 4])
  value = by_grade.evaluate(grades, np.eye(5)[called])["kappa"]
  options = {"weights": "quadratic"}
  whole = sk.cohen_kappa_score(grades, called, labels=range(5), **options)
  inferred = sk.cohen_kappa_score(grades, called, **options)
  assert value["value"] == pytest.approx(whole, abs=1e-12)
  assert abs(whole - inferred) > 0.02
  # The plain metric counts them too, told of the scale or not.
  for grades_ in (None, 5):
    plain = metrics.kappa(grades, called, grades=grades_, **options)
    assert plain == pytest.approx(whole, abs=1e-12)


def test_no_grade_at_all_is_undefined():
  _, probabilities, groups = results()
  found = by_grade.evaluate(np.full(90, -1), probabilities, groups)
  assert list(found) == KEYS
  for entry in found.values():
    assert (entry["value"], entry["low"], entry["n"]) == (None, None, 0)


def test_few_patients_have_no_interval():
  grades = np.array([-1, -1, -1, -1, -1, 1])
  found = by_grade.evaluate(grades, np.eye(2)[[0, 0, 0, 0, 0, 1]])
  nothing = {"low": None, "high": None, "n": 1, "groups": 1}
  assert found["accuracy"] == {"value": 1} | nothing
  assert found["majority"]["value"] == 1
  assert found["kappa"]["value"] is None


def test_equal_probabilities_are_the_lower_grade():
  grades = np.array([0, 1, 1])
  found = by_grade.evaluate(grades, np.full((3, 2), 0.5))
  chex.assert_trees_all_close(found["accuracy"]["value"], 1 / 3)
  chex.assert_trees_all_close(found["majority"]["value"], 2 / 3)
  assert found["auroc/0"]["value"] == found["auroc/1"]["value"] == 0.5


def test_what_does_not_fit_is_refused():
  grades, probabilities, groups = results()
  hole = np.where(grades[:, None] == 2, np.nan, probabilities)
  count = int((grades == 2).sum())
  for arguments, message in (
    ((grades[1:], probabilities), r"\(89,\) and \(90, 5\)"),
    ((grades, probabilities[:, 0]), r"\(90,\) and \(90,\)"),
    ((grades, probabilities[:, :1]), "at least two grades, got 1"),
    ((grades, probabilities[:, :4]), "0 to 3, or -1 = missing, found 4"),
    ((grades - 1, probabilities), "found -2"),
    ((grades + 0.5, probabilities), "found -0.5"),
    ((np.where(grades < 0, np.nan, grades), probabilities), "found nan"),
    ((grades, hole), f"{count} graded rows"),
    ((grades, probabilities, groups[1:]), "89 groups for 90 rows"),
  ):
    with pytest.raises(DataError, match=message):
      by_grade.evaluate(*arguments)
