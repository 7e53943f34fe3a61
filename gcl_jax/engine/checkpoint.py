"""Checkpoints for resuming and artifacts for later stages.

The only file that uses orbax. A checkpoint is written to a temporary folder and
renamed when complete; the SHA-256 of every array is saved with it, so that
damage is detected and the previous checkpoint is used.
"""

import json
import logging
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from gcl_jax import disk
from gcl_jax.engine import distributed, folders
from gcl_jax.engine.manifest import (
  SCHEMA,
  array_hashes,
  differing,
  flatten,
  is_key,
  write_json,
)
from gcl_jax.errors import UserError

PyTree = Any


class Checkpoints:
  """Newest states of one fit, in `directory/<step>/`.

  Attributes:
    finished: whether the fit of the last restored state had stopped early, so
      that it must not continue when the run is resumed.
  """

  def __init__(
    self, directory: str | pathlib.Path, keep: int = 2, strict: bool = False
  ):
    """Opens or creates the folder and removes remains of interrupted saves.

    Args:
      directory: the folder.
      keep: number of newest checkpoints that are kept.
      strict: a damaged checkpoint is refused and left for inspection, instead
        of being replaced by the previous one.

    Raises:
      UserError: the folder cannot be written.
    """
    self.directory = pathlib.Path(directory).absolute()
    self.finished, self.strict = False, strict
    disk.make_writable(self.directory)
    self._manager = ocp.CheckpointManager(
      self.directory,
      item_names=("state", "meta"),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=False,  # buffers are donated to later steps
        cleanup_tmp_directories=True,
      ),
    )

  def latest(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: PyTree, *, finished: bool = False) -> None:
    """Writes the state of `step`, replacing a checkpoint of the same step.

    Raises:
      OSError, ValueError: writing failed; older checkpoints are intact.
    """
    if step in self._manager.all_steps():
      self._manager.delete(step)  # otherwise orbax keeps the old one silently
    # Process 0 writes host arrays in one piece; of device arrays orbax would
    # write one slice per device, each cut by a separately compiled program.
    state = jax.tree.map(_on_host, state)
    meta = {
      "schema": SCHEMA,
      "finished": finished,
      "arrays": array_hashes(state),
    }
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
      ),
      force=True,
    )
    if distributed.is_main():  # orbax syncs array files but not their folders
      disk.settle(self.directory / str(step))

  def restore(self, like: PyTree, step: int | None = None) -> PyTree:
    """Restores the newest undamaged state onto the devices of `like`.

    Args:
      like: pytree of arrays (or `jax.ShapeDtypeStruct` with shardings) that
        gives structure, shapes, dtypes and devices of the result. The devices
        may differ from those the state was saved on.
      step: only this step; None takes the newest and, if it is damaged,
        reports this, removes it and takes the previous one.

    Raises:
      UserError: there is no checkpoint, it belongs to another model or a newer
        version of this program, or all are damaged.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    wanted = steps if step is None else [s for s in steps if s == step]
    if not wanted:
      raise UserError(
        f"no checkpoint{'' if step is None else f' of step {step}'} in"
        f" {self.directory}; there are: {steps}"
      )
    for candidate in wanted:
      try:
        return self._restore(candidate, like)
      except _Damaged as error:
        logging.warning("%s", error)
        if step is not None or self.strict:
          raise UserError(f"{error}; there are: {steps}") from None
        self._manager.delete(candidate)
    raise UserError(
      f"all checkpoints in {self.directory} were damaged: start again"
    )

  def close(self) -> None:
    self._manager.close()

  def _restore(self, step, like):
    where = self.directory / str(step)
    meta = self._read(step, meta=ocp.args.JsonRestore()).meta
    if meta["schema"] > SCHEMA:
      raise UserError(
        f"checkpoint {where} has format {meta['schema']}, this program reads"
        f" up to {SCHEMA}: install a newer version"
      )
    _check_same_arrays(where, meta["arrays"], like)
    abstract = jax.tree.map(_abstract, like)
    state = self._read(step, state=ocp.args.StandardRestore(abstract)).state
    changed = differing(meta["arrays"], array_hashes(state))
    if changed:
      raise _Damaged(f"checkpoint {where} is damaged: {changed[0]} has changed")
    self.finished = meta["finished"]
    return state

  def _read(self, step, **items):
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # orbax raises many types for unreadable files
      first = str(error).splitlines()[0][:200] if str(error) else repr(error)
      where = self.directory / str(step)
      raise _Damaged(f"checkpoint {where} is damaged: {first}") from error


class _Damaged(Exception):
  pass


def save_artifact(directory: str | pathlib.Path, tree: dict) -> None:
  """Writes the artifact of a stage: a nested dict of arrays and plain values.

  Numeric arrays go to `arrays/` (an orbax pytree), everything else (string
  arrays, empty arrays, Python values, empty dicts) to `values.json`. The folder
  is created in one rename and replaces an older one. Called by process 0 only.

  Args:
    directory: the folder to create.
    tree: nested dict with str keys (no "/"); leaves numpy or jax arrays, or
      plain Python values.

  Raises:
    TypeError: a key or a leaf is of another kind (such as an object array).
    UserError: the folder exists and is not an artifact.
  """
  directory = pathlib.Path(directory).absolute()
  if directory.exists() and not (
    (directory / "values.json").exists() or folders.is_own(directory.parent)
  ):
    raise UserError(
      f"{directory} is no artifact and would be replaced: move it away"
    )
  leaves = dict(_walk(tree))
  arrays = {k: v for k, v in leaves.items() if _is_numeric(v)}
  values = {k: _to_json(k, v) for k, v in leaves.items() if k not in arrays}
  temporary = directory.with_name(f".{directory.name}.new")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  write_json(
    temporary / "values.json", {"arrays": [*arrays]} | {"values": values}
  )
  if arrays:
    with _alone() as checkpointer:
      checkpointer.save(temporary / "arrays", _nest(arrays))
  disk.replace_folder(temporary, directory)


def _alone() -> ocp.Checkpointer:
  """Checkpointer for numpy arrays in this process, without synchronisation."""
  me = jax.process_index()
  options = ocp.options.MultiprocessingOptions(
    primary_host=me,
    active_processes={me},
    barrier_sync_key_prefix=f"process{me}",
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
  return ocp.Checkpointer(handler, multiprocessing_options=options)


def load_artifact(directory: str | pathlib.Path) -> dict:
  """Tree written by `save_artifact`, with numeric leaves as numpy arrays.

  Raises:
    UserError: the artifact is missing or cannot be read.
  """
  directory = pathlib.Path(directory).absolute()
  try:
    index = json.loads((directory / "values.json").read_text())
    leaves = {k: _from_json(v) for k, v in index["values"].items()}
    if index["arrays"]:
      leaves |= _read_arrays(directory / "arrays", index["arrays"])
  except Exception as error:  # orbax raises many types for unreadable files
    first = str(error).splitlines()[0][:200] if str(error) else repr(error)
    raise UserError(
      f"cannot read {directory} ({first}): delete the stage's folder and run"
      " the stage again"
    ) from error
  return _nest(leaves)


def _on_host(leaf):
  return leaf if is_key(leaf) else np.asarray(leaf)


def _abstract(leaf):
  if isinstance(leaf, jax.ShapeDtypeStruct | np.ndarray):
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _check_same_arrays(where, saved, like):
  def spec(leaf):
    dtype = leaf.dtype if is_key(leaf) else np.dtype(leaf.dtype).name
    shape = () if is_key(leaf) else leaf.shape
    return f"{dtype}{list(shape)}"

  here = {path: spec(leaf) for path, leaf in flatten(like).items()}
  there = {}
  for path, entry in saved.items():
    shape = [] if entry["dtype"].startswith("key<") else entry["shape"]
    there[path] = f"{entry['dtype']}{shape}"
  paths = differing(there, here)
  if paths:
    lines = ", ".join(
      f"{path} is {there.get(path, 'missing')} there and"
      f" {here.get(path, 'missing')} here"
      for path in paths[:3]
    )
    raise UserError(
      f"checkpoint {where} belongs to another model or optimiser: {lines}"
      f" ({len(paths)} differ); choose another --workdir or delete the folder"
    )


def _walk(tree, prefix=""):
  for key, value in tree.items():
    if not isinstance(key, str) or "/" in key or not key:
      raise TypeError(f"artifact keys are str without '/', got {key!r}")
    if isinstance(value, dict) and value:
      yield from _walk(value, f"{prefix}{key}/")
    else:
      yield f"{prefix}{key}", _plain(value)


def _plain(value):
  if isinstance(value, np.str_):
    return str(value)
  if isinstance(value, np.generic | jax.Array):
    return np.asarray(value)  # numpy scalars save but do not restore
  return value


def _is_numeric(value):
  if not isinstance(value, np.ndarray) or value.dtype.kind in "UOSMm":
    return False
  return value.size > 0  # orbax cannot save empty arrays


def _to_json(path, value):
  if isinstance(value, np.ndarray) and value.dtype.kind == "U":
    return {"shape": list(value.shape), "strings": value.ravel().tolist()}
  if isinstance(value, np.ndarray) and value.dtype.kind not in "OSMm":
    return {"shape": list(value.shape), "dtype": value.dtype.name}
  if value is None or isinstance(value, bool | int | float | str | dict):
    return {"value": value}  # a dict among the leaves is empty
  kind = getattr(value, "dtype", type(value).__name__)
  raise TypeError(f"an artifact cannot hold {path}: {kind}")


def _from_json(entry):
  if "value" in entry:
    return entry["value"]
  if "dtype" in entry:
    return np.empty(entry["shape"], jnp.dtype(entry["dtype"]))
  return np.array(entry["strings"], dtype=np.str_).reshape(entry["shape"])


def _nest(leaves):
  tree = {}
  for path, leaf in leaves.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def _read_arrays(directory, paths):
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  arguments = _nest({path: as_numpy for path in paths})
  with _alone() as checkpointer:
    tree = checkpointer.restore(directory, restore_args=arguments)
  return dict(_walk(tree))
