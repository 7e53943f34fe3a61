"""Presets of CoMCL, and settings that cannot run."""

import pathlib

import pytest

from gcl_jax.errors import ConfigError
from gcl_jax.methods.comcl import arms, config

FILES = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parents[1] / "configs/comcl").glob("*.py")
)


@pytest.mark.parametrize("preset", [*config.PRESETS, *FILES])
def test_every_preset_can_run(preset):
  found = config.get_config(preset)
  assert found.preset == preset
  config.check(found)


def test_the_presets_that_are_promised():
  promised = {"demo", "tiny", "paper", "fundus_dr", "idrid", "eyeq", "chest"}
  assert promised == {*config.PRESETS, *FILES}


@pytest.mark.parametrize("arm", arms.ARMS)
def test_every_arm_can_run_alone(arm):
  found = config.get_config("demo")
  found.arms = (arm,)
  config.check(found)
  pretrain, patches = arms.settings_of(found, arm)
  for section, changes in (
    (pretrain, arms.ARMS[arm].pretrain),
    (patches, arms.ARMS[arm].patches),
  ):
    assert {name: section[name] for name in changes} == changes
  assert (arm in arms.trained(found)) == (arms.encoder_of(arm) == arm)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"arms": ("simclrr",)}, "did you mean 'simclr'"),
    ({"arms": ("simclr", "simclr")}, "each once"),
    ({"preprocess.size": (128, 96)}, "two equal numbers"),
    ({"preprocess.size": (16, 16)}, "at least patches.size 32"),
    ({"preprocess.channels": 2}, "1 or 3"),
    ({"quality.shares": (0.7, 0.33)}, "each larger than the one before"),
    ({"quality.shares": (1.0,)}, "two or more, each larger"),
    ({"quality.shares": (0.5, 1.5)}, "must be 1 or less"),
    ({"boxes.source": "detector"}, "--config.lesion_data.name"),
    ({"boxes.confidence": 1.5}, "boxes.confidence must be 1 or less"),
    ({"pretrain.pacing": "scaledd"}, "did you mean 'scaled'"),
    ({"pretrain.first_pair": "high-low"}, "did you mean 'high_low'"),
    ({"patches.healthy": "matchd"}, "did you mean 'matched'"),
    ({"diagnosis.loss": "softmaxx"}, "did you mean 'softmax'"),
    (
      {"pretrain.loss": "simclr", "pretrain.negatives": "queue"},
      "takes its negatives from the batch",
    ),
  ],
)
def test_settings_that_cannot_run_are_refused_in_one_line(changes, said):
  found = config.get_config("demo")
  found.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError) as caught:
    config.check(found)
  assert said in str(caught.value) and "\n" not in str(caught.value)
