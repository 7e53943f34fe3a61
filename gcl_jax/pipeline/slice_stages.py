"""Stages and programs of every method that ends in a segmentation of slices."""

import functools
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from gcl_jax.engine.compile_ahead import Program, step_of
from gcl_jax.engine.context import Stage
from gcl_jax.engine.train import Training
from gcl_jax.pipeline import segment, segmentation, slices

COMMON = ("protocol", "seed", "unet")
# Of --compile_only, where only the data would say: classes with background,
# mean and standard deviation of pixels.
CLASSES, STATISTICS = 4, (0.5, 0.25)


def data_stage() -> Stage:
  """Stage `data` (`slices.run`)."""
  reads = ("data", "ood_data", "preprocess")
  return Stage("data", slices.run, (), reads, host=True)


def segment_stage(
  names: Sequence[str], trained: Sequence[str], steps: Mapping[str, int]
) -> Stage:
  """Stage `segment` (`segment.run`).

  Args:
    names: of all arms, the method's own last.
    trained: those that are a stage of pre-training.
    steps: arms whose fine-tunes have another number of steps.
  """
  return Stage(
    "segment",
    functools.partial(segment.run, arms=names, steps=steps),
    ("data", *trained),
    (*COMMON, "segment", "arms", "report.overlays", "preprocess"),
  )


def programs(
  config: ConfigDict,
  arms: Mapping[str, ConfigDict],
  training: Callable[..., Training],
) -> list[Program]:
  """The programs of a run from shapes alone.

  The number of classes is not known without the data: 4 stands for it (only
  the last layer depends on it).

  Args:
    config: of the run.
    arms: those that are pre-trained -> their settings.
    training: (config, settings, shape, statistics) -> what an arm trains.
  """
  shape = (*config.preprocess.size, 1)
  views = segmentation.views_of(config.segment.views, *STATISTICS)
  return [
    *(
      step_of(arm, training(config, settings, shape, STATISTICS))
      for arm, settings in arms.items()
    ),
    *segmentation.programs(config.segment, config.unet, CLASSES, views, shape),
  ]
