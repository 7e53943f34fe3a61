"""One rule for every classifier: chosen inside the labelled rows alone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import special
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gcl_jax.data import splits
from gcl_jax.evaluation import by_label, comparisons, crossfit, probe
from gcl_jax.pipeline import few_labels, judge, report_probe, settings

pytestmark = pytest.mark.compiles


def rows(seed=0, count=120, share=0.25):
  """Features, a label with gaps, patients of three rows."""
  rng = np.random.default_rng(seed)
  groups = np.repeat([f"p{k}" for k in range(count // 3)], 3)
  x = rng.normal(size=(count, 8))
  y = (x[:, 0] + rng.normal(size=count) > special.ndtri(1 - share)) * 1.0
  y[::11] = np.nan
  return x, y, groups


def test_folds_spread_the_rarer_class_over_whole_groups():
  rng = np.random.default_rng(0)
  for seed in range(40):
    count = int(rng.integers(6, 40))
    groups = rng.integers(0, count, 100)
    positive = rng.choice(count, 3, replace=False)
    y = np.isin(groups, positive) * 1.0
    y[rng.random(100) < 0.1] = np.nan
    fold = crossfit.folds_of(y, groups, seed)
    known = ~np.isnan(y)
    holders = len(np.unique(groups[y == 1]))
    assert (fold[~known] == -1).all() and (fold[known] >= 0).all()
    for group in np.unique(groups[known]):
      assert len(set(fold[known & (groups == group)])) == 1
    assert set(fold[known]) == set(range(min(5, len(set(groups[known])))))
    assert len(set(fold[y == 1])) == min(5, holders)
    for k in set(fold[known]):
      assert {0.0, 1.0} <= set(y[known & (fold != k)])


def test_a_patient_written_in_two_ways_is_in_one_fold():
  groups = np.repeat(["u\u0308", "\u00fc", "a", "b", "c"], 3)
  y = np.repeat([1.0, 1, 1, 0, 0], 3)
  fold = crossfit.folds_of(y, groups)
  assert set(fold) == {0, 1, 2, 3} and len(set(fold[:6])) == 1
  # Both ways are the only positive ones: a class of one patient.
  y = np.repeat([1.0, 1, 0, 0, 0], 3)
  assert crossfit.folds_of(y, groups) is None


@pytest.mark.parametrize(
  ("y", "groups"),
  [
    ([1, 1, 0, 0, 0], "aabcd"),  # one group with a positive row
    ([0, 0, 1, 1, 1], "aabcd"),  # one with a negative row
    ([1, 0, 1, 0], "aaaa"),
  ],
)
def test_a_class_of_one_group_allows_no_folds(y, groups):
  y, groups = np.array(y, float), np.array(list(groups))
  assert crossfit.folds_of(y, groups) is None
  choice = crossfit.choose(None, y, groups, penalties=crossfit.PENALTIES)
  odds = y.mean() / (1 - y.mean())
  assert choice.folds == 0 and choice.penalty == probe.INVERSE_PENALTY
  assert choice.shift == pytest.approx(np.log(odds))
  # Half of a balanced probability is the share of positives.
  assert choice.threshold == pytest.approx(y.mean())


def test_stratified_folds_hold_as_many_groups_of_a_class():
  """One group is as large as all others together."""
  groups = np.repeat(np.arange(9), [30, *[4] * 8])
  strata = (groups > 4) * 1
  fold = splits.folds(groups, 3, 3, strata)
  for kind in (0, 1):
    counts = [
      len(set(groups[(fold == k) & (strata == kind)])) for k in range(3)
    ]
    assert max(counts) - min(counts) <= 1
  # Without classes folds are even in rows.
  plain = splits.folds(groups, 3, 3)
  assert sorted(np.bincount(plain)) == [16, 16, 30]


def slow_probability(x, y, test, penalty):
  known = ~np.isnan(y)
  scaler = StandardScaler().fit(x[known])
  model = LogisticRegression(
    C=penalty, class_weight="balanced", solver="newton-cholesky", tol=1e-10
  ).fit(scaler.transform(x[known]), y[known])
  return model.predict_proba(scaler.transform(test))[:, 1]


def slow_choice(x, y, groups, seed):
  """Loops over penalties, folds, rows and thresholds."""
  fold = crossfit.folds_of(y, groups, seed)
  known = np.flatnonzero(~np.isnan(y))
  losses, found = [], []
  for penalty in crossfit.PENALTIES:
    p = np.full(len(y), np.nan)
    for k in range(fold.max() + 1):
      for row in known[fold[known] == k]:
        train = known[fold[known] != k]
        p[row] = slow_probability(
          x[train], y[train], x[row : row + 1], penalty
        )[0]
    weight = np.where(y == 1, 1 / (y == 1).sum(), 1 / (y == 0).sum())
    losses.append(sk.log_loss(y[known], p[known], sample_weight=weight[known]))
    found.append(p)
  best = int(np.argmin(losses))
  logit, y = special.logit(found[best][known]), y[known]
  shifts = np.linspace(-6, 6, 120_001)
  means = np.array([special.expit(logit + s).mean() for s in shifts])
  shift = shifts[np.argmin(abs(means - y.mean()))]
  p = special.expit(logit + shift)
  values = sorted(set(p))
  f1 = [sk.f1_score(y, p >= value) for value in values]
  at = max(k for k, value in enumerate(f1) if value >= max(f1) - 1e-12)
  below = values[at - 1] if at else 0.0
  return crossfit.PENALTIES[best], shift, (values[at] + below) / 2


def test_a_probe_is_chosen_as_by_loops_of_scikit_learn():
  x, y, groups = rows(count=60)
  penalties = set()
  for seed in (0, 3):
    x, y, groups = rows(seed, count=60)
    head, choice = crossfit.linear(x, y, groups, seed=seed)
    penalty, shift, threshold = slow_choice(x, y, groups, seed)
    assert choice.penalty == penalty
    assert choice.shift == pytest.approx(shift, abs=1e-3)
    assert choice.threshold == pytest.approx(threshold, abs=1e-3)
    expected = special.logit(slow_probability(x, y, x, penalty)) + shift
    found = probe.probability(head, x)
    np.testing.assert_allclose(found, special.expit(expected), atol=1e-3)
    penalties.add(penalty)
  assert penalties & {1e-3, 1e-2, 1e-1}  # not at an end of the grid


@pytest.mark.parametrize(
  ("y", "p", "threshold"),
  [
    ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.7], 0.4),  # half-way
    ([1, 1, 0, 0], [0.4, 0.4, 0.4, 0.4], 0.2),  # all alike: all are called
    ([1, 0, 1, 0], [0.2, 0.4, 0.6, 0.8], 0.1),  # calling all is best
    # 2/3 whether one row is called or four: the fewer.
    ([1, 0, 0, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.1], 0.85),
    ([1, 0], [0.0, 1.0], 0.0),  # nothing below 0
  ],
)
def test_threshold_of_the_largest_f1(y, p, threshold):
  found = crossfit.best_threshold(np.array(y, float), np.array(p))
  assert found == pytest.approx(threshold)


def test_threshold_is_not_beaten_by_any_other():
  rng = np.random.default_rng(0)
  for _ in range(30):
    y = np.r_[1, (rng.random(20) < 0.3) * 1.0]
    p = np.round(rng.random(21), 1)  # with ties
    found = sk.f1_score(y, p >= crossfit.best_threshold(y, p))
    assert found == max(sk.f1_score(y, p >= t) for t in [0, *p])


def test_the_shift_brings_back_the_share_of_positives():
  rng = np.random.default_rng(0)
  y = (rng.random(200) < 0.1) * 1.0
  p = np.r_[0, 1, rng.random(198)]  # certain ones too
  shift = crossfit.recalibration(y, p)
  clipped = np.clip(p, 1e-9, 1 - 1e-9)
  moved = crossfit.shifted(clipped, shift)
  assert moved.mean() == pytest.approx(y.mean(), abs=1e-9)
  assert np.array_equal(np.argsort(moved), np.argsort(clipped))


def test_unbalanced_classifiers_keep_their_intercept():
  y, p = np.array([0, 0, 0, 1.0]), np.array([0.1, 0.3, 0.2, 0.9])
  assert crossfit.settle(y, p, balanced=False).shift == 0
  assert crossfit.settle(y, None, balanced=False).threshold == 0.5


def test_the_paper_probe_has_a_threshold_and_no_penalty():
  x, y, groups = rows(count=60)
  head, choice = crossfit.linear(x, y, groups, solver="sgd", seed=2)
  plain = probe.fit_linear(x, {"a": y}, solver="sgd", seed=2)["a"]
  assert choice.penalty is None and choice.shift == 0 and choice.folds == 5
  np.testing.assert_array_equal(head.bias, plain.bias)
  fold = crossfit.folds_of(y, groups, 2)
  p = np.zeros(60)
  for k in range(5):
    masked = np.where(fold == k, np.nan, y)
    of_fold = probe.fit_linear(x, {"a": masked}, solver="sgd", seed=2)["a"]
    p[fold == k] = probe.probability(of_fold, x[fold == k])
  known = ~np.isnan(y)
  expected = crossfit.best_threshold(y[known], p[known])
  assert choice.threshold == pytest.approx(expected)


def test_neighbours_of_the_own_patient_have_no_vote():
  """Three copies of every scan: with their votes any threshold is right."""
  rng = np.random.default_rng(0)
  x = np.repeat(rng.normal(size=(30, 4)), 3, axis=0)
  groups = np.repeat(np.arange(30), 3)
  y = np.repeat((rng.random(30) < 0.4) * 1.0, 3)
  votes, choice = crossfit.neighbours(x, y, groups, x[:5], k=4)
  np.testing.assert_allclose(votes, probe.knn(x, y, x[:5], k=4))
  fold = crossfit.folds_of(y, groups)
  p = np.zeros(90)
  for k in range(5):
    here = fold == k
    p[here] = probe.knn(x[~here], y[~here], x[here], k=4)
  assert choice.threshold == pytest.approx(crossfit.best_threshold(y, p))
  assert crossfit.neighbours(x, y * 0, groups, x, k=4) is None


def test_one_class_has_no_probe():
  x, y, groups = rows()
  assert crossfit.linear(x, y * 0, groups) is None


class FakeImages:
  """60 patients of two scans, half of them for evaluation, two labels."""

  labels = ("a", "b")

  def __init__(self):
    rng = np.random.default_rng(0)
    self.groups = np.repeat([f"p{k}" for k in range(60)], 2)
    self.features = rng.normal(size=(120, 6))
    part = np.where(np.arange(120) < 60, "train", "eval")
    labels = {
      name: (self.features[:, k] + rng.normal(size=120) > 0.4) * 1.0
      for k, name in enumerate(self.labels)
    }
    self.table = {"pool": np.ones(120, bool), **labels}
    self.train, self.evaluation = part == "train", part == "eval"

  def __len__(self):
    return 120


def judge_of(images):
  """A judge of prepared features, without networks or files."""
  found = object.__new__(judge.Judge)
  config = ConfigDict({"seed": 0})
  config.probe = settings.probe()
  config.probe.update(fractions=(0.3, 1.0), neighbours=5)
  found.context, found.images = SimpleNamespace(config=config), images
  found.rows = np.flatnonzero(images.evaluation)
  found.metrics, found.tables, found.heads = {}, {}, {}
  found.probabilities, found.chosen, found.classifiers = {}, {}, {}
  return found


def judged(images):
  found = judge_of(images)
  for name, scale in (("own", 1), ("other", [1, 0, 1, 1, 1, 1])):
    found.linear(images.features * scale, found.fractions(), name)
  return found


def test_evaluation_labels_choose_nothing():
  images, other = FakeImages(), FakeImages()
  rng = np.random.default_rng(9)
  for name in images.labels:
    other.table[name][60:] = rng.permutation(1 - images.table[name][60:])
  found, noise = judged(images), judged(other)
  for encoder in ("own", "other"):
    for fraction in ("0.3", "1"):
      pair = [j.chosen[encoder][fraction] for j in (found, noise)]
      assert pair[0].keys() == {"penalty", "shift", "threshold", "folds"}
      for field, values in pair[0].items():
        assert np.isfinite(values).all() and (pair[1][field] == values).all()
      kept = [j.probabilities[encoder][fraction] for j in (found, noise)]
      np.testing.assert_array_equal(*kept)
  ours, theirs = (
    j.metrics["probe/own@1/macro_auroc"]["value"] for j in (found, noise)
  )
  assert ours > theirs + 0.1
  # A training label does choose.
  other.table["a"][:60] = rng.permutation(other.table["a"][:60])
  chosen = judged(other).chosen["own"]["1"]
  assert chosen["threshold"][0] != found.chosen["own"]["1"]["threshold"][0]


def test_every_fraction_is_kept_and_scored_at_its_own_thresholds():
  images = FakeImages()
  found = judged(images)
  for key in ("0.3", "1"):
    values = found.probabilities["own"][key]
    chosen = found.chosen["own"][key]
    assert values.shape == (60, 2)
    for k, name in enumerate(images.labels):
      truth = images.table[name][60:]
      f1 = sk.f1_score(truth, values[:, k] >= chosen["threshold"][k])
      assert found.metrics[f"probe/own@{key}/{name}/f1"]["value"] == (
        pytest.approx(f1)
      )
      entry = found.metrics[f"probe/own@{key}/{name}/threshold"]
      assert entry == {
        "value": chosen["threshold"][k],
        "low": None,
        "high": None,
        "n": 60,
        "folds": 5,
        "penalty": chosen["penalty"][k],
      }
  assert "probe/own@0.3/knn_macro_f1" in found.metrics
  unchosen = {f: np.full(2, np.nan) for f in crossfit.Choice._fields}
  found.record("one", 1.0, np.full((60, 2), np.nan), unchosen)
  assert "probe/one@1/a/threshold" not in found.metrics
  json.dumps(found.metrics)


def slow_table(images, values, threshold):
  return by_label.table(
    {n: images.table[n][60:] for n in images.labels},
    {n: values[:, k] for k, n in enumerate(images.labels)},
    images.groups[60:],
    thresholds=dict(zip(images.labels, threshold, strict=True)),
  )


def test_differences_are_paired_and_corrected_over_arms_and_fractions():
  images = FakeImages()
  found = judged(images)
  found.tables["supervised@1"] = found.tables["other@0.3"]
  names = ("own", "other", "supervised")
  entries = few_labels.differences(found.tables, names, (0.3, 1.0))
  tables = {
    key: slow_table(
      images,
      found.probabilities["own"][key],
      found.chosen["own"][key]["threshold"],
    )
    for key in ("0.3", "1")
  }
  main = {}
  for key, theirs in (
    ("0.3", "other@0.3"),
    ("1", "other@1"),
    ("1", "supervised@1"),
  ):
    both = by_label.differences(tables[key], found.tables[theirs])
    arm = theirs.split("@")[0]
    main[f"probe/own@{key}/macro_auroc_over_{arm}"] = both["macro_auroc"]
  expected = comparisons.family(main)
  for name, entry in expected.items():
    assert entries[name] == pytest.approx(entry), name
    assert entry["family"] == 3
  of_labels = [n for n in entries if "/auroc_over_" in n]
  assert len(of_labels) == 6
  assert entries["probe/own@1/b/auroc_over_other"]["family"] == 6
  assert entries["probe/own@0.3/macro_f1_over_other"]["family"] == 3
  assert entries["probe/own@1/b/auroc_over_other"]["value"] > 0.1
  json.dumps(entries)


def test_a_table_says_which_labels_its_means_leave_out():
  images = FakeImages()
  images.table["b"][60:] = 0
  images.table["b"][60:68] = 1  # four positive evaluation patients
  found = judged(images)
  values = found.probabilities["own"]["0.3"].copy()
  values[:, 0] = np.nan  # as if the labelled images had one class of a
  found.record("own", 0.3, values, found.chosen["own"]["0.3"])
  found.metrics |= {
    f"probe/{n.removeprefix('probe/own@1/')}": entry
    for n, entry in found.metrics.items()
    if n.startswith("probe/own@1/")
  }
  assert found.metrics["probe/own@1/macro_auroc"]["skipped"] == ["b"]
  assert found.metrics["probe/own@0.3/macro_auroc"]["skipped"] == ["a", "b"]
  arguments = found.metrics, ("own", "other"), (0.3, 1.0)
  for block in (
    report_probe.per_encoder(*arguments),
    report_probe.learning_curves(*arguments),
  ):
    assert "Means leave out b (4 positive evaluation groups)." in block.caption
    assert "At 30 % of the groups they also leave out a (" in block.caption
    assert "At 100 %" not in block.caption


def test_fine_tunes_are_compared_with_fine_tunes():
  assert few_labels.opponents(("own", "simclr", "supervised")) == [
    ("own", "simclr"),
    ("own", "supervised"),
    ("own+finetune", "simclr+finetune"),
    ("own+finetune", "supervised"),
  ]


def test_networks_are_cut_by_probabilities_out_of_fold():
  y = np.array([[1, 1, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1], [np.nan, 0, 1]])
  p = np.array([[0.9, 0.6], [0.3, 0.4], [0.7, 0.5], [0.2, 0.4], [0.5, 0.1]])
  fold = np.array([0, 0, 1, 1, 1])
  found = judge.settled(y, np.c_[p, p[:, 0]], fold, True)
  known = [0, 1, 2, 3]
  expected = crossfit.settle(y[known, 0], p[known, 0], True)
  assert found[0] == expected._replace(folds=2)
  assert found[1] == crossfit.settle(y[:, 1], None, True)  # one group has it
  assert found[2] is None
  chosen = judge.chosen_of(found)
  np.testing.assert_array_equal(chosen["folds"], [2, 0, np.nan])
  assert np.isnan(chosen["penalty"]).all()


def mapped(function, tree, arrays, **_):
  """Stands for `Context.map`."""
  return function(tree, arrays)


def networks(monkeypatch, images, parts, **options):
  """A judge whose networks are noted: rows and name of every fit."""
  found, fits = judge_of(images), []
  found.context.config.finetune = settings.finetune()
  found.context.config.finetune.update(folds=parts)
  images.ids, images.pixels = np.arange(120).astype(str), np.arange(120)
  found.encoder = found.views = found.batch_size = None

  def fit(_, config, encoder, pixels, targets, rows, **others):
    fits.append((others["name"], rows, others["batch_rows"]))
    head = {"params": {"bias": np.zeros(2, np.float32)}}
    return {"encoder": None, "head": head}

  def predict(trained, batch):
    rows, bias = batch["image"][:], trained["head"]["params"]["bias"]
    return special.expit(images.features[rows, :2] + bias)

  monkeypatch.setattr(judge.finetune, "fit", fit)
  found.predictor, found.context.map = predict, mapped
  return found, fits


@pytest.mark.parametrize("parts", [2, 3])
def test_networks_are_refitted_without_each_part_of_the_groups(
  monkeypatch, parts
):
  images = FakeImages()
  found, fits = networks(monkeypatch, images, parts)
  rows = found.fractions()[1.0]
  values, chosen = found.finetuned(rows, "supervised@1")
  (whole, drawn, _), *others = fits
  assert whole == "supervised@1" and np.array_equal(drawn, rows)
  left_out = []
  for _, drawn, batch_rows in others:
    assert batch_rows == len(rows) and set(drawn) < set(rows)
    out = np.setdiff1d(rows, drawn)
    assert not set(images.groups[out]) & set(images.groups[drawn])
    left_out += out.tolist()
  assert len(others) == parts and sorted(left_out) == sorted(rows)
  # Every fit predicts alike here: what is chosen, and where it goes, is plain.
  for k, name in enumerate(images.labels):
    p = special.expit(images.features[:, k])
    choice = crossfit.settle(images.table[name][rows], p[rows], True)
    assert chosen["shift"][k] == pytest.approx(choice.shift)
    assert chosen["threshold"][k] == pytest.approx(choice.threshold)
    assert chosen["folds"][k] == parts
    np.testing.assert_allclose(
      values[:, k], crossfit.shifted(p[found.rows], choice.shift), rtol=1e-5
    )
  kept = found.classifiers["supervised@1"]["head"]["params"]["bias"]
  np.testing.assert_allclose(kept, chosen["shift"], rtol=1e-6)


def test_networks_without_folds_are_cut_at_a_balanced_half(monkeypatch):
  images = FakeImages()
  found, fits = networks(monkeypatch, images, 0)
  rows = found.fractions()[1.0]
  _, chosen = found.finetuned(rows, "supervised@1")
  assert len(fits) == 1 and (chosen["folds"] == 0).all()
  share = [images.table[n][rows].mean() for n in images.labels]
  np.testing.assert_allclose(chosen["threshold"], share)
