"""The lesion detector: its rule of a match, its pixels, its boxes."""

import functools
import json

import comcl_cases
import jax
import numpy as np
import pytest
from scipy import ndimage

from gcl_jax.engine.arrays import Regions
from gcl_jax.errors import DataError
from gcl_jax.evaluation import intervals
from gcl_jax.methods.comcl import data as stage_data
from gcl_jax.methods.comcl import detected, detector, lesion_net
from gcl_jax.methods.comcl.config import get_config

pytestmark = pytest.mark.compiles

SIZE = 32


def boxes(*rows):
  return np.array(rows, np.float32).reshape(-1, 5)


TRUE = boxes((10, 10, 20, 20, 1), (50, 50, 52, 52, 1))


@pytest.mark.parametrize(
  ("found", "first", "second"),
  [
    ((12, 12, 18, 18, 1), True, False),  # inside the lesion
    ((0, 0, 16, 16, 1), True, False),  # a corner over the lesion's centre
    ((0, 0, 13, 13, 1), False, False),  # overlaps, but neither has a centre
    ((0, 0, 60, 60, 1), True, True),  # one window shows both
    ((18, 18, 24, 24, 1), True, False),  # its centre 1 px outside: grown
    ((18, 18, 25, 25, 1), False, False),  # its centre 1.5 px outside
    ((53, 53, 55, 55, 1), False, False),  # 1 px apart
    ((52, 52, 54, 54, 1), False, True),  # they touch: centre 1 px outside
  ],
)
def test_a_match_is_a_centre_in_the_other_box(found, first, second):
  match = detected.matches(TRUE, boxes(found))
  np.testing.assert_array_equal(match, [[first], [second]])


def test_outcomes_are_counted_by_image():
  found = [
    boxes((12, 12, 18, 18, 0.9), (80, 80, 90, 90, 0.9), (70, 0, 75, 5, 0.9)),
    boxes((1, 1, 2, 2, 0.9)),
    boxes(),
  ]
  outcomes = detected.outcomes([TRUE, boxes(), TRUE], found)
  assert outcomes["found"].tolist() == [True, False, False, False]
  assert outcomes["image"].tolist() == [0, 0, 2, 2]
  assert outcomes["false"].tolist() == [2, 1, 0]


def test_intervals_leave_out_whole_images():
  outcomes = {
    "found": np.array([1, 1, 0, 1, 0, 0, 1, 1, 1, 0], bool),
    "image": np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 5]),
    "false": np.array([4, 0, 1, 2, 2, 3]),
  }
  groups = np.array(["a", "b", "c", "d", "e", "f"])
  found = detected.entries(outcomes, groups)
  assert found["detector/recall"]["value"] == pytest.approx(0.6)
  left = [
    outcomes["found"][outcomes["image"] != k].mean() for k in range(len(groups))
  ]
  error = np.sqrt(5 / 6 * np.sum((np.array(left) - np.mean(left)) ** 2))
  wanted = intervals.entry(
    0.6, intervals.Support(10, 6, 6), "logit", error, freedom=5
  )
  assert found["detector/recall"]["low"] == pytest.approx(wanted["low"])
  assert found["detector/recall"]["high"] == pytest.approx(wanted["high"])
  false = found["detector/false_boxes"]
  assert false["value"] == pytest.approx(2) and false["groups"] == 6
  half = intervals.quantile(5, 0.975) * np.std([4, 0, 1, 2, 2, 3], ddof=1)
  assert false["high"] - 2 == pytest.approx(half / np.sqrt(6))


def test_no_true_box_no_recall():
  outcomes = detected.outcomes([boxes()] * 6, [boxes()] * 6)
  found = detected.entries(outcomes, np.arange(6).astype(str))
  assert found["detector/recall"]["value"] is None
  assert found["detector/false_boxes"]["value"] == 0


def test_the_optic_disc_is_no_lesion():
  masks = np.array([[[0, 1], [2, 3]]], np.uint8)
  found = lesion_net.lesions_of(masks, ("a", "optic_disc", "b"))
  np.testing.assert_array_equal(found, [[[0, 1], [0, 1]]])


def regions(flags):
  masks = np.zeros((len(flags), 2, 2), np.uint8)
  masks[np.array(flags, bool), 0, 1] = 1
  return Regions(
    masks, np.arange(len(flags)), np.zeros((len(flags), 2), int), 2
  )


def test_half_of_the_tiles_or_more_hold_a_lesion():
  rows = lesion_net.balanced(regions([0, 0, 0, 1, 0, 0, 0, 0, 0]))
  assert np.bincount(rows).tolist() == [1, 1, 1, 8, 1, 1, 1, 1, 1]
  rows = lesion_net.balanced(regions([1, 1, 0, 1]))
  assert np.bincount(rows).tolist() == [1, 1, 1, 1]


def test_evened_images_equal_scipys():
  pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 60, 3), np.uint8)
  found = np.asarray(lesion_net.evened(pixels), int)
  for image, even in zip(pixels.astype(float), found, strict=True):
    local = ndimage.gaussian_filter(
      image, (2, 2, 0), mode="nearest", radius=(6, 6, 0)
    )
    wanted = np.clip(np.round(128 + 4 * (image - local)), 0, 255)
    assert np.abs(even - wanted).max() <= 1


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  """The workdir, the artifact and the class maps of stage data of a run."""
  workdir = tmp_path_factory.mktemp("detect")
  config = comcl_cases.config_of(SIZE)
  config.detector.update(
    widths=(8, 16), tile=16, steps=60, learning_rate=1e-2, batch_size=8
  )
  config.detector.class_weights = False
  pixels, maps = comcl_cases.images_of(8, SIZE)
  train = np.full(8, "train")
  lesions = comcl_cases.dataset_of(pixels, maps)
  comcl_cases.prepare_stage(workdir, config, "lesions", lesions, train)
  pixels, maps = comcl_cases.images_of(5, SIZE, seed=1)
  data = comcl_cases.dataset_of(pixels, None)
  part = np.array(["train"] * 3 + ["eval"] * 2)
  comcl_cases.prepare_stage(workdir, config, "data", data, part)
  context = context_of(workdir, config)
  trained = []
  with pytest.MonkeyPatch.context() as patch:
    fit = detector.Detector.fit

    def noting(self, rows, name):
      trained.append((name, rows))
      return fit(self, rows, name)

    patch.setattr(detector.Detector, "fit", noting)
    patch.setattr(detector, "CHUNK", 3)
    artifact = detector.run(context)
  return workdir, config, artifact, maps, trained


def context_of(workdir, config):
  return comcl_cases.context_of(workdir, config, ("data", "lesions"), "detect")


def test_lesions_of_other_images_are_found(ran):
  _, _, artifact, maps, _ = ran
  lesions = lesion_net.lesions_of(maps, comcl_cases.CLASSES)
  assert artifact["boxes"].dtype == np.float32
  assert (np.diff(artifact["boxes_row"]) >= 0).all()
  true = [detector.boxes_of(one) for one in lesions]
  found = [
    artifact["boxes"][artifact["boxes_row"] == row] for row in range(len(maps))
  ]
  outcomes = detected.outcomes(true, found)
  assert outcomes["found"].mean() >= 0.9
  assert outcomes["false"].mean() <= 1
  assert (artifact["boxes"][:, 4] > detector.CUT).all()


def test_metrics_are_of_images_left_out(ran):
  _, _, artifact, _, trained = ran
  folds = artifact["folds"]
  assert sorted(np.bincount(folds)) == [4, 4]
  assert [name for name, _ in trained] == ["without0", "without1", "all"]
  for fold, (_, rows) in enumerate(trained[:2]):
    np.testing.assert_array_equal(rows, np.flatnonzero(folds != fold))
  assert len(trained[2][1]) == 8
  metrics = json.loads(artifact["metrics"])
  assert set(metrics) == {
    *("detector/recall", "detector/false_boxes"),
    *("detector/dark/recall", "detector/bright/recall"),
  }
  assert metrics["detector/recall"]["value"] >= 0.8
  assert metrics["detector/recall"]["groups"] == 8
  assert metrics["detector/recall"]["n"] == 32
  assert metrics["detector/dark/recall"]["n"] == 16


def test_boxes_do_not_depend_on_what_is_held_at_once(ran):
  """What is trained is restored from its checkpoints: nothing is fitted."""
  workdir, config, artifact, _, _ = ran
  again = detector.run(context_of(workdir, config))  # one chunk
  np.testing.assert_array_equal(again["boxes"], artifact["boxes"])
  np.testing.assert_array_equal(again["boxes_row"], artifact["boxes_row"])
  assert again["metrics"] == artifact["metrics"]


def test_sides_need_not_be_multiples_of_a_cell():
  config = comcl_cases.config_of(SIZE).detector
  config.widths = (4, 8, 8)
  network = lesion_net.segmenter(config, (0.5,) * 3, (0.2,) * 3).network
  variables = network.init(jax.random.key(0), (16, 16, 3))
  pixels = np.random.default_rng(0).integers(0, 256, (1, 18, 18, 3), np.uint8)
  mapped = lesion_net.lesion_probability(network, (0.5,) * 3, (0.2,) * 3)
  found = mapped(variables, {"image": pixels})
  assert found.shape == (1, 18, 18) and found.dtype == np.uint8


def test_maps_without_a_lesion_are_refused(tmp_path):
  config = comcl_cases.config_of(SIZE)
  pixels, maps = comcl_cases.images_of(2, SIZE)
  maps[maps < 3] = 0  # the optic disc is left
  data = comcl_cases.dataset_of(pixels, maps)
  part = np.full(2, "train")
  for name in ("lesions", "data"):
    comcl_cases.prepare_stage(tmp_path, config, name, data, part)
  with pytest.raises(DataError, match="no class map of lesion_data holds"):
    detector.run(context_of(tmp_path, config))


def test_images_without_a_class_map_train_no_detector():
  """Their map is not asked for; it may not exist."""
  pixels, maps = comcl_cases.images_of(2, SIZE)
  some = comcl_cases.dataset_of(pixels, maps[:1], labelled=np.array([1.0, 0]))
  config = comcl_cases.config_of(SIZE).preprocess
  first, second = (stage_data._read_masked(config, some, k) for k in (0, 1))
  np.testing.assert_array_equal(first.masks, maps[0])
  assert second.masks is None and second.images.shape == pixels[1].shape


def test_evaluation_images_train_no_detector(tmp_path):
  """Images of lesion_data may be among the training images of data alone."""
  config = comcl_cases.config_of(SIZE)
  pixels, maps = comcl_cases.images_of(4, SIZE)
  lesions = comcl_cases.dataset_of(pixels[1:], maps[1:], "lesions")
  train = np.full(3, "train")
  comcl_cases.prepare_stage(tmp_path, config, "lesions", lesions, train)
  data = comcl_cases.dataset_of(pixels, None)
  part = np.array(["eval", "train", "train", "eval"])
  comcl_cases.prepare_stage(tmp_path, config, "data", data, part)
  with pytest.raises(DataError, match="1 images of lesion_data, such as 'les"):
    detector.run(context_of(tmp_path, config))


def test_programs_are_those_of_the_detector_at_its_own_shapes():
  config = get_config("tiny").detector
  config.update(widths=(4, 8), tile=15, batch_size=2)
  fit, sweep = lesion_net.programs(
    config, (20, 20, 3), ((0.5,) * 3, (0.2,) * 3)
  )
  assert fit.batch["image"].shape == (2, 14, 14, 3)
  found = jax.eval_shape(sweep.function, sweep.tree, sweep.batch)
  assert found.shape == (2, 20, 20) and found.dtype == np.uint8
  step = functools.partial(fit.function, axis_name=None)
  _, metrics = jax.eval_shape(step, fit.tree, fit.batch)
  assert metrics["loss"].shape == ()
