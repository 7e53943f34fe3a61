"""Stages `data` and `lesions`: images cropped to the disc, and their boxes."""

import dataclasses
import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import box_files, disc, formats, splits
from gcl_jax.data.source import Dataset
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.pipeline import prepare, sources


def run(context: Context) -> dict[str, Any]:
  """Reads, prepares and splits the images (see `pipeline.prepare`).

  Returns:
    The artifact; `boxes` float32[M, 5] and `boxes_row` int[M] among it, where
    the boxes of lesions come with the data or from a table.
  """
  config = context.config
  found = splits.limited(context.datasets["data"], config.data.limit)
  if config.boxes.source == "table":
    path = config.boxes.path
    boxes, _ = box_files.for_images(path, found.ids)
    found = dataclasses.replace(found, read_boxes=boxes.__getitem__)
  elif config.boxes.source == "detector":
    found = dataclasses.replace(found, read_boxes=None)
  read = functools.partial(_read, config.preprocess)
  source = sources.Source(found, sources.parts(found, config.data))
  return prepare.run(
    context, [source], read, _shape(config), samples=prepare.SAMPLES
  )


def run_lesions(context: Context) -> dict[str, Any]:
  """Stage `lesions`: images with class maps, which train the detector."""
  config = context.config
  found = splits.limited(
    context.datasets["lesion_data"], config.lesion_data.limit
  )
  if found.read_mask is None:
    raise DataError(
      f"lesion_data {found.name!r} has no class maps: the detector is trained"
      " on them"
    )
  read = functools.partial(_read_masked, config.preprocess)
  source = sources.Source(found, np.full(len(found), "train"))
  return prepare.run(context, [source], read, _shape(config))


def prepared(
  raw: np.ndarray, config: ConfigDict, boxes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """One stored image as the networks see it, and its boxes.

  Args:
    raw: [h, w] or [h, w, 3], as stored.
    config: section `preprocess`.
    boxes: float32[K, 5] in pixels of `raw`.

  Returns:
    uint8[S, S, channels] and float32[K', 5] in its pixels; boxes outside the
    crop are left out.
  """
  return _cropped(raw, config, boxes)[:2]


def _cropped(raw, config, boxes=None, mask=None):
  """Pixels, boxes and class map of one stored image once it is prepared."""
  crop = disc.crop_to_disc if config.disc else disc.square
  image = _with_channels(formats.to_uint8(raw), config.channels)
  return crop(image, boxes, mask, size=config.size[0])


def _read(config, dataset: Dataset, row: int) -> prepare.Row:
  boxes = dataset.read_boxes and dataset.read_boxes(row)
  mask = dataset.read_mask(row) if _has_mask(dataset, row) else None
  pixels, moved, mask = _cropped(dataset.read(row), config, boxes, mask)
  return prepare.Row(pixels, mask, lists={"boxes": moved})


def _has_mask(dataset: Dataset, row: int) -> bool:
  labelled = dataset.table.get("labelled", np.ones(len(dataset)))
  return dataset.read_mask is not None and labelled[row] > 0


def _read_masked(config, dataset: Dataset, row: int) -> prepare.Row:
  mask = dataset.read_mask(row) if _has_mask(dataset, row) else None
  pixels, _, mask = _cropped(dataset.read(row), config, mask=mask)
  return prepare.Row(pixels, mask)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """[h, w] or [h, w, 3] -> [h, w, channels] of 1 (luminance) or 3."""
  if channels == 1:
    return formats.to_grey(image)[..., None]
  return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _shape(config: ConfigDict) -> tuple[int, int, int]:
  return (*config.preprocess.size, config.preprocess.channels)
