"""Cost of Pixel-global's pre-training: a step beside PixPro's, and memory.

  python benchmarks/pixel_step.py --preset=demo

All arms send the same views through the same encoder. One JSON object per
line, with `ratio`: images/s of the arm over those of PixPro, timed in turn in
one run. Then a table of the temporary memory of matching, loss and its gradient
for one image, from XLA's analysis of the compiled program: pairs as lists of at
most 12 a cell, beside a matrix of all pairs of cells. --memory=0 leaves it out,
--rounds=0 the timing.
"""

import argparse
import importlib
import sys

import jax
import jax.numpy as jnp
import markdown
import numpy as np
import steps
import timing

from gcl_jax import augment
from gcl_jax.losses import pixel_consistency
from gcl_jax.methods.pixel_global import arms, pretrain
from gcl_jax.report.html import Table

FORMS = ("pixpro", arms.OWN, "pixpro_byol", "deterministic", "no_stabilizer")
SIDES = (7, 14, 28, 56, 112)  # cells along a side of a view
DIMENSIONS = 64  # of a cell's vector


def main() -> int:
  """Times the arms in turn, then prints the table of memory."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--preset", default="demo")
  parser.add_argument("--batch", type=int, default=0, help="0: the preset's")
  parser.add_argument("--arms", default=",".join(FORMS), help="by commas")
  parser.add_argument("--memory", type=int, default=1, help="0: no table")
  steps.add_timing(parser)
  arguments = parser.parse_args()
  wanted = dict.fromkeys(["pixpro", *arguments.arms.split(",")])
  if unknown := wanted.keys() - {arms.OWN, *arms.ARMS}:
    parser.error(f"--arms: no arm {sorted(unknown)[0]}")
  steps.begin(arguments)
  if arguments.rounds:
    steps.compare([opponent(arguments, arm) for arm in wanted], arguments)
  if arguments.memory:
    markdown.show(memory_table())
  return 0


def opponent(arguments: argparse.Namespace, arm: str) -> timing.Opponent:
  """The step of one arm with a batch of noise."""
  module = importlib.import_module("gcl_jax.methods.pixel_global.config")
  config = module.get_config(arguments.preset)
  settings = arms.settings_of(config, arm)
  settings.batch_size = arguments.batch or settings.batch_size
  shape = (*config.preprocess.size, 1)
  training = pretrain.training(config, settings, shape, (0.5, 0.25))
  size = (settings.batch_size, *shape)
  batch = {
    "image": np.random.default_rng(0).integers(0, 255, size, np.uint8),
    "index": np.arange(settings.batch_size, dtype=np.int32),
  }
  facts = {"bench": "pixel_step", "arm": arm, "preset": arguments.preset}
  facts["batch"] = settings.batch_size
  return steps.opponent(training, batch, facts, settings.batch_size)


def memory_table() -> Table:
  """MiB of one image and direction by the number of cells."""
  rows = []
  for side in SIDES:
    sparse, dense = (mib(form, side) for form in (by_lists, by_matrix))
    cells = side**2
    rows.append([f"{cells}", sparse, dense, f"{2**20 * sparse / cells:.0f}"])
  headers = ("cells", "lists, MiB", "matrix, MiB", "bytes a cell, lists")
  caption = (
    "Temporary memory of matching, loss and gradient of one image and direction"
    f" ({DIMENSIONS} dimensions, float32)."
  )
  return Table(headers, rows, caption)


def mib(form, side: int) -> float:
  """Temporary memory of a loss and its gradient, as XLA compiled it."""
  shapes = [(1, side**2, DIMENSIONS)] * 2 + [(1, side, side, 2)] * 2
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  compiled = jax.jit(jax.value_and_grad(form)).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes / 2**20


def by_lists(y, targets, first, second) -> jax.Array:
  """The loss over at most 12 pairs of each cell."""
  index, found = augment.nearby_cells(first, second)
  weights = jnp.ones(y.shape[:2])
  return pixel_consistency.pixel_loss(y, targets, index, found, weights)[0]


def by_matrix(y, targets, first, second) -> jax.Array:
  """The same with a matrix of all pairs of cells."""
  own, other = (x.reshape(1, -1, 2) for x in (first, second))
  squares = jnp.sum((own[:, :, None] - other[:, None]) ** 2, axis=-1)
  diagonals = [
    jnp.sum((x[:, 1, 1] - x[:, 0, 0]) ** 2, axis=-1) for x in (first, second)
  ]
  pairs = squares < 0.7**2 * jnp.maximum(*diagonals)[:, None, None]
  pairs &= augment.inside(first, second)[:, :, None]
  pairs &= augment.inside(second, first)[:, None]
  distances = 2 - 2 * jnp.einsum("bid,bjd->bij", y, targets)
  total = jnp.sum(jnp.where(pairs, distances, 0), axis=(1, 2))
  return jnp.mean(total / jnp.maximum(jnp.sum(pairs, axis=(1, 2)), 1))


if __name__ == "__main__":
  sys.exit(main())
