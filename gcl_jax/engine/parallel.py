"""Parallel execution of one step by shard_map, pmap or jit.

The only caller of `shard_map` and `pmap`. A step is written once, for the rows
of one device, and averages over the batch itself (`lax.pmean` of the loss, of
the gradients, and of every inner batch mean). `check_vma=False` everywhere:
with the default, `shard_map` would silently sum the gradients of replicated
parameters a second time, making them n devices times too large.
"""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gcl_jax.engine import pools, programs
from gcl_jax.errors import ConfigError

AXIS = "data"
MODES = ("shard_map", "pmap", "jit")
PyTree = Any


def make_mesh(devices=None) -> Mesh:
  """Mesh of one axis, `AXIS`, in the order of (process, device id).

  Process p then holds the p-th share of a batch (`distributed.local_share`).
  `jax.make_mesh` follows the torus of a TPU slice instead, which interleaves
  the chips of different hosts from 16 chips on, and refuses devices of several
  slices: since May 2026 every GPU host is one.

  Args:
    devices: devices of all processes; None for all devices.

  Raises:
    ConfigError: the processes hold different numbers of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  devices.sort(key=lambda device: (device.process_index, device.id))
  counts = collections.Counter(device.process_index for device in devices)
  if len(set(counts.values())) > 1:
    shares = ", ".join(f"process {p}: {n}" for p, n in counts.items())
    raise ConfigError(
      f"the processes hold different numbers of devices ({shares}): give each"
      " the same number"
    )
  return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def compile_step(
  step: Callable, mesh: Mesh, mode: str = "shard_map"
) -> Callable:
  """Compiles `step(state, batch, *, axis_name) -> (state, metrics)` for a mesh.

  The state has the same shapes in every mode (no leading device axis) and is
  donated: the argument is invalid afterwards. The result has `.lower`.

  Args:
    step: a pure function; `axis_name` is `AXIS` under shard_map and pmap and
      None under jit, which sees the whole batch. `metrics` is a dict of
      scalars, already averaged over the batch.
    mesh: from `make_mesh`.
    mode: "shard_map", "pmap" or "jit" (XLA partitions the program itself).

  Returns:
    f(state, batch) -> (state, metrics); the batch comes from `put_batch` with
    the same mode.
  """
  _check_mode(mode)
  if mode == "jit":
    return jax.jit(
      functools.partial(step, axis_name=None),
      out_shardings=_replicated(mesh),
      donate_argnums=0,
    )
  body = functools.partial(step, axis_name=AXIS)
  if mode == "pmap":
    return jax.pmap(
      body,
      axis_name=AXIS,
      in_axes=(None, 0),
      out_axes=(None, None),
      donate_argnums=0,
      devices=_by_process(mesh),
    )
  mapped = jax.shard_map(
    body,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
    out_specs=(PartitionSpec(), PartitionSpec()),
    check_vma=False,
  )
  return jax.jit(mapped, donate_argnums=0)


def compile_map(
  function: Callable, mesh: Mesh, mode: str = "shard_map"
) -> Callable:
  """Compiles `function(tree, batch)` for every device's rows separately.

  There are no collectives. Mode "jit" therefore runs as shard_map: by itself
  XLA would gather the images of a micro-batched function, and every device
  would compute every row.

  Args:
    function: (tree, batch with B/n rows) -> pytree of arrays with B/n rows.
    mesh: from `make_mesh`.
    mode: "shard_map", "pmap" or "jit".

  Returns:
    f(tree, batch) -> pytree of per-row arrays; read them with `global_rows`.
  """
  _check_mode(mode)
  if mode == "pmap":
    return jax.pmap(
      function,
      axis_name=AXIS,
      in_axes=(None, 0),
      devices=_by_process(mesh),
    )
  mapped = jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
    out_specs=PartitionSpec(AXIS),
    check_vma=False,
  )
  return jax.jit(mapped)


def put_batch(batch: PyTree, mesh: Mesh, mode: str = "shard_map") -> PyTree:
  """Sends the rows of this process to its devices in equal shares.

  Args:
    batch: pytree of host arrays [B, ...] (B: rows of this process). Pools of a
      batch, each with a B of its own, are shared out one by one: every device
      gets consecutive rows of each.
    mesh: from `make_mesh`.
    mode: mode of the compiled function that takes the batch.

  Raises:
    ConfigError: B is not a multiple of the number of this process's devices;
      the message names the pool.
  """
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  count = len(mesh.local_devices)

  def put(rows):
    rows = np.asarray(rows)
    if not rows.ndim or rows.shape[0] % count:
      raise ConfigError(
        f"a batch of shape {rows.shape} cannot be shared equally by {count}"
        " devices: choose a batch size that is a multiple of their number"
      )
    if mode == "pmap":
      rows = rows.reshape((count, -1) + rows.shape[1:])
    return jax.make_array_from_process_local_data(sharding, rows)

  return pools.each(functools.partial(jax.tree.map, put), batch)


def init_replicated(init: Callable, mesh: Mesh, *args) -> PyTree:
  """Result of `init(*args)` on every device of the mesh, ready to be donated.

  Args:
    init: a pure function of arrays -> pytree (a `State`, parameters).
    mesh: from `make_mesh`.
    *args: its arguments: keys, host arrays, pytrees of them.
  """
  compiled = jax.jit(init, out_shardings=_replicated(mesh))
  return programs.compile_once(compiled, *args)(*args)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Copies the tree to every device of the mesh.

  `device_put` alone may reuse the same memory: donating its result would delete
  the original, and two leaves that share an array (the best parameters, just
  set to the current ones) cannot both be donated.
  """
  return _copier(mesh)(jax.device_put(tree, _replicated(mesh)))


def global_rows(tree: PyTree, mode: str = "shard_map") -> PyTree:
  """Host arrays [B, ...] of the whole batch from a `compile_map` result.

  Merges pmap's leading axes [n, B/n, ...] and, with several processes, gathers
  the rows of all of them.
  """
  if jax.process_count() > 1:
    tree = multihost_utils.process_allgather(tree, tiled=True)
  tree = jax.tree.map(np.asarray, tree)
  if mode != "pmap":
    return tree
  return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), tree)


def divisible(size: int, mesh: Mesh) -> int:
  """Largest batch of at most `size` rows that the devices share equally.

  Raises:
    ConfigError: there are fewer rows than devices.
  """
  if size < mesh.size:
    raise ConfigError(
      f"{size} rows cannot be shared by {mesh.size} devices: set"
      f" --config.devices={max(size, 1)} or provide more data"
    )
  return size - size % mesh.size


def _by_process(mesh: Mesh) -> list[jax.Device]:
  """Devices grouped by process, as pmap requires."""
  devices = list(mesh.devices.flat)
  owners = [device.process_index for device in devices]
  if owners != sorted(owners):
    raise ConfigError(
      f"pmap needs the devices in the order of their processes, got {owners}:"
      " take the mesh from parallel.make_mesh"
    )
  return devices


def _replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


@functools.lru_cache(maxsize=8)
def _copier(mesh: Mesh) -> Callable:
  def copy(tree):
    return jax.tree.map(jnp.copy, tree)

  return jax.jit(copy, out_shardings=_replicated(mesh))


def _check_mode(mode: str) -> None:
  if mode not in MODES:
    raise ConfigError(f"unknown parallel mode {mode!r}: one of {MODES}")
