"""A toy method of two pools: anchors against the negatives of all devices.

  python tests/pool_cases.py WORKDIR

Run as a program it reads GCL_* as gcl_jax.main does, trains on batches of which
one has a value that is not finite, and prints a line of rows for every batch
of each pool and the SHA-256 of the state.
"""

import hashlib
import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.collectives import gather, pmean
from gcl_jax.engine import cluster, distributed, feed, parallel, train
from gcl_jax.engine import state as states
from gcl_jax.engine.manifest import array_hashes
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.telemetry import Telemetry
from gcl_jax.pipeline import sampling

SIZES = {"anchor": 8, "negative": 12}  # rows of a batch
STEPS = 4
OPTIMIZER = make_optimizer("sgd", 0.3, steps=100, momentum=0.9)


def _arrays():
  rng = np.random.default_rng(0)
  draw = {"image": (40, 6), "view": (40, 6)}, {"image": (24, 4, 2)}
  anchor, negative = (
    {name: rng.normal(size=s).astype(np.float32) for name, s in pool.items()}
    for pool in draw
  )
  return {"anchor": anchor, "negative": negative}


ARRAYS = _arrays()
ROWS_AT = sampling.side_by_side(
  anchor=sampling.shuffled(np.arange(40), SIZES["anchor"], seed=1),
  negative=sampling.shuffled(np.arange(24), SIZES["negative"], seed=2),
)


def init(key):
  """A linear map of each pool to three features."""
  first, second = jax.random.split(key)
  params = {
    "anchor": jax.random.normal(first, (6, 3)),
    "negative": jax.random.normal(second, (8, 3)),
  }
  return states.create(params, OPTIMIZER, key)


def step(state, batch, *, axis_name):
  """-log of the share of an anchor's own view among it and the negatives."""
  anchor, negative = batch["anchor"], batch["negative"]

  def loss_of(params):
    own = anchor["image"] @ params["anchor"]
    positive = jnp.sum(own * (anchor["view"] @ params["anchor"]), 1)
    others = negative["image"].reshape(-1, 8) @ params["negative"]
    logits = own @ gather(others, axis_name).T
    logits = jnp.concatenate([positive[:, None], logits], 1) / 5
    return jnp.mean(jax.nn.logsumexp(logits, 1) - logits[:, 0])

  found = jax.value_and_grad(loss_of)(state.params)
  loss, gradients = pmean(found, axis_name)
  return states.update(state, gradients, OPTIMIZER), {"loss": loss}


def loss_by_loops(params, rows):
  """The loss of the rows of a batch, one pair at a time in float64."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  pools = jax.tree.map(lambda x: x.astype(np.float64), ARRAYS)
  total = 0.0
  for row in rows["anchor"]:
    own = pools["anchor"]["image"][row] @ params["anchor"]
    logits = [own @ (pools["anchor"]["view"][row] @ params["anchor"]) / 5]
    for other in rows["negative"]:
      features = pools["negative"]["image"][other].ravel() @ params["negative"]
      logits.append(own @ features / 5)
    total += np.log(np.sum(np.exp(logits))) - logits[0]
  return total / len(rows["anchor"])


def stream(start, steps=STEPS):
  """Host batches of both pools."""
  return feed.batches_from(ARRAYS, ROWS_AT, start=start, steps=steps)


def fit(mesh, batches=stream, steps=STEPS, **settings):
  """The state after so many steps."""
  state = parallel.init_replicated(init, mesh, jax.random.key(3))
  return train.fit(step, state, batches, steps=steps, mesh=mesh, **settings)


def main() -> None:
  """Trains as one of several processes."""
  found = cluster.find()
  distributed.configure_cpu(int(os.environ["GCL_CPU_DEVICES"]))
  cluster.join(found)

  def batches(start):
    for number, batch in enumerate(stream(start), start):
      for k, name in enumerate(SIZES):
        rows = json.dumps(batch[name]["index"].tolist())
        print("batch", 2 * number + k, rows, flush=True)
      if number == 2:
        batch["negative"]["image"][0] = np.nan
      yield batch

  telemetry = Telemetry(sys.argv[1], "toy")
  state = fit(parallel.make_mesh(), batches, telemetry=telemetry)
  hashes = json.dumps(array_hashes(state))
  print("done", hashlib.sha256(hashes.encode()).hexdigest(), flush=True)


if __name__ == "__main__":
  sys.exit(main())
