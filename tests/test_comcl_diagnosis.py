"""Diagnosis and report of CoMCL on artifacts made here; attributions."""

import csv
import json
import types

import compiles
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.engine import parallel, programs
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.stages import run_stages
from gcl_jax.engine.tables import file_hash, pack
from gcl_jax.evaluation import metrics as exact
from gcl_jax.evaluation import robustness
from gcl_jax.methods.comcl import (
  arms,
  attribution,
  diagnose,
  handmade,
  report,
  report_pictures,
  targets,
)
from gcl_jax.methods.comcl.config import get_config
from gcl_jax.pipeline import encoders
from gcl_jax.report import html

pytestmark = pytest.mark.compiles

SIZE, PATIENTS, GRADES = 32, 40, 3
ARMS = ("supervised", "supervised_degraded")
SHARES = (0.33, 0.7, 1.0)


def config_of(**changes):
  config = get_config("tiny")
  config.preprocess.size = (SIZE, SIZE)
  config.arms = ARMS
  config.diagnosis.update(grades=GRADES, steps=4, batch_size=8)
  config.boxes.confidence = 0.4
  config.update_from_flattened_dict(changes)
  return config


def pictures():
  """Discs with bright spots, as many as their grade, and a box for each."""
  rng, grid = np.random.default_rng(0), np.mgrid[:SIZE, :SIZE]
  inside = np.hypot(*(grid - (SIZE - 1) / 2)) < 0.48 * SIZE
  number = np.arange(PATIENTS)
  grades = np.where(np.isin(number % 20, (9, 10)), 2, number % 4 // 2)
  grades = np.repeat(grades, 2)
  pixels = np.zeros((2 * PATIENTS, SIZE, SIZE, 3))
  pixels[:, inside] = (170, 80, 40)
  boxes = []
  for row, grade in enumerate(grades):
    for _ in range(2 * grade):
      y, x = rng.integers(SIZE // 4, 3 * SIZE // 4, 2)
      pixels[row, y - 1 : y + 2, x - 1 : x + 2] = (250, 220, 120)
      boxes.append((row, y - 1, x - 1, y + 2, x + 2, 0.9))
  pixels += rng.normal(0, 6, pixels.shape)
  return np.clip(pixels, 0, 255).astype(np.uint8), grades, np.array(boxes)


def data_stage(context):
  """What stage `data` leaves; two eyes a patient, one without grades."""
  pixels, grades, boxes = pictures()
  np.save(context.folder / "images.npy", pixels)
  np.save(context.folder / "masks.npy", pixels[..., 0] // 255)
  count, patient = len(pixels), np.repeat(np.arange(PATIENTS), 2)
  grade = np.where(patient == 5, np.nan, grades)
  table = {
    "id": np.array([f"i{k:02d}" for k in range(count)]),
    "group": np.array([f"p{k:02d}" for k in patient]),
    "part": np.where(patient % 2 == 0, "train", "eval"),
    "pool": np.ones(count, bool),
    "healthy": np.where(np.isnan(grade), np.nan, grade == 0),
    "grade": grade,
    "any/spot": np.where(np.isnan(grade), np.nan, grade > 0),
    "many": np.where(np.isnan(grade), np.nan, grade > 1),
  }
  labels = () if context.config.data.name == "bare" else ("any/spot", "many")
  if not labels:
    table = {k: v for k, v in table.items() if k in list(table)[:4]}
  return {
    "table": pack(table),
    "labels": np.array(labels, str),
    "meta": np.array([], str),
    "classes": np.array([], str),
    "quarantine": np.array([], str),
    "overlapping_groups": np.array([], str),
    "near_copies": np.array([], str),
    "images_sha256": np.array(file_hash(context.folder / "images.npy")),
    "masks_sha256": np.array(file_hash(context.folder / "masks.npy")),
    "boxes": np.float32(boxes[:, 1:]),
    "boxes_row": boxes[:, 0].astype(int),
    "raw_samples": {"0": pixels[0], "1": pixels[4]},
    "sample_rows": np.array([0, 4]),
    "preparation": {
      "mean": np.full(3, 0.3),
      "sd": np.full(3, 0.25),
      "settings": np.array("{}"),
    },
  }


def quality_stage(context):
  """Darker images of low quality; one that the table itself calls low."""
  pixels = np.load(context.workdir / "data" / "images.npy")
  path, count = context.folder / "degraded.npy", len(pixels)
  np.save(path, pixels // 2)
  held = np.repeat(np.arange(PATIENTS), 2) % 2 == 1
  order = np.full(count, 2.0)
  order[held] = (
    np.random.default_rng(1).permutation(held.sum()) + 0.5
  ) / held.sum()
  low = np.where(held, order < SHARES[0], np.arange(count) % 3 == 0)
  native = np.arange(count) == 3
  return {
    "low": low | native,
    "order": np.where(native, -1, order),
    "native": native,
    "degraded_sha256": np.array(file_hash(path)),
  }


def encoder_stage(context):
  """Random weights, and what a pre-training would have logged."""
  encoder = encoders.make(context.config.pretrain)
  for step in range(0, 60, 20):
    values = {"loss": 4 - step / 20, "kept/lesion_high|lesion_low": 0.01}
    values |= {"variance/lesion_high": 0.5, "rank/lesion_high": 1.5}
    context.telemetry.log(step, values, context.stage.name)
  variables = encoder.init(jax.random.key(1), (SIZE, SIZE, 3))
  return {"encoder": jax.tree.map(np.asarray, variables)}


def patches_stage(context):
  entry = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 20, "groups": 20}
  names = ("patch/lesion_auroc", "patch/place/lesion_auroc")
  found = dict.fromkeys((*names, "patch/position_auroc"), entry)
  more = {"p": 0.001, "p_holm": 0.001, "family": 1, "smallest": 0.1}
  found["patch/lesion_auroc_over_place"] = entry | more
  notes = np.array(["patch/quality_auroc: no windows"])
  return {"metrics": np.array(json.dumps(found)), "notes": notes}


def stages():
  inputs = ("data", "quality", arms.OWN)
  return [
    Stage("data", data_stage, (), (), host=True),
    Stage("quality", quality_stage, ("data",)),
    Stage(arms.OWN, encoder_stage, ("data",)),
    Stage("patches", patches_stage, ("data",)),
    Stage("diagnosis", diagnose.run, inputs),
    Stage("report", report.run, (*inputs, "patches", "diagnosis"), host=True),
  ]


def run(config, workdir):
  """The context of a run of all stages, and programs by stage."""
  mesh = parallel.make_mesh(jax.devices()[:2])
  context = Context(config, workdir, mesh)
  programs._kept.clear()
  counter = compiles.Counter()
  with counter.by_stage():
    run_stages(stages(), context)
  whole = Stage("test", None, tuple(s.name for s in stages()))
  found = Context(config, workdir, mesh, stage=whole)
  return found, {name: len(made) for name, made in counter.found.items()}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
  return run(config_of(), tmp_path_factory.mktemp("graded"))


def rows_of(path):
  return list(csv.DictReader(path.read_text().splitlines()))


def test_every_arm_is_tested_in_every_condition(graded):
  context, _ = graded
  found = context.load("diagnosis")
  names = (arms.OWN, *ARMS, handmade.NAME)
  assert set(found["probabilities"]) == set(names)
  table = context.load("data")["table"]
  known = (table["part"] == "eval") & ~np.isnan(table["grade"])
  np.testing.assert_array_equal(found["rows"], np.flatnonzero(known))
  assert found["features"].shape == (2 * PATIENTS, 32)
  metrics = json.loads(str(found["metrics"]))
  quality = context.load("quality")
  truth, groups = table["grade"][known], table["group"][known]
  for name in names:
    versions = found["probabilities"][name]
    for share in SHARES:
      low = (quality["order"] < share)[known]
      p = np.where(low[:, None], versions["low"], versions["clean"])
      expected = exact.kappa(truth, p.argmax(1), "quadratic", grades=GRADES)
      percent = robustness.percent(share)
      entry = metrics[f"diagnosis/{name}/kappa@{percent}"]
      assert entry["value"] == pytest.approx(expected)
      assert entry["groups"] == len(set(groups))
  for figure in ("kappa@33", "auroc/1@70", "kappa_fall", "majority@100"):
    own = metrics[f"diagnosis/{arms.OWN}/{figure}"]
    assert metrics[f"diagnosis/{figure}"] == own
  fall = {n: metrics[f"diagnosis/{n}/kappa_fall"]["value"] for n in names}
  gain = metrics["diagnosis/kappa_fall_gain"]
  assert gain == metrics[f"diagnosis/kappa_fall_gain_over_{diagnose.DEGRADED}"]
  assert gain["value"] == pytest.approx(
    fall["supervised_degraded"] - fall[arms.OWN]
  )
  assert gain["family"] == sum(
    metrics[f"diagnosis/kappa_fall_gain_over_{n}"]["p"] is not None
    for n in names[1:]
  )


def test_arms_share_their_programs(graded):
  _, compiled = graded
  assert 0 < compiled["diagnosis"] <= 14, compiled


def test_the_kept_classifier_predicts_what_was_written(graded):
  context, _ = graded
  found, pixels = context.load("diagnosis"), pictures()[0]
  predict = diagnose.predictor(
    context.config, GRADES, ((0.3,) * 3, (0.25,) * 3)
  )
  rows = found["rows"]
  for version, images in (("clean", pixels), ("low", pixels // 2)):
    again = jax.jit(predict)(found["classifier"], {"image": images[rows]})
    expected = found["probabilities"][arms.OWN][version]
    np.testing.assert_allclose(again, expected, atol=1e-5)
  written = rows_of(context.workdir / "predictions.csv")
  assert [row["id"] for row in written] == [f"i{k:02d}" for k in rows]
  for suffix, version in (("", "clean"), (" degraded", "low")):
    for arm in (arms.OWN, *ARMS, handmade.NAME):
      for k in range(GRADES):
        column = [float(r[f"grade {k} by {arm}{suffix}"]) for r in written]
        values = found["probabilities"][arm][version][:, k]
        np.testing.assert_allclose(column, values, rtol=1e-6)
  scores = rows_of(context.workdir / "scores.csv")
  assert [int(row["low"]) for row in scores] == (
    context.load("quality")["low"].astype(int).tolist()
  )


def test_attributions_are_of_diseased_evaluation_images(graded):
  context, _ = graded
  found = context.load("diagnosis")
  assert set(found["attributions"]) == {arms.OWN, "supervised"}
  grades = context.load("data")["table"]["grade"][found["cases"]]
  assert (grades > 0).all() and len(grades) == context.config.report.pictures
  assert set(found["cases"]) <= set(found["rows"])
  for versions in found["attributions"].values():
    for values in versions.values():
      assert values.shape == (len(grades), SIZE, SIZE)
      assert np.isfinite(values).all() and values.std() > 0


def test_the_report_says_what_a_reader_must_know(graded):
  context, _ = graded
  found = json.loads((context.workdir / "report.json").read_text())
  said = " ".join(found["warnings"])
  assert "Grades 2: fewer than five evaluation patients" in said
  assert "Missing: patch/quality_auroc: no windows." in said
  assert "pacing scaled selected 1.0 % of lesion_high against" in said
  assert "embeddings of lesion_high fell together, their effective rank" in said
  assert "their variance" not in said
  assert "No better in kappa at 100 % than supervised_degraded" in said
  assert "AUROC of 0.700 (more than 0.55)" in said
  page = (context.workdir / "report.html").read_text()
  for title in ("Confusion", "Where the classifier looks", "Degradations"):
    assert f">{title}</h2>" in page
  assert "diagnosis/kappa@33" in found["metrics"]
  # Class maps of lesions do not make images slices of volumes.
  assert found["data"]["parts"]["eval"]["images"] == PATIENTS
  assert found["metrics"]["patch/lesion_auroc"]["value"] == 0.7


def test_conditions_of_more_low_quality_than_their_name_are_told():
  """As in EyeQ's testing set, of which 48 % are of low quality."""
  config = config_of(**{"quality.shares": (0.33, 0.4, 0.5, 1.0)})
  native = np.arange(100) % 100 < 48
  quality = types.SimpleNamespace(native=np.append(native, [True] * 50))
  said = report.condition_warnings(config, quality, np.arange(100))
  assert len(said) == 2
  assert said[0].startswith("Figures at 33 % are of 48.0 % of low quality")
  assert said[1].startswith("Figures at 40 % are of 48.0 %")
  quality.native[:] = np.arange(150) < 33
  assert not report.condition_warnings(config, quality, np.arange(100))
  assert not report.condition_warnings(config, quality, np.arange(0))


def test_findings_are_diagnosed_without_grades(tmp_path):
  config = config_of(**{"diagnosis.loss": "sigmoid"})
  config.arms = ()
  context, _ = run(config, tmp_path)
  found = context.load("diagnosis")
  assert set(found["probabilities"]) == {arms.OWN}
  metrics = json.loads(str(found["metrics"]))
  assert "diagnosis/auroc/any/spot@33" in metrics
  gain = metrics["diagnosis/kappa_fall_gain"]
  assert gain["value"] is None and gain["p"] is None
  written = rows_of(tmp_path / "predictions.csv")
  assert {"any/spot", "many", "many by comcl degraded"} <= set(written[0])
  page = (tmp_path / "report.html").read_text()
  assert "Confusion" not in page and "any/spot" in page


def test_data_without_labels_leaves_no_metrics(tmp_path, capsys):
  config = config_of(**{"data.name": "bare"})
  context, _ = run(config, tmp_path)
  found = context.load("diagnosis")
  assert str(found["metrics"]) == "{}" and "classifier" not in found
  assert len(found["rows"]) == PATIENTS
  assert "no diagnosis: fewer than two images" in capsys.readouterr().err
  written = json.loads((tmp_path / "report.json").read_text())
  assert any(n.startswith("No diagnosis: fewer") for n in written["warnings"])
  assert list(rows_of(tmp_path / "predictions.csv")[0])[:3] == [
    *("id", "group", "part")
  ]


def test_contributions_of_a_linear_score_by_hand():
  """Two places, two channels: score = mean over places of w . a + b."""
  activations = jnp.array([[[[1.0, 2.0], [3.0, -1.0]]]])
  weights, bias = jnp.array([0.5, -2.0]), 0.25

  def score(values):
    return values.mean((1, 2)) @ weights + bias

  found = attribution.gradient_times_activation(score, activations)
  # (0.5 * 1 - 2 * 2) / 2 and (0.5 * 3 + 2 * 1) / 2
  np.testing.assert_allclose(found, [[[-1.75, 1.75]]])
  np.testing.assert_allclose(found.sum() + bias, score(activations)[0])


def test_rows_of_a_batch_do_not_mix():
  rng = np.random.default_rng(0)
  activations = jnp.asarray(rng.normal(size=(3, 2, 2, 4)), jnp.float32)

  def score(values):
    return jnp.tanh(values.mean((1, 2))).sum(-1)

  whole = attribution.gradient_times_activation(score, activations)
  for k in range(3):
    one = attribution.gradient_times_activation(score, activations[k : k + 1])
    np.testing.assert_allclose(whole[k], one[0], rtol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "ordinal"])
def test_the_score_is_the_evidence_for_the_prediction(kind):
  logits = jnp.array([[2.0, -1.0, 0.5], [-3.0, -4.0, -5.0], [4.0, 3.0, 2.0]])
  found = attribution.score_of(logits, kind)
  # Grades 1, 0 and 3: "at least 1", not "above 0", "at least 3".
  expected = {"ordinal": [2.0, 3.0, 2.0]}.get(kind, [2.0, -3.0, 4.0])
  np.testing.assert_allclose(found, expected)


def test_the_map_of_a_network_is_its_class_activation_map():
  """With an average and a linear head it is w . a / (h w), enlarged."""
  config = config_of()
  encoder = encoders.make(config.pretrain)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
  variables = encoder.init(jax.random.key(0), (SIZE, SIZE, 3))
  kernel = rng.normal(size=(encoder.feature_dim, GRADES)).astype(np.float32)
  head = {"params": {"kernel": kernel, "bias": np.zeros(GRADES, np.float32)}}
  function = attribution.mapped(encoder, GRADES, (0.5, 0.25), "softmax")
  trained = {"encoder": variables, "head": head}
  found = np.asarray(jax.jit(function)(trained, {"image": images}))
  scaled = (images / 255 - 0.5) / 0.25
  apply = jax.jit(lambda *given: encoder.apply(*given, maps=True))
  features, _, maps = apply(variables, jnp.float32(scaled))
  best = np.argmax(features @ kernel, -1)
  for k in range(2):
    last = np.asarray(maps[-1][k])
    cam = last @ kernel[:, best[k]] / (last.shape[0] * last.shape[1])
    expected = jax.image.resize(cam, (SIZE, SIZE), "bilinear")
    np.testing.assert_allclose(found[k], expected, rtol=1e-3, atol=1e-5)


def test_cases_are_spread_over_the_diseased():
  grades = np.array([0.0, 2, 0, 1, 3, 1, 0, 3])
  found = targets.cases_of(grades, 3)
  assert grades[found].tolist() == [1, 2, 3]
  assert len(targets.cases_of(grades, 50)) == 5
  healthy = targets.cases_of(np.zeros(4), 2)
  assert len(healthy) == 2
  findings = np.array([[0, np.nan], [1, 0], [0, 1]])
  assert sorted(targets.cases_of(findings, 9)) == [1, 2]


def test_grades_off_the_table_are_missing():
  images = types.SimpleNamespace(
    table={"grade": np.array([0.0, -1, np.nan, 2])}, labels=("a",)
  )
  images.train = images.evaluation = np.ones(4, bool)
  config = config_of()
  found = targets.targets_of(images, config)
  np.testing.assert_array_equal(found, [0, np.nan, np.nan, 2])
  assert targets.nothing_to_diagnose(images, config) == ""
  images.train = np.array([1, 1, 1, 0], bool)
  said = targets.nothing_to_diagnose(images, config)
  assert "training" in said and "'grade'" in said


def test_windows_lie_round_their_boxes_and_inside_the_image():
  images = np.zeros((2, 20, 20, 1), np.uint8)
  images[0, 9:11, 9:11] = images[1, :2, 18:] = 200
  boxes = np.array([[9, 9, 11, 11], [0, 18, 2, 20.0]])
  pool = types.SimpleNamespace(rows=np.array([0, 1]), boxes=boxes)
  none = types.SimpleNamespace(rows=np.zeros(0, int), boxes=np.zeros((0, 4)))
  shown = {}

  def noted(rows):
    shown.update(rows)
    return b""

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(report_pictures.tiles, "grid", noted)
    found = report_pictures.windows(
      images, {"lesion_high": pool, "healthy_low": none}, 6, 3
    )
  assert isinstance(found, html.Figure)
  first, second, blank = shown["lesion, high"]
  assert (first[2:4, 2:4] == 200).all() and first.sum() == 4 * 200
  assert (second[:2, 4:] == 200).all() and second.sum() == 4 * 200
  assert (blank == 255).all() and len(shown["healthy, low"]) == 3
