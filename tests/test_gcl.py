"""Stages of GCL: split of patients, use of labels, scores."""

import dataclasses
import json
from typing import NamedTuple

import jax
import numpy as np
import pytest

from gcl_jax import data, main
from gcl_jax.engine import compile_ahead, parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.settings import preset_names
from gcl_jax.engine.tables import unpack
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.gcl import arms, pretrain, report, rules
from gcl_jax.methods.gcl import stages as gcl_stages
from gcl_jax.methods.gcl.config import CHOICES, PRESETS, check, get_config
from gcl_jax.pipeline import (
  label_draws,
  report_volumes,
  segment,
  segmentation,
  slices,
  sources,
)
from gcl_jax.pipeline.prepared import Prepared

pytestmark = pytest.mark.compiles


def tiny(**changes):
  config = get_config("tiny")
  config.update_from_flattened_dict(changes)
  return config


def devices():
  return parallel.make_mesh(jax.devices()[:2])


def run(config, workdir, only=None):
  return main.run(config, workdir, devices(), only)


def context_of(config, workdir):
  """The context of a stage that reads stage data."""
  stage = Stage("segment", None, ("data",), ())
  dataset = data.load(config.data)
  return Context(
    config,
    workdir,
    devices(),
    "shard_map",
    datasets={"data": dataset},
    stage=stage,
  )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """(config, workdir, slices) of 12 patients after stage data."""
  config = tiny(**{"data.heart.patients": 12})
  workdir = tmp_path_factory.mktemp("prepared")
  run(config, workdir, "data")
  return config, workdir, Prepared(context_of(config, workdir))


def test_patients_never_cross_and_all_slices_are_there(prepared):
  _, _, slices = prepared
  groups = {
    part: set(slices.groups[slices.part(part)].tolist())
    for part in ("train", "eval", "ood")
  }
  assert not groups["train"] & groups["eval"]
  assert len(groups["eval"]) == round(0.3 * 12) and len(groups["ood"]) == 2
  assert len(slices) == (12 + 2) * 2 * 4
  phantom = data.load(prepared[0].data)
  row = {name: i for i, name in enumerate(phantom.ids.tolist())}
  for k in range(0, 96, 7):  # joined by id, not by position
    at = row[slices.table["id"][k]]
    np.testing.assert_array_equal(slices.pixels[k, ..., 0], phantom.read(at))
    np.testing.assert_array_equal(slices.masks[k], phantom.read_mask(at))
  assert slices.pool("strict").sum() == slices.part("train").sum()
  assert slices.pool("transductive").sum() == (~slices.part("ood")).sum()


def test_strict_pre_training_never_sees_a_test_patient(
  prepared, tmp_path, monkeypatch
):
  """Replacing test slices by noise leaves the encoder bitwise equal."""
  config, workdir, slices = prepared
  hidden = set(slices.table["id"][~slices.part("train")].tolist())
  load = data.load

  def spoiled(section):
    found = load(section)
    ids = found.ids.tolist()

    def read(row):
      if section.heart.domain == "other" or ids[row] in hidden:
        return np.random.default_rng(row).integers(0, 255, (32, 32), np.uint8)
      return found.read(row)

    return dataclasses.replace(found, read=read)

  def encoder(folder, protocol):
    changed = tiny(
      **{
        "data.heart.patients": 12,
        "protocol": protocol,
        "pretrain.steps": 2,
        "pretrain.pixel": "",
      }
    )
    run(changed, folder, "data")
    return run(changed, folder, "gcl")["gcl"]["arrays"]

  clean = encoder(tmp_path / "clean", "strict")
  monkeypatch.setattr(data, "load", spoiled)
  assert encoder(tmp_path / "spoiled", "strict") == clean
  assert encoder(tmp_path / "seen", "transductive") != clean


def test_labels_are_drawn_by_patient_nested_and_alike_for_all_arms(prepared):
  _, _, slices = prepared

  def patients(arm, labelled, draw):
    fit = label_draws.Fit(arm, labelled, draw, 0)
    rows, inner = label_draws.labelled_rows(slices, fit)
    assert slices.part("train")[rows].all()
    chosen = set(slices.groups[rows].tolist())
    assert len(rows) == 8 * len(chosen)  # all their slices, both phases
    if labelled != 1:
      assert set(slices.groups[inner].tolist()) < chosen
      assert len(set(slices.groups[inner].tolist())) == 1
    return chosen

  for draw in range(3):
    one, two, four = (patients("gcl", m, draw) for m in (1, 2, 4))
    assert (len(one), len(two), len(four)) == (1, 2, 4)
    assert one < two < four
    assert patients("scratch", 2, draw) == two
  assert len(patients("gcl", 0, 0)) == 12 - 4
  assert len({frozenset(patients("gcl", 2, d)) for d in range(6)}) > 1
  with pytest.raises(DataError, match="labels of 9 groups"):
    patients("gcl", 9, 0)


def test_batches_hold_whole_shares_of_patients(prepared):
  config, _, slices = prepared
  settings = arms.settings_of(config, "gcl")
  rows_at = pretrain.sampler(slices, settings, "strict", 0)
  for step in (0, 1, 7):
    rows = rows_at(step)
    np.testing.assert_array_equal(rows, rows_at(step))
    names = slices.groups[rows].reshape(4, 2)
    assert (names[:, 0] == names[:, 1]).all() and len(set(names[:, 0])) == 4
    assert len(set(rows.tolist())) == 8 and slices.part("train")[rows].all()
  assert not np.array_equal(rows_at(0), rows_at(1))
  settings.patients_per_batch = 0
  rows_at = pretrain.sampler(slices, settings, "strict", 0)
  epoch = np.concatenate([rows_at(step) for step in range(8)])
  assert sorted(epoch.tolist()) == np.flatnonzero(slices.part("train")).tolist()
  settings.patients_per_batch, settings.batch_size = 16, 16
  with pytest.raises(DataError, match="8 patients, fewer than the 16"):
    pretrain.sampler(slices, settings, "strict", 0)


def test_scores_are_those_of_the_stored_grid(tmp_path):
  """The truth itself, sent through the preparation, comes back to its place;
  a prediction of nothing scores 0."""
  config = tiny(
    **{
      "preprocess.spacing": (2.0, 2.5),
      "preprocess.size": (56, 48),
      "ood_data.name": "",
    }
  )
  run(config, tmp_path, "data")
  context = context_of(config, tmp_path)
  slices = Prepared(context)
  (test,) = label_draws.tests_of(slices).values()
  assert test.truths[0].shape == (4, 32, 32)
  assert test.spacings[0] == (20.0, 3.2, 3.2)
  by_pixels = {
    slices.pixels[row].tobytes(): np.array(slices.masks[row])
    for row in np.concatenate(test.rows)
  }

  rows = np.concatenate(test.rows)
  truth = {row: by_pixels[slices.pixels[row].tobytes()] for row in rows}
  scores = segment.score(slices, truth, test, (2.0, 2.5))
  assert min(scores["dice/mean"]) > 0.93  # resampled there and back
  assert max(scores["hd95/LV"]) <= 3.2 + 1e-6
  blank = dict.fromkeys(rows, np.zeros((56, 48), np.uint8))
  nothing = segment.score(slices, blank, test, (2.0, 2.5))
  assert max(nothing["dice/mean"]) == 0 and np.isnan(nothing["hd95/LV"]).all()


def test_a_volume_of_unknown_spacing_has_no_surface_dice(prepared):
  _, _, slices = prepared
  tests = label_draws.tests_of(slices)
  assert all(tests["eval"].in_mm) and all(tests["ood"].in_mm)
  count = len(slices)
  known = np.where(slices.part("eval"), 0.0, np.nan)
  table = {**slices.table, "spacing_known": known}

  class Doubtful:
    part, masks, classes = slices.part, slices.masks, slices.classes
    volumes, truths = slices.volumes, slices.truths

    def __len__(self):
      return count

  Doubtful.table = table
  doubtful = label_draws.tests_of(Doubtful())
  assert not any(doubtful["eval"].in_mm) and all(doubtful["ood"].in_mm)
  truth = dict(enumerate(np.asarray(slices.masks)))
  for part, expected in (("eval", 0), ("ood", 1)):
    scores = segment.score(slices, truth, doubtful[part], None, 1.0)
    assert set(scores) >= {"surface_dice/LV", "surface_dice/mean"}
    assert np.isfinite(scores["surface_dice/LV"]).all() == bool(expected)


def test_scratch_long_takes_as_many_steps_as_the_own_arm(tmp_path, monkeypatch):
  config = tiny(**{"ood_data.name": "", "segment.labelled": (1,)})
  config.arms = ("scratch_long",)
  config.pretrain.update(steps=3, pixel="")
  given, fit = {}, Context.fit

  def noting(self, training, batches, **options):
    state = fit(self, training, batches, **options)
    given[options["name"]] = int(state.step), len(training.arguments)
    return state

  monkeypatch.setattr(Context, "fit", noting)
  run(config, tmp_path)
  # Steps, and the arguments: class weights, and an encoder where there is one.
  assert given["scratch_long-m1-d0-s0"] == (7, 1)
  assert given["gcl-m1-d0-s0"] == (4, 2) and given["gcl"][0] == 3
  found = json.loads((tmp_path / "report.json").read_text())["metrics"]
  assert found["segment/scratch_long@1/dice/mean"]["fits"] == 1
  assert found["segment/gain_over_scratch_long"]["p"] is None
  assert 0 <= found["segment/surface_dice/mean"]["value"] <= 1


def test_the_permuted_arm_is_the_own_one_on_other_slices(prepared, monkeypatch):
  config, workdir, slices = prepared
  batches = []

  def first_batch(self, training, make, **options):
    batches.append(next(make(0)))
    return Trained({"encoder": {}}, {"batch_stats": {}})

  monkeypatch.setattr(Context, "fit", first_batch)
  for arm in ("gcl", "permuted"):
    pretrain.run(context_of(config, workdir), arm)
  own, permuted = batches
  assert not np.array_equal(own["image"], permuted["image"])
  for name in config.pretrain.labels:
    np.testing.assert_array_equal(own[name][:, 0], permuted[name][:, 0])
    np.testing.assert_array_equal(permuted[name][:, 1], permuted["index"])
  np.testing.assert_array_equal(
    slices.pixels[permuted["index"]], permuted["image"]
  )


def test_permuted_labels_keep_their_pairs_and_lose_their_slices(prepared):
  config, _, slices = prepared
  settings = arms.settings_of(config, "permuted")
  assert settings.permute and not config.pretrain.permute
  rows_at = pretrain.sampler(slices, settings, "strict", 0)
  pool = np.flatnonzero(slices.pool("strict"))
  arrays = {"image": slices.pixels}
  for rule in map(rules.parse, settings.labels):
    arrays[rule.text] = rules.values_of(rule, slices.table)
  moved, moved_at = pretrain.permuted(arrays, rows_at, pool, 3)
  again, _ = pretrain.permuted(arrays, rows_at, pool, 3)
  other, _ = pretrain.permuted(arrays, rows_at, pool, 4)
  assert moved["image"] is slices.pixels
  joint = np.stack([arrays[r][:, 0] for r in settings.labels], 1)
  joint_moved = np.stack([moved[r][:, 0] for r in settings.labels], 1)
  outside = np.setdiff1d(np.arange(len(slices)), pool)
  np.testing.assert_array_equal(joint_moved[outside], joint[outside])
  assert (joint_moved[pool] != joint[pool]).any(axis=1).mean() > 0.5
  assert sorted(map(tuple, joint_moved[pool])) == sorted(
    map(tuple, joint[pool])
  )
  for name in settings.labels:
    np.testing.assert_array_equal(moved[name], again[name])
    np.testing.assert_array_equal(moved[name][:, 1], arrays[name][:, 1])
  assert any((moved[n] != other[n]).any() for n in settings.labels)
  for step in (0, 5):  # a batch has the same labels, of other slices
    rows, here = rows_at(step), moved_at(step)
    assert set(here) <= set(pool) and not np.array_equal(rows, here)
    for name in settings.labels:
      np.testing.assert_array_equal(moved[name][here, 0], arrays[name][rows, 0])


@pytest.mark.parametrize("preset", preset_names("gcl", PRESETS))
def test_presets_and_all_their_arms_can_run(preset):
  config = get_config(preset)
  config.data.name = config.data.name or "heart"
  check(config)
  in_a_film = "cycle<0.1" in config.pretrain.labels
  assert in_a_film == (config.data.name == "acdc")
  columns = {text.split("<")[0] for text in config.pretrain.labels}
  config.arms = tuple(
    arm for arm in arms.ARMS if arm not in arms.COLUMNS or arm in columns
  )
  check(config)
  assert gcl_stages.stages(config)[-1].name == "report"


def test_arms_are_what_they_are_called():
  config = tiny()
  of = {arm: arms.settings_of(config, arm) for arm in arms.ARMS}
  assert of["simclr"].labels == () and of["position"].labels == (
    "position<0.15",
  )
  assert of["shared_mean"].heads == "shared"
  assert of["shared_mean"].mitigator == of["heads_mean"].mitigator == "mean"
  assert of["heads_mean"].heads == "per_label"
  assert of["self_paced"].pacing == "soft" and not of["heads_cone"].pixel
  assert of["features_cone"].level == "features" and of["norm_cone"].norm
  assert [of[f"pixel_{v}"].pixel for v in ("F0", "random")] == ["F0", "random"]
  assert arms.settings_of(config, "gcl").to_dict() == config.pretrain.to_dict()
  assert config.pretrain.pixel == "F1"  # arms change copies


SHARED = ("parallel", "protocol", "data.duplicates", "unet.dtype")
SHARED += ("pretrain.optimizer", "pretrain.schedule", "segment.optimizer")
SHARED += ("segment.select", "data.group_unknown", "ood_data.group_unknown")


@pytest.mark.parametrize("name", [*CHOICES, *SHARED])
def test_words_that_do_not_exist_are_refused(name):
  with pytest.raises(ConfigError, match=f"{name} 'nonsense'"):
    check(tiny(**{name: "nonsense"}))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"pretrain.labels": ("position<x",)}, "is no rule of a meta label"),
    ({"pretrain.labels": ()}, "arm gcl: no meta label"),
    ({"pretrain.labels": ("patient", "patient")}, "each once"),
    (
      {"pretrain.labels": tuple(f"position<0.{k}" for k in range(1, 10))},
      "takes at most 8 meta",
    ),
    ({"data.group_unknown": "image"}, "refuse, exclude, volume"),
    ({"arms": ("scrach",)}, "did you mean 'scratch'"),
    ({"pretrain.rho": 1.5}, "pretrain.rho must be 1 or less"),
    ({"pretrain.theta": 30.0}, "pretrain.theta must be 1 or less"),
    ({"pretrain.warmup": 2.0}, "pretrain.warmup must be 1 or less"),
    ({"pretrain.pacing_range": (0.0, 0.0)}, "two losses above 0"),
    ({"segment.encoder_rate": 0.0}, "encoder_rate must be more than 0"),
    ({"segment.draws": ()}, "segment.draws .* one or more"),
    (
      {"segment.draws": (0, 1, 2), "segment.seeds": (0, 1)},
      "segment.draws has 3 entries and segment.seeds 2",
    ),
    ({"segment.tolerance": -1.0}, "segment.tolerance must be 0 or more"),
    ({"segment.labelled": (2, 2)}, "segment.labelled .* each once"),
    ({"segment.labelled": (2.5,)}, "segment.labelled .* numbers of patients"),
    ({"segment.keep": ("simclr",)}, "segment.keep .* each once"),
    ({"arms": ("phase",), "pretrain.labels": ("patient",)}, "arm phase"),
    ({"preprocess.size": (31, 32)}, "multiples of 2"),
    ({"preprocess.spacing": (1.0,)}, "mm between rows"),
    ({"pretrain.batch_size": 10}, "not a multiple"),
    ({"segment.labelled": ()}, "numbers of patients"),
    ({"segment.labelled": (1,), "segment.select": "inner"}, "select=last"),
    ({"pretrain.steps": 0}, "must be more than 0"),
    ({"segment.dice_weight": -1.0}, "must be 0 or more"),
  ],
)
def test_settings_that_cannot_run_are_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    check(tiny(**changes))


def test_data_that_cannot_be_segmented_are_refused(tmp_path):
  with pytest.raises(ConfigError, match="data.ood 'phase=XX'"):
    run(tiny(**{"data.ood": "phase=XX"}), tmp_path / "a", "data")
  with pytest.raises(DataError, match="has no class maps to segment"):
    without = data.load(tiny().data)
    slices.check_classes(
      [sources.Source(dataclasses.replace(without, read_mask=None), None)]
    )


def test_a_column_can_set_volumes_apart(tmp_path):
  """For example the second intensity scale of the hippocampus set."""
  config = tiny(**{"data.ood": "phase=ES", "ood_data.name": ""})
  dataset = data.load(config.data)
  part = sources.parts(dataset, config.data)
  assert set(part[dataset.table["phase"] == "ES"]) == {"ood"}
  assert set(part[dataset.table["phase"] == "ED"]) == {"train", "eval"}


def test_a_split_of_the_owner_is_followed_and_labels_decide_who_tests():
  config = tiny()
  dataset = data.load(config.data)

  def with_column(name, values):
    table = {**dataset.table, name: values}
    return dataclasses.replace(dataset, table=table)

  own = np.where(dataset.groups == "p0003", "eval", "train")
  part = sources.parts(with_column("split", own), config.data)
  np.testing.assert_array_equal(part, own)
  with pytest.raises(DataError, match="split 'test' is neither train nor eval"):
    sources.parts(
      with_column("split", np.where(own == "eval", "test", "train")),
      config.data,
    )
  labelled = np.isin(dataset.groups, ["p0001", "p0004", "p0006", "p0007"])
  kept = set()
  for seed in range(5):
    config.data.split_seed = seed
    found = with_column("labelled", labelled.astype(float))
    part = sources.parts(found, config.data)
    assert (part == "eval").any() and labelled[part == "eval"].all()
    kept.add(tuple(sorted(set(dataset.groups[part == "eval"].tolist()))))
  assert len(kept) > 1  # the seed decides


class Trained(NamedTuple):
  """Part of a State that the choice of a model uses."""

  params: str
  extra: dict

  def replace(self, extra):
    return self._replace(extra=extra)


def test_the_best_model_of_the_inner_patient_is_kept(prepared):
  _, _, slices = prepared
  rows = slices.volumes("train")[min(slices.volumes("train"))]
  truth = slices.masks[rows]

  class Segmenter:
    def predict(self, context, variables, pixels, **options):
      np.testing.assert_array_equal(pixels, slices.pixels[rows])
      share = {"poor": 0.3, "good": 0.8, "fair": 0.5}[variables["params"]]
      wide = np.arange(truth.shape[2]) < share * truth.shape[2]
      return np.where(wide, truth, 0)

  look = segment.keep_best(None, slices, Segmenter(), rows)
  best = {"params": None, "batch_stats": None, "dice": np.float32(-1)}
  state, seen = Trained("", {"batch_stats": {}, "best": best}), []
  for params in ("poor", "good", "fair"):
    state, metrics, _ = look(state._replace(params=params))
    seen.append(metrics["inner/dice"])
  assert seen[0] < seen[2] < seen[1]
  assert state.extra["best"]["params"] == "good"


def test_the_inner_patient_chooses_the_model(tmp_path, monkeypatch):
  config = tiny(
    **{"segment.select": "inner", "segment.steps": 10, "ood_data.name": ""}
  )
  trained, fit = [], segmentation.Segmenter.fit

  def noting(self, context, images, rows, **settings):
    state = fit(self, context, images, rows, **settings)
    trained.append((rows, state))
    return state

  monkeypatch.setattr(segmentation.Segmenter, "fit", noting)
  config.arms = ()
  config.pretrain.update(steps=2, pixel="")
  run(config, tmp_path)
  lines = (tmp_path / "segment" / "metrics.jsonl").read_text().splitlines()
  seen = [json.loads(line).get("inner/dice") for line in lines]
  seen = [value for value in seen if value is not None]
  assert len(seen) == 10
  found = load_artifact(tmp_path / "segment" / "artifact")
  scores = unpack(found["fits"]["gcl-m2-d0-s0"]["eval"])
  assert scores["dice/mean"].shape == (4,)
  ((rows, state),) = trained
  slices = Prepared(context_of(config, tmp_path))
  both, inner = label_draws.labelled_rows(
    slices, label_draws.fits(config.segment, ["gcl"])[0]
  )
  assert len(inner) and not set(rows) & set(inner)
  assert set(rows) | set(inner) == set(both)
  assert float(state.extra["best"]["dice"]) == pytest.approx(max(seen))


def test_the_programs_compile():
  config = tiny()
  config.arms = ("scratch", "simclr")
  found = {p.name: p for p in gcl_stages.programs(config)}
  assert set(found) == {"simclr", "gcl", "segment", "predict"}
  facts = compile_ahead.compile_program(found["predict"], devices())
  assert not facts["collectives"]


def test_more_labels_than_patients_are_refused_before_pre_training(prepared):
  config, workdir, slices = prepared
  count = len(set(slices.groups[slices.part("train")].tolist()))
  label_draws.check_labels(
    slices, tiny(**{"segment.labelled": (1, count, 0)}).segment
  )
  config = tiny(**{"segment.labelled": (2, count + 1)})
  with pytest.raises(DataError, match=f"training part has {count} patients"):
    pretrain.run(context_of(config, workdir), "simclr")


def test_the_pictures_are_middle_slices_of_test_volumes(prepared):
  config, workdir, slices = prepared
  tests = label_draws.tests_of(slices)
  rows = label_draws.example_rows(tests["eval"], 3)
  assert len(rows) == 3 and (slices.table["slice"][rows] == 2).all()
  assert slices.part("eval")[rows].all()


def test_the_report_counts_what_the_size_cuts_away(tmp_path):
  config = tiny(**{"preprocess.size": (16, 16), "ood_data.name": ""})
  run(config, tmp_path, "data")
  context = context_of(config, tmp_path)
  slices = Prepared(context)
  table = report_volumes.data_table(slices)
  lost = {row[0]: row[-1] for row in table.rows}
  phantom = data.load(config.data)
  for part in ("train", "eval"):
    masks = [
      phantom.read_mask(int(row)) > 0
      for row in slices.table["row"][slices.part(part)]
    ]
    inside = sum(int(mask[8:24, 8:24].sum()) for mask in masks)
    assert lost[part] == sum(int(m.sum()) for m in masks) - inside > 0
  (note,) = report.warnings_of(context, slices, {})[:1]
  assert f"{lost['eval']} of eval" in note and "(16, 16)" in note
