"""One diagnosis in several conditions, against scikit-learn and loops."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from gcl_jax.errors import DataError
from gcl_jax.evaluation import comparisons, intervals, robustness

SHARES = (0.33, 0.7, 1.0)
SCALE = 4
NAMES = ["effusion", "mass", "rare"]


def patients(rows):
  return np.repeat([f"p{k}" for k in range(rows // 3)], 3)


def graded(rows=72, seed=0):
  """Grades, probabilities of two arms that fall with the share, patients."""
  rng = np.random.default_rng(seed)
  grades = np.repeat(rng.integers(0, SCALE, rows // 3), 3)
  grades[::13] = -1
  predictions = {}
  for arm, loss in (("ours", 1.0), ("other", 2.5)):
    predictions[arm] = {}
    for share in reversed(SHARES):  # any order
      noise = rng.normal(0, 0.4 + loss * share, (rows, SCALE))
      near = -np.abs(np.arange(SCALE) - grades[:, None])
      found = np.exp(near + noise)
      predictions[arm][share] = found / found.sum(1, keepdims=True)
  return grades, predictions, patients(rows)


def findings(rows=60, seed=1):
  """Three findings, some unknown, one of two patients only."""
  rng = np.random.default_rng(seed)
  truth = (rng.random((rows, 3)) < [0.4, 0.6, 0.5]).astype(float)
  truth[:, 2] = 0
  truth[:4, 2] = 1
  truth[rng.random((rows, 3)) < 0.1] = np.nan
  predictions = {
    arm: {
      share: np.clip(
        np.nan_to_num(truth) * 0.4 + 0.3 + share * rng.normal(0, s, (rows, 3)),
        0,
        1,
      )
      for share in SHARES
    }
    for arm, s in (("ours", 0.2), ("other", 0.3))
  }
  return truth, predictions, patients(rows)


def kappa_of_grades(grades, probabilities):
  return sk.cohen_kappa_score(
    grades,
    probabilities.argmax(1),
    labels=range(SCALE),
    weights="quadratic",
  )


def kappa_of_findings(truth, probabilities):
  """Mean over the findings of enough patients."""
  found = []
  for k in range(2):
    known = ~np.isnan(truth[:, k])
    called = probabilities[known, k] >= 0.5
    found.append(sk.cohen_kappa_score(truth[known, k] == 1, called))
  return np.mean(found)


def left_out(function, groups):
  """float64[1 + G]: of all rows, then without each group."""
  masks = [np.ones(len(groups), bool)]
  masks += [groups != name for name in np.unique(groups)]
  return np.array([function(mask) for mask in masks])


def slow(kappa, truth, predictions, groups):
  """arm -> float64[C, 1 + G] by loops, and what they rest on."""
  found = {
    arm: np.stack(
      [
        left_out(lambda m, p=by_share[s]: kappa(truth[m], p[m]), groups)
        for s in SHARES
      ]
    )
    for arm, by_share in predictions.items()
  }
  return found, intervals.support_of(groups)


def alike(found, expected):
  for key in ("value", "low", "high", "p", "smallest"):
    assert found[key] == pytest.approx(expected[key], abs=1e-9), key


@pytest.mark.parametrize("kind", ["grades", "findings"])
def test_falls_slopes_and_gains_equal_loops_over_patients(kind):
  if kind == "grades":
    truth, predictions, groups = graded()
    known = truth >= 0
    kept = {
      arm: {s: p[known] for s, p in by_share.items()}
      for arm, by_share in predictions.items()
    }
    kappas, support = slow(kappa_of_grades, truth[known], kept, groups[known])
  else:
    truth, predictions, groups = findings()
    kappas, _ = slow(kappa_of_findings, truth, predictions, groups)
    counts = [
      len(np.unique(groups[truth[:, k] == side]))
      for k in range(2)
      for side in (0, 1)
    ]
    support = intervals.Support(len(truth), min(counts))
  found = robustness.evaluate(truth, predictions, groups, NAMES)
  for arm, kappa in kappas.items():
    slopes = [stats.linregress(SHARES, k).slope for k in kappa.T]
    for name, values in (
      ("fall", kappa[0] - kappa[-1]),
      ("slope", np.array(slopes)),
    ):
      expected = comparisons.difference(values, support)
      alike(found[f"{arm}/kappa_{name}"], expected)
    for share, of_share in zip(SHARES, kappa, strict=True):
      entry = found[f"{arm}/kappa@{100 * share:g}"]
      expected = intervals.interval(of_share, support, "fisher")
      for key in ("value", "low", "high"):
        assert entry[key] == pytest.approx(expected[key], abs=1e-9)
  gain = (kappas["other"][0] - kappas["other"][-1]) - (
    kappas["ours"][0] - kappas["ours"][-1]
  )
  expected = comparisons.difference(gain, support)
  alike(found["kappa_fall_gain_over_other"], expected)
  at = {
    f"kappa@{100 * share:g}_over_other": comparisons.difference(
      own - other, support
    )
    for share, own, other in zip(SHARES, *kappas.values(), strict=True)
  }
  for name, expected in comparisons.family(at).items():
    alike(found[name], expected)
    assert found[name]["family"] == 3
    assert found[name]["p_holm"] == pytest.approx(expected["p_holm"])


def test_figures_of_findings_equal_scikit_learn():
  truth, predictions, groups = findings()
  found = robustness.evaluate(truth, predictions, groups, NAMES)
  for share in SHARES:
    scores = predictions["ours"][share]
    areas, same, most = [], [], []
    for k, name in enumerate(NAMES):
      known = ~np.isnan(truth[:, k])
      y, p = truth[known, k], scores[known, k]
      areas.append(sk.roc_auc_score(y, p))
      same.append(np.mean((p >= 0.5) == y))
      most.append(max(np.mean(y), 1 - np.mean(y)))
      entry = found[f"ours/auroc/{name}@{100 * share:g}"]
      assert entry["value"] == pytest.approx(areas[-1])
      assert entry["n"] == known.sum()
    for name, values in (
      ("macro_auroc", areas),
      ("accuracy", same),
      ("majority", most),
    ):
      entry = found[f"ours/{name}@{100 * share:g}"]
      assert entry["value"] == pytest.approx(np.mean(values[:2]))
    assert found[f"ours/macro_auroc@{100 * share:g}"]["skipped"] == ["rare"]


def test_a_finding_is_called_from_one_half_on():
  truth = np.repeat([[1.0], [0.0]], [6, 14], axis=0)
  found = robustness.table(truth, np.full((20, 1), 0.5))
  assert found.values["accuracy"][0] == pytest.approx(0.3)
  assert found.values["majority"][0] == pytest.approx(0.7)


def test_each_arm_beside_itself_and_a_single_grade():
  grades, predictions, groups = graded()
  same = {"ours": predictions["ours"], "again": predictions["ours"]}
  found = robustness.evaluate(grades, same, groups)
  entry = found["kappa_fall_gain_over_again"]
  assert entry["value"] == 0 and entry["p"] == 1 and entry["low"] is None
  constant = np.eye(SCALE)[np.zeros(len(grades), int)]
  one = {"ours": dict.fromkeys(SHARES, constant)}
  found = robustness.evaluate(np.zeros(len(grades), int), one, groups)
  for name in ("kappa@33", "kappa_fall", "kappa_slope", "macro_auroc@100"):
    assert found[f"ours/{name}"]["value"] is None, name
  assert found["ours/accuracy@33"]["value"] == 1


def test_arms_of_other_conditions_are_refused():
  grades, predictions, groups = graded()
  del predictions["other"][0.7]
  with pytest.raises(DataError, match="same two or more conditions"):
    robustness.evaluate(grades, predictions, groups)
  one = {"ours": {1.0: predictions["ours"][1.0]}}
  with pytest.raises(DataError, match="two or more"):
    robustness.evaluate(grades, one, groups)


@pytest.mark.parametrize(
  ("truth", "probabilities", "message"),
  [
    (np.zeros((4, 2)), np.zeros((4, 3)), "differ"),
    (np.full((4, 2), 2.0), np.zeros((4, 2)), "must be 1, 0 or missing"),
    (np.zeros((4, 2)), np.full((4, 2), np.nan), "NaN or infinite"),
  ],
)
def test_findings_that_do_not_fit_are_refused(truth, probabilities, message):
  with pytest.raises(DataError, match=message):
    robustness.table(truth, probabilities)


def test_confusion_by_image_and_by_the_worst_image_of_a_patient():
  rng = np.random.default_rng(2)
  truth, called = rng.integers(-1, SCALE, 40), rng.integers(0, SCALE, 40)
  groups = rng.integers(0, 12, 40).astype(str)
  known = truth >= 0
  expected = sk.confusion_matrix(
    truth[known], called[known], labels=range(SCALE)
  )
  found = robustness.confusion(truth, called, SCALE)
  np.testing.assert_array_equal(found, expected)
  expected = np.zeros((SCALE, SCALE), int)
  for name in np.unique(groups[known]):
    here = known & (groups == name)
    expected[truth[here].max(), called[here].max()] += 1
  found = robustness.confusion(truth, called, SCALE, groups)
  np.testing.assert_array_equal(found, expected)
  assert found.sum() == len(np.unique(groups[known]))
  none = robustness.confusion(np.full(3, -1), np.zeros(3, int), 2, groups[:3])
  assert none.tolist() == [[0, 0], [0, 0]]
