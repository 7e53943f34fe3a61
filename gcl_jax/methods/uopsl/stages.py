"""The stages of UOPSL, in order, and what each of them reads.

data -> oct -> uopsl and every arm that is pre-trained -> fundus -> report
                       |                                    ^
                       +-> sites ---------------------------+
"""

import functools

import jax
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.compile_ahead import Program, step_of
from gcl_jax.engine.context import Stage
from gcl_jax.engine.train import batch_of
from gcl_jax.methods.uopsl import (
  arms,
  captions,
  classify,
  data,
  networks,
  pretrain,
  report,
  sites_seen,
)
from gcl_jax.methods.uopsl.config import check
from gcl_jax.pipeline.report import LEAVES

OWN = arms.OWN
HEADLINE = "fundus/gain_over_text"  # the figure to compare runs by
PROMISED = (
  *("fundus/accuracy@20", "fundus/accuracy@50", "fundus/accuracy@200"),
  *("fundus/confounded_accuracy", "fundus/gain_over_text"),
  *("zeroshot/accuracy", "sites/zone_auroc"),
)
# Alike in every parallel mode.
SMOOTH = ("fundus/macro_auroc", "fundus/auroc", "sites")
COMMON = ("protocol", "seed")
LABELS = ("fundus.labelled", "fundus.draw", "fundus.pair_columns")
# Of --compile_only, where only the data would say: classes, words of a text,
# texts of a class, words of the vocabulary, and statistics of pixels.
CLASSES, LENGTH, TEXTS, WORDS = 28, 16, 5, 200
STATISTICS = ((0.4, 0.3, 0.2), (0.3, 0.2, 0.2)), (0.3, 0.2)


def stages(config: ConfigDict) -> tuple[Stage, ...]:
  """The stages of this configuration.

  Raises:
    ConfigError: settings that cannot run.
  """
  check(config)
  images = ("data", "oct")
  trained = arms.trained(config)
  learning = (*COMMON, "pretrain", "text", *LABELS, "fundus.batch_size")
  return (
    Stage("data", data.run, (), ("data", "preprocess"), host=True),
    Stage(
      "oct",
      data.run_oct,
      ("data",),
      (
        *("data", "oct_data", "more_oct_data", "oct_preprocess"),
        *("text.file", "text.vectors", "text.encoder"),
      ),
      host=True,
    ),
    *(
      Stage(
        arm,
        functools.partial(pretrain.run, arm=arm),
        (*images, *((OWN,) if arm in arms.FROM_OWN else ())),
        learning,
      )
      for arm in trained
    ),
    Stage(
      "fundus",
      classify.run,
      (*images, *trained),
      (*COMMON, "pretrain", "text", "fundus", "arms"),
    ),
    Stage(
      "sites",
      sites_seen.run,
      (*images, OWN),
      ("pretrain", "text", "fundus.headline", "fundus.batch_size"),
    ),
    Stage(
      "report",
      report.run,
      (*images, *trained, "fundus", "sites"),
      ("report", "seed"),
      host=True,
      leaves=LEAVES,
    ),
  )


def batch_sizes(config: ConfigDict) -> tuple[int, ...]:
  """Every batch size that the devices have to share equally."""
  batch = config.pretrain.batch
  sizes = (batch.labelled, batch.rest, batch.oct)
  return (*sizes, config.fundus.batch_size)


def programs(config: ConfigDict) -> list[Program]:
  """The programs of a run, from shapes alone.

  The numbers of classes and words are not known without the data: 28 classes of
  five texts stand for them.
  """
  shapes = (*config.preprocess.size, 3), (*config.oct_preprocess.size, 1)
  table = _table(config)
  found = []
  for arm in arms.trained(config):
    settings = arms.settings_of(config, arm)
    made = networks.make(settings, config.text, shapes[1], CLASSES, WORDS)
    trained = pretrain.training(
      config,
      settings,
      made,
      table,
      np.arange(CLASSES),
      shapes,
      list(STATISTICS),
      has_rest=bool(settings.rest),
    )
    if arm in arms.FROM_OWN:
      given = np.zeros(made.sites.shape, np.float32)
      trained = trained._replace(arguments=(given,))
    found.append(step_of(arm, trained))
  kind = classify.kind_of(
    config, config.pretrain, shapes[0], CLASSES, STATISTICS[0]
  )
  features = Program(
    "features",
    "map",
    kind.features,
    jax.eval_shape(lambda: kind.encoder.init(jax.random.key(0), shapes[0])),
    batch_of(config.fundus.batch_size, image=(np.uint8, *shapes[0])),
  )
  return [*found, features, step_of("fundus", kind.training)]


def _table(config: ConfigDict) -> captions.Table:
  """Texts of the sizes that stand for those of the data."""
  rows = np.arange(CLASSES, dtype=np.int32)
  shape = (CLASSES, TEXTS)
  vectors = None
  if config.text.encoder == "frozen":
    vectors = np.zeros((*shape, 768), np.float32)
  return captions.Table(
    np.ones((*shape, LENGTH), np.int32),
    np.ones((*shape, LENGTH), bool),
    np.ones(shape, bool),
    rows,
    rows,
    vectors,
  )
