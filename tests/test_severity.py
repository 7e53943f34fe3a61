"""Guarantees of the severity method, on the tiny preset."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scipy import ndimage

from gcl_jax import data, main
from gcl_jax.engine import parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.engine.settings import preset_names
from gcl_jax.engine.telemetry import read_metrics
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.severity import (
  error_map,
  folds,
  gradcon,
  grade,
  pretrain,
  score,
)
from gcl_jax.methods.severity.config import (
  CHOICES,
  PRESETS,
  check,
  get_config,
)
from gcl_jax.pipeline import sources

pytestmark = pytest.mark.compiles


def tiny(**changes):
  config = get_config("tiny")
  config.arms = ()
  config.log_every = 1
  config.update_from_flattened_dict(changes)
  return config


def two_devices():
  return parallel.make_mesh(jax.devices()[:2])


def run_until(config, workdir, last):
  for stage in ("data", "gradcon", "score", "bin", "supcon"):
    found = main.run(config, workdir, two_devices(), only=stage)
    if stage == last:
      return found
  raise AssertionError(last)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("strict")
  run_until(tiny(), workdir, "supcon")
  return workdir


def with_noise_in_the_evaluation_part(dataset, held_out):
  """Same ids and labels with other evaluation images."""
  noise = np.random.default_rng(0)

  def read(row):
    image = dataset.read(row)
    if held_out[row]:
      return noise.integers(0, 256, image.shape).astype(np.uint8)
    return image

  return dataclasses.replace(dataset, read=read)


def test_evaluation_images_touch_nothing(finished, tmp_path, monkeypatch):
  config = tiny()
  dataset = data.load(config.data)
  held_out = sources.parts(dataset, config.data) == "eval"
  assert held_out.any() and not held_out.all()
  changed = with_noise_in_the_evaluation_part(dataset, held_out)
  monkeypatch.setattr(data, "load", lambda _: changed)
  run_until(config, tmp_path, "supcon")
  for stage in ("gradcon", "supcon"):
    before = json.loads((finished / stage / "manifest.json").read_text())
    after = json.loads((tmp_path / stage / "manifest.json").read_text())
    assert before["arrays"] == after["arrays"], stage
  for stage, key in (("score", "score"), ("bin", "edges")):
    before = load_artifact(finished / stage / "artifact")[key]
    after = load_artifact(tmp_path / stage / "artifact")[key]
    if stage == "bin":
      np.testing.assert_array_equal(before["severity"], after["severity"])
    else:
      np.testing.assert_array_equal(before[~held_out], after[~held_out])
      assert not np.array_equal(before[held_out], after[held_out])


def test_every_fold_trains_with_its_own_alpha(finished):
  """J = L + alpha G in the logs, with the alpha of the fold's images, although
  the folds share a program."""
  models = load_artifact(finished / "gradcon" / "artifact")["models"]
  alphas = {name: float(model["alpha"]) for name, model in models.items()}
  config = tiny().autoencoder
  for name, model in models.items():
    assert alphas[name] == pytest.approx(
      config.alpha * float(model["mean_image_loss"]), rel=1e-5
    )
    added = float(model["validation"]) - float(model["reconstruction"])
    assert 0 < abs(added) <= 1.001 * alphas[name]
  assert len(set(alphas.values())) == 2
  logged = [
    record
    for record in read_metrics(finished / "gradcon")
    if "gradient" in record and record["gradient"]
  ]
  assert {record["name"] for record in logged} == {"gradcon/0", "gradcon/1"}
  for record in logged:
    alpha = alphas[record["name"].removeprefix("gradcon/")]
    added = record["loss"] - record["reconstruction"]
    assert added == pytest.approx(alpha * record["gradient"], rel=1e-2)


def test_healthy_training_scans_are_scored_by_a_model_that_never_saw_them(
  finished,
):
  trained = load_artifact(finished / "gradcon" / "artifact")
  table = load_artifact(finished / "data" / "artifact")["table"]
  fold = trained["fold"]
  used = (table["healthy"] == 1) & (table["part"] == "train")
  np.testing.assert_array_equal(fold >= 0, used)
  use = folds.usable(fold, 2)
  for number in (0, 1):
    groups = set(table["group"][fold == number])
    assert groups and not groups & set(table["group"][fold == 1 - number])
    assert use[fold == number].tolist() == [[number == 0, number == 1]] * sum(
      fold == number
    )
    rows = trained["models"][str(number)]["validation_rows"]
    assert set(fold[rows]) == {1 - number}, "validated on seen groups"
  assert use[fold < 0].all()


def test_scores_of_models_are_levelled_before_they_are_averaged():
  rng = np.random.default_rng(0)
  true = rng.normal(size=40)
  values = np.stack([true, 3 * true + 7], 1)
  levels = folds.levels_of(values, [np.arange(20), np.arange(20)])
  level = folds.levelled(values, levels)
  np.testing.assert_allclose(level[:, 0], level[:, 1])
  use = np.ones((40, 2), bool)
  use[:5, 0] = False
  one_model = folds.combined(level, use)
  np.testing.assert_allclose(one_model, level[:, 1])


def test_score_is_error_minus_beta_times_cosine(finished):
  found = load_artifact(finished / "score" / "artifact")
  np.testing.assert_allclose(found["grad"].shape, found["recon"].shape)
  assert found["cos"].shape == (len(found["ids"]), 4)
  # One model on the absolute scale: score = recon - 0.12 mean cos, exactly.
  config = get_config("tiny")
  config.score.beta_scale = "absolute"
  beta = score._beta(config.score, np.zeros((3, 1)), [np.arange(3)])
  np.testing.assert_array_equal(beta, [0.12])


def test_pooling_by_layers_against_plain_numpy():
  rng = np.random.default_rng(0)
  residual = rng.normal(size=(3, 24, 16, 1)).astype(np.float32)
  expected = []
  for image in residual[..., 0].astype(np.float64):
    smooth = ndimage.gaussian_filter1d(image, 24 * 0.7 / 48, axis=0)
    blocks = np.split(smooth**2, 4, axis=1)
    worst = [np.sort(block.mean(1))[-4:].mean() for block in blocks]
    expected.append(np.mean(np.log(np.array(worst) + error_map.FLOOR)))
  found = error_map.by_layers(residual)
  np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_pooling_by_layers_sees_a_bad_row_that_the_mean_hardly_does():
  even = np.full((1, 48, 128, 1), 0.1, np.float32)
  lesion = even.copy()
  lesion[:, 20:26] *= 2
  more = error_map.by_layers(lesion) - error_map.by_layers(even)
  assert np.exp(more) > 1.5 * np.mean(lesion**2) / np.mean(even**2)


def test_a_model_without_reference_gradients_is_refused():
  class Nothing:
    config = get_config("tiny")

  class Pixels:
    pixels = np.zeros((2, 32, 64, 1), np.uint8)

  with pytest.raises(DataError, match="no reference gradients"):
    score._sweep(Nothing, Pixels, {"params": {}, "count": 0}, "score")


def test_mean_image_loss_is_the_error_of_the_mean_image():
  pixels = np.random.default_rng(0).integers(0, 256, (300, 4, 6, 1), np.uint8)
  x = pixels / 255
  expected = np.mean((x - x.mean(0)) ** 2)
  assert gradcon.mean_image_loss(pixels) == pytest.approx(expected, rel=1e-12)


def test_alpha_is_absolute_or_a_share_of_the_mean_image_loss():
  config = get_config("tiny").autoencoder
  assert gradcon.absolute_alpha(config, 0.02) == pytest.approx(
    config.alpha * 0.02
  )
  config.alpha_scale = "absolute"
  assert gradcon.absolute_alpha(config, 0.02) == config.alpha


def test_missing_column_values_are_like_no_other():
  labels = pretrain.codes(np.array([1.0, np.nan, 1.0, np.nan, 2.0]))
  assert labels[0] == labels[2] != labels[4]
  assert len({labels[1], labels[3], labels[0], labels[4]}) == 4
  words = pretrain.codes(np.array(["a", "", "a", ""]))
  assert words[0] == words[2] and len(set(words[[0, 1, 3]])) == 3


def test_labels_of_evaluation_images_are_not_trained_on():
  """Whatever they are: a hidden value is like no other."""
  column, hidden = (
    np.array([0.0, 1, 0, 1]),
    np.array([False, False, True, True]),
  )
  labels = pretrain.codes(column, hidden)
  assert len(set(labels.tolist())) == 4
  flipped = np.where(hidden, 1 - column, column)
  np.testing.assert_array_equal(labels, pretrain.codes(flipped, hidden))


@pytest.mark.parametrize("preset", preset_names("severity", PRESETS))
def test_presets_are_complete(preset):
  config = get_config(preset)
  assert config.preset == preset and config.method == "severity"
  main.method_stages(config).stages(config)


SHARED = ("parallel", "protocol", "data.duplicates", "autoencoder.schedule")
SHARED += ("score.dtype", "supcon.arch", "supcon.stem", "supcon.dtype")
SHARED += ("supcon.optimizer", "supcon.schedule", "finetune.optimizer")
SHARED += ("probe.solver", "report.embedding", "data.group_unknown")


@pytest.mark.parametrize("name", [*CHOICES, *SHARED])
def test_a_word_that_is_no_choice_is_refused_before_anything_runs(name):
  with pytest.raises(ConfigError, match=f"{name} 'nonsense' is not one of"):
    check(tiny(**{name: "nonsense"}))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data.group_unknown": "volume"}, "refuse, exclude, image"),
    ({"bin.rule": "equal_widht"}, "did you mean 'equal_width'"),
    ({"preprocess.size": (40, 64)}, r"such as \(48, 64\)"),
    ({"preprocess.size": (32, 64, 28)}, "rows, columns"),
    ({"autoencoder.padding": "paper28"}, r"such as \(44, 76\)"),
    ({"arms": ("simclr", "simclr")}, "each once"),
    ({"supcon.loss": "soft", "supcon.images_per_bin": 2}, "images_per_bin"),
    ({"autoencoder.steps": 5}, "no model would be kept"),
    ({"probe.fractions": (0.0, 1.0)}, "probe.fractions must be more than 0"),
    ({"supcon.blur": 1.5}, "supcon.blur must be 1 or less"),
    ({"supcon.labels": ("image",)}, "a name that batches use"),
    ({"finetune.loss": "softmax"}, "finetune.loss 'softmax' is not one of"),
  ],
)
def test_settings_that_cannot_run_are_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    check(tiny(**changes))


def test_one_model_leaves_the_healthy_scans_of_the_pool_alone():
  class Some:
    table = {
      "part": np.array(["train"] * 4 + ["eval"]),
      "pool": np.array([True, True, False, False, True]),
    }
    healthy = np.array([True, False, True, True, True])

    def __len__(self):
      return 5

  assert gradcon.fold_of(Some(), 1, 0).tolist() == [-1, -1, 1, 1, -1]
  Some.table["pool"][:] = True
  assert gradcon.fold_of(Some(), 1, 0).tolist() == [1, -1, 1, 1, -1]


def test_without_a_healthy_column_sick_means_any_label():
  class Some:
    table = {"a": np.array([1.0, 0, np.nan, np.nan]), "b": np.zeros(4)}
    labels = ("a", "b")
    healthy = diseased = np.zeros(4, bool)
    evaluation = np.ones(4, bool)

    def __len__(self):
      return 4

  Some.table["b"][3] = 1
  np.testing.assert_array_equal(grade.sick_of(Some()), [1, 0, np.nan, 1])


def test_an_unknown_preset_names_the_near_one():
  with pytest.raises(ConfigError, match="did you mean 'octdl'"):
    get_config("octld")


@pytest.mark.parametrize(
  ("changes", "stage", "message"),
  [
    ({"score.mode": "gradcom"}, "score", "score.mode"),
    ({"bin.rule": "equal"}, "bin", "bin.rule"),
    ({"supcon.labels": ("CST",)}, "supcon", "neither a bin"),
    ({"supcon.labels": ("severity", "eye")}, "supcon", "one weight"),
  ],
)
def test_bad_settings_are_named(finished, tmp_path, changes, stage, message):
  order = ["data", "gradcon", "score", "bin", "supcon"]
  for name in order[: order.index(stage)]:
    (tmp_path / name).symlink_to(finished / name)
  if stage == "supcon":
    (tmp_path / "bin").unlink()
    main.run(tiny(**changes), tmp_path, two_devices(), only="bin")
  with pytest.raises(ConfigError, match=message):
    main.run(tiny(**changes), tmp_path, two_devices(), only=stage)


def test_several_label_sets_train_together(finished, tmp_path):
  changes = {
    "supcon.labels": ("severity", "eye"),
    "supcon.label_weights": (0.5, 0.5),
  }
  for name in ("data", "gradcon", "score"):
    (tmp_path / name).symlink_to(finished / name)
  for stage in ("bin", "supcon"):
    main.run(tiny(**changes), tmp_path, two_devices(), only=stage)
  lines = (tmp_path / "supcon" / "metrics.jsonl").read_text().splitlines()
  assert "positives/eye" in json.loads(lines[-1])
