"""Probes against scikit-learn and plain numpy loops."""

import chex
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gcl_jax.errors import ConfigError, DataError
from gcl_jax.evaluation import by_label, metrics, probe

pytestmark = pytest.mark.compiles


def linear_probe(x, y, test, **options):
  """Probabilities of one label on other features, or None."""
  head = probe.fit_linear(x, {"label": y}, **options)["label"]
  return None if head is None else probe.probability(head, test)


def multilabel_probe(x, labels, test, **options):
  heads = probe.fit_linear(x, labels, **options)
  return {n: h and probe.probability(h, test) for n, h in heads.items()}


def features(seed=0, rows=150, dimension=6):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(rows, dimension)) * [1, 5, 0.1, 1, 1, 2] + 3
  y = (x[:, 0] - 3 + 0.5 * rng.normal(size=rows) > 0.7).astype(float)
  return x, y


def test_lbfgs_equals_a_standardised_balanced_regression():
  x, y = features()
  y[::10] = np.nan
  known = ~np.isnan(y[:100])
  scaler = StandardScaler().fit(x[:100][known])
  model = LogisticRegression(
    C=0.1, class_weight="balanced", solver="newton-cholesky", tol=1e-10
  ).fit(scaler.transform(x[:100][known]), y[:100][known])
  expected = model.predict_proba(scaler.transform(x[100:]))[:, 1]
  found = linear_probe(x[:100], y[:100], x[100:])
  assert found == pytest.approx(expected, abs=1e-5)
  assert found.shape == (50,)


def test_lbfgs_ignores_affine_maps_and_constant_columns():
  x, y = features()
  found = linear_probe(x[:100], y[:100], x[100:])
  mapped = np.c_[x * [1, 2, 3, 4, 5, 6] - 7, np.full(len(x), 2.5)]
  again = linear_probe(mapped[:100], y[:100], mapped[100:])
  assert again == pytest.approx(found, abs=1e-5)


def slow_sgd(x, y, test, seed):
  """Linear D -> 2, softmax cross-entropy and momentum, one batch at a time."""
  rng = np.random.default_rng(seed)
  bound = x.shape[1] ** -0.5
  weights = rng.uniform(-bound, bound, (x.shape[1] + 1, 2))
  x, test = np.c_[x, np.ones(len(x))], np.c_[test, np.ones(len(test))]
  rows, speed = np.flatnonzero(~np.isnan(y)), np.zeros_like(weights)
  for order in [rng.permutation(rows) for _ in range(25)]:
    for start in range(0, len(order), 64):
      batch = order[start : start + 64]
      error = softmax(x[batch] @ weights)
      error[np.arange(len(batch)), y[batch].astype(int)] -= 1
      speed = 0.9 * speed + x[batch].T @ error / len(batch)
      weights = weights - 0.001 * speed
  return softmax(test @ weights)[:, 1]


def softmax(logits):
  exp = np.exp(logits - logits.max(1, keepdims=True))
  return exp / exp.sum(1, keepdims=True)


def test_sgd_is_the_two_logit_probe_of_the_paper():
  x, y = features()
  y[3:20] = np.nan
  found = linear_probe(x[:100], y[:100], x[100:], solver="sgd", seed=4)
  expected = slow_sgd(x[:100], y[:100], x[100:], seed=4)
  assert found == pytest.approx(expected, abs=1e-5)
  other = linear_probe(x[:100], y[:100], x[100:], solver="sgd", seed=5)
  assert np.abs(other - found).max() > 1e-4


def slow_multilabel_sgd(x, labels, test, seed):
  rng = np.random.default_rng(seed)
  y = np.stack(labels, axis=1)
  bound = x.shape[1] ** -0.5
  weights = rng.uniform(-bound, bound, (x.shape[1] + 1, y.shape[1]))
  x, test = np.c_[x, np.ones(len(x))], np.c_[test, np.ones(len(test))]
  rows, speed = np.flatnonzero(~np.isnan(y).all(1)), np.zeros_like(weights)
  for order in [rng.permutation(rows) for _ in range(25)]:
    for start in range(0, len(order), 64):
      batch = order[start : start + 64]
      error = 1 / (1 + np.exp(-x[batch] @ weights)) - y[batch]
      known = ~np.isnan(error)
      speed = 0.9 * speed + x[batch].T @ np.where(known, error, 0) / known.sum()
      weights = weights - 0.001 * speed
  return 1 / (1 + np.exp(-test @ weights))


def test_multilabel_sgd_averages_over_known_labels():
  x, y = features()
  second = (x[:, 1] > 3).astype(float)
  second[::3], y[:4], second[:4] = np.nan, np.nan, np.nan
  labels = {"a": y[:100], "b": second[:100]}
  found = multilabel_probe(x[:100], labels, x[100:], solver="sgd", seed=1)
  expected = slow_multilabel_sgd(x[:100], list(labels.values()), x[100:], 1)
  assert found["a"] == pytest.approx(expected[:, 0], abs=1e-5)
  assert found["b"] == pytest.approx(expected[:, 1], abs=1e-5)


def test_multilabel_lbfgs_is_one_probe_a_label():
  x, y = features()
  labels = {"a": y, "b": 1 - y, "one class": np.zeros(len(y))}
  found = multilabel_probe(x, labels, x[:9])
  assert list(found) == ["a", "b", "one class"]
  assert (found["a"] == linear_probe(x, y, x[:9])).all()
  assert found["b"] == pytest.approx(1 - found["a"], abs=1e-6)
  assert found["one class"] is None


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_one_class_has_no_probe(solver):
  x, y = features()
  y[y == 0] = np.nan
  assert linear_probe(x, y, x, solver=solver) is None
  assert probe.knn(x, y, x) is None


def test_bad_inputs_are_refused():
  x, y = features()
  with pytest.raises(ConfigError, match="adam"):
    linear_probe(x, y, x, solver="adam")
  with pytest.raises(DataError, match="images"):
    linear_probe(x, y[:-1], x)
  with pytest.raises(DataError, match="found 2"):
    linear_probe(x, y + 1, x)
  with pytest.raises(DataError, match="not finite"):
    linear_probe(np.where(x > 3, x, np.inf), y, x)


def slow_knn(x, y, test, k, temperature):
  """One image after the other: cosines, the k largest, their weighted vote."""
  found = []
  for image in test:
    near = []
    for row, label in zip(x, y, strict=True):
      if not np.isnan(label):
        size = np.linalg.norm(row) * np.linalg.norm(image)
        near.append((row @ image / size if size else 0.0, label))
    near = sorted(near, reverse=True)[:k]
    weights = [np.exp(cosine / temperature) for cosine, _ in near]
    votes = [w * label for w, (_, label) in zip(weights, near, strict=True)]
    found.append(sum(votes) / sum(weights))
  return np.array(found)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_knn_is_the_weighted_vote_of_the_nearest(k, temperature):
  x, y = features()
  y[:5], x[7], x[120] = np.nan, 0, 0
  train, test = (x[:100], y[:100]), x[100:]
  found = probe.knn(*train, test, k=k, temperature=temperature)
  chex.assert_shape(found, (50,))
  expected = slow_knn(*train, test, k, temperature)
  if k < 95:  # every row is as near to a row of zeros as every other
    found, expected = np.delete(found, 20), np.delete(expected, 20)
  chex.assert_trees_all_close(found, expected, atol=1e-12, rtol=0)


def test_knn_of_small_temperature_does_not_overflow():
  x, y = features()
  found = probe.knn(x[:100], y[:100], x[100:], temperature=1e-4)
  nearest = probe.knn(x[:100], y[:100], x[100:], k=1)
  chex.assert_tree_all_finite(found)
  assert np.mean(np.round(found) == nearest) > 0.8


def results(rows=120):
  rng = np.random.default_rng(2)
  groups = np.repeat(np.arange(rows // 4), 4)
  labels, probabilities = {}, {}
  for name in ("irf", "dme", "favf"):
    y = rng.integers(0, 2, rows).astype(float)
    labels[name] = y
    probabilities[name] = np.clip(0.3 * y + rng.uniform(0, 0.8, rows), 0, 1)
  labels["irf"][:7] = np.nan
  return labels, probabilities, groups


def test_evaluate_equals_scikit_learn():
  labels, probabilities, groups = results()
  found = probe.evaluate(labels, probabilities, groups)
  y, p = labels["irf"][7:], probabilities["irf"][7:]
  called = p >= 0.5
  expected = {
    "auroc": sk.roc_auc_score(y, p),
    "ap": sk.average_precision_score(y, p),
    "f1": sk.f1_score(y, called),
    "accuracy": sk.accuracy_score(y, called),
    "sensitivity": sk.recall_score(y, called),
    "specificity": sk.recall_score(y, called, pos_label=0),
  }
  for name, value in expected.items():
    assert found[f"irf/{name}"]["value"] == pytest.approx(value, abs=1e-12)
    assert found[f"irf/{name}"]["n"] == 113
  full = {n: (labels[n][7:], probabilities[n][7:]) for n in labels}
  stacked = [np.stack(c, 1) for c in zip(*full.values(), strict=True)]
  rest = probe.evaluate(
    {n: y for n, (y, _) in full.items()},
    {n: p for n, (_, p) in full.items()},
  )
  for key, average in [
    ("macro_auroc", "macro"),
    ("weighted_auroc", "weighted"),
  ]:
    value = sk.roc_auc_score(*stacked, average=average)
    assert rest[key]["value"] == pytest.approx(value, abs=1e-12)
  value = sk.f1_score(stacked[0], stacked[1] >= 0.5, average="macro")
  assert rest["macro_f1"]["value"] == pytest.approx(value, abs=1e-12)
  assert "skipped" not in rest["macro_f1"]


def test_the_interval_of_a_mean_leaves_each_patient_out_of_all_labels():
  labels, probabilities, groups = results()
  found = probe.evaluate(labels, probabilities, groups)
  alone = metrics.jackknife(
    metrics.auroc, labels["dme"], probabilities["dme"], groups=groups
  )
  assert found["dme/auroc"] == pytest.approx(alone, abs=1e-12)
  values, errors = [], {}
  for left_out in (None, *np.unique(groups)):
    each = {}
    for name, y in labels.items():
      used = ~np.isnan(y) & (groups != left_out)
      each[name] = sk.roc_auc_score(y[used], probabilities[name][used])
    values.append(each)
  count = len(np.unique(groups))
  for name in labels:
    column = np.array([each[name] for each in values])
    errors[name] = (count - 1) * column[1:].var()
  means = np.array([np.mean(list(each.values())) for each in values])
  # Of each label its fewer groups less one, by the variance of its AUROC.
  fewest = [found[f"{n}/auroc"] for n in labels]
  fewest = [min(e["positive_groups"], e["negative_groups"]) for e in fewest]
  freedom = np.average(np.array(fewest) - 1, weights=list(errors.values()))
  spread = np.sqrt((count - 1) * means[1:].var())
  logit = np.log(means[0] / (1 - means[0]))
  half = stats.t.ppf(0.975, freedom) * spread / (means[0] * (1 - means[0]))
  for bound, sign in (("low", -1), ("high", 1)):
    expected = 1 / (1 + np.exp(-logit - sign * half))
    assert found["macro_auroc"][bound] == pytest.approx(expected, abs=1e-9)
  assert found["macro_auroc"]["n"] == 120
  assert found["macro_auroc"]["positive_groups"] == min(
    found[f"{n}/auroc"]["positive_groups"] for n in labels
  )
  # Equal labels are one label: nothing is averaged away.
  twins = {"a": labels["dme"], "b": labels["dme"]}
  both = {name: probabilities["dme"] for name in twins}
  again = probe.evaluate(twins, both, groups)
  for bound in ("value", "low", "high"):
    assert again["macro_auroc"][bound] == pytest.approx(alone[bound])


def test_a_label_of_four_positive_patients_leaves_the_means():
  labels, probabilities, groups = results()
  before = probe.evaluate(labels, probabilities, groups)
  for patients, kept in ((4, False), (5, True)):
    rare = np.isin(groups, np.arange(patients)).astype(float)
    found = probe.evaluate(
      labels | {"rare": rare},
      probabilities | {"rare": probabilities["dme"]},
      groups,
    )
    assert found["rare/auroc"]["value"] is not None
    assert (found["rare/auroc"]["low"] is not None) == kept
    assert (found["rare/sensitivity"]["low"] is not None) == kept
    assert found["rare/specificity"]["low"] is not None
    assert found["macro_auroc"].get("skipped") == (None if kept else ["rare"])
    same = found["macro_auroc"]["value"] == before["macro_auroc"]["value"]
    assert same != kept


def test_differences_are_paired_by_patient():
  labels, probabilities, groups = results()
  rng = np.random.default_rng(5)
  worse = {
    n: np.clip(0.7 * p + 0.3 * rng.uniform(size=120), 0, 1)
    for n, p in probabilities.items()
  }
  tables = [by_label.table(labels, p, groups) for p in (probabilities, worse)]
  found = by_label.differences(*tables)
  expected = metrics.paired(
    metrics.auroc, labels["dme"], probabilities["dme"], worse["dme"], groups
  )
  assert found["dme/auroc"] == pytest.approx(expected)
  singles = [by_label.entries(table)["macro_auroc"] for table in tables]
  gain = singles[0]["value"] - singles[1]["value"]
  assert found["macro_auroc"]["value"] == pytest.approx(gain)
  widths = [e["high"] - e["low"] for e in (*singles, found["macro_auroc"])]
  assert widths[2] < min(widths[:2])  # the patients are the same
  lacking = by_label.table(labels, worse | {"irf": None}, groups)
  with pytest.raises(DataError, match="same labels"):
    by_label.differences(tables[0], lacking)


def test_undefined_labels_are_named_and_left_out():
  labels, probabilities, groups = results()
  before = probe.evaluate(labels, probabilities, groups)
  labels |= {"srf": np.zeros(120), "ped": labels["dme"]}
  probabilities |= {"srf": probabilities["dme"], "ped": None}
  found = probe.evaluate(labels, probabilities, groups)
  nothing = {"value": None, "low": None, "high": None, "n": 120}
  counts = {"groups": 30, "positive_groups": 0, "negative_groups": 30}
  assert found["srf/auroc"] == nothing | counts
  assert found["srf/specificity"]["value"] is not None
  assert found["ped/f1"]["value"] is None
  for mean in ("macro_auroc", "macro_f1", "weighted_auroc"):
    assert found[mean]["skipped"] == ["srf", "ped"]
    for part in ("value", "low", "high"):
      assert found[mean][part] == pytest.approx(before[mean][part], abs=1e-12)


def test_thresholds_move_calls_only():
  labels, probabilities, groups = results()
  half = probe.evaluate(labels, probabilities)
  low = probe.evaluate(labels, probabilities, thresholds={"irf": 0.0})
  assert low["irf/sensitivity"]["value"] == 1
  assert low["irf/auroc"] == half["irf/auroc"]
  assert low["dme/f1"] == half["dme/f1"]


def test_evaluate_refuses_bad_probabilities():
  labels, probabilities, _ = results()
  with pytest.raises(DataError, match="dme"):
    probe.evaluate(labels, probabilities | {"dme": np.full(120, np.nan)})
  with pytest.raises(DataError, match="dme"):
    probe.evaluate(labels, probabilities | {"dme": np.zeros(3)})
  with pytest.raises(DataError, match="dme.*threshold nan"):
    probe.evaluate(labels, probabilities, thresholds={"dme": np.nan})
  with pytest.raises(DataError, match="at least one"):
    probe.evaluate({}, {})
