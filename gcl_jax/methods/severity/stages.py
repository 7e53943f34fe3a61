"""The stages of the severity method, in order, and what each of them reads.

data -> gradcon -> score -> bin -> supcon -> probe -> report
                     |          arms -------^         ^
                     +-> grade ------------------------+
"""

import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.compile_ahead import Program, step_of
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.train import batch_of
from gcl_jax.gradients import gradcon as gradients
from gcl_jax.methods.severity import (
  bin,
  classifier,
  data,
  gradcon,
  grade,
  pretrain,
  report,
  score,
)
from gcl_jax.methods.severity.config import OWN, check
from gcl_jax.pipeline import contrast, encoders, few_labels, finetune_steps
from gcl_jax.pipeline.report import LEAVES

HEADLINE = "probe/macro_auroc"  # the figure to compare runs by
PROMISED = (
  *("severity/auroc", "severity/auroc_over_pca_layers", "baseline/pca_auroc"),
  "probe/macro_f1",
)
SMOOTH = ("severity", "baseline")  # metrics that rank many images
COMMON = ("protocol", "seed")
ENCODER = (*COMMON, "supcon")
# Of --compile_only, where only the data would say: images of the pool, labels,
# mean and standard deviation of pixels.
POOL, LABELS, STATISTICS = 10_000, 8, (0.5, 0.25)


def stages(config: ConfigDict) -> tuple[Stage, ...]:
  """The stages of this configuration.

  Raises:
    ConfigError: settings that cannot run.
  """
  check(config)
  scores = ("data", "gradcon") if _needs_autoencoder(config) else ("data",)
  encoders_ = ("supcon", *config.arms)
  return (
    Stage("data", data.run, (), ("data", "healthy_data", "preprocess"), True),
    *([_gradcon()] if _needs_autoencoder(config) else []),
    Stage("score", score.run, scores, _score_sections(config)),
    Stage(
      "grade",
      grade.run,
      (*scores, "score"),
      ("seed",),
      host=True,
    ),
    Stage(
      "bin",
      bin.run,
      (*scores, "score"),
      (*COMMON, "bin", "supcon.batch_size", "supcon.labels"),
      host=True,
    ),
    Stage("supcon", pretrain.run, ("data", "score", "bin"), ENCODER),
    *(_arm(name) for name in config.arms),
    Stage(
      "probe",
      _probe,
      ("data", *encoders_),
      ("seed", "probe", "arms", "finetune", "supcon"),
    ),
    Stage(
      "report",
      report.run,
      ("data", *scores[1:], "score", "grade", "bin", *encoders_, "probe"),
      ("report", "seed"),
      host=True,
      leaves=LEAVES,
    ),
  )


def batch_sizes(config: ConfigDict) -> tuple[int, ...]:
  """Every batch size that the devices have to share equally."""
  return (
    config.autoencoder.batch_size,
    config.score.batch_size,
    config.supcon.batch_size,
    config.finetune.batch_size,
  )


def programs(config: ConfigDict) -> list[Program]:
  """The programs of a run, largest batches as configured, from shapes alone.

  The number of images and of label columns is not known without the data:
  10,000 and 8 stand for them (only PCL's clusters and the last layer of a
  fine-tuned encoder depend on it).
  """
  shape, section = (*config.preprocess.size, 1), config.supcon
  found = []
  if _needs_autoencoder(config):
    found += _autoencoder_programs(config, shape)
  numbers = contrast.plan(section, POOL, POOL)
  for name in ("supcon", *config.arms):
    if name not in ("random", few_labels.SUPERVISED):
      goal = pretrain.objective(section, name)
      found.append(
        step_of(
          name,
          contrast.training(section, *goal, shape, numbers, STATISTICS),
        )
      )
  encoder = encoders.make(section)
  views = contrast.views_of(section, *STATISTICS)
  tuned = finetune_steps.training(
    config.finetune, encoder, shape, LABELS, views
  )
  features = Program(
    "features",
    "map",
    encoders.pooled(encoder, *STATISTICS),
    jax.eval_shape(lambda: encoder.init(jax.random.key(0), shape)),
    batch_of(config.score.batch_size, image=(np.uint8, *shape)),
  )
  return [*found, features, step_of(few_labels.SUPERVISED, tuned)]


def _autoencoder_programs(config: ConfigDict, shape: tuple) -> list[Program]:
  auto = config.autoencoder
  trained = gradcon.training(auto, shape, np.float32(auto.alpha))
  fit = step_of("gradcon", trained)
  model = gradcon.make_model(auto, shape[-1])
  reference = jax.eval_shape(
    lambda params: gradients.start(model.decoder_weights(params)).mean,
    fit.tree.params,
  )
  scored = Program(
    "score",
    "map",
    score.scorer(config.score, model),
    {"params": fit.tree.params, "reference": reference},
    batch_of(config.score.batch_size, image=(np.uint8, *shape)),
  )
  return [fit, scored]


def _probe(context: Context) -> dict[str, Any]:
  config = context.config
  left_by = {OWN: "supcon"} | {name: name for name in config.arms}
  size = config.score.batch_size
  return few_labels.run(context, config.supcon, left_by, size)


def _supervised(context: Context) -> dict[str, Any]:
  config = context.config
  size = config.score.batch_size
  return few_labels.run_supervised(context, config.supcon, size)


def _score_sections(config: ConfigDict) -> tuple[str, ...]:
  """What the scores depend on besides the data and the autoencoders."""
  if config.score.source in classifier.SOURCES:
    return ("seed", "score", "classifier", "finetune", "supcon")
  return ("seed", "score", "autoencoder")


def _needs_autoencoder(config: ConfigDict) -> bool:
  return config.score.source == "autoencoder"


def _gradcon() -> Stage:
  return Stage("gradcon", gradcon.run, ("data",), ("seed", "autoencoder"))


def _arm(name: str) -> Stage:
  if name == few_labels.SUPERVISED:
    sections = ("seed", "probe.fractions", "finetune", "supcon")
    return Stage(name, _supervised, ("data",), sections)
  run = functools.partial(pretrain.run, name=name)
  return Stage(name, run, ("data",), ENCODER)
