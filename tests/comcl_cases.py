"""Small finished stages of CoMCL, as later stages find them."""

import jax
import numpy as np

from gcl_jax.data.source import Dataset
from gcl_jax.engine import parallel
from gcl_jax.engine.checkpoint import save_artifact
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.manifest import array_hashes, write_manifest
from gcl_jax.methods.comcl.config import get_config
from gcl_jax.pipeline import prepare, sources

CLASSES = ("dark", "bright", "optic_disc")


def images_of(count: int, size: int, seed: int = 0) -> tuple:
  """Noise with two dark and two bright squares and an optic disc.

  Returns:
    uint8[count, size, size, 3] and class maps uint8[count, size, size].
  """
  random = np.random.default_rng(seed)
  pixels = random.normal(120, 6, (count, size, size, 3))
  maps = np.zeros((count, size, size), np.uint8)
  starts = range(1, size - 5, 9)
  cells = [(row, column) for row in starts for column in starts]
  for k in range(count):
    chosen = random.permutation(len(cells))[:5]
    for number, kind in zip(chosen, (1, 1, 2, 2, 3), strict=True):
      top, left = cells[number]
      where = slice(top, top + 4), slice(left, left + 4)
      maps[k][where] = kind
      pixels[k][where] += {1: -70, 2: 80, 3: 30}[kind]
  return np.clip(pixels, 0, 255).astype(np.uint8), maps


def dataset_of(
  pixels: np.ndarray, maps: np.ndarray | None, name: str = "squares", **columns
) -> Dataset:
  """A data set of these images, each of a group of its own."""
  names = np.array([f"{name}{k}" for k in range(len(pixels))])
  return Dataset(
    name,
    {"id": names, "group": names, **columns},
    lambda row: pixels[row],
    read_mask=None if maps is None else lambda row: maps[row],
    classes=() if maps is None else CLASSES,
  )


def config_of(size: int):
  """The tiny preset at another size."""
  config = get_config("tiny")
  config.preprocess.update(size=(size, size), disc=False)
  config.data.near_copies = False
  return config


def context_of(workdir, config, inputs: tuple[str, ...], name: str) -> Context:
  """The context of a stage that reads finished ones."""
  mesh = parallel.make_mesh(jax.devices()[:2])
  return Context(config, workdir, mesh, stage=Stage(name, None, inputs))


def finish(workdir, name: str, artifact: dict) -> None:
  """Leaves an artifact as a finished stage does."""
  save_artifact(workdir / name / "artifact", artifact)
  found = {"schema": 1, "arrays": array_hashes(artifact)}
  write_manifest(workdir / name, found)


def prepare_stage(
  workdir, config, name: str, dataset: Dataset, part: np.ndarray, boxes=None
) -> None:
  """Runs `pipeline.prepare` on images of the right size."""
  context = context_of(workdir, config, (), name)

  def read(dataset, row):
    lists = {} if boxes is None else {"boxes": boxes[row]}
    mask = None if dataset.read_mask is None else dataset.read_mask(row)
    return prepare.Row(dataset.read(row), mask, lists=lists)

  shape = (*config.preprocess.size, 3)
  found = prepare.run(context, [sources.Source(dataset, part)], read, shape)
  finish(workdir, name, found)
