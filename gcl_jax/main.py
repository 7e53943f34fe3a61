"""Command line: parses flags, joins devices, runs the stages of a method.

  gcl-jax --config=severity:demo --workdir=runs/a
  python -m gcl_jax.main --config=configs/severity.py:demo --workdir=runs/a
  python -m gcl_jax.main ... --stage=score     # one stage of a run
  python -m gcl_jax.main ... --compile_only=v5e:2x4  # for an absent TPU slice

Exit codes: 0 finished, 2 bad configuration or data, 3 stopped on non-finite
losses, 4 another process was lost, 75 stopped after saving (run again to
resume).
"""

import importlib
import os
import pathlib
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from gcl_jax import data
from gcl_jax.engine import compile_ahead, distributed, stages, start
from gcl_jax.engine.context import Context
from gcl_jax.engine.manifest import flat
from gcl_jax.engine.settings import check_method, one_line, with_config_path
from gcl_jax.engine.tables import file_hash
from gcl_jax.errors import (
  ConfigError,
  MainProcessFailed,
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
  """Runs the unfinished stages of the run in --workdir."""
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
  mesh = start.join(config, method.batch_sizes(config))
  distributed.keep_programs(pathlib.Path(workdir) / "compiled")
  with start.together(config, workdir, _STAGE.value):
    run(config, workdir, mesh, _STAGE.value)
  report = pathlib.Path(workdir) / "report.html"
  if report.exists() and distributed.is_main():
    print(f"report: {report}", flush=True)


def method_stages(config: ConfigDict) -> Any:
  """Module `stages` of the method `config.method`."""
  name = check_method(config.method)
  return importlib.import_module(f"gcl_jax.methods.{name}.stages")


def run(
  config: ConfigDict, workdir: Any, mesh: Any, only: str | None = None
) -> dict:
  """Runs the stages of `config.method` that are not finished in `workdir`.

  Args:
    config: the result of the method's `get_config`.
    workdir: the folder of the run.
    mesh: devices, from `gcl_jax.engine.parallel.make_mesh`.
    only: name of the only stage to run; None runs all.

  Returns:
    {stage: manifest} of the finished stages.
  """
  method = method_stages(config)
  planned = method.stages(config)
  datasets = {
    name: data.load(config[name])
    for name in config
    if name.endswith("data") and config[name].get("name")
  }
  context = Context(
    config,
    workdir,
    mesh,
    config.parallel,
    data={
      "fingerprint": "".join(
        [d.fingerprint() for d in datasets.values()] + _hashes_of_files(config)
      ),
      "count": sum(map(len, datasets.values())),
    },
    datasets=datasets,
  )
  return stages.run_stages(planned, context, only=only)


def _hashes_of_files(config: ConfigDict) -> list[str]:
  """Of the files that settings name and no table of a data set holds, though
  they belong to the data: of boxes, and of texts and their vectors."""
  found = []
  for name, value in flat(config.to_dict()).items():
    of_boxes = name.replace(".", "_").endswith("boxes_path")
    named = of_boxes or name in ("text.file", "text.vectors")
    if named and value and os.path.isfile(value):
      found.append(file_hash(value))
  return found


def compile_only(config: ConfigDict, topology: str) -> None:
  """Compiles a run's programs for a TPU slice, which may be absent, and prints
  memory, FLOPs and collectives of one chip."""
  method = method_stages(config)
  method.stages(config)  # checks the configuration
  mesh = compile_ahead.tpu_mesh(topology)
  print(f"{topology}: {mesh.size} chips", flush=True)
  for program in method.programs(config):
    print(
      compile_ahead.line(compile_ahead.compile_program(program, mesh), topology)
    )


# What a mistake on the command line or in a configuration file raises.
_MISTAKES = (
  *(flags.Error, AttributeError, KeyError, TypeError, ValueError),
  *(SyntaxError, ImportError, NameError),
)


def parse(argv: list[str]) -> list[str]:
  """Parses flags; turns every error in them into a `ConfigError`."""
  try:
    rest = flags.FLAGS(with_config_path(argv))
    if _CONFIG.value is not None:
      _CONFIG.value.get("method")  # raises here if the file failed to load
    if flags.FLAGS["verbosity"].using_default_value:
      logging.set_verbosity(logging.WARNING)  # orbax narrates at INFO
    return rest
  except UserError:
    raise
  except _MISTAKES as error:
    raise ConfigError(one_line(error)) from error
  except OSError as error:
    raise ConfigError(one_line(error)) from error


def _run(argv: list[str]) -> None:
  try:
    main(argv)
  except (
    UserError,
    NonFiniteError,
    Preempted,
    MainProcessFailed,
    PeerLost,
  ) as error:
    _stop(error)


def _stop(error) -> None:
  print(f"gcl_jax: {error}", file=sys.stderr, flush=True)
  sys.exit(error.exit_code)


def entry() -> None:
  """Entry point of the console script `gcl-jax`."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  try:
    app.run(_run, flags_parser=parse)
  except UserError as error:
    _stop(error)


if __name__ == "__main__":
  entry()
