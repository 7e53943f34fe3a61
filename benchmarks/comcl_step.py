"""Cost of CoMCL's losses: one pre-training step of every form beside SimCLR's.

  python benchmarks/comcl_step.py --preset=demo

All forms send the same number of windows through the network, 6 for each row
of a level; those of a queue go forward alone for their keys. One JSON object
per line, with `ratio`: images/s of the form over those of SimCLR on the same
windows, in one run, `gflop` of products and convolutions of the traced program,
and `xla_gflop` by XLA's own count of everything in the compiled one.
"""

import argparse
import importlib
import sys

import numpy as np
import steps
import timing

from gcl_jax.methods.comcl import arms, pretrain

VIEWS = 6  # windows through the network for each row of a level
FORMS = {
  "simclr": ("simclr", {}),
  "levels": ("comcl", {}),
  "levels, all negatives, no pace": (
    "comcl",
    dict(hard_negatives="off", pacing="off"),
  ),
  "levels, queues": ("comcl", dict(negatives="queue")),
  "authors' code": ("authors_code", {}),
}


def main() -> int:
  """Times all forms in turn."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--preset", default="demo")
  parser.add_argument("--batch", type=int, default=0, help="0: the preset's")
  parser.add_argument("--dtype", default="", help="float32 or bfloat16")
  parser.add_argument("--forms", default="", help="some of them, by ;")
  steps.add_timing(parser)
  arguments = parser.parse_args()
  wanted = arguments.forms.split(";") if arguments.forms else list(FORMS)
  if not FORMS.keys() >= set(wanted):
    parser.error(f"--forms: some of {'; '.join(FORMS)}")
  steps.begin(arguments)
  wanted = dict.fromkeys(["simclr", *wanted])
  steps.compare(
    [opponent(arguments, name, *FORMS[name]) for name in wanted], arguments
  )
  return 0


def opponent(arguments, name: str, arm: str, changes: dict) -> timing.Opponent:
  """One compiled form with a batch of noise."""
  module = importlib.import_module("gcl_jax.methods.comcl.config")
  config = module.get_config(arguments.preset)
  section, _ = arms.settings_of(config, arm)
  section.update(changes)
  section.batch_size = arguments.batch or section.batch_size
  section.dtype = arguments.dtype or section.dtype
  shape = (*config.preprocess.size, config.preprocess.channels)
  training = pretrain.training(
    config, section, shape, (0.5, 0.25), pretrain.Plan(10, 1000)
  )
  facts = {"bench": "comcl_step", "form": name, "preset": arguments.preset}
  facts["batch"] = section.batch_size
  return steps.opponent(
    training, noise(training.batch), facts, VIEWS * section.batch_size
  )


def noise(shapes: dict) -> dict:
  """Random pixels, boxes in the middle of their regions."""
  draw, batch = np.random.default_rng(0), {}
  for name, pool in shapes.items():
    rows, region = pool["image"].shape[:2]
    first = draw.uniform(0.4, 0.5, (rows, 2)) * region
    batch[name] = {
      "image": draw.integers(0, 255, pool["image"].shape, np.uint8),
      "box": np.float32(np.concatenate([first, first + 2], axis=1)),
      "corner": np.zeros((rows, 2), np.float32),
      "index": np.arange(rows, dtype=np.int32),
    }
  return batch


if __name__ == "__main__":
  sys.exit(main())
