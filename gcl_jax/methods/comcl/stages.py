"""The stages of CoMCL, in order, and what each of them reads.

data -> (lesions -> detect) -> quality -> comcl and every arm that is
pre-trained -> patches -> diagnosis -> report
"""

import functools

import jax
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.compile_ahead import Program, step_of
from gcl_jax.engine.context import Stage
from gcl_jax.engine.train import batch_of
from gcl_jax.methods.comcl import (
  arms,
  data,
  detector,
  diagnose,
  lesion_net,
  pretrain,
  probe_patches,
  quality,
  report,
)
from gcl_jax.methods.comcl.config import check
from gcl_jax.pipeline import encoders
from gcl_jax.pipeline.report import LEAVES

OWN = arms.OWN
HEADLINE = "diagnosis/kappa_fall"  # the figure to compare runs by
PROMISED = (
  *("diagnosis/kappa@33", "diagnosis/kappa@70", "diagnosis/kappa@100"),
  *("diagnosis/kappa_fall_gain", "patch/lesion_auroc"),
)
SMOOTH = ("diagnosis/auroc", "diagnosis/macro")  # alike in every parallel mode
COMMON = ("protocol", "seed")
IMAGES = ("preprocess", "boxes")
# Of --compile_only, where only the data would say.
STATISTICS = ((0.4, 0.3, 0.2), (0.3, 0.2, 0.2))


def stages(config: ConfigDict) -> tuple[Stage, ...]:
  """The stages of this configuration.

  Raises:
    ConfigError: settings that cannot run.
  """
  check(config)
  detects = config.boxes.source == "detector"
  boxes = ("detect",) if detects else ()
  seen = ("data", *boxes, "quality")
  trained = arms.trained(config)
  return (
    Stage("data", data.run, (), ("data", *IMAGES), host=True),
    *(_detection() if detects else ()),
    Stage(
      "quality",
      quality.run,
      ("data",),
      ("quality", "diagnosis.grade", "diagnosis.batch_size"),
    ),
    *(
      Stage(
        arm,
        functools.partial(pretrain.run, arm=arm),
        seen,
        (*COMMON, "pretrain", "patches", "boxes", "diagnosis.grade"),
      )
      for arm in trained
    ),
    Stage(
      "patches",
      probe_patches.run,
      (*seen, *(("lesions",) if detects else ()), *trained),
      (
        *(*COMMON, "pretrain", "patches", "boxes", "quality", "arms"),
        "diagnosis.grade",
      ),
    ),
    Stage(
      "diagnosis",
      diagnose.run,
      ("data", "quality", *trained),
      (*COMMON, "pretrain", "diagnosis", "quality", "arms", "report.pictures"),
    ),
    Stage(
      "report",
      report.run,
      (*seen, *trained, "patches", "diagnosis"),
      ("report", "seed"),
      host=True,
      leaves=LEAVES,
    ),
  )


def batch_sizes(config: ConfigDict) -> tuple[int, ...]:
  """Every batch size that the devices have to share equally."""
  sizes = (config.pretrain.batch_size, config.diagnosis.batch_size)
  if config.boxes.source == "detector":
    sizes += (config.detector.batch_size,)
  return sizes


def programs(config: ConfigDict) -> list[Program]:
  """The programs of a run, from shapes alone."""
  shape = (*config.preprocess.size, config.preprocess.channels)
  statistics = tuple(values[: shape[-1]] for values in STATISTICS)
  found = []
  for arm in arms.trained(config):
    section, _ = arms.settings_of(config, arm)
    numbers = pretrain.Plan(epoch=100, steps=100 * section.epochs)
    found.append(
      step_of(
        arm, pretrain.training(config, section, shape, statistics, numbers)
      )
    )
  encoder = encoders.make(config.pretrain)
  features = Program(
    "features",
    "map",
    encoders.pooled(encoder, *statistics),
    jax.eval_shape(lambda: encoder.init(jax.random.key(0), shape)),
    batch_of(config.diagnosis.batch_size, image=(np.uint8, *shape)),
  )
  if config.boxes.source == "detector":
    found += lesion_net.programs(config.detector, shape, statistics)
  return [
    *found,
    features,
    step_of("diagnosis", diagnose.training(config, shape, statistics)),
  ]


def _detection() -> tuple[Stage, ...]:
  lesions = ("lesion_data", "preprocess")
  return (
    Stage("lesions", data.run_lesions, (), lesions, host=True),
    Stage(
      "detect",
      detector.run,
      ("data", "lesions"),
      ("seed", "detector", "boxes", "patches.size"),
    ),
  )
