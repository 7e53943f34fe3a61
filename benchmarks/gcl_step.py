"""Cost of mitigation: time of one GCL pre-training step in every form.

  python benchmarks/gcl_step.py --preset=hippocampus

The reference is the plain sum of the losses: one backward pass of the mean.
`parameters` takes a backward pass of the encoder for each meta label,
`features` one in all. One JSON object per line, with `ratio`: images/s of the
form over those of the reference, in one run.
"""

import argparse
import importlib
import sys

import numpy as np
import steps
import timing

from gcl_jax.methods.gcl import arms, pretrain

FORMS = {
  "plain sum": dict(mitigator="mean", level="features"),
  "features": dict(mitigator="cone", level="features"),
  "parameters": dict(mitigator="cone", level="parameters"),
  "parameters, pcgrad": dict(mitigator="pcgrad", level="parameters"),
  "parameters, cagrad": dict(mitigator="cagrad", level="parameters"),
}
PIXELS = {
  f"plain sum, pixels {variant}": FORMS["plain sum"] | dict(pixel=variant)
  for variant in ("F0", "F1")
}


def main() -> int:
  """Times all forms in turn."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--preset", default="demo")
  parser.add_argument("--pixels", type=int, default=0, help="1: those too")
  parser.add_argument("--forms", default="", help="those alone, by ; apart")
  steps.add_timing(parser, budget_s=180)
  arguments = parser.parse_args()
  forms = FORMS | (PIXELS if arguments.pixels else {})
  if arguments.forms:
    wanted = arguments.forms.split(";")
    if not forms.keys() >= set(wanted):
      parser.error(f"--forms: some of {'; '.join(forms)}")
    forms = {name: forms[name] for name in wanted}
  steps.begin(arguments)
  steps.compare(
    [opponent(arguments, name, changes) for name, changes in forms.items()],
    arguments,
  )
  return 0


def opponent(arguments, name: str, changes: dict) -> timing.Opponent:
  """One compiled form with a batch of noise."""
  module = importlib.import_module("gcl_jax.methods.gcl.config")
  config = module.get_config(arguments.preset)
  settings = arms.settings_of(config, "gcl")
  settings.update(dict(pixel="") | changes)
  contrast = pretrain.contrast_of(config, settings)
  shape = (*config.preprocess.size, 1)
  training = pretrain.training(config, settings, shape, (0.5, 0.25))
  facts = {"bench": "gcl_step", "form": name, "preset": arguments.preset}
  facts["labels"] = len(contrast.rules)
  batch = noise(settings.batch_size, shape, contrast)
  return steps.opponent(training, batch, facts, settings.batch_size)


def noise(size: int, shape: tuple, contrast) -> dict:
  """Random batch of slices and meta labels."""
  draw = np.random.default_rng(0)
  batch = {
    "image": draw.integers(0, 255, (size, *shape), np.uint8),
    "index": np.arange(size, dtype=np.int32),
  }
  for rule in contrast.rules:
    values = draw.integers(0, 4, size).astype(np.float32)
    batch[rule.text] = np.stack([values, np.arange(size, dtype=np.float32)], 1)
  return batch


if __name__ == "__main__":
  sys.exit(main())
