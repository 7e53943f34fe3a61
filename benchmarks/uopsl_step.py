"""Cost of UOPSL's sites: in the pre-training step, and in use by fundus.

  python benchmarks/uopsl_step.py --presets=demo,oct_fundus

For each preset the step of arm uopsl beside that of no_sites, which sends the
same images and texts through the same networks, and the fine-tuned classifier
of fundus with sites beside the one without; either pair in turn, in one run.
One JSON object per line, with `ratio`: images/s over those without sites, and
`flop_ratio`: products and convolutions of the traced program over theirs. Sites
should add under 5 % to both of the step and keep 90 % of the images/s in use.
"""

import argparse
import sys

import jax
import numpy as np
import steps
import timing
import yaml
from ml_collections import ConfigDict

from gcl_jax.data import descriptions
from gcl_jax.engine import flops, parallel
from gcl_jax.engine.train import Training
from gcl_jax.methods.uopsl import (
  arms,
  captions,
  classify,
  data,
  networks,
  pretrain,
  stages,
)
from gcl_jax.methods.uopsl.config import get_config

FORMS = ("no_sites", arms.OWN)
IMAGES = stages.STATISTICS[0]  # mean and deviation of fundus


def main() -> int:
  """Times both pairs of every preset."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--presets", default="demo,oct_fundus", help="by commas")
  steps.add_timing(parser)
  arguments = parser.parse_args()
  steps.begin(arguments)
  for preset in arguments.presets.split(","):
    config = get_config(preset)
    for make in (step, use):
      pair = [make(config, arm) for arm in FORMS]
      base = pair[0].facts["flops"]
      for opponent in pair:
        ratio = opponent.facts.pop("flops") / base
        opponent.facts["flop_ratio"] = round(ratio, 4)
      steps.compare(pair, arguments)
  return 0


def step(config: ConfigDict, arm: str) -> timing.Opponent:
  """The pre-training step of an arm with a batch of noise."""
  texts = described(config)
  trained = training(config, arm, texts)
  state = jax.eval_shape(trained.init, jax.random.key(0))
  facts = {"bench": "uopsl_step", "preset": config.preset, "arm": arm}
  facts["flops"] = flops.count(trained.step, state, trained.batch)
  batch = noise(trained, texts)
  images = sum(len(pool["index"]) for pool in batch.values())
  return steps.opponent(trained, batch, facts, images)


def described(config: ConfigDict) -> captions.Captions:
  """The texts of all classes that the preset's file describes."""
  path = data.WORDS[config.text.file]
  classes = list(yaml.safe_load(path.read_text()))
  return captions.build(
    descriptions.read(path, classes, places=True),
    descriptions.read(path, classes, places=False),
    swapped=config.text.swapped,
  )


def training(
  config: ConfigDict, arm: str, texts: captions.Captions
) -> Training:
  """What an arm trains, at the sizes of the preset."""
  settings = arms.settings_of(config, arm)
  shapes = (*config.preprocess.size, 3), (*config.oct_preprocess.size, 1)
  made = networks.make(
    settings,
    config.text,
    shapes[1],
    len(texts.classes),
    len(texts.vocabulary) + 1,
  )
  return pretrain.training(
    config,
    settings,
    made,
    texts.table,
    texts.of_classes(settings.places),
    shapes,
    list(stages.STATISTICS),
    has_rest=bool(settings.rest),
  )


def noise(trained: Training, texts: captions.Captions) -> dict:
  """Random pixels, texts and classes."""
  draw = np.random.default_rng(0)
  below = {"image": 255, "caption": len(texts.texts), "index": 10_000}
  below["class"] = len(texts.classes)
  return {
    pool: {
      name: draw.integers(0, below[name], like.shape, like.dtype)
      for name, like in columns.items()
    }
    for pool, columns in trained.batch.items()
  }


def use(config: ConfigDict, arm: str) -> timing.Opponent:
  """Probabilities of a batch of noise by a classifier of fundus alone."""
  settings, size = arms.settings_of(config, arm), config.fundus.batch_size
  shape = (*config.preprocess.size, 3)
  labels = len(described(config).classes)
  kind = classify.kind_of(config, settings, shape, labels, IMAGES)
  mesh, begin = parallel.make_mesh(), kind.training
  state = parallel.init_replicated(
    begin.init, mesh, jax.random.key(0), *begin.arguments
  )
  encoder = {"params": state.params["encoder"]}
  encoder["batch_stats"] = state.extra["batch_stats"]
  tree = {"encoder": encoder, "head": state.params["head"]}
  pixels = np.random.default_rng(0).integers(0, 255, (size, *shape), np.uint8)
  batch = parallel.put_batch({"image": pixels}, mesh)
  mapped = parallel.compile_map(kind.predict, mesh)
  compiled = mapped.lower(tree, batch).compile()
  facts = {"bench": "uopsl_use", "preset": config.preset, "arm": arm}
  facts["flops"] = flops.count(kind.predict, tree, batch)
  return timing.Opponent(
    lambda: jax.block_until_ready(compiled(tree, batch)), facts, size
  )


if __name__ == "__main__":
  sys.exit(main())
