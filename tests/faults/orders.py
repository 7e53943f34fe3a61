"""Sweeps and a fit on devices in the order of a torus, for two processes.

  python tests/faults/orders.py WORKDIR

Reads GCL_* as gcl_jax.main does. Prints, for meshes of two processes with two
devices each that come in the order p0 p1 p1 p0 (that of a TPU slice of 16
chips), where the result of every row was put, and what a fit ends with.
"""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gcl_jax.collectives import pmean
from gcl_jax.engine import (
  cluster,
  distributed,
  feed,
  inference,
  parallel,
  train,
)
from gcl_jax.engine import state as states
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.errors import ConfigError

ROWS = np.arange(1, 42, dtype=np.float32)
OPTIMIZER = make_optimizer("sgd", 0.01, steps=10)


def swept(mesh, mode):
  """Rows in the order of the results of `map_examples`."""
  found = inference.map_examples(
    lambda weight, batch: {"row": weight * batch["row"]},
    jnp.float32(1),
    {"row": ROWS},
    mesh=mesh,
    mode=mode,
    batch_size=12,
  )
  return found["row"].tolist()


def fitted(mesh, mode):
  """A weight after four steps whose gradients depend on every row."""

  def step(state, batch, *, axis_name):
    def loss(params):
      key = jnp.sin(batch["index"].astype(jnp.float32))
      return jnp.mean(jnp.square(params["w"] * key - batch["row"] / 41))

    value, gradients = pmean(jax.value_and_grad(loss)(state.params), axis_name)
    return states.update(state, gradients, OPTIMIZER), {"loss": value}

  def init(key):
    return states.create({"w": jnp.ones(())}, OPTIMIZER, key)

  end = train.fit(
    step,
    parallel.init_replicated(init, mesh, jax.random.key(0)),
    lambda start: feed.batches({"row": ROWS}, 8, seed=0, start=start, steps=4),
    steps=4,
    mesh=mesh,
    mode=mode,
  )
  return float(end.params["w"])


def main() -> None:
  """Prints one JSON object: mesh and mode -> results."""
  found = cluster.find()
  distributed.configure_cpu(int(os.environ["GCL_CPU_DEVICES"]))
  cluster.join(found)
  first, second, third, fourth = jax.devices()
  torus = [first, third, fourth, second]
  meshes = {
    "made": parallel.make_mesh(torus),
    "by hand": Mesh(np.array(torus), (parallel.AXIS,)),
  }
  results = {
    "owners": [d.process_index for d in meshes["made"].devices.flat],
    "torus": [d.process_index for d in torus],
  }
  for name, mesh in meshes.items():
    for mode in parallel.MODES:
      try:
        results[f"{name} {mode}"] = swept(mesh, mode), fitted(mesh, mode)
      except ConfigError as error:
        results[f"{name} {mode}"] = str(error)
  print("found", json.dumps(results), flush=True)


if __name__ == "__main__":
  sys.exit(main())
