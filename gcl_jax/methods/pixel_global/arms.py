"""What Pixel-global is compared with: the same code under other settings."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from gcl_jax.pipeline import arms
from gcl_jax.pipeline.label_draws import SCRATCH, SCRATCH_LONG, UNTRAINED

OWN = "pixel_global"


def _of(**changes: Any) -> Callable[[Any], dict]:
  return lambda pretrain: changes


_PLAIN = dict(stabilizer="", weighting="", gap_weight=0.0)
# One pass without dropout, so that no weight can come from a spread.
_DETERMINISTIC = dict(stabilizer="deterministic", weighting="", passes=1)
# PixPro (Xie et al. 2021): no global branch in its published settings.
_PIXPRO = dict(
  global_branch="",
  pixel_branch="consistency",
  stabilizer="propagation",
  weighting="",
  gap_weight=0.0,
  overlap_only=False,
  reduce="image",
)

# Changes of config.pretrain; the first two are not pre-trained at all.
ARMS: arms.Arms = {
  **{name: _of() for name in UNTRAINED},
  "simclr": _of(global_branch="simclr", pixel_branch="", **_PLAIN),
  "byol": _of(global_branch="byol", pixel_branch="", **_PLAIN),
  "pixpro": _of(**_PIXPRO),
  # With the global branch that ours has: what is left is the pixel term.
  "pixpro_byol": _of(**_PIXPRO | dict(global_branch="byol")),
  "densecl": _of(global_branch="simclr", pixel_branch="densecl", **_PLAIN),
  "no_stabilizer": _of(**_PLAIN),
  "no_weighting": _of(weighting=""),
  # The three that decide whether uncertainty earns anything.
  "deterministic": _of(**_DETERMINISTIC),
  "border": _of(weighting="border"),
  "shuffled": _of(weighting="shuffled"),
  # Other readings of the paper.
  "variance": _of(weighting="variance"),
  "focus": _of(weighting="focus"),
  "hinge": _of(**_PLAIN | dict(stabilizer="hinge")),
  "gap_penalty": _of(gap_weight=1.0),
  "residual": _of(residual=True),
  "pairs": _of(reduce="pairs"),
  "no_overlap_test": _of(overlap_only=False),
}
# Changes of what is configured that only its matched cells are touched by.
OF_PIXELS = (
  *("no_stabilizer", "no_weighting", "deterministic", "border", "shuffled"),
  *("variance", "focus", "hinge", "gap_penalty", "residual", "pairs"),
  "no_overlap_test",
)
BASELINES = (SCRATCH, "pixpro")
DECIDING = (
  *(SCRATCH, SCRATCH_LONG, "pixpro", "deterministic", "border", "shuffled"),
)


def settings_of(config: ConfigDict, arm: str) -> ConfigDict:
  """`config.pretrain` of an arm; "pixel_global" is what is configured."""
  return arms.settings_of(config.pretrain, ARMS, arm)


def names(config: ConfigDict) -> tuple[str, ...]:
  """All arms of a run, this method's own last."""
  return (*config.arms, OWN)


def trained(config: ConfigDict) -> list[str]:
  """The arms that are a stage of pre-training."""
  return [arm for arm in names(config) if arm not in UNTRAINED]


def steps(config: ConfigDict) -> dict[str, int]:
  """Arms whose fine-tunes have another number of steps -> that number."""
  return {SCRATCH_LONG: config.pretrain.steps + config.segment.steps}
