"""What the arms of Pixel-global are, and settings that it refuses."""

import pytest

from gcl_jax.errors import ConfigError
from gcl_jax.methods.pixel_global import arms
from gcl_jax.methods.pixel_global.config import check, get_config


def tiny(**changes):
  """The preset tiny with dotted names changed."""
  config = get_config("tiny")
  for name, value in changes.items():
    section, _, field = name.rpartition(".")
    part = config
    for step in section.split(".") if section else ():
      part = part[step]
    part[field] = value
  return config


def settings_of(arm, **changes):
  return arms.settings_of(tiny(**changes), arm)


def changed(arm):
  """What an arm has otherwise than the method's own."""
  own, other = (settings_of(x).to_dict() for x in (arms.OWN, arm))
  return {name: x for name, x in other.items() if x != own[name]}


def test_an_ablation_changes_what_it_is_called_after_and_nothing_else():
  assert changed("deterministic") == dict(
    stabilizer="deterministic", weighting="", passes=1
  )
  assert changed("no_stabilizer") == dict(stabilizer="", weighting="")
  assert changed("hinge") == dict(stabilizer="hinge", weighting="")
  assert changed("no_weighting") == dict(weighting="")
  for name in ("border", "shuffled", "variance", "focus"):
    assert changed(name) == dict(weighting=name)
  assert changed("gap_penalty") == dict(gap_weight=1.0)
  assert changed("residual") == dict(residual=True)
  assert changed("pairs") == dict(reduce="pairs")
  assert changed("no_overlap_test") == dict(overlap_only=False)


# A configuration that differs from the default wherever a baseline could.
ELSEWHERE = {
  "pretrain.global_branch": "simclr",
  "pretrain.weighting": "focus",
  "pretrain.gap_weight": 2.0,
  "pretrain.reduce": "pairs",
}


@pytest.mark.parametrize("changes", [{}, ELSEWHERE])
@pytest.mark.parametrize("pixels", ["consistency", "densecl", ""])
def test_a_baseline_is_what_it_is_called_whatever_ours_is(changes, pixels):
  changes = {**changes, "pretrain.pixel_branch": pixels}
  branches = {
    "simclr": ("simclr", ""),
    "byol": ("byol", ""),
    "pixpro": ("", "consistency"),
    "pixpro_byol": ("byol", "consistency"),
    "densecl": ("simclr", "densecl"),
  }
  for arm, (whole, of_pixels) in branches.items():
    found = settings_of(arm, **changes)
    assert (found.global_branch, found.pixel_branch) == (whole, of_pixels)
    assert not found.weighting and not found.gap_weight
    if arm.startswith("pixpro"):
      assert found.stabilizer == "propagation" and not found.overlap_only
      assert found.reduce == "image"
    else:
      assert not found.stabilizer
  check(tiny(**{**changes, "pretrain.weighting": "", "arms": tuple(branches)}))


@pytest.mark.parametrize("arm", arms.OF_PIXELS)
def test_an_arm_of_matched_cells_is_refused_where_there_are_none(arm):
  for pixels in ("", "densecl"):
    with pytest.raises(ConfigError, match=f"arm {arm} changes the matched"):
      check(tiny(**{"pretrain.pixel_branch": pixels, "arms": (arm,)}))
  assert set(arms.OF_PIXELS) | {
    *("scratch", "scratch_long", "simclr", "byol", "densecl"),
    *("pixpro", "pixpro_byol"),
  } == set(arms.ARMS)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"pretrain.pixel_weight": 0.0}, "arm pixpro: .* nothing to train"),
    (
      {"pretrain.global_weight": 0.0, "arms": ("byol",)},
      "arm byol: .* nothing to train",
    ),
    (
      {"pretrain.global_branch": "", "pretrain.pixel_branch": ""},
      "arm pixel_global: .* nothing to train",
    ),
    ({"pretrain.dropout": 1.0}, "pretrain.dropout 1.0: a share below 1"),
    ({"pretrain.passes": 1}, "pretrain.passes 1: 2 or more"),
    ({"pretrain.stabilizer": "propagation"}, "take pretrain.stabilizer=drop"),
    (
      {
        "pretrain.residual": True,
        "pretrain.stabilizer": "hinge",
        "pretrain.weighting": "",
      },
      "pretrain.residual adds .* which is 'hinge'",
    ),
    ({"pretrain.stride": 3}, "pretrain.stride 3: one of"),
    ({"pretrain.stride": 8}, "pretrain.stride 8: one of"),
    ({"pretrain.views.size": (18, 16)}, "multiples of 4"),
    ({"pretrain.views.size": (4, 16)}, "fewer than 2 x 2 cells"),
    ({"pretrain.views.crop_scale": (1.0, 0.3)}, "least, greatest"),
    ({"pretrain.views.crop_scale": (0.0, 1.0)}, "must be more than 0"),
    ({"pretrain.views.crop_scale": (0.3, 1.5)}, "must be 1 or less"),
    ({"pretrain.views.crop_scale": ()}, "least, greatest"),
    ({"pretrain.views.crop_ratio": (1.0,)}, "least, greatest"),
    ({"pretrain.views.crop_ratio": (0.0, 1.0)}, "must be more than 0"),
    ({"pretrain.views.flip_rows": 1.5}, "must be 1 or less"),
    ({"pretrain.views.flip_columns": 1.5}, "must be 1 or less"),
    ({"segment.views.scale": (1.4, 0.7)}, "least, greatest"),
    ({"segment.views.elastic": (0.1, 0.0)}, "least, greatest"),
    ({"segment.views.smoothness": 0.0}, "must be more than 0"),
    ({"segment.views.probability": 1.5}, "must be 1 or less"),
    ({"uncertainty.images": 0}, "uncertainty.images must be more than 0"),
    ({"unet.widths": (4,)}, "unet.widths .* two or more levels"),
    ({"unet.widths": (4, 0, 8)}, "unet.widths must be more than 0"),
    ({"data.name": ""}, "data.name is empty"),
    ({"arms": ("pixpr",)}, "did you mean 'pixpro'"),
    ({"segment.keep": ("byol",)}, "segment.keep .* each once"),
  ],
)
def test_settings_that_cannot_run_are_refused(changes, message):
  check(tiny())
  with pytest.raises(ConfigError, match=message):
    check(tiny(**changes))
