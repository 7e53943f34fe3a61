"""Settings of CoMCL that no run can use, refused before anything runs."""

import pytest

from gcl_jax.engine.settings import preset_names
from gcl_jax.errors import ConfigError
from gcl_jax.methods.comcl import arms, config, stages


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("patches.size", 0, "patches.size must be more than 0"),
    ("patches.per_image", 0, "patches.per_image must be more than 0"),
    ("detector.tile", 0, "detector.tile must be more than 0"),
    ("detector.folds", 1, "detector.folds 1: 2 or more"),
    ("diagnosis.grades", 1, "diagnosis.grades 1: 2 or more"),
    ("boxes.source", "table", "with --config.boxes.path"),
    ("boxes.source", "detector", "--config.lesion_data.name"),
    ("boxes.confidence", 1.5, "boxes.confidence must be 1 or less"),
    ("patches.size", 128, "at least patches.size 128"),
    ("pretrain.hcl_tau_plus", 1.0, "a share below 1"),
    ("quality.shares", (0.33,), "two or more, each larger"),
    ("quality.shares", (0.7, 0.33), "two or more, each larger"),
    # Their figures would have the same names.
    ("quality.shares", (0.33, 0.33000001), "two or more, each larger"),
    ("arms", ("simclrr",), "arms"),
    ("arms", ("simclr", "simclr"), "arms"),
  ],
)
def test_a_setting_that_cannot_run_is_refused(name, value, message):
  settings = config.get_config("tiny")
  with settings.unlocked():
    settings.update_from_flattened_dict({name: value})
  with pytest.raises(ConfigError, match=message):
    config.check(settings)


@pytest.mark.parametrize("preset", preset_names("comcl", config.PRESETS))
def test_every_preset_with_every_single_arm_has_its_stages(preset):
  for arm in ((), *((name,) for name in arms.ARMS)):
    settings = config.get_config(preset)
    settings.arms = arm
    names = [stage.name for stage in stages.stages(settings)]
    assert len(set(names)) == len(names) and names[-1] == "report"
    assert set(arms.trained(settings)) <= set(names)
