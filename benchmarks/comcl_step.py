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

import jax
import numpy as np
import timing

from gcl_jax.engine import distributed, flops, parallel
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
  parser.add_argument("--threads", type=int, default=1)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--block_s", type=float, default=0.5)
  parser.add_argument("--budget_s", type=float, default=120.0)
  arguments = parser.parse_args()
  wanted = arguments.forms.split(";") if arguments.forms else list(FORMS)
  if not FORMS.keys() >= set(wanted):
    parser.error(f"--forms: some of {'; '.join(FORMS)}")
  distributed.configure_cpu(arguments.threads)
  distributed.keep_memory()
  wanted = dict.fromkeys(["simclr", *wanted])
  opponents = [opponent(arguments, name, *FORMS[name]) for name in wanted]
  timing.in_turn(
    opponents,
    rounds=arguments.rounds,
    block_s=arguments.block_s,
    budget_s=arguments.budget_s,
  )
  base = timing.seconds(opponents[0])
  for found in opponents:
    found.facts["ratio"] = round(base / timing.seconds(found), 3)
    timing.emit(found)
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
  mesh = parallel.make_mesh()
  state = parallel.init_replicated(training.init, mesh, jax.random.key(0))
  batch = parallel.put_batch(noise(training.batch), mesh)
  mapped = parallel.compile_step(training.step, mesh)
  gflop = flops.count(mapped, state, batch) / 1e9
  compiled = mapped.lower(state, batch).compile()
  holder = [state]

  def call():
    holder[0], metrics = compiled(holder[0], batch)
    jax.block_until_ready(metrics)

  facts = {"bench": "comcl_step", "form": name, "preset": arguments.preset}
  own = compiled.cost_analysis().get("flops", float("nan"))
  facts |= {"batch": section.batch_size, "gflop": round(gflop, 2)}
  facts["xla_gflop"] = round(own / 1e9, 2)
  return timing.Opponent(call, facts, VIEWS * section.batch_size)


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
