"""Metrics of several classes against counting by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from gcl_jax.errors import DataError
from gcl_jax.evaluation import by_class


def cases(seed=0, rows=60, classes=4):
  rng = np.random.default_rng(seed)
  truth = rng.integers(0, classes, rows)
  probabilities = rng.dirichlet(np.ones(classes), rows)
  groups = np.array([f"p{k}" for k in rng.integers(0, 25, rows)])
  return truth, probabilities, groups


def test_figures_are_those_of_another_library():
  truth, probabilities, groups = cases()
  found = by_class.evaluate(truth, probabilities, groups, [(0, 2), (1, 3)])
  called = probabilities.argmax(1)
  wanted = oracle.balanced_accuracy_score(truth, called)
  assert found["accuracy"]["value"] == pytest.approx(wanted)
  within = []
  for pair in ((0, 2), (1, 3)):
    rows = np.isin(truth, pair)
    best = np.where(
      probabilities[rows, pair[0]] >= probabilities[rows, pair[1]], *pair
    )
    within.append(oracle.balanced_accuracy_score(truth[rows], best))
  assert found["confounded"]["value"] == pytest.approx(np.mean(within))
  each = [
    oracle.roc_auc_score(truth == k, probabilities[:, k]) for k in range(4)
  ]
  assert found["macro_auroc"]["value"] == pytest.approx(np.mean(each))
  assert found["auroc/3"]["value"] == pytest.approx(each[3])
  low, high = (found["accuracy"][end] for end in ("low", "high"))
  assert low < wanted < high


def test_without_a_patient_they_are_those_of_the_rest():
  truth, probabilities, groups = cases(1)
  table = by_class.table(truth, probabilities, groups, [(0, 1)])
  names = np.unique(groups)
  for k, name in enumerate(names[:5]):
    left = groups != name
    rest = by_class.table(truth[left], probabilities[left], None, [(0, 1)])
    for figure in ("accuracy", "confounded"):
      assert table.values[figure][1 + k] == pytest.approx(
        rest.values[figure][0]
      )


def test_rows_of_no_class_do_not_count_and_rare_classes_are_named():
  truth, probabilities, groups = cases()
  few = np.where(truth == 3, -1, truth)
  few[0] = 3
  found = by_class.evaluate(few, probabilities, groups)
  assert found["macro_auroc"]["skipped"] == ["3"]
  assert found["confounded"]["value"] is None
  assert found["accuracy"]["n"] == (few >= 0).sum()


def test_nothing_to_score_is_undefined():
  found = by_class.evaluate(np.full(4, -1), np.full((4, 2), np.nan))
  assert found["accuracy"]["value"] is None
  assert found["macro_auroc"]["value"] is None


@pytest.mark.parametrize(
  ("truth", "probabilities", "pairs", "message"),
  [
    ([0, 2], np.ones((2, 2)), (), "class 2 is not one of 0 to 1"),
    ([0, 1], np.ones((2, 2)), [(0, 5)], "class 5 is not"),
    ([0, 1], np.ones((2, 2)), [(0, -1)], "class -1 is not"),
    ([0, 1], np.full((2, 2), np.inf), (), "infinite"),
    ([0], np.ones((2, 2)), (), "classes must be int"),
    ([0, 1], np.ones((2, 1)), (), "2 classes or more"),
  ],
)
def test_what_cannot_be_scored_is_refused(truth, probabilities, pairs, message):
  with pytest.raises(DataError, match=message):
    by_class.evaluate(np.array(truth), probabilities, None, pairs)
