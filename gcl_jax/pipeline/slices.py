"""Stage `data`: slices of volumes with class maps, and of another scanner.

Patients kept for evaluation, and those of the out-of-distribution set, are in
no training of any kind under the strict protocol.
"""

import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import formats, slice_geometry, splits
from gcl_jax.data.source import Dataset
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.pipeline import prepare, sources
from gcl_jax.pipeline.sources import Source


def run(context: Context) -> dict[str, Any]:
  """Reads, prepares and splits the slices (see `pipeline.prepare`).

  Raises:
    ConfigError: `data.ood` names no column, or nobody.
    DataError: too few patients to split, a set without class maps or with
      other classes.
  """
  config = context.config
  main = splits.limited(context.datasets["data"], config.data.limit)
  found = [Source(main, sources.parts(main, config.data))]
  if "ood_data" in context.datasets:
    other = context.datasets["ood_data"]
    other = splits.limited(other, config.ood_data.limit)
    part = np.full(len(other), "ood")
    found.append(Source(sources.apart(other, "ood"), part))
  check_classes(found)
  return prepare.run(
    context,
    found,
    functools.partial(read, config.preprocess, main.classes),
    (*config.preprocess.size, 1),
    whole="volume",
  )


def check_classes(found: list[Source]) -> None:
  """Refuses data sets without class maps, or with different classes.

  Raises:
    DataError: names the data set.
  """
  first = found[0].dataset
  for dataset, *_ in found:
    if dataset.read_mask is None:
      raise DataError(
        f"data set {dataset.name!r} has no class maps to segment: choose a set"
        " of volumes with labels (heart, hippocampus, acdc, ...)"
      )
    if set(dataset.classes) != set(first.classes):
      raise DataError(
        f"data sets {first.name!r} and {dataset.name!r} have other classes:"
        f" {first.classes} and {dataset.classes}"
      )


def read(
  config: ConfigDict, classes: tuple[str, ...], dataset: Dataset, row: int
) -> prepare.Row:
  """One slice by `config.preprocess`, its class map and its labelled voxels.

  Args:
    config: `size` and `spacing`.
    classes: names of the classes 1..n of the run.
    dataset: one with these classes, in any order.
    row: of the slice.
  """
  spacing = slice_geometry.spacing_of(dataset.table, row)
  target, size = tuple(config.spacing) or None, tuple(config.size)
  image, truth = formats.to_uint8(dataset.read(row)), None
  if dataset.table.get("labelled", np.ones(len(dataset)))[row]:
    codes = [0, *(classes.index(name) + 1 for name in dataset.classes)]
    truth = np.array(codes, np.uint8)[dataset.read_mask(row)]
  image, mask = slice_geometry.prepare_slice(
    image, truth, spacing, target, size
  )
  voxels = {"labelled_voxels": 0, "cropped_voxels": 0}
  if truth is not None:
    voxels["labelled_voxels"] = int((truth > 0).sum())
    voxels["cropped_voxels"] = _cropped(truth, spacing, target, size)
  return prepare.Row(image, mask, voxels, truth)


def _cropped(truth, spacing, target, size) -> int:
  """Labelled voxels of a stored slice that no prediction can reach."""
  everywhere = np.ones(size, np.uint8)
  reached = slice_geometry.restore(everywhere, truth.shape, spacing, target)
  return int(((truth > 0) & (reached == 0)).sum())
