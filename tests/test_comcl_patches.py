"""Probes of single windows: which are compared, and what is made of them."""

import copy
import itertools
import json

import comcl_cases
import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gcl_jax.augment import degradations, fundus_degradations
from gcl_jax.augment.degradation_fields import frame
from gcl_jax.data.components import boxes_of
from gcl_jax.methods.comcl import (
  artefacts,
  contact,
  lesion_net,
  patch_pools,
  probe_patches,
  quality,
)
from gcl_jax.methods.comcl import truth as truths
from gcl_jax.methods.comcl.artefacts import Windows
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.pipeline import encoders
from gcl_jax.pipeline.prepared import Prepared

pytestmark = pytest.mark.compiles

SIZE, SIDE = 48, 12


def test_touching_is_that_of_points_on_a_fine_grid():
  random = np.random.default_rng(0)
  corners = random.integers(0, 20, (40, 2))
  first = random.uniform(0, 20, (3, 2))
  boxes = np.concatenate([first, first + random.uniform(1, 4, (3, 2))], 1)
  circles = np.column_stack([random.uniform(0, 25, (3, 2)), [1, 2.5, 4]])
  step = np.arange(0, 25, 0.05) + 0.025
  y, x = np.meshgrid(step, step, indexing="ij")
  in_boxes = np.any(
    [(y > a) & (x > b) & (y < c) & (x < d) for a, b, c, d in boxes], 0
  )
  in_circles = np.any([np.hypot(y - a, x - b) < r for a, b, r in circles], 0)
  for touching, points, shapes in (
    (contact.touching_boxes, in_boxes, boxes),
    (contact.touching_circles, in_circles, circles),
  ):
    found = touching(corners, 5, shapes)
    wanted = [
      points[(y > a) & (y < a + 5) & (x > b) & (x < b + 5)].any()
      for a, b in corners
    ]
    assert 0 < np.sum(wanted) < len(corners)
    np.testing.assert_array_equal(found, wanted)
    assert not touching(corners, 5, shapes[:0]).any()


@pytest.mark.parametrize("seed", range(8))
def test_pairs_have_the_least_sum_of_squares(seed):
  random = np.random.default_rng(seed)
  first, second = random.uniform(0, 9, (4, 2)), random.uniform(0, 9, (6, 2))
  left, right = contact.nearest_pairs(first, second, np.inf)
  assert sorted(left) == [0, 1, 2, 3] and len(set(right)) == 4
  best = min(
    np.sum((first - second[list(order)]) ** 2)
    for order in itertools.permutations(range(6), 4)
  )
  found = np.sum((first[left] - second[right]) ** 2)
  assert found == pytest.approx(best)
  gaps = np.linalg.norm(first[left] - second[right], axis=1)
  reach = np.sort(gaps)[1]
  left, right = contact.nearest_pairs(first, second, reach)
  assert len(left) == 2
  assert (np.linalg.norm(first[left] - second[right], axis=1) <= reach).all()


def test_two_steps_are_nearer_than_none_and_a_long_one():
  first, second = np.array([[0, 0], [1, 0]]), np.array([[1, 0], [2, 0.1]])
  left, right = contact.nearest_pairs(first, second, 3)
  assert dict(zip(left.tolist(), right.tolist(), strict=True)) == {0: 0, 1: 1}


def test_candidates_are_lesions_that_fit_and_spots():
  lesions = np.array([[1, 2, 5, 6, 1], [0, 0, 13, 4, 1]], np.float32)
  spots = np.array([[20, 30, 4.0]])
  none = np.zeros((0, 3))
  found = artefacts.candidates([lesions, lesions[:1]], [spots, none], SIDE)
  np.testing.assert_array_equal(found.number, [0, 0, 1])
  np.testing.assert_array_equal(found.positive, [True, False, True])
  np.testing.assert_allclose(
    found.boxes, [[1, 2, 5, 6], [18, 28, 22, 32], [1, 2, 5, 6]]
  )


def test_a_window_holds_lesions_or_spots_never_both():
  lesions = np.array([[1, 1, 4, 4, 1], [30, 30, 33, 33, 1]], np.float32)
  spots = np.array([[34, 34, 3.0], [20, 5, 2.0], [3, 20, 2.0]])
  found = artefacts.candidates([lesions], [spots], SIDE)
  corners = np.array([[0, 0], [26, 26], [26, 26], [14, 0], [0, 12]])
  kept = artefacts.apart(found, corners, [lesions], [spots], SIDE)
  # The second lesion's window has a spot in it, the first spot's a lesion.
  np.testing.assert_array_equal(kept, [True, False, False, True, True])


def test_spots_outside_the_eye_cannot_be_seen():
  image = np.zeros((10, 10, 3), np.uint8)
  image[3:, :, 1] = 21
  circles = np.array([[2.9, 5, 1], [3.0, 5, 1], [-0.1, 5, 1], [9, 10.0, 1]])
  found = artefacts.visible(circles, image)
  np.testing.assert_array_equal(found, circles[1:2])


def test_circles_hold_all_that_a_spot_brightens():
  codes = np.arange(4, dtype=np.uint32)
  pixels = np.full((4, 64, 64, 3), 120, np.uint8)
  found = artefacts._spotted({}, {"image": pixels, "code": codes})
  key = jax.random.key(7)
  keys = jax.vmap(lambda code: jax.random.fold_in(key, code))(codes)
  drawn = degradations.draw(keys, "fundus", spots=True)
  y, x = np.mgrid[:64, :64] + 0.5
  for k in range(4):
    spots = jax.tree.map(lambda values, k=k: values[k], drawn.spots)
    where = frame((64, 64), np.zeros(2), (64, 64))
    bright = np.asarray(fundus_degradations.spot_field(spots, where)) > 1e-3
    circles = np.asarray(found["circles"][k])
    circles = circles[~np.isnan(circles[:, 2])]
    assert len(circles) == int(spots.count) and bright.any()
    # A pixel across is what a spot of less than that takes at least.
    covered = np.any([np.hypot(y - a, x - b) < r + 1 for a, b, r in circles], 0)
    assert covered[bright].all()


def windows_of(positive, groups, evaluation, places=None):
  count = len(positive)
  return Windows(
    np.zeros((count, 2, 2, 3), np.uint8),
    np.asarray(positive, float),
    np.asarray(groups),
    np.asarray(evaluation, bool),
    np.full((count, 2), 0.5) if places is None else places,
  )


def balanced_windows(patients=24, each=4):
  """Windows of both kinds of every patient, half of whom evaluate."""
  groups = np.repeat([f"p{k:02}" for k in range(patients)], each)
  positive = np.tile([1, 0], len(groups) // 2)
  evaluation = np.repeat(np.arange(patients) % 2 == 1, each)
  return windows_of(positive, groups, evaluation)


def test_probes_of_known_features_have_known_aurocs():
  given, random = balanced_windows(), np.random.default_rng(0)
  noisy = given.positive + random.normal(0, 1, len(given.positive))
  features = {
    "comcl": given.positive[:, None] * 3.0 + 1,
    "simclr": noisy[:, None],
    "hcl": np.ones((len(noisy), 2)),
  }
  found, notes = probe_patches.entries(
    {"lesion": given, "quality": given},
    {"lesion": features, "quality": dict(comcl=features["hcl"])},
  )
  tests = given.evaluation
  wanted = roc_auc_score(given.positive[tests], noisy[tests])
  assert notes == []
  assert found["patch/lesion_auroc"]["value"] == 1
  assert found["patch/comcl/lesion_auroc"] == found["patch/lesion_auroc"]
  assert found["patch/simclr/lesion_auroc"]["value"] == pytest.approx(wanted)
  assert found["patch/hcl/lesion_auroc"]["value"] == 0.5
  assert found["patch/place/lesion_auroc"]["value"] == 0.5
  assert found["patch/quality_auroc"]["value"] == 0.5
  gain = found["patch/lesion_auroc_over_simclr"]
  assert gain["value"] == pytest.approx(1 - wanted) and gain["low"] > 0
  assert gain["groups"] == 12 and gain["family"] >= 1
  assert found["patch/simclr/lesion_auroc"]["positive_groups"] == 12
  # All vectors of one direction: one point, one direction.
  assert found["patch/effective_rank"]["value"] == pytest.approx(1, abs=1e-4)
  assert found["patch/within_variance"]["value"] == pytest.approx(0, abs=1e-6)
  json.dumps(found)


def test_the_place_of_a_window_is_an_opponent():
  given = balanced_windows()
  places = np.column_stack([given.positive, given.positive * 0]) * 0.1
  given = given._replace(places=places)
  features = {"comcl": np.ones((len(places), 1))}
  found, _ = probe_patches.entries({"lesion": given}, {"lesion": features})
  assert found["patch/place/lesion_auroc"]["value"] == 1
  assert found["patch/lesion_auroc_over_place"]["value"] == -0.5


def test_spread_and_rank_are_those_of_unit_vectors():
  given = balanced_windows(patients=4, each=2)
  values = np.zeros((8, 3))
  values[:, 0] = np.tile([5.0, 0], 4)
  values[:, 1] = np.tile([0, 0.1], 4)  # two directions, whatever their length
  values[~given.evaluation] = 7
  found = probe_patches.collapse("simclr", given, values)
  assert set(found) == {
    "patch/simclr/effective_rank",
    "patch/simclr/within_variance",
  }
  rank = found["patch/simclr/effective_rank"]["value"]
  assert rank == pytest.approx(2, abs=1e-4)
  assert found["patch/simclr/within_variance"]["value"] == pytest.approx(0.5)
  assert found["patch/simclr/within_variance"]["n"] == 4


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("kind", [1, 0])
def test_fewer_than_five_patients_on_a_side_are_too_few(kind, evaluation):
  given = balanced_windows()
  assert probe_patches.lacking(given) == ""
  side = (given.positive == kind) & (given.evaluation == evaluation)
  names = np.unique(given.groups[side])
  for count in (5, 4):
    kept = ~side | np.isin(given.groups, names[:count])
    fewer = Windows(*(values[kept] for values in given))
    why = probe_patches.lacking(fewer)
    assert bool(why) == (count == 4)
  assert f"{'positive' if kind else 'negative'} windows are of 4" in why
  assert ("evaluation" if evaluation else "training") in why
  features = {"comcl": fewer.positive[:, None]}
  found, notes = probe_patches.entries({"lesion": fewer}, {"lesion": features})
  assert found["patch/lesion_auroc"]["value"] is None
  assert notes == [f"patch/lesion_auroc: {why}"]
  assert not [name for name in found if "over" in name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The workdir and settings of a run up to its encoders.

  24 diseased images and 8 healthy ones, of a patient each.
  """
  workdir = tmp_path_factory.mktemp("patches")
  config = comcl_cases.config_of(SIZE)
  config.update(arms=("simclr", "supervised"))
  config.patches.size = SIDE
  pixels, maps = comcl_cases.images_of(32, SIZE)
  maps[24:] = 0
  grade = np.repeat([1.0, 0.0], [24, 8])
  data = comcl_cases.dataset_of(pixels, maps, grade=grade)
  lesions = lesion_net.lesions_of(maps, comcl_cases.CLASSES)
  boxes = [boxes_of(one) for one in lesions]
  part = np.where(np.arange(32) % 2, "eval", "train")
  comcl_cases.prepare_stage(workdir, config, "data", data, part, boxes)
  other = comcl_cases.dataset_of(
    *comcl_cases.images_of(6, SIZE, seed=2), "other"
  )
  comcl_cases.prepare_stage(
    workdir, config, "lesions", other, np.full(6, "train")
  )
  context = comcl_cases.context_of(workdir, config, ("data",), "quality")
  context.folder.mkdir(exist_ok=True)
  comcl_cases.finish(workdir, "quality", quality.run(context))
  encoder = encoders.make(config.pretrain)
  for k, arm in enumerate(("comcl", "simclr")):
    variables = encoder.init(jax.random.key(k), (SIDE, SIDE, 3))
    variables = jax.tree.map(np.asarray, variables)
    comcl_cases.finish(workdir, arm, {"encoder": variables})
  return workdir, config


def context_of(finished, **changes):
  workdir, config = finished
  config = copy.deepcopy(config)
  config.update_from_flattened_dict(changes)
  inputs = ("data", "lesions", "quality", "comcl", "simclr")
  return comcl_cases.context_of(workdir, config, inputs, "patches")


def test_the_stage_measures_every_pre_trained_arm(finished):
  found = probe_patches.run(context_of(finished))
  metrics = json.loads(found["metrics"])
  assert found["notes"].tolist() == []
  for arm in ("comcl", "simclr", "place"):
    entry = metrics[f"patch/{arm}/lesion_auroc"]
    assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
  for figure in ("quality_auroc", "effective_rank", "within_variance"):
    assert metrics[f"patch/{figure}"] == metrics[f"patch/comcl/{figure}"]
  # Bright and dark squares are easily told from spots, even by random weights.
  assert metrics["patch/lesion_auroc"]["value"] > 0.7
  assert abs(metrics["patch/place/lesion_auroc"]["value"] - 0.5) < 0.25
  assert metrics["patch/quality_auroc"]["positive_groups"] == 12
  assert abs(metrics["patch/position_auroc"]["value"] - 0.5) < 0.2
  assert not [name for name in metrics if "supervised" in name]


def test_windows_of_lesions_and_spots_keep_apart(finished):
  context = context_of(finished)
  truth = truths.of_run(context)
  found = artefacts.lesions_and_spots(context, truth, SIDE)
  corners = found.places * SIZE - SIDE / 2
  assert found.images.shape == (len(corners), SIDE, SIDE, 3)
  rows = [truth.ids.tolist().index(name) for name in found.groups]
  np.testing.assert_array_equal(found.evaluation, truth.evaluation[rows])
  for corner, row, positive in zip(corners, rows, found.positive, strict=True):
    boxes = truth.boxes[row]
    assert contact.touching_boxes(corner[None], SIDE, boxes)[0] == positive
  for part in (False, True):
    here = found.evaluation == part
    kinds = [corners[here & (found.positive == kind)] for kind in (1, 0)]
    assert len(kinds[0]) == len(kinds[1]) > 10
    gaps = np.linalg.norm(kinds[0] - kinds[1], axis=1)
    assert (gaps <= SIDE / 2).all()


def test_the_pair_of_a_window_differs_by_its_quality_alone(finished):
  context = context_of(finished)
  images = Prepared(context)
  found = patch_pools.clean_and_degraded(context, images)
  half = len(found.positive) // 2
  assert not found.positive[:half].any() and found.positive[half:].all()
  for values in (found.groups, found.evaluation, found.places):
    np.testing.assert_array_equal(values[:half], values[half:])
  corners = np.round(found.places * SIZE - SIDE / 2).astype(int)
  both = Quality(context)
  for k, source in ((0, both.clean), (half, both.degraded)):
    top, left = corners[k]
    row = images.ids.tolist().index(found.groups[k])
    wanted = source[row][top : top + SIDE, left : left + SIDE]
    np.testing.assert_array_equal(found.images[k], wanted)
  assert set(found.groups) == set(images.groups[:24])  # the diseased


def test_true_boxes_are_those_of_class_maps(finished):
  found = truths.of_run(context_of(finished))
  assert [len(boxes) for boxes in found.boxes] == [4] * 24 + [0] * 8
  np.testing.assert_array_equal(found.evaluation, np.arange(32) % 2 == 1)
  assert not (found.evaluation & found.train).any()


def test_a_detector_is_no_truth_but_the_maps_that_trained_it_are(finished):
  found = truths.of_run(context_of(finished, **{"boxes.source": "detector"}))
  assert found.ids.tolist() == [f"other{k}" for k in range(6)]
  assert found.evaluation.sum() == 3
  np.testing.assert_array_equal(found.train, ~found.evaluation)
  assert all(len(boxes) == 4 for boxes in found.boxes)


def test_boxes_of_the_data_are_the_truth_without_class_maps(tmp_path):
  config = comcl_cases.config_of(SIZE)
  data = comcl_cases.dataset_of(comcl_cases.images_of(4, SIZE)[0], None)
  boxes = [np.full((k, 5), k, np.float32) for k in (2, 0, 1, 3)]
  part = np.array(["train", "eval"] * 2)
  comcl_cases.prepare_stage(tmp_path, config, "data", data, part, boxes)
  context = comcl_cases.context_of(tmp_path, config, ("data",), "patches")
  found = truths.of_run(context)
  for mine, theirs in zip(found.boxes, boxes, strict=True):
    np.testing.assert_array_equal(mine, theirs)
  config.boxes.source = "table"
  assert "neither class maps nor boxes" in truths.of_run(context)


def test_radiographs_have_no_spots(finished):
  context = context_of(finished, **{"quality.family": "xray"})
  found = probe_patches.run(context)
  metrics = json.loads(found["metrics"])
  assert metrics["patch/lesion_auroc"]["value"] is None
  assert found["notes"][0].startswith("patch/lesion_auroc: the spots")
  assert metrics["patch/quality_auroc"]["value"] is not None
