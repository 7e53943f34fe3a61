"""Stage `data`: every image is read once, prepared, and stored by id.

WORKDIR/data/images.npy   uint8[N, H, W, C], prepared images
WORKDIR/data/masks.npy    uint8[N, H, W], their class maps, where there are any
WORKDIR/data/truths.bin   class maps of the evaluation part as stored, before
                          they were resampled: what predictions are scored on

The artifact holds the table (id, group, part, pool, labels ...), what was
left out and why, and the hashes of the files.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gcl_jax.data import near_copies, splits
from gcl_jax.engine import feed
from gcl_jax.engine.context import Context
from gcl_jax.engine.manifest import to_plain
from gcl_jax.engine.tables import file_hash, joined, keep_rows, pack
from gcl_jax.errors import DataError
from gcl_jax.pipeline.prepared import pixel_statistics
from gcl_jax.pipeline.sources import Source, renamed

SAMPLES = 6  # images whose preparation the report shows


class Row(NamedTuple):
  """One image as a method's `read` returns it.

  Attributes:
    images: uint8, the prepared image, [H, W] or [H, W, C].
    masks: uint8 [H, W], its class map; None without one.
    columns: further facts: a number becomes a column of the table, a vector a
      row of an array of the artifact.
    truth: uint8 [h, w], the class map as stored; None without one.
    lists: facts of which an image has any number, float [K, D] by name (boxes):
      an array [sum of K, D] of the artifact, and `<name>_row` int[sum of K],
      the row of the table that each belongs to.
  """

  images: np.ndarray
  masks: np.ndarray | None = None
  columns: dict[str, Any] = {}
  truth: np.ndarray | None = None
  lists: dict[str, np.ndarray] = {}


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
  stored = _Stored(context, sources, shape)
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


class _Stored:
  """The files of the stage while they are written, and their table."""

  def __init__(self, context, sources, shape):
    self.context, self.sources = context, sources
    self.folder = context.folder
    self.folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(source.dataset) for source in sources)
    self.files = {"images": self._open("images", (total, *shape))}
    self.truths = None
    if sources[0].dataset.read_mask is not None:
      self.files["masks"] = self._open("masks", (total, *shape[:2]))
      self.truths = open(self.folder / "truths.bin", "wb")
    self.rows = [[] for _ in sources]
    self.columns, self.lists, self.bad, self.count = {}, {}, [], 0

  def _open(self, name, shape):
    path = self.folder / f"{name}.npy"
    return np.lib.format.open_memmap(path, "w+", np.uint8, shape)

  def read_all(self, read):
    """One pass over all images; those that cannot be read are listed."""
    workers = self.context.config.workers
    total = sum(len(source.dataset) for source in self.sources)
    with self.context.telemetry.progress(total, "data") as bar:
      for number, source in enumerate(self.sources):
        one = functools.partial(_hashed, read, source.dataset)
        found = feed.mapped(one, len(source.dataset), workers)
        for row, result in enumerate(found):
          bar.update(1)
          if isinstance(result, DataError):
            self.leave_out(source.dataset, row, result)
          else:
            self.add(number, row, *result)
    for values in self.files.values():
      values.flush()
    if self.truths is not None:
      self.truths.close()
    if not self.count:
      raise DataError(f"no image could be read; the first: {self.bad[0][1]}")

  def leave_out(self, dataset, row, error):
    self.bad.append((str(dataset.ids[row]), str(error)))
    allowed = self.context.config.data.max_bad
    if len(self.bad) > allowed:
      raise DataError(
        f"{len(self.bad)} unreadable images in {dataset.name!r}, more than"
        f" data.max_bad = {allowed}; the last: {error}"
      ) from error

  def add(self, number, row, found, sha256):
    images = self.files["images"]
    images[self.count] = found.images.reshape(images.shape[1:])
    columns = {"hash": sha256} | found.columns
    if "masks" in self.files:
      self.files["masks"][self.count] = (
        0 if found.masks is None else found.masks
      )
      columns |= self._truth(found, self.sources[number].part[row])
    for name, value in columns.items():
      self.columns.setdefault(name, []).append(value)
    for name, values in found.lists.items():
      self.lists.setdefault(name, {})[self.count] = values
    self.rows[number].append(row)
    self.count += 1

  def _truth(self, found, part):
    """Place and size of the stored class map in truths.bin, -1 without one."""
    rows, columns = (-1, -1) if found.truth is None else found.truth.shape
    kept = found.truth is not None and part != "train"
    place = self.truths.tell() if kept else -1
    if kept:
      self.truths.write(np.ascontiguousarray(found.truth).tobytes())
    return {"truth_at": place, "stored_rows": rows, "stored_columns": columns}

  def table(self):
    """One table over the data sets; what one lacks is nan or "" there."""
    tables = []
    for number, (source, rows) in enumerate(
      zip(self.sources, self.rows, strict=True)
    ):
      count = len(source.dataset)
      columns = dict(source.dataset.table)
      if source.dataset.read_mask is not None:
        columns = {"labelled": np.ones(count)} | columns
      columns |= {"part": source.part, "pool": np.full(count, source.pool)}
      columns |= {"row": np.arange(count), "set": np.full(count, number)}
      columns.pop("split", None)
      rows = np.array(rows, int)
      tables.append({name: v[rows] for name, v in columns.items()})
    merged = joined(tables)
    ids, counts = np.unique(merged["id"], return_counts=True)
    if counts.max() > 1:
      raise DataError(
        f"the two data sets share {np.sum(counts > 1)} image ids, such as"
        f" {ids[counts > 1][0]!r}"
      )
    numbers = {k: np.array(v) for k, v in self.columns.items()}
    return merged | {k: v for k, v in numbers.items() if v.ndim == 1}

  def vectors(self):
    """The facts that are vectors, float[N, D]."""
    found = {name: np.array(v) for name, v in self.columns.items()}
    return {name: values for name, values in found.items() if values.ndim > 1}

  def lists_of(self, left):
    """The lists of these rows one after another, and the row of each entry."""
    found = {}
    for name, by_row in self.lists.items():
      width = next(iter(by_row.values())).shape[1:]
      blank = np.zeros((0, *width), np.float32)
      kept = [by_row.get(row, blank) for row in left.tolist()]
      found[name] = np.concatenate([blank, *kept])
      counts = [len(values) for values in kept]
      found[f"{name}_row"] = np.repeat(np.arange(len(kept)), counts)
    return found

  def keep(self, left):
    """Cuts the files to these rows; returns their hashes."""
    names, self.files = list(self.files), {}
    hashes = {
      f"{name}_sha256": np.array(keep_rows(self.folder / f"{name}.npy", left))
      for name in names
    }
    if self.truths is not None:
      hashes["truths_sha256"] = np.array(file_hash(self.folder / "truths.bin"))
    return hashes


def _hashed(read, dataset, row):
  """The row and the hash of its prepared image; or why it cannot be read."""
  try:
    found = read(dataset, row)
  except DataError as error:
    return error
  return found, splits.image_hash(found.images)


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
