"""Numbers of patients, images and positives in every part of the data."""

from typing import Any, NamedTuple

import numpy as np

from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.sources import PARTS

OUTSIDE = "outside_pool"  # training images of a second set: healthy scans
_ANSWERS = ("positives", "negatives", "missing")


class _Units(NamedTuple):
  """What is counted: images, or volumes of slices.

  Attributes:
    kind: "images" or "volumes".
    names: str[U], the id of each.
    first: int[U], the first row of each in the table.
    labels: label -> float[U] of 1, 0 or nan (missing).
  """

  kind: str
  names: np.ndarray
  first: np.ndarray
  labels: dict[str, np.ndarray]


def census(images: Prepared) -> dict[str, Any]:
  """Counts what a run was trained and tested on.

  Images with labels are counted as images: the label columns and, where the
  table has one, the column `healthy`. Slices of volumes are counted as
  volumes: a volume is positive of a class that occurs in one of its prepared
  slices, negative where it has class maps without the class, and missing where
  it has none. A group is counted with the positives, negatives and missing
  alike if it has one of each.

  Args:
    images: the prepared images of the run.

  Returns:
    `parts`: for train, eval, ood and `OUTSIDE`, where there are any, `groups`,
    `images` (or `volumes` and `slices`) and `labels`: by label `positives`,
    `negatives` and `missing`, each {images or volumes, groups}; `quarantine`,
    the number of images left out; `overlapping_groups`, groups in two parts;
    `near_copies`, evaluation images that look like a training image;
    `own_group`, images (or volumes) whose group is their own id.
  """
  units = _volumes(images) if "volume" in images.table else _images(images)
  outside = images.part("train") & ~images.table["pool"]
  part_of = np.where(outside, OUTSIDE, images.table["part"])
  parts = {}
  for part in (*PARTS, OUTSIDE):
    here = part_of[units.first] == part
    if here.any():
      parts[part] = _part(units, images.groups[units.first], here)
      if units.kind == "volumes":
        parts[part]["slices"] = int((part_of == part).sum())
  own = images.groups[units.first] == units.names
  return {
    "parts": parts,
    "own_group": int(own.sum()),
    **{
      name: len(images.artifact[name])
      for name in ("quarantine", "overlapping_groups", "near_copies")
    },
  }


def _part(units: _Units, groups: np.ndarray, here: np.ndarray) -> dict:
  """The entry of one part."""

  def count(chosen):
    number = len(set(groups[chosen].tolist()))
    return {units.kind: int(chosen.sum()), "groups": number}

  labels = {}
  for name, values in units.labels.items():
    answers = (values == 1, values == 0, np.isnan(values))
    labels[name] = {
      answer: count(here & chosen)
      for answer, chosen in zip(_ANSWERS, answers, strict=True)
    }
  return count(here) | {"labels": labels}


def _images(images: Prepared) -> _Units:
  """Every image by itself."""
  names = dict.fromkeys(images.labels)
  if "healthy" in images.table:
    names["healthy"] = None
  labels = {name: np.asarray(images.table[name], float) for name in names}
  return _Units("images", images.ids, np.arange(len(images)), labels)


def _volumes(images: Prepared) -> _Units:
  """Every volume, with the classes that occur in its slices."""
  count, mapped = len(images.classes), images.labelled
  shown = np.zeros((len(images), count), bool)
  for row in np.flatnonzero(mapped):
    sizes = np.bincount(images.masks[row].ravel(), minlength=count + 1)
    shown[row] = sizes[1 : count + 1] > 0
  names, first, code = np.unique(
    images.table["volume"], return_index=True, return_inverse=True
  )
  found, has_map = np.zeros((len(names), count), bool), np.zeros(len(names))
  np.logical_or.at(found, code, shown)
  np.maximum.at(has_map, code, mapped)
  values = np.where(has_map[:, None] > 0, found, np.nan)
  labels = {name: values[:, k] for k, name in enumerate(images.classes)}
  return _Units("volumes", names, first, labels)
