"""Input throughput in images/s, from disk to batch.

  python benchmarks/input.py --images=2000 --size=256

One JSON object per line for each source (png: a folder and a CSV, npz: one
file, array_record: the output of `gcl_jax.data.prepare`):

  read      the stored image of every row, in order
  prepare   the same, flattened, normalised, cropped and resized (stage `data`)
  batches   shuffled uint8 batches from the memory map of that stage, as in
            training (independent of the source)

The images are scans of the OCT phantom, which PNG can compress.
"""

import argparse
import csv
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import timing
from PIL import Image

from gcl_jax import data
from gcl_jax.data import prepare
from gcl_jax.engine import feed
from gcl_jax.methods.severity import data as reading
from gcl_jax.methods.severity.config import get_config


def main() -> int:
  """Writes the three forms of one data set, then reads each."""
  arguments = parse()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    opponents = []
    for source, config in sources(root, arguments):
      dataset = data.load(config.data)
      opponents.append(passes(dataset, source, arguments, None))
      opponents.append(passes(dataset, source, arguments, config.preprocess))
    opponents.append(batches(root, arguments))
    timing.in_turn(opponents, rounds=3, budget_s=arguments.budget_s)
    for opponent in opponents:
      timing.emit(opponent)
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--images", type=int, default=500)
  parser.add_argument("--size", type=int, default=256, help="columns of a scan")
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--budget_s", type=float, default=120)
  return parser.parse_args()


def sources(root: pathlib.Path, arguments) -> Iterator[tuple]:
  """Name and configuration of the same scans as PNG, npz and array_record."""
  config = get_config("demo")
  config.data.phantom.update(
    patients=-(-arguments.images // 6), size=(96, arguments.size)
  )
  phantom = data.load(config.data)
  scans = [phantom.read(row) for row in range(arguments.images)]
  rows = [("id", "path", "group")]
  (root / "png").mkdir()
  for number, scan in enumerate(scans):
    Image.fromarray(scan).save(root / "png" / f"{number}.png")
    rows.append((number, f"{number}.png", phantom.groups[number]))
  with open(root / "png" / "table.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
  labels = np.zeros((len(scans), 1), np.uint8)
  np.savez(
    root / "scans.npz", train_images=np.stack(scans), train_labels=labels
  )
  prepare.main(
    [
      f"--source={root / 'png'}",
      f"--table={root / 'png' / 'table.csv'}",
      f"--out={root / 'prepared'}",
      "--name=scans",
    ]
  )
  paths = {
    "png": ("folder", root / "png"),
    "npz": ("medmnist", root / "scans.npz"),
    "array_record": ("tfds", root / "prepared" / "scans" / "1.0.0"),
  }
  for source, (name, path) in paths.items():
    config = get_config("folder")
    config.data.update(name=name, path=str(path))
    table = root / "png" / "table.csv"
    config.data.table = str(table) if name == "folder" else ""
    yield source, config


def passes(dataset, source: str, arguments, prepared) -> timing.Opponent:
  """One pass over all rows; `prepared` is the preprocessing or None."""

  def call():
    for row in range(len(dataset)):
      image = dataset.read(row)
      if prepared is not None:
        reading.prepared(image, prepared)

  what = "read" if prepared is None else "prepare"
  facts = facts_of(arguments, source, what)
  return timing.Opponent(call, facts, len(dataset))


def facts_of(arguments, source: str, what: str) -> dict:
  """Fields common to all records."""
  return {
    "bench": "input",
    "source": source,
    "what": what,
    "size": f"96x{arguments.size}",
  }


def batches(root: pathlib.Path, arguments) -> timing.Opponent:
  """One epoch of shuffled batches from a memory map."""
  size = (arguments.images, 48, 128, 1)
  pixels = np.lib.format.open_memmap(root / "images.npy", "w+", np.uint8, size)
  pixels[:] = 7
  pixels = np.load(root / "images.npy", mmap_mode="r")
  steps = arguments.images // arguments.batch

  def call():
    for _ in feed.batches(
      {"image": pixels}, arguments.batch, seed=0, steps=steps
    ):
      pass

  facts = facts_of(arguments, "images.npy", "batches") | {"size": "48x128"}
  return timing.Opponent(call, facts, steps * arguments.batch)


if __name__ == "__main__":
  sys.exit(main())
