"""What the GCL method runs, in order, and what each stage reads.

data -> gcl and every arm but scratch -> segment -> report
"""

import functools
from typing import Any

from gcl_jax.engine.stages import Stage
from gcl_jax.methods.gcl import arms, pretrain, reading, reporting, segmenting
from gcl_jax.methods.gcl.checks import check

HEADLINE = "segment/dice/mean"  # the figure to compare runs by
COMMON = ("protocol", "seed", "unet")


def stages(config: Any) -> tuple[Stage, ...]:
  """The stages of this configuration.

  Raises:
    ConfigError: settings that cannot run.
  """
  check(config)
  trained = [arm for arm in arms.names(config) if arm != "scratch"]
  return (
    Stage(
      "data",
      reading.run,
      (),
      ("seed", "data", "ood_data", "preprocess"),
      host=True,
    ),
    *(
      Stage(
        arm,
        functools.partial(pretrain.run, arm=arm),
        ("data",),
        (*COMMON, "pretrain"),
      )
      for arm in trained
    ),
    Stage(
      "segment",
      segmenting.run,
      ("data", *trained),
      (*COMMON, "segment", "arms", "report.overlays", "preprocess"),
    ),
    Stage(
      "report",
      reporting.run,
      ("data", *trained, "segment"),
      ("report", "seed"),
      host=True,
      leaves=("report.json", "report.html"),
    ),
  )


def batch_sizes(config: Any) -> tuple[int, ...]:
  """Every batch size that the devices have to share equally."""
  return (config.pretrain.batch_size, config.segment.batch_size)
