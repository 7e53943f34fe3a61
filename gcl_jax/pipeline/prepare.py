"""Stage `data`: every image is read once, prepared, and stored by id.

WORKDIR/data/images.npy   uint8[N, H, W, C], prepared images
WORKDIR/data/masks.npy    uint8[N, H, W], their class maps, where there are any
WORKDIR/data/truths.bin   class maps of the evaluation part as stored, before
                          they were resampled: what predictions are scored on

The artifact holds the table (id, group, part, pool, labels ...), what was
left out and why, and the hashes of the files.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gcl_jax.data import near_copies, splits
from gcl_jax.engine.context import Context
from gcl_jax.engine.manifest import to_plain
from gcl_jax.engine.tables import pack
from gcl_jax.errors import DataError
from gcl_jax.pipeline.prepared import pixel_statistics
from gcl_jax.pipeline.sources import Source, renamed
from gcl_jax.pipeline.stored import Row as Row
from gcl_jax.pipeline.stored import Stored

SAMPLES = 6  # images whose preparation the report shows


def run(
  context: Context,
  sources: Sequence[Source],
  read: Callable[[Any, int], Row],
  shape: tuple[int, int, int],
  *,
  whole: str = "id",
  samples: int = 0,
) -> dict[str, Any]:
  """Reads, prepares and stores every image; returns the artifact.

  Args:
    context: of the stage; `config.data` has `max_bad`, `duplicates`,
      `near_copies` and `allow_group_overlap`.
    sources: the data sets; the first one names labels and classes.
    read: (data set, row) -> `Row`; called from several threads or processes.
      A `DataError` leaves the image out and is listed.
    shape: (H, W, C) of the prepared images.
    whole: column whose equal values make one whole; two wholes are copies of
      each other where all their prepared images are the same.
    samples: number of images of the first set to keep as stored as well.

  Raises:
    DataError: a group in two parts, too many unreadable images, ids that two
      sets share, copies in two parts, no image at all.
  """
  sources = [
    source._replace(dataset=renamed(source.dataset)) for source in sources
  ]
  first, config = sources[0].dataset, context.config.data
  overlap = splits.check_groups(
    np.concatenate([source.dataset.groups for source in sources]),
    np.concatenate([source.part for source in sources]),
    allow=config.allow_group_overlap,
  )
  stored = Stored(context, sources, shape)
  stored.read_all(read)
  table = stored.table()
  left, copied = copies_out(table, config.duplicates, whole)
  table = {name: values[left] for name, values in table.items()}
  vectors = {name: values[left] for name, values in stored.vectors().items()}
  return {
    "table": pack({k: v for k, v in table.items() if k != "hash"}),
    "labels": np.array(first.labels, str),
    "meta": np.array(first.meta, str),
    "classes": np.array(first.classes, str),
    "quarantine": np.array(stored.bad + copied, dtype=str),
    "overlapping_groups": np.array(overlap or [], dtype=str),
    "fingerprint": np.array(first.fingerprint()),
    **vectors,
    **stored.lists_of(left),
    **stored.keep(left),
    "near_copies": np.array(_near_copies(context, table), dtype=str),
    "preparation": _preparation(context, table),
    **(_samples(first, table, samples) if samples else {}),
  }


def copies_out(
  table: dict[str, np.ndarray], duplicates: str, whole: str
) -> tuple[np.ndarray, list[tuple[str, str]]]:
  """The rows that stay once copies of wholes in other parts are left out.

  Args:
    table: of all rows: `id`, `part`, `hash` and the column `whole`.
    duplicates: "refuse", or "drop": copies of an evaluation whole, and those
      in training of an out-of-distribution one, are left out.
    whole: "id" for single images, "volume" for the slices of a volume, of
      which some (blank ones) may be the same in two volumes.

  Returns:
    The rows that stay, and (id, reason) of the others.

  Raises:
    DataError: copies in two parts, unless they are dropped.
  """
  names, first, code = np.unique(
    table[whole], return_index=True, return_inverse=True
  )
  bounds = np.cumsum(np.bincount(code))[:-1]
  members = np.split(np.argsort(code, kind="stable"), bounds)
  hashes = [
    hashlib.sha256("".join(table["hash"][rows]).encode()).hexdigest()
    for rows in members
  ]
  part, twins = table["part"][first], {}
  prefix = "" if whole == "id" else f"{whole} "
  names = np.array([f"{prefix}{name}" for name in names])
  if duplicates == "drop":
    tests = np.where(part == "ood", "eval", part)
    twins = splits.copies(hashes, tests, names)
    twins |= splits.copies(hashes, part, names)
  left = np.setdiff1d(np.arange(len(names)), list(twins))
  splits.check_duplicates([hashes[i] for i in left], part[left], names[left])
  out = [
    (str(table["id"][row]), f"same pixels as {twin}, kept for testing")
    for number, twin in twins.items()
    for row in members[number]
  ]
  return np.flatnonzero(np.isin(code, left)), out


def _preparation(context: Context, table: dict) -> dict[str, Any]:
  """What prepares a new image as these were, without the training images."""
  images = np.load(context.folder / "images.npy", mmap_mode="r")
  train = np.flatnonzero((table["part"] == "train") & table["pool"])
  if not len(train):
    raise DataError(
      "no image of the pool is in the training part: look at the split column"
      " or lower --config.data.eval_fraction"
    )
  settings = to_plain(context.config.preprocess)
  return {"settings": json.dumps(settings)} | pixel_statistics(images, train)


def _near_copies(context: Context, table: dict) -> list[tuple]:
  """Evaluation images that look like a training image, to be warned of."""
  if not context.config.data.near_copies:
    return []
  images = np.load(context.folder / "images.npy", mmap_mode="r")
  tests = np.where(table["part"] == "ood", "eval", table["part"])
  found = near_copies.near_copies(images, tests, table["id"])
  if found:
    first = found[0]
    context.telemetry.say(
      f"data: {len(found)} evaluation images look like a training image"
      f" ({first.evaluation} and {first.training} for one); see the report"
    )
  return [(a, b, f"{value:.3f}") for a, b, value in found]


def _samples(dataset, table, count) -> dict[str, Any]:
  """Images of the first data set as stored, and their rows in the table."""
  spread = np.linspace(0, len(dataset) - 1, count).astype(int)
  chosen = (table["set"] == 0) & np.isin(table["row"], spread)
  rows = np.flatnonzero(chosen)
  stored = [dataset.read(int(table["row"][row])) for row in rows]
  return {
    "raw_samples": {str(i): image for i, image in enumerate(stored)},
    "sample_rows": rows,
  }
