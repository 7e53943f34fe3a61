"""Opponents on equal terms, texture, and differences of the severity score."""

import pathlib
import re
import types

import numpy as np
import pytest
import severity_scores
from scipy import ndimage, stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from gcl_jax import binning
from gcl_jax.engine.tables import pack
from gcl_jax.errors import DataError
from gcl_jax.evaluation import comparisons, metrics
from gcl_jax.methods.severity import (
  bin,
  error_map,
  folds,
  grade,
  opponents,
  report,
  texture,
)
from gcl_jax.methods.severity.config import get_config

pytestmark = pytest.mark.compiles

COUNT = 90


class Scans:
  """90 scans of 45 patients: 24 to 44 are for evaluation, every third is
  diseased; the first feature of the device is the brightness."""

  def __init__(self, seed=0):
    rng = np.random.default_rng(seed)
    self.groups = np.repeat(np.arange(COUNT // 2), 2)
    self.diseased = self.groups % 3 == 0
    self.healthy = ~self.diseased
    self.evaluation = self.groups >= 24
    self.table = {"pool": np.ones(COUNT, bool)}
    shapes = rng.uniform(0, 120, (6, 24, 16))
    images = np.tensordot(rng.dirichlet(np.ones(6), COUNT), shapes, 1)
    images += rng.normal(0, 8, images.shape)
    images[self.diseased, 8:12] += 40
    light = rng.uniform(0, 60, COUNT)
    images += light[:, None, None]
    self.pixels = np.clip(images, 0, 255).astype(np.uint8)[..., None]
    self.artifact = {"texture": np.stack([light, rng.normal(size=COUNT)], 1)}
    self.labels = ()

  def __len__(self):
    return COUNT

  def part(self, name):
    return self.evaluation if name == "eval" else ~self.evaluation


def trained(images, folds, held_out=3):
  """Artifact of stage `gradcon` with the first scans seen for validation."""
  used = np.flatnonzero(images.healthy & images.part("train"))
  fold = np.full(COUNT, -1)
  fold[used] = folds if folds == 1 else images.groups[used] // 3 % folds
  models = {}
  for number in range(folds):
    seen = used[fold[used] != number]
    models[str(number)] = {"validation_rows": seen[: 2 * held_out]}
  return {"fold": fold, "models": models}


def layers_by_hand(residual):
  found = []
  for image in residual:
    smooth = ndimage.gaussian_filter1d(image, 24 * 0.7 / 48, axis=0)
    blocks = np.split(smooth**2, 4, axis=1)
    worst = [np.sort(block.mean(1))[-4:].mean() for block in blocks]
    found.append(np.mean(np.log(np.array(worst) + error_map.FLOOR)))
  return np.array(found)


def errors_by_hand(images, rows):
  """{name: float[N]} under scikit-learn's PCA of some rows."""
  flat = images.pixels.reshape(COUNT, -1) / 255
  model = PCA(min(60, len(rows) - 1), svd_solver="full").fit(flat[rows])
  residual = flat - model.inverse_transform(model.transform(flat))
  maps = residual.reshape(COUNT, 24, 16)
  return {"pca": (residual**2).mean(1), "pca_layers": layers_by_hand(maps)}


@pytest.mark.parametrize("folds", [2, 3])
def test_the_pca_is_fitted_and_levelled_like_the_autoencoders(folds):
  images = Scans()
  artifact = trained(images, folds)
  fold, found = artifact["fold"], opponents.scores(images, artifact)
  each = []
  for number in range(folds):
    held_out = artifact["models"][str(number)]["validation_rows"]
    seen = (fold >= 0) & (fold != number)
    seen[held_out] = False
    each.append(errors_by_hand(images, np.flatnonzero(seen)))
  for name in ("pca", "pca_layers"):
    levels = [
      (each[k][name][fold == k].mean(), each[k][name][fold == k].std())
      for k in range(folds)
    ]
    mean, sd = np.mean(levels, 0)
    expected = []
    for row in range(COUNT):
      models = range(folds) if fold[row] < 0 else [fold[row]]
      scores = [
        (each[k][name][row] - levels[k][0]) / levels[k][1] * sd + mean
        for k in models
      ]
      expected.append(np.mean(scores))
    np.testing.assert_allclose(found[name], expected, rtol=2e-3)
  assert set(found) == set(opponents.NAMES)


def test_one_model_has_one_pca_without_the_validation_scans():
  images = Scans()
  artifact = trained(images, 1)
  held_out = artifact["models"]["0"]["validation_rows"]
  rows = np.setdiff1d(np.flatnonzero(artifact["fold"] == 1), held_out)
  found = opponents.scores(images, artifact)
  expected = errors_by_hand(images, rows)
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, rtol=5e-3, atol=1e-6)


def test_without_autoencoders_one_pca_of_all_healthy_training_scans():
  images = Scans()
  healthy = images.healthy & images.part("train")
  found = opponents.scores(images, None)
  expected = errors_by_hand(images, np.flatnonzero(healthy))
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, rtol=5e-3, atol=1e-6)
  images.healthy[:] = False
  assert set(opponents.scores(images, None)) == {"edge", "brightness"}


def test_who_is_scored_by_a_model_that_was_fitted_to_it():
  fold = np.array([0, 1, 1, 0, -1])
  assert not folds.seen_by_its_scorer(fold, [[1], [0]]).any()
  single = np.array([1, 1, -1, 1, -1])  # one model of the rows with a 1
  found = folds.seen_by_its_scorer(single, [np.array([1])])
  assert found.tolist() == [True, False, False, True, False]


def settings(**changes):
  config = get_config("tiny").score
  config.update(changes)
  return config


def test_texture_is_fitted_on_left_out_scores():
  """Cross-fitted: all healthy training scans. One model: those outside its
  training, where they are enough."""
  images = Scans()
  scores = {"severity": np.random.default_rng(1).normal(5, 0.1, COUNT)}
  healthy = images.healthy & ~images.evaluation
  single = trained(images, 1)
  single["fold"][images.groups % 4 != 1] = -1  # of another cohort
  cases = [(trained(images, 2), healthy)]
  cases.append((single, healthy & (single["fold"] < 0)))
  cases[1][1][single["models"]["0"]["validation_rows"]] = True
  light = images.artifact["texture"]
  for artifact, rows in cases:
    model = LinearRegression().fit(light[rows], scores["severity"][rows])
    expected = scores["severity"] - model.predict(light)
    found, reasons = texture.adjusted(images, scores, artifact, settings())
    np.testing.assert_allclose(found["severity"], expected, atol=1e-9)
    assert not reasons


def of_one_model(left_out, seen):
  """Scores of one model with these means over healthy scans that it left out
  and that it was fitted to; 99 for evaluation scans."""
  images = Scans()
  artifact = trained(images, 1)
  held_out = artifact["models"]["0"]["validation_rows"]
  scores = np.full(COUNT, float(seen))
  scores[held_out] = left_out
  scores[images.evaluation] = 99.0
  return images, artifact, scores


@pytest.mark.parametrize(
  ("name", "left_out", "seen", "used"),
  [
    ("pca", 1.19, 1.0, True),
    ("pca", 0.81, 1.0, True),
    ("pca", 1.21, 1.0, False),
    ("pca", 0.79, 1.0, False),
    ("severity.grad", -0.2, -0.3, False),
    ("severity.grad", -0.28, -0.3, True),
    ("pca_layers", -7.0, -7.17, True),  # exp(0.17) = 1.185
    ("pca_layers", -7.0, -7.19, False),
    ("severity", -7.0, -7.19, False),
    ("edge", 5.0, 1.0, True),
    ("brightness", 5.0, 1.0, True),
  ],
)
def test_a_score_that_models_remember_is_not_adjusted(
  name, left_out, seen, used
):
  images, artifact, scores = of_one_model(left_out, seen)
  config = settings(pooling="layers", mode="recon")
  found, reasons = texture.adjusted(images, {name: scores}, artifact, config)
  assert (name in found) == used and (name in reasons) != used
  if not used:
    assert f"{seen:.3g} over 26 others" in reasons[name]
    assert "over 6 healthy" in reasons[name]


def test_the_plain_error_of_a_run_is_on_no_log_scale():
  images, artifact, scores = of_one_model(1.19, 1.0)
  config = settings(pooling="mean")
  found, _ = texture.adjusted(images, {"severity": scores}, artifact, config)
  assert "severity" in found
  config = settings(pooling="layers", mode="grad")
  found, _ = texture.adjusted(images, {"severity": scores}, artifact, config)
  assert "severity" in found


def test_without_a_left_out_scan_fitted_scores_are_not_adjusted():
  images = Scans()
  names = ("severity", "pca", "edge")
  scores = dict.fromkeys(names, np.arange(COUNT, dtype=float))
  found, reasons = texture.adjusted(
    images, scores, None, settings(source="msp")
  )
  assert set(found) == {"edge"} and "left out" in reasons["pca"]
  config = settings(source="random")
  assert set(texture.adjusted(images, scores, None, config)[0]) == {
    "severity",
    "edge",
  }
  images.artifact["texture"] = np.ones((COUNT, 20))
  found, reasons = texture.adjusted(images, scores, None, config)
  assert not found and "32 healthy" in reasons["edge"]


def test_a_pca_that_remembers_its_scans_is_refused_and_a_cross_fitted_is_not():
  images = Scans()
  for count, used in ((1, False), (2, True)):
    artifact = trained(images, count)
    scores = opponents.scores(images, artifact)
    found, _ = texture.adjusted(images, scores, artifact, settings())
    assert ("pca" in found) == ("pca_layers" in found) == used


def graded(seed=0):
  images = Scans()
  rng = np.random.default_rng(seed)
  names = ("severity", "severity.recon", *opponents.NAMES)
  scores = {
    name: images.diseased * (1.5 - 0.2 * k) + rng.normal(size=COUNT)
    for k, name in enumerate(names)
  }
  images.table["severity"] = images.diseased + rng.normal(size=COUNT)
  adjusted = {name: scores[name] ** 3 + 1 for name in ("severity", "edge")}
  return images, scores, adjusted


def test_figures_of_scores_are_those_of_the_metrics():
  images, scores, adjusted = graded()
  found = grade.measure(images, scores, adjusted)
  rows = images.evaluation
  sick, groups = images.diseased[rows].astype(int), images.groups[rows]
  for name, score in scores.items():
    expected = metrics.jackknife(
      metrics.auroc, sick, score[rows], groups=groups
    )
    assert found[grade.metric_name(name, "auroc")] == pytest.approx(expected)
    assert expected["value"] == pytest.approx(roc_auc_score(sick, score[rows]))
    expected = metrics.jackknife(
      metrics.sensitivity_at_specificity, sick, score[rows], groups=groups
    )
    key = grade.metric_name(name, "sensitivity_at_90_specificity")
    assert found[key] == pytest.approx(expected)
    truth = images.table["severity"][rows]
    expected = stats.spearmanr(truth, score[rows]).statistic
    key = grade.metric_name(name, "spearman")
    assert found[key]["value"] == pytest.approx(expected)
    assert found[key]["low"] < expected < found[key]["high"]
  assert {n for n in found if n.endswith("_adjusted")} == {
    "severity/auroc_adjusted",
    "baseline/edge_auroc_adjusted",
  }


def test_differences_are_paired_and_corrected_by_family():
  images, scores, adjusted = graded()
  found = grade.measure(images, scores, adjusted)
  rows = images.evaluation
  sick, groups = images.diseased[rows].astype(int), images.groups[rows]
  truth = images.table["severity"][rows]
  for key, metric, target, given in (
    ("auroc", metrics.auroc, sick, scores),
    ("auroc_adjusted", metrics.auroc, sick, adjusted),
    ("spearman", metrics.spearman, truth, scores),
  ):
    expected = {
      name: metrics.paired(
        metric, target, given["severity"][rows], given[name][rows], groups
      )
      for name in opponents.NAMES
      if name in given
    }
    assert len(expected) == (1 if given is adjusted else 4)
    for name, entry in comparisons.family(expected).items():
      assert found[f"severity/{key}_over_{name}"] == pytest.approx(entry), name
  words = grade.compared(found, "auroc")
  assert list(words) == [
    f"severity score over {n}" for n in opponents.NAMES.values()
  ]
  lines = grade.lines(found, {"pca": "few scans", "pca_layers": "few scans"})
  assert sum("p by Holm" in line for line in lines) == 9
  assert "no AUROC without texture of pca, pca_layers: few scans" in lines


def test_a_truth_that_no_evaluation_scan_has_gives_no_correlation():
  images, scores, adjusted = graded()
  images.table["severity"][images.evaluation] = np.nan
  found = grade.measure(images, scores, adjusted)
  assert found and not any("spearman" in name for name in found)


def test_one_class_and_bad_scores():
  images, scores, adjusted = graded()
  images.diseased[:] = False
  images.healthy[:] = True
  found = grade.measure(images, scores, adjusted)
  assert found and all("spearman" in name for name in found)
  scores["edge"] = np.full(COUNT, np.nan)
  with pytest.raises(DataError, match="NaN"):
    grade.measure(images, scores, adjusted)


@pytest.mark.parametrize(
  ("low", "high", "said"),
  [
    (0.01, 0.05, None),
    (-0.05, -0.01, "is below"),
    (-0.01, 0.05, "not told apart .* 0.077 could be shown"),
    (None, None, "not told apart .* too few groups"),
  ],
)
@pytest.mark.parametrize("pooling", ["mean", "layers"])
def test_the_warning_follows_the_paired_interval(low, high, said, pooling):
  """Whatever the two single figures are."""
  value = 0.02 if low is None else (low + high) / 2
  entry = {"value": value, "low": low, "high": high, "p": 0.1}
  entry["smallest"] = None if low is None else 0.077
  good = entry | {"low": 0.3, "high": 0.4}
  ours, other = ("pca_layers", "pca")[:: 1 if pooling == "layers" else -1]
  found = {
    f"severity/auroc_over_{ours}": entry,
    f"severity/auroc_over_{other}": good,
    "severity/auroc": {"value": 0.5},
    "baseline/pca_auroc": {"value": 0.9},
  }
  notes = report._weak_score(found, settings(pooling=pooling))
  assert len(notes) == (said is not None)
  if said:
    assert re.search(said, notes[0])
  assert not report._weak_score({}, settings())


def test_bins_of_a_mean_of_models_have_the_width_of_the_mean():
  """The stage tells the rule that the binned score is a mean over models."""
  rng = np.random.default_rng(0)
  truth = rng.uniform(size=3000)
  models = truth[:, None] + 0.03 * rng.normal(size=(3000, 3))
  config = types.SimpleNamespace(
    bin=types.SimpleNamespace(rule="choose", count=9, allow_empty=False),
    supcon=types.SimpleNamespace(batch_size=64),
  )
  scores = models.mean(1)
  found = bin.binned(scores, config, models)
  expected = binning.choose(scores, repeatability=models, averaged=3)
  np.testing.assert_array_equal(found.edges, expected.edges)
  assert (
    found.requested > binning.choose(scores, repeatability=models).requested
  )


def test_the_benchmark_averages_over_seeds_and_patients(monkeypatch):
  images, runs = Scans(), {}
  part = np.where(images.evaluation, "eval", "train")
  table = pack({"part": part, "group": images.groups.astype(str)})
  for seed in (0, 1, 2):
    _, scores, adjusted = graded(seed)
    kept = {"severity": adjusted["severity"]} if seed else adjusted
    sick = np.where(np.arange(COUNT) == 80, np.nan, images.diseased)
    runs[f"{seed}/grade/artifact"] = {
      "scores": scores,
      "adjusted": kept,
      "sick": sick,
    }
    runs[f"{seed}/data/artifact"] = {"table": table}
  monkeypatch.setattr(
    severity_scores, "load_artifact", lambda path: runs[str(path)]
  )
  folders = [pathlib.Path(str(seed)) for seed in (0, 1, 2)]
  values, support = severity_scores.figures(folders, "auroc")
  found = severity_scores.over_seeds(
    values["severity"] - values["edge"], support, paired=True
  )
  rows = images.evaluation & (np.arange(COUNT) != 80)
  sick, groups = images.diseased[rows].astype(int), images.groups[rows]
  each = [
    [roc_auc_score(sick, graded(k)[1][name][rows]) for k in (0, 1, 2)]
    for name in ("severity", "edge")
  ]
  assert found["value"] == pytest.approx(np.mean(np.subtract(*each)))
  assert found["fits"] == 3 and found["n"] == rows.sum()
  assert found["groups"] == len(set(groups)) and found["p"] is not None
  single = severity_scores.over_seeds(values["edge"][:1], support)
  score = graded(0)[1]["edge"][rows]
  expected = metrics.jackknife(metrics.auroc, sick, score, groups=groups)
  assert single == pytest.approx(expected)
  # A score that is adjusted in one of the runs only has no mean.
  assert set(severity_scores.figures(folders, "auroc_adjusted")[0]) == {
    "severity"
  }
