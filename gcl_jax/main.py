"""The command: flags -> devices -> the stages of `config.method`.

  python -m gcl_jax.main --config=configs/severity.py:demo --workdir=runs/a
  python -m gcl_jax.main ... --stage=score     # one stage of a run
  python -m gcl_jax.main ... --compile_only=v5e:2x4  # for a TPU slice, here

Exit codes: 0 finished, 2 bad configuration or data, 3 stopped on losses that
are not finite, 4 another process was lost, 75 stopped after saving (run again
to go on).
"""

import hashlib
import importlib
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from gcl_jax import data
from gcl_jax.engine import (
  ahead,
  alive,
  cluster,
  distributed,
  parallel,
  preemption,
  stages,
)
from gcl_jax.errors import (
  ConfigError,
  Elsewhere,
  NonFiniteError,
  PeerLost,
  Preempted,
  UserError,
)

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file and preset, such as configs/severity.py:demo"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run")
_STAGE = flags.DEFINE_string("stage", None, "Run this stage only")
_COMPILE = flags.DEFINE_string(
  "compile_only",
  None,
  "Compile every step for a TPU slice such as v5e:2x4 and run nothing",
)


def main(argv: list[str]) -> None:
  """Runs what is missing of the run in --workdir."""
  if len(argv) > 1:
    raise ConfigError(f"not understood: {' '.join(argv[1:])}")
  config, workdir = _CONFIG.value, _WORKDIR.value
  if config is not None and _COMPILE.value:
    return compile_only(config, _COMPILE.value)
  if config is None or not workdir:
    raise ConfigError(
      "both --config and --workdir are needed, such as"
      " --config=configs/severity.py:demo --workdir=runs/demo"
    )
  method = method_stages(config)
  mesh = make_mesh(config, method.batch_sizes(config))
  distributed.keep_programs(pathlib.Path(workdir) / "compiled")
  with alive.watch(workdir), preemption.between_checkpoints():
    run_together(config, workdir, mesh)
  report = pathlib.Path(workdir) / "report.html"
  if report.exists() and distributed.is_main():
    print(f"report: {report}", flush=True)


def run_together(config: Any, workdir: str, mesh: Any) -> None:
  """Runs what all processes agree on; stops when one of them is lost."""
  distributed.check_agreement(
    "configuration", f"{config.to_json_best_effort()} {workdir} {_STAGE.value}"
  )
  distributed.check_agreement("version of gcl_jax", code_hash())
  try:
    run(config, workdir, mesh, _STAGE.value)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" in str(error):
      raise ConfigError(_out_of_memory(error)) from error
    if jax.process_count() == 1:
      raise
    alive.lost(str(error))


def _out_of_memory(error: Exception) -> str:
  return (
    f"the device is out of memory ({_one_line(error)[:150]}): lower"
    " --config.supcon.batch_size or score.batch_size, or set"
    " --config.supcon.remat=True, --config.supcon.block_size=1024 or"
    " --config.score.chunk=8"
  )


def code_hash() -> str:
  """SHA-256 of the package's source files."""
  digest = hashlib.sha256()
  for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
    digest.update(path.read_bytes())
  return digest.hexdigest()


def method_stages(config: Any) -> Any:
  """The module that lists the stages of `config.method`."""
  return importlib.import_module(f"gcl_jax.methods.{config.method}.stages")


def run(config: Any, workdir: Any, mesh: Any, only: str | None = None) -> dict:
  """Runs the stages of `config.method` that are missing in `workdir`.

  Args:
    config: what `get_config` of the method returned.
    workdir: the folder of the run.
    mesh: devices, from `gcl_jax.engine.parallel.make_mesh`.
    only: this stage alone.

  Returns:
    {stage: manifest} of the finished stages.
  """
  method = method_stages(config)
  planned = method.stages(config)
  dataset = data.load(config.data)
  fingerprint = dataset.fingerprint()
  for other in ("healthy_data", "ood_data"):
    if config.get(other, {}).get("name"):
      fingerprint += data.load(config[other]).fingerprint()
  if not (pathlib.Path(workdir) / "report.html").exists():
    shutil.rmtree(pathlib.Path(workdir) / "report", ignore_errors=True)
  context = stages.Context(
    config,
    workdir,
    mesh,
    config.parallel,
    data={"fingerprint": fingerprint, "count": len(dataset)},
    dataset=dataset,
  )
  return stages.run_stages(planned, context, only=only)


def compile_only(config: Any, topology: str) -> None:
  """Compiles what a run would, for a slice that need not be here, and prints
  memory, arithmetic and collectives of one chip."""
  method_stages(config).stages(config)  # refuses what could not run
  mesh = ahead.tpu_mesh(topology)
  name = f"gcl_jax.methods.{config.method}.programs"
  print(f"{topology}: {mesh.size} chips", flush=True)
  for program in importlib.import_module(name).programs(config):
    print(ahead.line(ahead.compile_program(program, mesh), topology))


def make_mesh(config: Any, batch_sizes: Sequence[int]) -> Any:
  """Joins the processes and takes the devices that divide every batch."""
  found = cluster.find()
  processes = found.count or 1
  wanted = config.devices // processes or distributed.cpu_devices()
  wanted = distributed.number_from("GCL_CPU_DEVICES", wanted)
  if config.platform == "cpu":
    jax.config.update("jax_platforms", "cpu")
  distributed.configure_cpu(
    distributed.usable_devices(batch_sizes, wanted, processes)
  )
  distributed.keep_memory()
  cluster.join(found)
  cluster.check_platform(config.platform)
  print(f"gcl_jax: {cluster.describe(found)}", file=sys.stderr, flush=True)
  devices = jax.devices()
  if jax.process_count() == 1:
    available = min(len(devices), config.devices or len(devices))
    count = distributed.usable_devices(batch_sizes, available)
    return parallel.make_mesh(devices[:count])
  each = jax.local_device_count()
  if distributed.usable_devices(batch_sizes, each, jax.process_count()) < each:
    raise ConfigError(
      f"batches of {', '.join(map(str, batch_sizes))} cannot be shared equally"
      f" by {len(devices)} devices: choose multiples of their number"
    )
  return parallel.make_mesh(devices)


def parse(argv: list[str]) -> list[str]:
  """Parses flags; whatever is wrong with them becomes one `ConfigError`."""
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is not None:
      _CONFIG.value.get("method")  # a file that failed to load raises only now
    if flags.FLAGS["verbosity"].using_default_value:
      logging.set_verbosity(logging.WARNING)  # orbax narrates at INFO
    return rest
  except UserError:
    raise
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    raise ConfigError(_one_line(e)) from e
  except OSError as error:
    raise ConfigError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
  """What went wrong; of a traceback quoted in the message, its last line."""
  text = str(error.args[0] if error.args else error).strip()
  if "Traceback" in text:
    text = re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])
  text = text.replace("\\n", " ").replace("\\'", "'")
  text = re.sub(r"^'(.*)'$", r"\1", text)
  if re.fullmatch(r"\w+", text):  # all that a KeyError says of a field
    text = f"the configuration has no field {text!r}"
  return re.sub(r"\s+", " ", text)


def _run(argv: list[str]) -> None:
  try:
    main(argv)
  except (UserError, NonFiniteError, Preempted, Elsewhere, PeerLost) as error:
    _stop(error)


def _stop(error) -> None:
  print(f"gcl_jax: {error}", file=sys.stderr, flush=True)
  sys.exit(error.exit_code)


def entry() -> None:
  """The console script `gcl-jax`."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  try:
    app.run(_run, flags_parser=parse)
  except UserError as error:
    _stop(error)


if __name__ == "__main__":
  entry()
