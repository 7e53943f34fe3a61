"""A small training run as a program of its own, for tests of processes.

  python tests/faults/toy.py WORKDIR --steps=30 [--pause=0.05] [--save_every=5]

Reads GCL_* and GCL_CPU_DEVICES as gcl_jax.main does. The model is a linear map
with batch statistics, dropout noise and momentum, so that a resume has
something to forget. Prints a line a step and at its end the SHA-256 of the
state, and of the rows it saw.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.collectives import pmean
from gcl_jax.engine import alive, cluster, distributed, feed, parallel, train
from gcl_jax.engine import state as states
from gcl_jax.engine.checkpoint import Checkpoints
from gcl_jax.engine.manifest import array_hashes
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.telemetry import Telemetry
from gcl_jax.errors import (
  MainProcessFailed,
  NonFiniteError,
  Preempted,
  UserError,
)

BATCH = 8
DATA = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
OPTIMIZER = make_optimizer("sgd", 0.05, steps=1000, momentum=0.9)


def init(key):
  """The state before the first step."""
  params = {"map": jax.random.normal(key, (6, 3))}
  return states.create(params, OPTIMIZER, key, {"mean": jnp.zeros(3)})


def step(state, batch, *, axis_name):
  """Pulls the outputs of noisy inputs towards unit variance."""
  key = jax.random.fold_in(state.key, state.step)
  keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(batch["index"])
  noise = jax.vmap(lambda k: jax.random.normal(k, (6,)))(keys)

  def loss_of(params):
    out = (batch["x"] + 0.1 * noise) @ params["map"]
    mean = pmean(jnp.mean(out, 0), axis_name)
    return jnp.mean(jnp.abs(jnp.square(out - mean) - 1)), mean

  (loss, mean), gradients = jax.value_and_grad(loss_of, has_aux=True)(
    state.params
  )
  loss, gradients = pmean((loss, gradients), axis_name)
  extra = {"mean": 0.9 * state.extra["mean"] + 0.1 * mean}
  return states.update(state, gradients, OPTIMIZER, extra), {"loss": loss}


def main() -> int:
  """Runs to the end, or until asked to stop."""
  parser = argparse.ArgumentParser()
  parser.add_argument("workdir", type=pathlib.Path)
  parser.add_argument("--steps", type=int, default=30)
  parser.add_argument("--save_every", type=int, default=5)
  parser.add_argument("--pause", type=float, default=0.0)
  parser.add_argument("--config", default="")
  parser.add_argument("--stuck", type=int, default=-1, help="batch to hang at")
  parser.add_argument("--fail", type=int, default=0, help="1: in process 0")
  arguments = parser.parse_args()
  found = cluster.find()
  distributed.configure_cpu(int(os.environ.get("GCL_CPU_DEVICES", 1)))
  cluster.join(found)
  try:
    with alive.watch(arguments.workdir):
      distributed.check_agreement("configuration", arguments.config)
      try:
        run(arguments)
      except jax.errors.JaxRuntimeError as error:
        alive.lost(str(error))
  except (UserError, NonFiniteError, Preempted, MainProcessFailed) as error:
    print(f"gcl_jax: {error}", file=sys.stderr, flush=True)
    return error.exit_code
  return 0


def run(arguments: argparse.Namespace) -> None:
  """One fit with checkpoints."""
  mesh = parallel.make_mesh()

  def before_training():
    if arguments.fail:
      raise UserError("the table is empty")

  distributed.on_main(before_training)

  def batches(start):
    stream = feed.batches(
      {"x": DATA}, BATCH, seed=1, start=start, steps=arguments.steps
    )
    for number, batch in enumerate(stream, start):
      print("batch", number, json.dumps(batch["index"].tolist()), flush=True)
      stuck = number == arguments.stuck and not distributed.is_main()
      time.sleep(1000 if stuck else arguments.pause)
      yield batch

  checkpoints = Checkpoints(arguments.workdir / "checkpoints")
  state = train.fit(
    step,
    parallel.init_replicated(init, mesh, jax.random.key(3)),
    batches,
    steps=arguments.steps,
    mesh=mesh,
    name="toy",
    telemetry=Telemetry(arguments.workdir, "toy"),
    checkpoints=checkpoints,
    save_every=arguments.save_every,
    log_every=1,
  )
  hashes = json.dumps(array_hashes(state), sort_keys=True)
  print("done", hashlib.sha256(hashes.encode()).hexdigest(), flush=True)


if __name__ == "__main__":
  sys.exit(main())
