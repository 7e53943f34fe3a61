"""Dice of the classes that look alike, from the voxels to the report."""

import numpy as np
import pytest

from gcl_jax.errors import ConfigError, DataError
from gcl_jax.evaluation.volumes import volume_scores
from gcl_jax.methods.gcl import arms
from gcl_jax.methods.gcl.config import get_config
from gcl_jax.methods.pixel_global.config import get_config as own_config
from gcl_jax.pipeline import (
  checks,
  gains,
  label_draws,
  report_gains,
  report_volumes,
  segment,
)

NAMES = ("left", "bar", "right")
ALIKE = ("left", "right")
SPACING = (5.0, 1.0, 1.0)


def slow_ambiguous(truth, prediction, alike=(1, 3)):
  """Voxel by voxel; None where no class is defined."""
  each = []
  for label in alike:
    both, sizes = 0, 0
    for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
      if t in alike:
        both += t == label and p == label
        sizes += int(t == label) + int(p == label)
    if sizes:
      each.append(2 * both / sizes)
  return sum(each) / len(each) if each else None


def volumes(seed=0, count=5):
  draw = np.random.default_rng(seed)
  truths, predictions = draw.integers(0, 4, (2, count, 2, 4, 5))
  return list(truths), list(predictions)


def test_dice_on_classes_that_look_alike_voxel_by_voxel():
  truths, predictions = volumes()
  truths[3][truths[3] != 2] = 0  # neither of the two
  truths[4][truths[4] == 3] = 1  # one of the two, and only that is predicted
  predictions[4][predictions[4] == 3] = 1
  spacings = [SPACING] * len(truths)
  found = volume_scores(truths, predictions, spacings, NAMES, alike=ALIKE)
  plain = volume_scores(truths, predictions, spacings, NAMES)
  assert set(found) - set(plain) == {"dice/ambiguous"}
  for name in plain:
    np.testing.assert_array_equal(found[name], plain[name])
  expected = [
    slow_ambiguous(*pair) for pair in zip(truths, predictions, strict=True)
  ]
  assert expected[3] is None and expected[4] is not None
  np.testing.assert_allclose(
    found["dice/ambiguous"], np.array(expected, float), atol=1e-12
  )
  other = volume_scores(truths, predictions, spacings, NAMES, alike=("bar",))
  expected = [
    slow_ambiguous(*pair, alike=(2,))
    for pair in zip(truths, predictions, strict=True)
  ]
  np.testing.assert_allclose(other["dice/ambiguous"], np.array(expected, float))


def test_what_is_missed_and_what_is_taken_for_the_other():
  """Half of "left" is called "right", and a background voxel "left"; the
  latter costs Dice, and nothing on the voxels of the two alone."""
  truth = np.array([[[1, 1, 3, 0]]])
  prediction = np.array([[[1, 3, 3, 1]]])
  found = volume_scores([truth], [prediction], [SPACING], NAMES, alike=ALIKE)
  assert found["dice/left"][0] == pytest.approx(1 / 2)
  assert found["dice/ambiguous"][0] == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize(
  ("alike", "names", "message"),
  [
    (("left", "rigth"), NAMES, "class 'rigth' of segment.alike is not in"),
    (("left", "left"), NAMES, "each class once"),
    (("left",), ("left", "ambiguous"), "a class is called 'ambiguous'"),
  ],
)
def test_classes_that_cannot_be_alike_are_refused(alike, names, message):
  blank = [np.zeros((1, 2, 2), int)]
  with pytest.raises(DataError, match=message):
    volume_scores(blank, blank, [SPACING], names, alike=alike)

  class Images:
    classes = names

  config = own_config("tiny").segment
  config.alike = alike
  with pytest.raises(DataError, match=message):  # before pre-training
    label_draws.check_labels(Images(), config)


def made_up(config, names, alike):
  """Artifact of stage segment with random scores of six patients."""
  draw = np.random.default_rng(0)
  fits = {}
  for fit in label_draws.fits(config.segment, names):
    keys = [f"{m}%2F{c}" for m in ("dice", "hd95") for c in (*NAMES, "mean")]
    keys += ["dice%2Fambiguous"] if alike else []
    scores = {key: draw.uniform(0.2, 0.9, 12) for key in keys}
    fits[fit.name] = {"eval": scores}
  tests = {"eval": {"groups": np.repeat(list("abcdef"), 2)}}
  return {"fits": fits, "tests": tests}


def of_six_draws(config, alike):
  config.segment.update(draws=tuple(range(6)), seeds=(0, 1))
  config.arms = ("scratch", "simclr")
  names = (*config.arms, config.method)
  found = made_up(config, names, alike)
  return found, names, gains.metrics(found, config, names, arms.BASELINES)


def test_the_ambiguous_figures_of_a_run():
  config = own_config("tiny")
  config.segment.alike = ALIKE
  found, names, metrics = of_six_draws(config, ALIKE)
  m = config.segment.labelled[0]
  plain = own_config("tiny")
  plain.segment.alike = ()
  _, _, without = of_six_draws(plain, ())

  def of_arm(arm):
    return np.stack(
      [
        found["fits"][f.name]["eval"]["dice%2Fambiguous"]
        for f in label_draws.fits(config.segment, [arm])
      ]
    )

  for arm in names:
    entry = metrics[f"segment/{arm}@{m}/dice/ambiguous"]
    assert entry["value"] == pytest.approx(of_arm(arm).mean())
    assert entry["low"] < entry["value"] < entry["high"]
  own = metrics["segment/dice/ambiguous"]
  assert own == metrics[f"segment/{config.method}@{m}/dice/ambiguous"]
  gain = metrics["segment/gain_ambiguous_over_simclr"]
  expected = of_arm(config.method) - of_arm("simclr")
  assert gain["value"] == pytest.approx(expected.mean())
  assert gain["family"] == 3  # of this metric alone
  # The other figures do not know of it.
  means = [
    np.mean([found["fits"][f.name]["eval"][f"dice%2F{c}"] for c in NAMES])
    for f in label_draws.fits(config.segment, [config.method])
  ]
  assert metrics["segment/dice/mean"]["value"] == pytest.approx(np.mean(means))
  added = {name for name in metrics if "ambiguous" in name}
  assert set(without) == (set(metrics) - added) | {"segment/dice/ambiguous"}
  tables = report_gains.families(config, metrics, names)
  title = f"Dice on left and right alone (test volumes, M = {m})"
  assert f"{config.method} against simclr" in tables[title]
  cards = report_volumes.cards(config)
  assert "segment/dice/ambiguous" in [name for name, *_ in cards]


def test_without_such_classes_the_figure_is_promised_and_empty():
  """GCL has no such setting, and no such figure."""
  config = own_config("tiny")
  config.segment.alike = ()
  _, names, metrics = of_six_draws(config, ())
  empty = {"value": None, "low": None, "high": None, "n": 0}
  assert metrics["segment/dice/ambiguous"] == empty
  assert list(report_gains.families(config, metrics, names)) == [
    f"{title} (test volumes, M = {config.segment.labelled[0]})"
    for title in ("Dice", "HD95 in mm")
  ]
  assert not [c for c in report_volumes.cards(config) if "ambiguous" in c[0]]
  config = get_config("tiny")
  assert "alike" not in config.segment
  _, _, metrics = of_six_draws(config, ())
  assert not [name for name in metrics if "ambiguous" in name]


def test_the_table_of_arms_has_a_column_where_the_figure_exists():
  config = own_config("tiny")
  config.segment.alike = ALIKE
  columns = report_volumes.columns_of(config.segment)
  assert columns["dice/ambiguous"] == "Dice on left and right alone"
  assert list(
    report_volumes.columns_of(get_config("tiny").segment).values()
  ) == [
    *("Dice", "gain over scratch", "HD95 in mm", "surface Dice", "failed"),
    "Dice, other data",
  ]


class Stored:
  """Two volumes of two slices, prepared as they are stored."""

  classes = NAMES
  table = {"spacing_y": np.full(4, 3.0), "spacing_x": np.full(4, 2.0)}


def test_scores_on_the_stored_grid_and_hd95_in_voxels():
  truths, predictions = volumes(1, 2)
  rows = [np.array([0, 1]), np.array([2, 3])]
  test = label_draws.Test(
    ["a", "b"], rows, truths, [(10.0, 3.0, 2.0)] * 2, [True] * 2
  )
  by_row = dict(enumerate(np.concatenate(predictions)))
  found = segment.score(Stored, by_row, test, None, unit="voxels", alike=ALIKE)
  ones = [(1.0, 1.0, 1.0)] * 2
  expected = volume_scores(truths, predictions, ones, NAMES, alike=ALIKE)
  assert set(found) == set(expected)
  for name in found:
    np.testing.assert_array_equal(found[name], expected[name])
  in_mm = segment.score(Stored, by_row, test, None)
  assert "dice/ambiguous" not in in_mm
  expected = volume_scores(truths, predictions, test.spacings, NAMES)
  np.testing.assert_array_equal(in_mm["hd95/mean"], expected["hd95/mean"])
  assert (in_mm["hd95/mean"] > found["hd95/mean"]).all()


def test_the_unit_of_hd95_stands_in_the_report():
  config = get_config("tiny")
  config.segment.update(unit="voxels", tolerance=0.0)
  checks.check(config, {})
  titles = gains.titles(config.segment)
  assert titles == {"dice": "Dice", "hd95": "HD95 in voxels"}
  assert ("segment/hd95/mean", "HD95", "voxels") in report_volumes.cards(config)
  config.segment.tolerance = 1.0
  with pytest.raises(ConfigError, match="take segment.tolerance=0"):
    checks.check(config, {})
  config.segment.update(unit="pixels", tolerance=0.0)
  with pytest.raises(ConfigError, match="segment.unit 'pixels'"):
    checks.check(config, {})
