"""The only loop over a whole data set: scores, features, predictions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gcl_jax.engine import distributed, feed, parallel, preemption
from gcl_jax.engine.telemetry import Stopwatch, Telemetry
from gcl_jax.errors import DataError, Preempted

PyTree = Any


def map_examples(
  function: Callable,
  tree: PyTree,
  arrays: dict[str, Any],
  *,
  mesh: jax.sharding.Mesh,
  mode: str = "shard_map",
  batch_size: int,
  name: str = "map",
  telemetry: Telemetry | None = None,
  compiled: dict | None = None,
) -> PyTree:
  """Applies a function to every row; the results do not depend on the batches.

  Every row's index goes to the device and comes back with its result, which is
  placed by it: no order of devices can give a row the result of another.

  Args:
    function: (tree, batch) -> pytree of arrays with one row per row of the
      batch, each row computed from its own alone. It is given the rows of one
      device.
    tree: what the function needs besides (parameters): host or device arrays.
    arrays: name -> array-like [N, ...] that takes a slice (memory maps too).
      The batch has these names and `index` int32[B], the position of each row.
    mesh: devices, from `parallel.make_mesh`.
    mode: "shard_map", "pmap" or "jit" (run as shard_map).
    batch_size: rows at a time over all devices; rounded up to a multiple of
      their number. The last batch is padded by repeating its last row.
    name: of the progress bar and the throughput record.
    telemetry: where progress and throughput go; None drops them.
    compiled: a dict kept from call to call of the same function, so that it
      is compiled once for the same shapes.

  Returns:
    Pytree of numpy arrays [N, ...], in the order of the rows.

  Raises:
    DataError: no rows, or arrays of different lengths.
    RuntimeError: rows did not come back from the devices.
  """
  telemetry = telemetry or Telemetry()
  lengths = {key: len(values) for key, values in arrays.items()}
  if len(set(lengths.values())) != 1 or not min(lengths.values()):
    raise DataError(f"{name}: arrays need one common length > 0, got {lengths}")
  length = next(iter(lengths.values()))
  size = mesh.size * math.ceil(min(batch_size, length) / mesh.size)
  watch = Stopwatch(mesh)
  tree = parallel.replicate(tree, mesh)
  mapped = parallel.compile_map(_numbered(function), mesh, mode)
  output = None

  def put(start):
    batch = _read(arrays, start, size, length)
    return start, parallel.put_batch(batch, mesh, mode)

  def keep(start, result):
    nonlocal output
    index, rows = parallel.global_rows(result, mode)
    if output is None:
      output = jax.tree.map(lambda x: _empty(x, length, size, name), rows)
    stop = min(start + size, length)
    order = _order(index, start, stop, name)
    jax.tree.map(lambda out, x: _fill(out, x[order], start), output, rows)
    bar.update(stop - start)

  programs = {} if compiled is None else compiled
  starts = iter(range(0, length, size))
  pending = None
  with (
    feed.prefetch(starts, put) as queue,
    telemetry.progress(length, name) as bar,
    preemption.watch() as asked_by,
  ):
    while (item := watch.wait(queue)) is not None:
      start, batch = item
      if pending is None:
        key = _shapes(tree, batch)
        if key not in programs:
          programs[key] = watch.compile(mapped, tree, batch)
        mapped = programs[key]
      with watch.busy(1, min(size, length - start)):
        result = mapped(tree, batch)
        if pending is not None:
          keep(*pending)  # while the device works on the next batch
      pending = start, result
      if asked := asked_by():
        raise Preempted(
          f"{name}: stopped by {asked}; run the same command again to go on"
        )
    with watch.busy():
      keep(*pending)
  telemetry.throughput[name] = watch.record()
  return output


def _shapes(*trees):
  """The key of a compiled program: structure, shapes and dtypes."""
  leaves, structure = jax.tree.flatten(trees)
  return structure, tuple((x.shape, x.dtype) for x in leaves)


def _read(arrays, start, size, length):
  """The batch of rows start to start + size - 1, padded with the last row."""
  index = np.minimum(np.arange(start, start + size), length - 1)
  index = index[distributed.local_share(size)]
  batch = {"index": index.astype(np.int32)}
  for name, values in arrays.items():
    # A slice, not an index array: memory maps read it in one piece.
    rows = np.array(values[index[0] : index[-1] + 1])
    missing = len(index) - len(rows)
    batch[name] = np.concatenate([rows, rows[-1:].repeat(missing, axis=0)])
  return batch


def _empty(rows, length, size, name):
  if not rows.ndim or rows.shape[0] != size:
    raise ValueError(
      f"{name}: the function must return one row per row of the batch, got"
      f" shape {rows.shape} for {size} rows"
    )
  return np.empty((length,) + rows.shape[1:], rows.dtype)


def _numbered(function):
  """A function that returns the index of each row and its result."""

  def numbered(tree, batch):
    return batch["index"], function(tree, batch)

  return numbered


def _order(index, start, stop, name):
  """Positions of the results of rows start to stop - 1, without padding."""
  found, order = np.unique(index, return_index=True)
  if not np.array_equal(found, np.arange(start, stop)):
    raise RuntimeError(
      f"{name}: of rows {start} to {stop - 1} the devices gave back"
      f" {len(found)}, from {found[0]} to {found[-1]}: the mesh does not hold"
      " every process's devices once"
    )
  return order


def _fill(output, rows, start):
  output[start : start + len(rows)] = rows
