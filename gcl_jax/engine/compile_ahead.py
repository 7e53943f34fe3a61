"""Ahead-of-time compilation for TPU slices, without the slice.

With the extra `tpu` the real TPU compiler runs on any Linux machine and takes
a description of a slice in place of its chips. Memory, arithmetic and
communication are those of the program that the slice would run.
"""

import functools
import os
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gcl_jax.engine import flops, parallel, pools
from gcl_jax.engine.dispatch import several
from gcl_jax.engine.train import Training
from gcl_jax.errors import ConfigError

# Memory of one chip in GiB, from the makers' pages (read November 2026).
CHIP_GIB = {"v3": 32, "v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
# The compiler asks for its host, and for the metadata server of a cloud.
HOST = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
}
COLLECTIVES = (
  "all_gather",
  "all_reduce",
  "reduce_scatter",
  "all_to_all",
  "collective_permute",
)


class Program(NamedTuple):
  """A program of a method, described by shapes.

  Attributes:
    name: of the stage it belongs to.
    kind: "step", (state, batch) -> (state, metrics), or "map", (tree, batch)
      -> rows.
    function: as `parallel.compile_step` or `parallel.compile_map` takes it.
    tree: the state or the tree, of ShapeDtypeStructs.
    batch: name -> ShapeDtypeStruct [B, ...], B over all devices, or several
      pools of them, each with a B of its own.
  """

  name: str
  kind: str
  function: Callable
  tree: Any
  batch: dict[str, Any]


def step_of(name: str, training: Training) -> Program:
  """The program of one step of a fit."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(training.init, key, *training.arguments)
  return Program(name, "step", training.step, state, training.batch)


def tpu_mesh(topology: str) -> Mesh:
  """A mesh over the chips of a slice such as "v5e:2x4".

  Raises:
    ConfigError: the extra `tpu` is not installed, or no such slice.
  """
  _, colon, shape = topology.partition(":")
  if not colon or not re.fullmatch(r"\d+(x\d+)*", shape):
    raise ConfigError(
      f"compile_only {topology!r} is not a slice such as v5e:2x4"
    )
  for name, value in HOST.items():
    os.environ.setdefault(name, value)
  jax.config.update("jax_platforms", "cpu")  # looking for chips takes minutes
  try:
    found = topologies.get_topology_desc(topology, "tpu")
  except Exception as error:  # jax raises many kinds, each with a long story
    reason = str(error).splitlines()[0]
    raise ConfigError(
      f"compile_only {topology}: {reason}; the TPU compiler comes with"
      " pip install -e '.[tpu]', slices look like v5e:2x4 or v4:2x2x1"
    ) from error
  return parallel.make_mesh(found.devices)


def compile_program(program: Program, mesh: Mesh) -> dict[str, Any]:
  """Compiles a program for a mesh and measures the work of one device.

  Returns:
    `name`, `compile_s`, `gib` (peak: arguments, results and temporaries that
    are not shared), `gflop` (products and convolutions as written), and
    `collectives` {operation: count}, those of the program as written.

  Raises:
    ConfigError: the devices cannot share a batch, or a pool of it, equally.
  """
  check = functools.partial(_check_shared, program.name, mesh.size)
  pools.each(check, program.batch)
  batch = program.batch
  if program.kind == "step":
    mapped = parallel.compile_step(several(program.function), mesh)
    batch = (batch,)
  else:
    mapped = parallel.compile_map(program.function, mesh)
  begin = time.perf_counter()
  shapes = (
    _placed(program.tree, mesh, PartitionSpec()),
    _placed(batch, mesh, PartitionSpec(parallel.AXIS)),
  )
  lowered = mapped.lower(*shapes)
  compiled = lowered.compile()
  seconds = time.perf_counter() - begin
  text = lowered.as_text()
  counts = {name: text.count(f"stablehlo.{name}") for name in COLLECTIVES}
  return {
    "name": program.name,
    "compile_s": round(seconds, 1),
    "gib": _peak(compiled.memory_analysis()) / 2**30,
    "gflop": flops.count(mapped, *shapes) / mesh.size / 1e9,
    "collectives": {name: n for name, n in counts.items() if n},
  }


def _check_shared(name: str, devices: int, pool: dict[str, Any]) -> None:
  rows = next(iter(pool.values())).shape[0]
  if rows % devices:
    raise ConfigError(
      f"{name}: a batch of {rows} cannot be shared equally by {devices}"
      " devices: choose a multiple of their number"
    )


def line(facts: dict[str, Any], topology: str) -> str:
  """A line of text about a compiled program.

  Args:
    facts: from `compile_program`.
    topology: of the slice, such as "v5e:2x4".
  """
  chip = CHIP_GIB.get(topology.partition(":")[0])
  fits = ""
  if chip:
    word = "fits" if facts["gib"] < chip else "DOES NOT FIT"
    fits = f" of {chip} GiB: {word}"
  collectives = ", ".join(f"{n} {k}" for k, n in facts["collectives"].items())
  return (
    f"{facts['name']}: {facts['gib']:.2f} GiB a chip{fits};"
    f" {facts['gflop']:.1f} GFLOP a chip; {collectives or 'no collectives'};"
    f" compiled in {facts['compile_s']:.0f} s"
  )


def _placed(tree, mesh, spec):
  sharding = NamedSharding(mesh, spec)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def _peak(memory) -> int:
  """Peak bytes of one device; results that reuse arguments count once."""
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )
