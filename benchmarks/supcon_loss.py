"""Time and memory of SupCon's loss and gradient: dense, in blocks, PyTorch.

  python benchmarks/supcon_loss.py --rows=8192 --peer=torch
  python benchmarks/supcon_loss.py --rows=131072 --ways=blocks --block=2048

One JSON object per line: rows, impl, way, ms for value and gradient,
rows_per_s, max_abs_diff (of the gradient from the first way's), and peak_mb:
the peak resident memory of a separate process that does nothing else.
"""

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import timing

from gcl_jax import losses
from gcl_jax.engine import distributed

LABELS = 50
TEMPERATURE = 0.07


def main() -> int:
  """Times every way at every size, then measures its memory separately."""
  arguments = parse()
  if arguments.alone:
    return alone(arguments)
  for rows in map(int, arguments.rows.split(",")):
    measure(arguments, rows)
  return 0


def measure(arguments, rows: int) -> None:
  """Times every way at one size and prints a line for each."""
  with contextlib.ExitStack() as stack:
    opponents = stack.enter_context(
      timing.process(several, arguments, rows, "gcl_jax")
    )
    if arguments.peer:
      opponents += stack.enter_context(
        timing.process(several, arguments, rows, "torch")
      )
    want = opponents[0].call()
    for other in opponents:
      difference = np.abs(other.call() - want).max()
      other.facts["max_abs_diff"] = float(difference)
    timing.in_turn(
      opponents, rounds=arguments.rounds, budget_s=arguments.budget_s
    )
    for other in opponents:
      peak = peak_mb(other.facts, arguments) if arguments.memory else None
      timing.emit(other, peak_mb=peak)


def several(arguments, rows: int, impl: str) -> list[timing.Opponent]:
  """Every way of one side."""
  os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
  distributed.keep_memory()  # both gain by it
  ways = arguments.ways.split(",") if impl == "gcl_jax" else ["dense"]
  return [opponent(arguments, rows, impl, way) for way in ways]


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--rows", default="8192", help="2 views each, comma list")
  parser.add_argument("--dimensions", type=int, default=128)
  parser.add_argument("--ways", default="dense,blocks")
  parser.add_argument("--block", type=int, default=1024)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--peer", choices=("", "torch"), default="")
  parser.add_argument("--device", default="cpu", help="of the peer, or cuda")
  parser.add_argument("--threads", type=int, default=2, help="of the peer")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--budget_s", type=float, default=300)
  parser.add_argument("--memory", type=int, default=1, help="0: no peak_mb")
  parser.add_argument("--alone", default="", help=argparse.SUPPRESS)
  return parser.parse_args()


def opponent(arguments, rows: int, impl: str, way: str) -> timing.Opponent:
  """One way to compute the gradient for `rows` embeddings."""
  make = ours if impl == "gcl_jax" else theirs
  facts = {
    "bench": "supcon_loss",
    "rows": rows,
    "dimensions": arguments.dimensions,
    "impl": impl,
    "way": way,
    "block": arguments.block if way == "blocks" else None,
    "dtype": arguments.dtype,
  }
  return timing.Opponent(make(arguments, rows, way), facts, rows, "rows")


def data(arguments, rows: int) -> tuple[np.ndarray, np.ndarray]:
  """Unit vectors float32[rows / 2, 2, D] and int32 labels."""
  draw = np.random.default_rng(0)
  z = draw.standard_normal((rows // 2, 2, arguments.dimensions), np.float32)
  z /= np.linalg.norm(z, axis=2, keepdims=True)
  return z, draw.integers(0, LABELS, rows // 2).astype(np.int32)


def ours(arguments, rows, way):
  """Our loss on the default device."""
  z, labels = (jnp.asarray(x) for x in data(arguments, rows))
  z = z.astype(arguments.dtype)
  loss = functools.partial(
    losses.supcon,
    labels=labels,
    temperature=TEMPERATURE,
    block_size=arguments.block if way == "blocks" else None,
  )
  step = jax.jit(jax.value_and_grad(loss))
  return lambda: np.asarray(step(z)[1], np.float32)


def theirs(arguments, rows, way):
  """The same loss in usual PyTorch code."""
  import torch

  torch.set_num_threads(arguments.threads)
  z, labels = (
    torch.tensor(x, device=arguments.device) for x in data(arguments, rows)
  )
  z = z.to(getattr(torch, arguments.dtype)).requires_grad_()
  labels = labels.repeat_interleave(2)

  def call():
    flat = z.flatten(0, 1).float()
    logits = flat @ flat.T / TEMPERATURE
    itself = torch.eye(rows, dtype=torch.bool, device=flat.device)
    logits = logits.masked_fill(itself, -torch.inf)
    log_share = logits.log_softmax(1).masked_fill(itself, 0)
    positive = (labels[:, None] == labels[None]) & ~itself
    loss = -((log_share * positive).sum(1) / positive.sum(1)).mean()
    (gradient,) = torch.autograd.grad(loss, z)
    return gradient.float().cpu().numpy()

  return call


def peak_mb(facts: dict, arguments) -> float:
  """Peak resident memory of a fresh process that calls this way twice."""
  command = [sys.executable, *sys.argv, f"--alone={json.dumps(facts)}"]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  return float(done.stdout.splitlines()[-1])


def alone(arguments) -> int:
  """Runs one way and prints the peak memory of this process."""
  facts = json.loads(arguments.alone)
  os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
  call = opponent(arguments, facts["rows"], facts["impl"], facts["way"]).call
  for _ in range(2):
    call()
  with open("/proc/self/status", encoding="utf-8") as file:
    peak = next(line for line in file if line.startswith("VmHWM"))
  print(int(peak.split()[1]) / 1024)
  return 0


if __name__ == "__main__":
  sys.exit(main())
