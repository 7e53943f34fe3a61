"""Timing of whole training steps in turn, as a ratio to the first of them."""

import argparse
from typing import Any

import jax
import timing

from gcl_jax.engine import distributed, flops, parallel
from gcl_jax.engine.train import Training


def add_timing(parser: argparse.ArgumentParser, budget_s: float = 120) -> None:
  """Adds --threads, --rounds, --block_s and --budget_s."""
  parser.add_argument("--threads", type=int, default=1)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--block_s", type=float, default=0.5)
  parser.add_argument("--budget_s", type=float, default=budget_s)


def begin(arguments: argparse.Namespace) -> None:
  """Prepares the process, before the first array is made."""
  distributed.configure_cpu(arguments.threads)
  distributed.keep_memory()


def opponent(
  training: Training, batch: dict[str, Any], facts: dict, images: int
) -> timing.Opponent:
  """One compiled step with a batch.

  Args:
    training: what is trained.
    batch: of host arrays.
    facts: of its record; `gflop` of products and convolutions of the traced
      program and `xla_gflop`, XLA's own count of all, are added.
    images: that a step processes.
  """
  mesh = parallel.make_mesh()
  state = parallel.init_replicated(training.init, mesh, jax.random.key(0))
  batch = parallel.put_batch(batch, mesh)
  mapped = parallel.compile_step(training.step, mesh)
  gflop = flops.count(mapped, state, batch) / 1e9
  compiled = mapped.lower(state, batch).compile()
  holder = [state]

  def call():
    holder[0], metrics = compiled(holder[0], batch)
    jax.block_until_ready(metrics)

  own = compiled.cost_analysis().get("flops", float("nan"))
  counts = {"gflop": round(gflop, 2), "xla_gflop": round(own / 1e9, 2)}
  return timing.Opponent(call, facts | counts, images)


def compare(
  opponents: list[timing.Opponent], arguments: argparse.Namespace
) -> None:
  """Times in turn and prints every record with `ratio`: images/s over those of
  the first."""
  timing.in_turn(
    opponents,
    rounds=arguments.rounds,
    block_s=arguments.block_s,
    budget_s=arguments.budget_s,
  )
  base = opponents[0].count / timing.seconds(opponents[0])
  for found in opponents:
    rate = found.count / timing.seconds(found)
    timing.emit(found, ratio=round(rate / base, 3))
