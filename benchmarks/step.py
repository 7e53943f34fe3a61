"""Time of one SupCon training step, ours and PyTorch's.

  python benchmarks/step.py --arch=resnet18 --size=128 --batch=64 --peer=torch

A step takes uint8 images that are on the device already, draws two augmented
views of each (crop, flip, brightness, contrast), encodes them, takes SupCon
over all views, and updates by SGD with momentum. One JSON object per line:
images_per_s counts source images, half the rate of crops. The peer's modes:
float32, channels_last, bfloat16 (autocast), best (bfloat16 and channels-last),
with --compile=1 all of them under torch.compile.

With --profile=1 nothing is compared: a line for each of the ten kinds of
operation that take most of our step's time.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import timing

from gcl_jax.engine import distributed, flops, parallel
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import create
from gcl_jax.models import heads
from gcl_jax.models.resnet import resnet
from gcl_jax.pipeline import contrast_steps

LABELS = 16
VIEWS = dict(
  crop_scale=(0.2, 1.0),
  flip=0.5,
  brightness=0.4,
  contrast=0.4,
  jitter=0.8,
  mean=0.5,
  std=0.25,
)


def main() -> int:
  """Times ours and every mode of the peer."""
  arguments = parse()
  if arguments.profile:
    return profile(arguments)
  makers = [all_of_ours] + ([all_of_theirs] if arguments.peer else [])
  with contextlib.ExitStack() as stack:
    opponents = []
    for make in makers:
      opponents += stack.enter_context(timing.process(make, arguments))
    timing.compare(opponents, arguments)
  return 0


def all_of_ours(arguments) -> list[timing.Opponent]:
  """Our step in every requested dtype."""
  if arguments.threads > 1:
    distributed.configure_cpu(arguments.threads)
  distributed.keep_memory()
  return [
    ours(arguments, dtype) for dtype in arguments.dtypes.split(",") if dtype
  ]


def all_of_theirs(arguments) -> list[timing.Opponent]:
  """The peer's step in every requested mode."""
  os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
  distributed.keep_memory()  # it gains by that as much as we do
  import step_torch

  return [
    timing.Opponent(
      step_torch.step(arguments, mode, images_of(arguments), LABELS),
      facts_of(arguments, "torch", mode),
      arguments.batch,
    )
    for mode in arguments.modes.split(",")
  ]


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  timing.add_network(parser)
  parser.add_argument("--dtypes", default="float32", help="of ours, comma list")
  parser.add_argument("--peer", choices=("", "torch"), default="")
  parser.add_argument("--modes", default="float32,best", help="of the peer")
  parser.add_argument("--compile", type=int, default=0, help="1: torch.compile")
  parser.add_argument("--profile", type=int, default=0, help="1: our costs")
  parser.add_argument("--device", default="cpu", help="of the peer, or cuda")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--rounds", type=int, default=4)
  parser.add_argument("--block_s", type=float, default=1.0)
  parser.add_argument("--budget_s", type=float, default=240)
  return parser.parse_args()


def profile(arguments) -> int:
  """Traces one step and prints its time by kind of operation."""
  (step,) = all_of_ours(arguments)
  step.call()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      step.call()
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    spent = time_by_operation(path)
  total = sum(spent.values())
  for name, seconds in spent.most_common(10):
    record = step.facts | {"operation": name, "ms": round(1e3 * seconds, 2)}
    print(json.dumps(record | {"share": round(seconds / total, 3)}))
  return 0


def time_by_operation(path: pathlib.Path) -> collections.Counter:
  """Seconds of each kind of operation in a trace, over all devices."""
  spent = collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
    for line in plane.lines:
      for event in line.events:
        loop = event.name.startswith(("while", "call", "conditional"))
        if not loop and any(name == "hlo_op" for name, _ in event.stats):
          spent[re.sub(r"[.\d]+$", "", event.name)] += event.duration_ns / 1e9
  return spent


def images_of(arguments) -> np.ndarray:
  """Random images, uint8[B, H, W, 1]."""
  shape = (arguments.batch, *timing.sides(arguments.size), 1)
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def facts_of(arguments, impl: str, mode: str) -> dict:
  """Fields common to all records."""
  return {
    "bench": "step",
    "arch": arguments.arch,
    "stem": arguments.stem,
    "size": arguments.size,
    "batch": arguments.batch,
    "threads": arguments.threads,
    "impl": impl,
    "mode": mode,
    "device": arguments.device if impl == "torch" else "",
  }


def ours(arguments, dtype: str) -> timing.Opponent:
  """Our step on all devices, compiled once, its state donated."""
  encoder = resnet(arguments.arch, arguments.stem, 64, dtype)
  head = heads.projection(512, 128)
  optimizer = make_optimizer(
    "sgd", 0.05, steps=10_000, momentum=0.9, weight_decay=1e-4
  )
  mesh = parallel.make_mesh()
  images = images_of(arguments)

  def init(key):
    variables = encoder.init(key, images.shape[1:])
    params = {
      "encoder": variables["params"],
      "head": head.init(key, (encoder.feature_dim,)),
    }
    extra = {"batch_stats": variables["batch_stats"]}
    return create(params, optimizer, key, extra)

  step = contrast_steps.supcon_step(
    encoder,
    head,
    optimizer,
    label_names=("bin",),
    label_weights=(1.0,),
    views=VIEWS,
  )
  batch = parallel.put_batch(
    {
      "image": images,
      "index": np.arange(len(images), dtype=np.int32),
      "bin": (np.arange(len(images)) % LABELS).astype(np.int32),
    },
    mesh,
  )
  state = parallel.init_replicated(init, mesh, jax.random.key(0))
  mapped = parallel.compile_step(step, mesh)
  compiled = mapped.lower(state, batch).compile()
  facts = facts_of(arguments, "gcl_jax", dtype)
  facts["device"] = jax.devices()[0].device_kind
  total = flops.count(mapped, state, batch)
  facts["gflop_per_image"] = round(total / len(images) / 1e9, 2)
  facts["jax"] = jax.__version__
  kept = [state]

  def call():
    kept[0], metrics = compiled(kept[0], batch)
    return jnp.asarray(metrics["loss"]).block_until_ready()

  return timing.Opponent(call, facts, len(images))


if __name__ == "__main__":
  sys.exit(main())
