"""Throughput of GradCON scoring: our engines and PyTorch.

  python benchmarks/scoring.py --size=28,64,128,224 --peer=torch

Same weights, same images, one process, opponents in turn. One JSON object per
line: size, impl (gcl_jax or torch), engine, images_per_s, and max_abs_diff,
the largest difference of a score from that of the published one-image loop
(without a peer: from our own loop over images).

Our engines: auto, batched, ghost, vmap, and vmap_dilated, the straightforward
vmap(grad) of a decoder with lax.conv_transpose. Those of torch: loop
(published), loop_dec, vmap, hooks, mixed, tilemix; see scoring_torch.py.
"""

import argparse
import contextlib
import functools
import os
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import timing

from gcl_jax.engine import distributed, parallel
from gcl_jax.gradients import gradcon
from gcl_jax.models.autoencoder import Autoencoder, autoencoder

BETA = 0.12
PADDINGS = {
  "1": ((1, 1, 1, 1), (1, 1, 1, 1)),
  "paper28": ((2, 2, 2, 2), (2, 1, 2, 1)),
}


class Case(NamedTuple):
  """Weights and images, the same for every opponent."""

  widths: tuple
  padding: str
  params: Any
  reference: tuple
  images: np.ndarray
  batch: int
  facts: dict

  @property
  def model(self) -> Autoencoder:
    """Builds the model in each process: functions cannot be pickled."""
    return make_model(self.widths, self.padding)


def main() -> int:
  """Measures every requested size."""
  arguments = parse()
  for size in arguments.size.split(","):
    measure(arguments, make_case(arguments, size))
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--size", default="28,64", help="sides or ROWSxCOLUMNS, comma list"
  )
  parser.add_argument("--engine", default="auto", help="of ours, comma list")
  parser.add_argument("--peer", choices=("", "torch"), default="")
  parser.add_argument(
    "--modes",
    default="loop,loop_dec,vmap,hooks,mixed,tilemix",
    help="of the peer, comma list",
  )
  parser.add_argument("--widths", default="32,32,64,64")
  parser.add_argument("--batch", type=int, default=0, help="0: by the size")
  parser.add_argument("--images", type=int, default=0, help="0: four batches")
  parser.add_argument("--threads", type=int, default=2, help="of either side")
  parser.add_argument("--dtype", default="float32", help="of the peer")
  parser.add_argument("--device", default="cpu", help="of the peer, or cuda")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--block_s", type=float, default=0.5)
  parser.add_argument("--budget_s", type=float, default=240)
  return parser.parse_args()


def make_case(arguments: argparse.Namespace, size: str) -> Case:
  """Random model, with the gradient of 32 images as reference."""
  rows, columns = timing.sides(size)
  padding = "paper28" if rows % 16 == 12 else "1"
  widths = tuple(map(int, arguments.widths.split(",")))
  model = make_model(widths, padding)
  batch = arguments.batch or max(16, min(64, 64 * 64 * 64 // (rows * columns)))
  count = arguments.images or 4 * batch
  params = model.init(jax.random.key(0), (rows, columns, 1))
  random = np.random.default_rng(0)
  images = random.random((count, rows, columns, 1), np.float32)
  # Training leaves gradients of many batches; any direction would do here.
  reference = model.decoder_weights(
    jax.jit(jax.grad(functools.partial(_error, model)))(params, images[:32])
  )
  facts = {
    "bench": "scoring",
    "size": int(size) if size.isdigit() else size,
    "widths": arguments.widths,
    "batch": batch,
    "images": count,
    "threads": arguments.threads,
  }
  params, reference = jax.tree.map(np.asarray, (params, reference))
  return Case(widths, padding, params, reference, images, batch, facts)


def make_model(widths: tuple, padding: str) -> Autoencoder:
  """Autoencoder of a case."""
  return autoencoder(1, 1 if padding == "1" else padding, widths)


def _error(model, params, images):
  return jnp.mean(jnp.square(model.apply(params, images) - images))


def measure(arguments: argparse.Namespace, case: Case) -> None:
  """Times all opponents at one size and prints a line for each."""
  makers = [all_of_ours] + ([all_of_theirs] if arguments.peer else [])
  with contextlib.ExitStack() as stack:
    opponents = []
    for make in makers:
      opponents += stack.enter_context(timing.process(make, case, arguments))
    # The loop is the truth; a few images of it are enough.
    truth = [o for o in opponents if o.facts["engine"] == "loop"]
    want = truth[0].call()[:16] if truth else one_by_one(case)
    for opponent in opponents:
      got = np.asarray(opponent.call())[: len(want)]
      opponent.facts["max_abs_diff"] = float(np.abs(got - want).max())
    timing.compare(opponents, arguments)


def all_of_ours(case: Case, arguments) -> list[timing.Opponent]:
  """Our engines, with one device per thread on a CPU."""
  if arguments.threads > 1:
    distributed.configure_cpu(arguments.threads)
  distributed.keep_memory()
  engines = [name for name in arguments.engine.split(",") if name]
  return [ours(case, name) for name in engines]


def ours(case: Case, engine: str) -> timing.Opponent:
  """One of our engines on all devices, with the images on the devices."""
  mesh = parallel.make_mesh()
  tree = parallel.replicate(
    {"params": case.params, "reference": case.reference}, mesh
  )
  score = _dilated if engine == "vmap_dilated" else _engine(engine)
  mapped = parallel.compile_map(functools.partial(score, case), mesh)
  batches = [
    parallel.put_batch({"image": case.images[start : start + case.batch]}, mesh)
    for start in range(0, len(case.images), case.batch)
  ]

  def call():
    found = [mapped(tree, batch) for batch in batches]
    return np.concatenate(jax.device_get(found))

  device = jax.devices()[0]
  facts = case.facts | {
    "impl": "gcl_jax",
    "engine": engine,
    "device": device.device_kind,
    "jax": jax.__version__,
  }
  if engine != "vmap_dilated":
    shape = case.images.shape[1:]
    facts["plan"] = gradcon.plan(case.model, case.params, shape, engine)
  return timing.Opponent(call, facts, len(case.images))


def _engine(name):
  def score(case, tree, batch):
    found = gradcon.scores(
      case.model,
      tree["params"],
      batch["image"],
      tree["reference"],
      beta=BETA,
      engine=name,
    )
    return found.score

  return score


def _dilated(case, tree, batch):
  """Scores by vmap(grad) with a straightforward decoder."""
  params, images = tree["params"], batch["image"]
  names = case.model.decoder_layers
  pads = PADDINGS[case.padding][1]

  def error(kernels, latent, image):
    h = latent[None]
    for i, (kernel, pad) in enumerate(zip(kernels, pads, strict=True)):
      edge = (3 - pad, 3 - pad)
      h = jax.lax.conv_transpose(h, kernel, (2, 2), [edge, edge])
      h = h + params[names[i]]["bias"]
      h = jax.nn.sigmoid(h) if i == 3 else jax.nn.relu(h)
    return jnp.mean(jnp.square(h[0] - image))

  latents = case.model.encode(params, images)
  kernels = case.model.decoder_weights(params)
  recon, gradients = jax.vmap(jax.value_and_grad(error), in_axes=(None, 0, 0))(
    kernels, latents, images
  )
  cosines = [
    g.reshape(len(images), -1)
    @ r.ravel()
    / (jnp.linalg.norm(g.reshape(len(images), -1), axis=1) * _norm(r))
    for g, r in zip(gradients, tree["reference"], strict=True)
  ]
  return recon - BETA * sum(cosines) / len(cosines)


def _norm(array):
  return jnp.linalg.norm(array.ravel())


def one_by_one(case: Case, count: int = 16) -> np.ndarray:
  """Scores of the first images by our own loop over batches of one."""
  score = jax.jit(
    lambda image: (
      gradcon.scores(
        case.model, case.params, image, case.reference, beta=BETA, engine="vmap"
      ).score
    )
  )
  return np.concatenate([score(x[None]) for x in case.images[:count]])


def all_of_theirs(case: Case, arguments) -> list[timing.Opponent]:
  """PyTorch's modes."""
  os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
  distributed.keep_memory()  # it gains by that as much as we do
  import scoring_torch
  import torch

  torch.set_num_threads(arguments.threads)
  scorer = scoring_torch.Scorer(
    case.params,
    case.reference,
    PADDINGS[case.padding],
    BETA,
    arguments.device,
    arguments.dtype,
  )
  images = torch.tensor(np.moveaxis(case.images, 3, 1).copy())
  images = images.to(arguments.device, getattr(torch, arguments.dtype))

  def call(mode):
    # A loop takes long: fewer images time it as well.
    some = images[: case.batch] if mode.startswith("loop") else images
    parts = some.split(len(some) if mode.startswith("loop") else case.batch)
    found = torch.cat([getattr(scorer, mode)(part) for part in parts])
    return found.float().cpu().numpy()

  opponents = []
  for mode in (name for name in arguments.modes.split(",") if name):
    facts = case.facts | {
      "impl": "torch",
      "engine": mode,
      "device": arguments.device,
      "dtype": arguments.dtype,
      "torch": torch.__version__,
    }
    count = case.batch if mode.startswith("loop") else len(case.images)
    opponents.append(
      timing.Opponent(functools.partial(call, mode), facts, count)
    )
  return opponents


if __name__ == "__main__":
  sys.exit(main())
