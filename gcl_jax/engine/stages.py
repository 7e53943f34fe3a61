"""Execution of stages: skips finished ones, refuses ones with other settings.

workdir/config.json                 the full configuration, versions
workdir/<stage>/begun.json          settings its checkpoints belong to
workdir/<stage>/checkpoints/        only for resuming
workdir/<stage>/artifact/           results for later stages
workdir/<stage>/manifest.json       written last: the stage is finished
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from gcl_jax import disk
from gcl_jax.engine import distributed, folders, manifest
from gcl_jax.engine.checkpoint import save_artifact
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.lock import lock
from gcl_jax.engine.telemetry import Telemetry
from gcl_jax.errors import UserError

PACKAGES = ("gcl-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def run_stages(
  stages: Sequence[Stage], context: Context, only: str | None = None
) -> dict[str, dict]:
  """Runs the stages in order, each once.

  Args:
    stages: all stages, each after its inputs.
    context: `stage` and `telemetry` are filled in for each stage.
    only: name of the only stage to run; its inputs must be finished.

  Returns:
    {stage name: manifest} of all finished stages.

  Raises:
    UserError: `only` is unknown; the folder is in use by another run, is not
      writable or holds foreign files under names that the run needs; a
      finished stage has other settings, inputs or data; an input is missing or
      was changed on disk.
    Any exception of a stage (`NonFiniteError`, `Preempted`).
  """
  _check_order(stages, only)
  disk.make_writable(context.workdir)
  wanted = [stage for stage in stages if only in (None, stage.name)]
  with lock(context.workdir):
    distributed.on_main(lambda: _prepare(stages, wanted, context))
    for stage in wanted:
      _run_stage(stage, dataclasses.replace(context, stage=stage))
  manifests = {
    s.name: manifest.read_manifest(context.workdir / s.name) for s in stages
  }
  return {name: entry for name, entry in manifests.items() if entry is not None}


def _prepare(stages, wanted, context):
  """Checks folders and settings before anything in the folder is changed."""
  names = [stage.name for stage in stages]
  files = [name for stage in stages for name in stage.leaves]
  folders.check(context.workdir, names, files)
  again = [s for s in wanted if _lacks_a_file(s, context.workdir)]
  for stage in stages:  # also those that this command does not run
    if stage not in again:
      _check_settings(stage, context)
  for stage in again:
    folders.reopen(context.workdir / stage.name)
  _write_config(context)


def _lacks_a_file(stage, workdir):
  return (workdir / stage.name / "manifest.json").exists() and not all(
    (workdir / name).exists() for name in stage.leaves
  )


def _check_settings(stage, context):
  """Refuses a stage that was begun or finished with other settings or data."""
  folder = context.workdir / stage.name
  expected = _settings(stage, context)
  recorded, state = manifest.read_manifest(folder), "finished"
  if recorded is None:
    recorded, state = manifest.read_begun(folder), "begun"
  if recorded is not None:
    manifest.refuse_other(recorded | {"inputs": {}}, expected, folder, state)


def _run_stage(stage: Stage, context: Context) -> None:
  expected = _expected(stage, context)
  finished = manifest.read_manifest(context.folder)
  telemetry = Telemetry(context.folder, stage.name)
  context = dataclasses.replace(context, telemetry=telemetry)
  with contextlib.closing(telemetry):
    if finished is not None:
      manifest.refuse_other(finished, expected, context.folder, "finished")
      telemetry.say(f"stage {stage.name}: finished before, skipped")
      return
    _begin(context.folder, expected)
    for name in stage.inputs:
      context.load(name)
    telemetry.say(f"stage {stage.name}: started")
    work = functools.partial(_work, stage, context, expected)
    if stage.host:
      distributed.on_main(lambda: work()())
    else:
      distributed.on_main(work())


def _work(stage, context, expected) -> Callable[[], None]:
  """Runs the stage; returns a function that writes the results in process 0."""
  begin = time.perf_counter()
  try:
    artifact = stage.run(context)
  except UserError:
    _forget_if_empty(context.folder)
    raise

  def finish():
    save_artifact(context.folder / "artifact", artifact)
    wall_s = time.perf_counter() - begin
    done = expected | {
      "arrays": manifest.array_hashes(artifact),
      "mesh": describe_mesh(context.mesh, context.mode),
      "versions": versions(),
      "wall_s": wall_s,
      "throughput": context.telemetry.throughput,
    }
    disk.settle(context.folder)
    manifest.write_manifest(context.folder, done)
    context.telemetry.say(f"stage {stage.name}: finished in {wall_s:.1f} s")

  return finish


def _expected(stage, context):
  """Part of the manifest that a finished stage must match."""
  inputs = {}
  for name in stage.inputs:
    _check_fresh(context, name)
    inputs[name] = manifest.manifest_sha256(context.workdir / name)
  return _settings(stage, context) | {"inputs": inputs}


def _settings(stage, context):
  """Part of `_expected` that does not depend on the inputs."""
  config = manifest.to_plain(context.config)
  settings = {key: _pick(config, key) for key in stage.sections}
  settings["seed"] = config.get("seed", 0)
  text = json.dumps(settings, sort_keys=True)
  return {
    "schema": manifest.SCHEMA,
    "method": config.get("method", ""),
    "stage": stage.name,
    "config": settings,
    "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
    "inputs": {},
    "data": manifest.to_plain(context.data),
  }


def _check_fresh(context, name):
  """Refuses a finished stage if one of its inputs was made again since."""
  for earlier, sha256 in context.manifest(name)["inputs"].items():
    _check_fresh(context, earlier)
    if manifest.manifest_sha256(context.workdir / earlier) != sha256:
      raise UserError(
        f"stage {name} in {context.workdir} was made from another {earlier}"
        f" than is there now: delete {context.workdir / name} and run it again"
      )


def _pick(config, dotted):
  for name in dotted.split("."):
    config = config[name]
  return config


def _begin(folder, expected):
  """Records the settings that the stage's checkpoints belong to."""
  begun = manifest.read_begun(folder)
  if begun is not None:
    manifest.refuse_other(begun, expected, folder, "begun")
  elif distributed.is_main():
    disk.make_writable(folder)
    manifest.write_json(folder / "begun.json", expected)
  distributed.barrier(f"begin {folder.name}")


def _forget_if_empty(folder):
  """Allows other settings for a stage that left nothing to resume."""
  kept = [p for p in folder.iterdir() if p.is_dir() and p.name != "tensorboard"]
  if not kept and distributed.is_main():
    folders.open_again(folder)


def describe_mesh(mesh: jax.sharding.Mesh, mode: str) -> dict[str, Any]:
  """Devices, processes, kind and mode, for manifests and config.json."""
  return {
    "devices": mesh.size,
    "processes": jax.process_count(),
    "kind": mesh.devices.flat[0].device_kind,
    "mode": mode,
  }


def versions() -> dict[str, str]:
  """Versions of Python and of the libraries that can change a result."""
  installed = {"python": platform.python_version()}
  for package in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      installed[package] = importlib.metadata.version(package)
  return installed


def _write_config(context):
  if distributed.is_main():
    record = {
      "config": manifest.to_plain(context.config),
      "mesh": describe_mesh(context.mesh, context.mode),
      "data": manifest.to_plain(context.data),
      "versions": versions(),
    }
    manifest.write_json(context.workdir / "config.json", record)


def _check_order(stages, only):
  seen = []
  for stage in stages:
    missing = [name for name in stage.inputs if name not in seen]
    if missing or stage.name in seen:
      raise ValueError(f"stage {stage.name}: not before {missing}, not twice")
    seen.append(stage.name)
  if only is not None and only not in seen:
    near = difflib.get_close_matches(only, seen, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"unknown stage {only!r}: {hint}known: {', '.join(seen)}")
