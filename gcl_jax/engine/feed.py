"""Order of the data, and reading ahead of the device.

Batch k is a pure function of (seed, k): a run that resumes at step k asks for
batch k and goes on as if it had never stopped.
"""

import contextlib
import dataclasses
import functools
import itertools
import mmap
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from gcl_jax.engine import distributed, pools
from gcl_jax.errors import DataError


def batches(
  arrays: dict[str, Any],
  batch_size: int,
  *,
  seed: int,
  start: int = 0,
  steps: int,
  rows: np.ndarray | None = None,
  drop_last: bool = True,
  workers: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """Shuffled batches number `start` to `steps - 1`, reshuffled every epoch.

  Args:
    arrays: name -> array-like [N, ...] that takes an int array as an index
      (numpy arrays, memory maps).
    batch_size: rows of a batch, over all processes.
    seed: of the order, from 0 to 2**32 - 1.
    start: number of the first batch, i.e. steps already done.
    steps: number of batches of the whole run, not of what is left of it.
    rows: int[M], the rows to draw from; None means all N.
    drop_last: drop the rows at the end of an epoch that fill no batch; False
      gives them as a shorter batch.
    workers: as in `batches_from`.

  Returns:
    Iterator of dicts with the keys of `arrays` and `index` int64[B], the
    position of each row in the arrays. With several processes each gets its
    own consecutive share of every batch. Close it when not read to the end.

  Raises:
    DataError: fewer rows than a batch (with `drop_last`), no rows at all, or
      arrays of different lengths.
  """
  length = _length(arrays)
  rows = np.arange(length) if rows is None else np.asarray(rows, np.int64)
  if not len(rows) or (drop_last and len(rows) < batch_size):
    raise DataError(
      f"{len(rows)} rows are fewer than one batch of {batch_size}: choose a"
      " smaller batch size or provide more data"
    )
  order = grain.MapDataset.source(rows).seed(seed).shuffle()
  order = order.batch(batch_size, drop_remainder=drop_last).repeat()
  return batches_from(
    arrays,
    lambda step: order[step],
    start=start,
    steps=steps,
    workers=workers,
  )


def batches_from(
  arrays: dict[str, Any],
  rows_at: Callable[[int], Any],
  *,
  start: int = 0,
  steps: int,
  workers: int = 0,
) -> Iterator[dict[str, Any]]:
  """Batches number `start` to `steps - 1` whose rows a function chooses.

  Args:
    arrays: as in `batches`, or several pools of them: {"anchor": {"image":
      array, ...}, "negative": {"image": array, ...}}. Arrays of one pool have
      one length; the pools need not agree in lengths, names or shapes.
    rows_at: step -> int[B] rows of the whole batch, or, of several pools,
      {"anchor": int[B], "negative": int[C]}; pure (it is called from several
      threads, in any order, and again after a resume).
    start, steps: as in `batches`.
    workers: processes that read; 0 reads in two threads, which is quicker out
      of a memory map. The batches are the same. Arrays travel to the processes
      once, memory maps of whole files by their names.

  Returns:
    Iterator as in `batches`; of several pools {"anchor": {"index": ..., ...},
    "negative": {...}}, where every process has its own consecutive share of
    every pool.

  Raises:
    DataError: arrays of one pool have different lengths.
    ConfigError: the processes cannot share the rows of a pool equally.
    ValueError: the pools of `rows_at` are not those of `arrays`, or a pool
      stands beside an array.
  """
  pools.each(_length, arrays)
  process = jax.process_index(), jax.process_count()
  if workers:
    arrays = pools.each(_sendable_pool, arrays)

  def read_pool(pool, rows):
    index = np.asarray(rows, np.int64)
    index = index[distributed.local_share(len(index), process)]
    return {"index": index} | {
      name: np.asarray(values[index]) for name, values in pool.items()
    }

  def read(step):
    return pools.each(read_pool, arrays, rows_at(int(step)))

  stop = max(start, steps)
  if workers:
    return _from_workers(read, start, stop, workers, 1)
  return _stream(grain.MapDataset.range(start, stop).map(read))


def _sendable_pool(pool: dict[str, Any]) -> dict[str, Any]:
  return {name: _sendable(values) for name, values in pool.items()}


def _sendable(values: Any) -> Any:
  """The array; memory maps by their files' names, for pickle copies them."""
  if dataclasses.is_dataclass(values):  # an array made of arrays
    names = [field.name for field in dataclasses.fields(values)]
    parts = {name: _sendable(getattr(values, name)) for name in names}
    return dataclasses.replace(values, **parts)
  if isinstance(values, np.memmap) and isinstance(values.base, mmap.mmap):
    return _Mapped(
      str(values.filename), values.dtype, values.shape, values.offset
    )
  return values


@dataclasses.dataclass(frozen=True)
class _Mapped:
  """An array in a file, opened where it is read."""

  path: str
  dtype: np.dtype
  shape: tuple[int, ...]
  offset: int

  def __getitem__(self, index):
    return self.opened[index]

  @functools.cached_property
  def opened(self) -> np.memmap:
    return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def _stream(dataset: grain.MapDataset, threads: int = 2) -> Iterator[Any]:
  options = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=2 * threads
  )
  return _closing(iter(dataset.to_iter_dataset(options)))


def _closing(iterator) -> Iterator[Any]:
  try:
    yield from iterator
  finally:
    iterator.close()  # threads and processes would outlive a half-read iterator


def mapped(
  function: Callable[[int], Any], count: int, workers: int = 0
) -> Iterator[Any]:
  """Results of a function for 0 to count - 1, in order, computed ahead.

  >>> list(mapped(lambda row: row * row, 4))
  [0, 1, 4, 9]

  Args:
    function: row -> anything but None; called from several threads at once, or
      in other processes, and then sent there together with what it holds.
    count: number of rows.
    workers: processes that compute; 0 computes in threads of this one, one a
      core, which is quicker up to about four cores. The results are the same.
  """
  if not workers:
    rows = grain.MapDataset.range(count).map(lambda row: function(int(row)))
    return _stream(rows, distributed.cpu_devices(limit=8))
  return _from_workers(function, 0, count, workers, _GROUP)


def _from_workers(function, start, stop, workers, size):
  """Results for start to stop - 1 from processes, `size` sent together."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain hands the flags on to its processes

  def compute(first):
    rows = range(int(first), min(int(first) + size, stop))
    return _Rows([function(row) for row in rows])

  groups = grain.MapDataset.range(start, stop, size).map(compute)
  options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=2)
  once = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
  stream = groups.to_iter_dataset(once).mp_prefetch(options)
  for rows in _closing(iter(stream)):
    yield from rows.items


_GROUP = 16  # rows sent from process to process together


@dataclasses.dataclass
class _Rows:
  """Results of several rows in one object, opaque to grain.

  Grain would put every array of a list into a shared memory of its own, which
  takes longer than most functions.
  """

  items: list


def groups(items: Iterator, size: int, total: int) -> Iterator[list]:
  """Lists of `size` items of the first `total`, the last possibly shorter.

  >>> list(groups(iter("abcdefg"), 2, 5))
  [['a', 'b'], ['c', 'd'], ['e']]

  Closing the result closes `items` if it can be.
  """
  try:
    for start in range(0, total, size):
      group = list(itertools.islice(items, min(size, total - start)))
      if not group:
        return
      yield group
  finally:
    if hasattr(items, "close"):
      items.close()


@contextlib.contextmanager
def prefetch(items: Iterator, put: Callable, depth: int = 2) -> Iterator:
  """Applies `put` to the items in a thread, `depth` results ahead.

  >>> with prefetch(iter([1, 2]), lambda item: item * 10) as results:
  ...   list(results)
  [10, 20]

  Args:
    items: iterator of host batches; closed at the end if it can be.
    put: sends one batch to the device.
    depth: how many results may wait.

  Yields:
    Iterator of the results, in order; it raises the errors of `items` and
    `put`.
  """
  results = queue.Queue(maxsize=depth)
  stop = threading.Event()
  end = object()

  def offer(result):
    while not stop.is_set():
      with contextlib.suppress(queue.Full):
        return results.put(result, timeout=0.1)

  def work():
    try:
      for item in items:
        offer((put(item), None))
        if stop.is_set():
          break
      offer((end, None))
    except BaseException as error:  # handed over to the reader
      offer((end, error))
    finally:
      if hasattr(items, "close"):
        items.close()

  def read():
    while True:
      result, error = results.get()
      if error is not None:
        raise error
      if result is end:
        return
      yield result

  thread = threading.Thread(target=work, name="prefetch", daemon=True)
  thread.start()
  try:
    yield read()
  finally:
    stop.set()
    thread.join()


def _length(arrays: dict[str, Any]) -> int:
  """The number of rows of the arrays of one pool."""
  for name, values in arrays.items():
    if isinstance(values, dict):
      raise ValueError(
        f"{name!r} is a dict where an array is needed: `batches_from` takes"
        " arrays alone or pools of arrays alone, `batches` takes one pool"
      )
  lengths = {name: len(values) for name, values in arrays.items()}
  if len(set(lengths.values())) != 1:
    raise DataError(f"arrays must have one common length, got {lengths}")
  return next(iter(lengths.values()))
