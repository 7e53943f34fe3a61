"""What stage `data` stores while it reads: pixels, class maps, the table."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gcl_jax.data import splits
from gcl_jax.engine import feed
from gcl_jax.engine.context import Context
from gcl_jax.engine.tables import file_hash, joined, keep_rows
from gcl_jax.errors import DataError
from gcl_jax.pipeline.sources import Source


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


class Stored:
  """The files of the stage while they are written, and their table."""

  def __init__(
    self,
    context: Context,
    sources: Sequence[Source],
    shape: tuple[int, int, int],
  ):
    """Opens the files in the folder of the stage; see `prepare.run`."""
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
    truths = self.truths or contextlib.nullcontext()
    with truths, self.context.telemetry.progress(total, "data") as bar:
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
