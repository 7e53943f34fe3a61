"""Dice and HD95 by volume and class against double loops over voxels."""

import chex
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gcl_jax.errors import DataError
from gcl_jax.evaluation import overlap
from gcl_jax.evaluation.over_draws import mean_over_fits
from gcl_jax.evaluation.volumes import volume_scores

NAMES = ("lv", "myocardium", "rv")
SPACING = (5.0, 1.25, 1.5)


def volume(seed, shape=(4, 6, 7)):
  random = np.random.default_rng(seed)
  return random.choice(4, shape, p=[0.4, 0.2, 0.2, 0.2])


def surface(mask):
  """Voxels of the mask that share a face with a voxel outside it."""
  found = []
  for voxel in np.argwhere(mask):
    for axis in range(3):
      for step in (-1, 1):
        other = voxel.copy()
        other[axis] += step
        inside = np.all(other >= 0) and np.all(other < mask.shape)
        if not inside or not mask[tuple(other)]:
          found.append(tuple(voxel))
  return sorted(set(found))


def percentile95(values):
  values = sorted(values)
  place = 0.95 * (len(values) - 1)
  low = int(place)
  high = min(low + 1, len(values) - 1)
  return values[low] + (place - low) * (values[high] - values[low])


def slow_hd95(a, b, spacing):
  a, b = surface(a), surface(b)
  directions = []
  for first, second in ((a, b), (b, a)):
    nearest = []
    for p in first:
      distances = [
        sum(((x - y) * s) ** 2 for x, y, s in zip(p, q, spacing, strict=True))
        for q in second
      ]
      nearest.append(min(distances) ** 0.5)
    directions.append(percentile95(nearest))
  return max(directions)


def slow_dice(a, b):
  both = sum(1 for x, y in zip(a.ravel(), b.ravel(), strict=True) if x and y)
  return 2 * both / (a.sum() + b.sum())


@pytest.mark.parametrize("spacing", [SPACING, (1.0, 3.0, 0.5)])
def test_every_volume_and_class_by_brute_force(spacing):
  shapes = [(4, 6, 7), (3, 5, 5), (1, 9, 8)]
  truths = [volume(k, shape) for k, shape in enumerate(shapes)]
  predictions = [volume(k + 9, shape) for k, shape in enumerate(shapes)]
  # Solid bodies too: a box, and the same shifted and shortened.
  solid, other = np.zeros((6, 9, 9), int), np.zeros((6, 9, 9), int)
  solid[1:5, 1:7, 2:8], solid[0, :2, :2], solid[5, 8, :] = 1, 2, 3
  other[2:6, 1:5, 3:9], other[:2, :2, 0], other[4, 7, 2:] = 1, 2, 3
  truths, predictions = [*truths, solid], [*predictions, other]
  # Each volume has a spacing of its own.
  spacings = [np.roll(spacing, k) for k in range(4)]
  scores = volume_scores(truths, predictions, spacings, NAMES)
  assert set(scores) == {
    f"{m}/{name}" for m in ("dice", "hd95") for name in (*NAMES, "mean")
  }
  for v in range(4):
    each = []
    for c, name in enumerate(NAMES, 1):
      a, b = truths[v] == c, predictions[v] == c
      each.append((slow_dice(a, b), slow_hd95(a, b, spacings[v])))
      assert scores[f"dice/{name}"][v] == pytest.approx(each[-1][0], abs=1e-12)
      assert scores[f"hd95/{name}"][v] == pytest.approx(each[-1][1], abs=1e-9)
    means = np.mean(each, axis=0)
    assert scores["dice/mean"][v] == pytest.approx(means[0], abs=1e-12)
    assert scores["hd95/mean"][v] == pytest.approx(means[1], abs=1e-9)


def with_gaps():
  """Three volumes; class by class what is in truth and prediction:
  lv in all; myocardium only in the truth of 0 and the prediction of 1;
  rv nowhere but in volume 2."""
  truths, predictions = np.zeros((2, 3, 2, 4, 4), int)
  truths[:, :, :2], predictions[:, :, :2, :2] = 1, 1
  truths[0, :, 2, 0], predictions[1, :, 2, 0] = 2, 2
  truths[2, :, 3], predictions[2, :, 3] = 3, 3
  return truths, predictions, [SPACING] * 3


def test_undefined_is_not_a_number():
  scores = volume_scores(*with_gaps(), NAMES)
  nan = np.nan
  np.testing.assert_allclose(scores["dice/lv"], [2 / 3] * 3)
  np.testing.assert_array_equal(scores["dice/myocardium"], [0, 0, nan])
  np.testing.assert_array_equal(scores["hd95/myocardium"], [nan] * 3)
  np.testing.assert_array_equal(scores["dice/rv"], [nan, nan, 1])
  np.testing.assert_array_equal(scores["hd95/rv"], [nan, nan, 0])
  np.testing.assert_allclose(scores["dice/mean"], [1 / 3, 1 / 3, 5 / 6])
  rows = np.stack([scores[f"dice/{name}"] for name in NAMES])[:, None]
  # Volumes first, then classes: (2/3 + 0 + 1) / 3, not the mean over volumes.
  found = mean_over_fits(rows, np.arange(3))
  assert found["value"] == pytest.approx(5 / 9)
  rows = np.stack([scores[f"hd95/{name}"] for name in NAMES])[:, None]
  found = mean_over_fits(rows, np.arange(3))
  lv = scores["hd95/lv"].mean()
  assert found["value"] == pytest.approx((lv + 0) / 2)


def slow_dice_inside(truth, prediction, inside, label):
  """One voxel after the other; nan where the region holds none of the class."""
  both = size = 0
  for voxel in np.ndindex(truth.shape):
    if inside[voxel]:
      a, b = int(truth[voxel] == label), int(prediction[voxel] == label)
      both, size = both + a * b, size + a + b
  return 2 * both / size if size else np.nan


def some_regions(truths, predictions):
  random = np.random.default_rng(1)
  unsure = [random.random(truth.shape) < 0.3 for truth in truths]
  unsure[2] &= (truths[2] != 2) & (predictions[2] != 2)  # a class is missing
  return {
    "unsure": unsure,
    "empty": [np.zeros(truth.shape, bool) for truth in truths],
    "all": [np.ones(truth.shape, bool) for truth in truths],
  }


def test_dice_inside_regions_by_a_loop_over_voxels():
  shapes = [(2, 4, 5), (3, 4, 4), (1, 5, 3)]
  truths = [volume(k, shape) for k, shape in enumerate(shapes)]
  predictions = [volume(k + 9, shape) for k, shape in enumerate(shapes)]
  regions = some_regions(truths, predictions)
  given = truths, predictions, [SPACING] * 3, NAMES
  plain, scores = volume_scores(*given), volume_scores(*given, regions)
  chex.assert_trees_all_equal({name: scores[name] for name in plain}, plain)
  expected = {}
  for region, masks in regions.items():
    means = []
    for v in range(3):
      each = [
        slow_dice_inside(truths[v], predictions[v], masks[v], label)
        for label in (1, 2, 3)
      ]
      for name, value in zip(NAMES, each, strict=True):
        expected.setdefault(f"dice/{name}@{region}", []).append(value)
      defined = [value for value in each if not np.isnan(value)]
      means.append(sum(defined) / len(defined) if defined else np.nan)
    expected[f"dice/mean@{region}"] = means
  found = {name: scores[name] for name in scores if name not in plain}
  expected = {name: np.array(values) for name, values in expected.items()}
  chex.assert_trees_all_close(found, expected, atol=1e-12, rtol=0)
  gaps = {name: np.isnan(values).tolist() for name, values in found.items()}
  assert gaps["dice/myocardium@unsure"] == [False, False, True]
  assert gaps["dice/mean@unsure"] == [False] * 3
  assert gaps["dice/mean@empty"] == [True] * 3
  chex.assert_trees_all_equal(found["dice/rv@all"], plain["dice/rv"])


def slow_surface_dice(a, b, spacing, tolerance):
  """By the distances of all pairs of surface voxels; nan without a voxel."""
  a, b = (np.array(surface(m)).reshape(-1, 3) * spacing for m in (a, b))
  near = 0
  for first, second in ((a, b), (b, a)):
    for point in first:
      if len(second):
        near += cdist([point], second).min() <= tolerance + 1e-9
  return near / (len(a) + len(b)) if len(a) + len(b) else np.nan


@pytest.mark.parametrize("tolerance", [0.4, 1.25, 1.5, 5.0])
def test_surface_dice_by_all_pairs_of_surface_voxels(tolerance):
  solid, other = np.zeros((2, 5, 9, 9), int)
  solid[1:4, 1:7, 2:8], solid[0, :2, :2] = 1, 3
  other[1:5, 1:6, 3:8], other[4, 8, :] = 1, 2
  truths = [volume(2), solid, *with_gaps()[0]]
  predictions = [volume(7), other, *with_gaps()[1]]
  spacings = [np.roll(SPACING, v) for v in range(5)]
  scores = volume_scores(
    truths, predictions, spacings, NAMES, tolerance=tolerance
  )
  for v, spacing in enumerate(spacings):
    each = [
      slow_surface_dice(truths[v] == c, predictions[v] == c, spacing, tolerance)
      for c in (1, 2, 3)
    ]
    for name, value in zip(NAMES, each, strict=True):
      assert scores[f"surface_dice/{name}"][v] == pytest.approx(
        value, abs=1e-12, nan_ok=True
      )
    mean = scores["surface_dice/mean"][v]
    assert mean == pytest.approx(np.nanmean(each), abs=1e-12)
  # A class that is missed scores 0, one that is nowhere is undefined.
  assert scores["surface_dice/myocardium"][1:3].tolist() == [0, 0]
  assert np.isnan(scores["surface_dice/rv"][2])
  a, b = truths[1] == 1, predictions[1] == 1
  found = overlap.surface_dice(a, b, tolerance, spacings[1])
  assert found == pytest.approx(scores["surface_dice/lv"][1])


def test_surface_dice_is_left_out_where_the_spacing_is_not_known():
  given = [volume(0), volume(1)], [volume(2), volume(3)], [SPACING] * 2, NAMES
  plain = volume_scores(*given)
  assert not [name for name in plain if name.startswith("surface")]
  found = volume_scores(*given, tolerance=1.0, in_mm=[False, True])
  for name in (*NAMES, "mean"):
    values = found[f"surface_dice/{name}"]
    assert np.isnan(values[0]) and 0 <= values[1] <= 1
  chex.assert_trees_all_equal({name: found[name] for name in plain}, plain)


def test_regions_that_do_not_fit_are_refused():
  a, b = volume(0), volume(1)
  fits = np.ones(a.shape, bool)
  for masks, message in (
    ([], "region 'unsure': 0 masks for 2 volumes"),
    ([fits, fits[:1]], "volume 1: the mask must be bool of shape"),
    ([fits * 0.5, fits], "volume 0: .* got float64"),
  ):
    with pytest.raises(DataError, match=message):
      volume_scores([a, b], [b, a], [SPACING] * 2, NAMES, {"unsure": masks})


def test_a_perfect_prediction():
  truth = volume(3)
  found = volume_scores([truth], [truth.copy()], [SPACING], NAMES)
  for key, values in found.items():
    assert values.tolist() == [1.0 if key.startswith("dice") else 0.0]


def test_what_does_not_fit_is_refused():
  a, b = volume(0), volume(1)
  for arguments, message in (
    (([], [], [], NAMES), "at least one"),
    (([a, b], [a], [SPACING] * 2, NAMES), "got 2, 1 and 2"),
    (([a, b], [a, b], [SPACING], NAMES), "got 2, 2 and 1"),
    (([a, a], [b, b[:3]], [SPACING] * 2, NAMES), "volume 1: truth and pred"),
    (([a[0]], [b[0]], [SPACING], NAMES), "volume 0: truth and pred"),
    (([a], [b], [SPACING], NAMES[:2]), "label 3, but 2 classes are named"),
    (([a], [b - 1], [SPACING], NAMES), "volume 0 holds label -1"),
    (([a], [b], [(1.0, 2.0)], NAMES), "spacing must be three"),
    (([a], [b], [(1.0, 2.0, 0.0)], NAMES), "spacing must be three"),
    (([a], [b], [SPACING], ("a", "b", "mean")), "not be 'mean'"),
    (([a], [b], [SPACING], ("a", "b", "b")), "must differ"),
  ):
    with pytest.raises(DataError, match=message):
      volume_scores(*arguments)
