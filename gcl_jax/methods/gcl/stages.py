"""The stages of GCL, in order, and what each of them reads.

data -> gcl and every arm that is pre-trained -> segment -> report
"""

import functools

from ml_collections import ConfigDict

from gcl_jax.engine.compile_ahead import Program
from gcl_jax.engine.context import Stage
from gcl_jax.methods.gcl import arms, pretrain, report
from gcl_jax.methods.gcl.config import check
from gcl_jax.pipeline import slice_stages
from gcl_jax.pipeline.report import LEAVES
from gcl_jax.pipeline.slice_stages import COMMON

HEADLINE = "segment/dice/mean"  # the figure to compare runs by
PROMISED = (
  *("segment/dice/mean", "segment/dice/LV", "segment/hd95/mean"),
  *("segment/gain_over_scratch", "segment/hd95_over_scratch"),
  *("segment/surface_dice/mean", "segment/failures", "segment/ood/dice/mean"),
  "gcl/conflict_rate",
)
SMOOTH = ("segment",)  # metrics that are alike in every parallel mode
OWN = arms.OWN


def stages(config: ConfigDict) -> tuple[Stage, ...]:
  """The stages of this configuration.

  Raises:
    ConfigError: settings that cannot run.
  """
  check(config)
  trained = arms.trained(config)
  pretraining = [
    Stage(
      arm,
      functools.partial(pretrain.run, arm=arm),
      ("data",),
      (*COMMON, "pretrain"),
    )
    for arm in trained
  ]
  return (
    slice_stages.data_stage(),
    *pretraining,
    slice_stages.segment_stage(arms.names(config), trained, arms.steps(config)),
    Stage(
      "report",
      report.run,
      ("data", *trained, "segment"),
      ("report", "seed"),
      host=True,
      leaves=LEAVES,
    ),
  )


def batch_sizes(config: ConfigDict) -> tuple[int, ...]:
  """Every batch size that the devices have to share equally."""
  return (config.pretrain.batch_size, config.segment.batch_size)


def programs(config: ConfigDict) -> list[Program]:
  """The programs of a run from shapes alone."""
  each = {arm: arms.settings_of(config, arm) for arm in arms.trained(config)}
  return slice_stages.programs(config, each, pretrain.training)
