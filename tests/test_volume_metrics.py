"""Dice and HD95 by volume and class against double loops over voxels."""

import numpy as np
import pytest

from gcl_jax.errors import DataError
from gcl_jax.evaluation import metrics
from gcl_jax.evaluation.volumes import class_mean, summarise, volume_scores

NAMES = ("lv", "myocardium", "rv")
SPACING = (5.0, 1.25, 1.5)


def volume(seed, shape=(4, 6, 7)):
  random = np.random.default_rng(seed)
  return random.choice(4, shape, p=[0.4, 0.2, 0.2, 0.2])


def surface(mask):
  """Voxels of the mask that touch, by a face, what is not the mask."""
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


def test_undefined_is_counted_and_not_averaged():
  scores = volume_scores(*with_gaps(), NAMES)
  nan = np.nan
  np.testing.assert_allclose(scores["dice/lv"], [2 / 3] * 3)
  np.testing.assert_array_equal(scores["dice/myocardium"], [0, 0, nan])
  np.testing.assert_array_equal(scores["hd95/myocardium"], [nan] * 3)
  np.testing.assert_array_equal(scores["dice/rv"], [nan, nan, 1])
  np.testing.assert_array_equal(scores["hd95/rv"], [nan, nan, 0])
  np.testing.assert_allclose(scores["dice/mean"], [1 / 3, 1 / 3, 5 / 6])
  result = summarise(scores)
  counts = {key: result[key]["undefined"] for key in result}
  assert counts == {
    "dice/lv": 0,
    "dice/myocardium": 1,
    "dice/rv": 2,
    "dice/mean": 3,
    "hd95/lv": 0,
    "hd95/myocardium": 3,
    "hd95/rv": 2,
    "hd95/mean": 5,
  }
  assert {result[key]["n"] for key in result} == {3}
  assert result["dice/myocardium"]["value"] == 0
  assert result["hd95/myocardium"]["value"] is None
  # Volumes first, then classes: (2/3 + 0 + 1) / 3, not the mean over volumes.
  assert result["dice/mean"]["value"] == pytest.approx(5 / 9)
  lv = scores["hd95/lv"].mean()
  assert result["hd95/mean"]["value"] == pytest.approx((lv + 0) / 2)


def test_intervals_are_by_patient():
  random = np.random.default_rng(0)
  patients = np.repeat(np.arange(12), 2)  # two phases each
  level = np.repeat(random.uniform(0.3, 0.9, 12), 2)
  scores = {f"dice/{name}": level + 0.01 * k for k, name in enumerate(NAMES)}
  scores["dice/rv"] = np.where(patients == 3, np.nan, scores["dice/rv"])
  scores["dice/mean"] = level
  alone, grouped = summarise(scores), summarise(scores, patients)
  for key in scores:
    assert grouped[key]["value"] == alone[key]["value"]
    widths = [x[key]["high"] - x[key]["low"] for x in (grouped, alone)]
    assert widths[0] > 1.15 * widths[1]
  # The interval of the mean by an independent bootstrap of the same draws.
  rows = np.stack([scores[f"dice/{name}"] for name in NAMES], 1)
  draws = []
  for weights in metrics.resample(24, patients, 1000, 0):
    for w in weights:
      known = ~np.isnan(rows) * w[:, None]
      draws.append(np.mean((np.nan_to_num(rows) * known).sum(0) / known.sum(0)))
  low, high = np.quantile(draws, [0.025, 0.975])
  assert grouped["dice/mean"]["low"] == pytest.approx(low, abs=1e-12)
  assert grouped["dice/mean"]["high"] == pytest.approx(high, abs=1e-12)
  again = summarise(scores, patients, samples=50, seed=4, level=0.5)
  assert again["dice/lv"]["low"] > grouped["dice/lv"]["low"]


def test_class_mean_of_nothing_is_none():
  assert class_mean(np.full((3, 2), np.nan)) is None
  assert class_mean(np.array([[0.2, np.nan], [0.4, np.nan]])) == (
    pytest.approx(0.3)
  )


def test_a_perfect_prediction():
  truth = volume(3)
  result = summarise(volume_scores([truth], [truth.copy()], [SPACING], NAMES))
  for key, found in result.items():
    assert found["value"] == (1 if key.startswith("dice") else 0)
    assert found["low"] is None and found["undefined"] == 0


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
