"""The stages of GCL, in order, and what each of them reads.

data -> gcl and every arm that is pre-trained -> segment -> report
"""

import functools

from ml_collections import ConfigDict

from gcl_jax.engine.compile_ahead import Program, step_of
from gcl_jax.engine.context import Stage
from gcl_jax.methods.gcl import arms, pretrain, report
from gcl_jax.methods.gcl.config import check
from gcl_jax.pipeline import segment, segmentation, slices
from gcl_jax.pipeline.report import LEAVES

HEADLINE = "segment/dice/mean"  # the figure to compare runs by
PROMISED = (
  *("segment/dice/mean", "segment/dice/LV", "segment/hd95/mean"),
  *("segment/gain_over_scratch", "segment/hd95_over_scratch"),
  *("segment/surface_dice/mean", "segment/failures", "segment/ood/dice/mean"),
  "gcl/conflict_rate",
)
SMOOTH = ("segment",)  # metrics that are alike in every parallel mode
OWN = arms.OWN
COMMON = ("protocol", "seed", "unet")
# Of --compile_only, where only the data would say: classes with background,
# mean and standard deviation of pixels.
CLASSES, STATISTICS = 4, (0.5, 0.25)


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
    Stage(
      "data", slices.run, (), ("data", "ood_data", "preprocess"), host=True
    ),
    *pretraining,
    Stage(
      "segment",
      functools.partial(
        segment.run, arms=arms.names(config), steps=arms.steps(config)
      ),
      ("data", *trained),
      (*COMMON, "segment", "arms", "report.overlays", "preprocess"),
    ),
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
  """The programs of a run from shapes alone.

  The number of classes is not known without the data: 4 stands for it (only
  the last layer depends on it).
  """
  shape = (*config.preprocess.size, 1)
  views = segmentation.views_of(config.segment.views, *STATISTICS)
  each = [(arm, arms.settings_of(config, arm)) for arm in arms.trained(config)]
  return [
    *(
      step_of(arm, pretrain.training(config, settings, shape, STATISTICS))
      for arm, settings in each
    ),
    *segmentation.programs(config.segment, config.unet, CLASSES, views, shape),
  ]
