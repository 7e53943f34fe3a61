"""What the severity method runs, in order, and what each stage reads.

data -> gradcon -> score -> bin -> supcon -> probe -> report
                     |       references -----^         ^
                     +-> grade ------------------------+
"""

import functools
from typing import Any

from gcl_jax.engine.stages import Stage
from gcl_jax.methods.severity import (
  classify,
  grading,
  healthy,
  pretrain,
  probing,
  pseudo_labels,
  reading,
  reporting,
  scoring,
)
from gcl_jax.methods.severity.checks import check

HEADLINE = "probe/macro_auroc"  # the figure to compare runs by
COMMON = ("protocol", "seed")
ENCODER = (*COMMON, "supcon")


def stages(config: Any) -> tuple[Stage, ...]:
  """The stages of this configuration.

  Raises:
    ConfigError: an unknown reference.
  """
  check(config)
  scores = ("data", "gradcon") if _needs_autoencoder(config) else ("data",)
  trained = [_reference(name) for name in config.references]
  encoders = ("supcon", *config.references)
  return (
    Stage(
      "data",
      reading.run,
      (),
      ("seed", "data", "healthy_data", "preprocess"),
      host=True,
    ),
    *([_gradcon()] if _needs_autoencoder(config) else []),
    Stage(
      "score",
      scoring.run_scores,
      scores,
      _score_sections(config),
    ),
    Stage(
      "grade",
      grading.run,
      (*scores, "score"),
      ("seed", "probe.bootstrap"),
      host=True,
    ),
    Stage(
      "bin",
      pseudo_labels.run,
      (*scores, "score"),
      (*COMMON, "bin", "supcon.batch_size", "supcon.labels"),
      host=True,
    ),
    Stage("supcon", pretrain.run, ("data", "score", "bin"), ENCODER),
    *trained,
    Stage(
      "probe",
      probing.run_probe,
      ("data", *encoders),
      ("seed", "probe", "references", "finetune", "supcon"),
    ),
    Stage(
      "report",
      reporting.run,
      ("data", *scores[1:], "score", "grade", "bin", *encoders, "probe"),
      ("report", "seed"),
      host=True,
      leaves=("report.json", "report.html"),
    ),
  )


def _score_sections(config: Any) -> tuple[str, ...]:
  """What the scores depend on besides the data and the autoencoders."""
  if config.score.source in classify.SOURCES:
    return ("seed", "score", "classifier", "finetune", "supcon")
  return ("seed", "score", "autoencoder")


def batch_sizes(config: Any) -> tuple[int, ...]:
  """Every batch size that the devices have to share equally."""
  return (
    config.autoencoder.batch_size,
    config.score.batch_size,
    config.supcon.batch_size,
    config.finetune.batch_size,
  )


def _needs_autoencoder(config: Any) -> bool:
  return config.score.source == "autoencoder"


def _gradcon() -> Stage:
  return Stage("gradcon", healthy.run, ("data",), ("seed", "autoencoder"))


def _reference(name: str) -> Stage:
  if name == "supervised":
    return Stage(
      name,
      probing.run_supervised,
      ("data",),
      ("seed", "probe.fractions", "finetune", "supcon"),
    )
  run = functools.partial(pretrain.run, name=name)
  return Stage(name, run, ("data",), ENCODER)
