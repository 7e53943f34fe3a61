"""Figures of few-label segmentation: means, paired differences, families."""

import numpy as np
import pytest

from gcl_jax.methods.gcl import arms
from gcl_jax.methods.gcl.config import get_config
from gcl_jax.pipeline import gains, label_draws, report_gains, report_volumes


def tiny(**changes):
  config = get_config("tiny")
  config.update_from_flattened_dict(changes)
  return config


def made_up(config, classes=("LV",)):
  """Artifact of stage segment with random Dice, and {fit: Dice [V]}."""
  draw = np.random.default_rng(0)
  names = [
    fit.name for fit in label_draws.fits(config.segment, arms.names(config))
  ]
  values = {name: draw.uniform(0.3, 0.9, 12) for name in names}
  fits = {
    name: {
      "eval": {
        **{f"dice%2F{c}": value for c in (*classes, "mean")},
        **{f"hd95%2F{c}": 30 * value for c in (*classes, "mean")},
      }
    }
    for name, value in values.items()
  }
  groups = np.repeat(list("abcdef"), 2)
  return {"fits": fits, "tests": {"eval": {"groups": groups}}}, values


def six_draws(**changes):
  draws = {"segment.draws": tuple(range(6)), "segment.seeds": (0, 1)}
  return tiny(**draws, **changes)


def test_draws_go_with_seeds_in_turn():
  config = six_draws(**{"segment.labelled": (2, 1)})
  found = label_draws.fits(config.segment, ["scratch", "gcl"])
  assert [f.name for f in found[:3]] == [
    *("scratch-m2-d0-s0", "gcl-m2-d0-s0", "scratch-m2-d1-s1")
  ]
  assert [(f.draw, f.seed) for f in found if f.arm == "gcl"] == [
    *((0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1)),
    *((0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1)),
  ]
  config.segment.update(draws=(3,), seeds=(0, 1, 2), labelled=(2,))
  names = [f.name for f in label_draws.fits(config.segment, ["gcl"])]
  assert names == ["gcl-m2-d3-s0", "gcl-m2-d3-s1", "gcl-m2-d3-s2"]
  assert label_draws.draw_names(2, (3, 3, 4), (0, 1, 2)) == ["3", "3", "4"]
  assert len(set(label_draws.draw_names(0, (3, 3, 4), (0, 1, 1)))) == 3


def test_figures_of_a_run_by_their_names():
  config = six_draws()
  found, values = made_up(config)
  metrics = gains.metrics(found, config, arms.names(config), arms.BASELINES)
  every = {
    arm: np.array([v for n, v in values.items() if n.startswith(f"{arm}-")])
    for arm in ("gcl", "scratch")
  }
  means = {arm: every[arm].mean() for arm in every}
  entry = {"value", "low", "high", "n", "groups", "fits", "draws"}
  difference = entry | {"p", "smallest", "p_holm", "family"}
  for name, expected, keys in (
    ("segment/dice/mean", means["gcl"], entry),
    ("segment/dice/LV", means["gcl"], entry),
    ("segment/hd95/mean", 30 * means["gcl"], entry),
    ("segment/failures", (every["gcl"] < 0.5).mean(), entry),
    ("segment/scratch@2/dice/LV", means["scratch"], entry),
    ("segment/gain_over_scratch", means["gcl"] - means["scratch"], difference),
    (
      "segment/gcl@2/hd95_over_scratch",
      30 * (means["gcl"] - means["scratch"]),
      difference,
    ),
  ):
    metric = metrics[name]
    assert metric["value"] == pytest.approx(expected), name
    assert metric["low"] <= metric["value"] <= metric["high"]
    assert set(metric) == keys
    assert (metric["n"], metric["groups"], metric["draws"]) == (12, 6, 6)
  assert metrics["segment/hd95/mean/undefined"]["value"] == 0
  assert metrics["segment/gain_over_scratch"]["family"] == 1
  config.segment.update(draws=(0, 1))
  found, _ = made_up(config)
  few = gains.metrics(found, config, arms.names(config), arms.BASELINES)
  assert few["segment/dice/mean"]["low"] is None
  low, high = few["segment/dice/mean"]["range"]
  assert low < few["segment/dice/mean"]["value"] < high


def test_differences_are_paired_and_families_corrected():
  """The own arm against every arm, others against the baselines; what all
  fine-tunes share cancels."""
  config = six_draws()
  config.arms = ("scratch", "simclr", "heads_mean")
  found, values = made_up(config)
  noise = np.random.default_rng(1)
  shifts = {"simclr": 0.05, "heads_mean": 0.02, "gcl": 0.08}
  for name in values:
    arm, rest = name.split("-", 1)
    if arm != "scratch":
      shift = shifts[arm] + 0.01 * noise.normal(size=12)
      found["fits"][name]["eval"]["dice%2FLV"] = (
        values[f"scratch-{rest}"] + shift
      )
  undefined = found["fits"]["simclr-m2-d0-s0"]["eval"]["hd95%2FLV"]
  found["fits"]["simclr-m2-d0-s0"]["eval"]["hd95%2FLV"] = np.where(
    np.arange(12) < 5, np.nan, undefined
  )
  metrics = gains.metrics(found, config, arms.names(config), arms.BASELINES)
  expected = {
    "gcl@2/gain_over_scratch": 0.08,
    "gcl@2/gain_over_simclr": 0.03,
    "gcl@2/gain_over_heads_mean": 0.06,
    "simclr@2/gain_over_scratch": 0.05,
    "simclr@2/gain_over_heads_mean": 0.03,
    "heads_mean@2/gain_over_scratch": 0.02,
  }
  family = {
    name.removeprefix("segment/"): metric
    for name, metric in metrics.items()
    if "@" in name and "gain_over" in name
  }
  assert set(family) == set(expected)
  for name, value in expected.items():
    assert family[name]["value"] == pytest.approx(value, abs=0.006), name
    assert family[name]["high"] - family[name]["low"] < 0.02
    assert family[name]["family"] == 6
  ranked = sorted(family.values(), key=lambda metric: metric["p"])
  assert ranked[0]["p_holm"] == pytest.approx(6 * ranked[0]["p"])
  assert all(metric["p_holm"] >= metric["p"] for metric in ranked)
  # Undefined in one arm: left out of both, and counted.
  left_out = metrics["segment/gcl@2/hd95_over_simclr/undefined"]
  assert (left_out["value"], left_out["n"]) == (5, 72)
  difference = [
    30 * (values[f"gcl-{r}"] - values[f"simclr-{r}"])
    for r in (f"m2-d{d}-s{d % 2}" for d in range(6))
  ]
  difference[0][:5] = np.nan
  found = metrics["segment/hd95_over_simclr"]["value"]
  assert found == pytest.approx(np.nanmean(difference))
  tables = report_gains.families(config, metrics, arms.names(config))
  assert list(tables) == [
    "Dice (test volumes, M = 2)",
    "HD95 in mm (test volumes, M = 2)",
  ]
  assert "gcl against simclr (5 of 72 left out)" in tables[[*tables][1]]
  (line,) = [
    line
    for line in report_gains.lines(config, metrics, arms.names(config))
    if line.startswith("gcl against scratch, Dice")
  ]
  assert "above" in line and "p by Holm < 0.001" in line


def test_a_run_says_whether_pre_training_is_worth_its_steps():
  """Below or not told apart from as many steps of fine-tuning, or not tried."""
  (note,) = report_volumes.steps_warning({}, ("scratch", "toy"))
  assert "scratch_long was not run" in note
  arms = ("scratch", "scratch_long", "toy")
  assert report_volumes.steps_warning({}, arms) == []
  found = {"value": 0.1, "low": 0.02, "high": 0.2, "p": 0.01, "p_holm": 0.02}
  key = "segment/gain_over_scratch_long"
  assert report_volumes.steps_warning({key: found}, arms) == []
  for low, high, word in ((-0.2, -0.1, "below"), (-0.2, 0.1, "not told apart")):
    entry = found | {"value": low / 2, "low": low, "high": high}
    (note,) = report_volumes.steps_warning({key: entry}, arms)
    assert note.endswith(f"in Dice, {word}.") and "-0.200" in note
