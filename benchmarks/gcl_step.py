"""Cost of mitigation: time of one GCL pre-training step in every form.

  python benchmarks/gcl_step.py --preset=hippocampus

The reference is the plain sum of the losses: one backward pass of the mean.
`parameters` takes a backward pass of the encoder for each meta label,
`features` one in all. One JSON object per line, with `ratio`: images/s of the
form over those of the reference, in one run.
"""

import argparse
import importlib
import statistics
import sys

import jax
import numpy as np
import timing

from gcl_jax.engine import distributed, flops, parallel
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
  parser.add_argument("--threads", type=int, default=1)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--block_s", type=float, default=0.5)
  parser.add_argument("--budget_s", type=float, default=180)
  arguments = parser.parse_args()
  distributed.configure_cpu(arguments.threads)
  distributed.keep_memory()
  forms = FORMS | (PIXELS if arguments.pixels else {})
  if arguments.forms:
    wanted = arguments.forms.split(";")
    if not forms.keys() >= set(wanted):
      parser.error(f"--forms: some of {'; '.join(forms)}")
    forms = {name: forms[name] for name in wanted}
  opponents = [
    opponent(arguments, name, changes) for name, changes in forms.items()
  ]
  timing.in_turn(
    opponents,
    rounds=arguments.rounds,
    block_s=arguments.block_s,
    budget_s=arguments.budget_s,
  )
  base = seconds(opponents[0])
  for found in opponents:
    found.facts["ratio"] = round(base / seconds(found), 3)
    timing.emit(found)
  return 0


def seconds(opponent: timing.Opponent) -> float:
  """Median seconds of a step, over clean blocks if there are any."""
  blocks = timing.clean(opponent) or opponent.blocks
  return statistics.median(block[0] for block in blocks)


def opponent(arguments, name: str, changes: dict) -> timing.Opponent:
  """One compiled form with a batch of noise."""
  module = importlib.import_module("gcl_jax.methods.gcl.config")
  config = module.get_config(arguments.preset)
  settings = arms.settings_of(config, "gcl")
  settings.update(dict(pixel="") | changes)
  contrast = pretrain.contrast_of(config, settings)
  shape = (*config.preprocess.size, 1)
  mesh = parallel.make_mesh()
  training = pretrain.training(config, settings, shape, (0.5, 0.25))
  state = parallel.init_replicated(training.init, mesh, jax.random.key(0))
  batch = parallel.put_batch(noise(settings.batch_size, shape, contrast), mesh)
  mapped = parallel.compile_step(training.step, mesh)
  gflop = flops.count(mapped, state, batch) / 1e9
  holder = [state]
  compiled = mapped.lower(state, batch).compile()

  def call():
    holder[0], metrics = compiled(holder[0], batch)
    jax.block_until_ready(metrics)

  facts = {"bench": "gcl_step", "form": name, "preset": arguments.preset}
  facts |= {"labels": len(contrast.rules), "gflop": round(gflop, 2)}
  return timing.Opponent(call, facts, settings.batch_size)


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
