"""One or several training steps as one program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gcl_jax.engine import parallel
from gcl_jax.engine.telemetry import Stopwatch, count_rows


class Group(tuple):
  """Batches on the devices that one program takes, and their `rows`."""

  rows: int


class Dispatch:
  """The step, or as many of them as there are batches, compiled once."""

  def __init__(
    self,
    step: Callable,
    mesh: jax.sharding.Mesh,
    mode: str,
    watch: Stopwatch,
  ):
    """Takes what `train.fit` takes; compile times go to `watch`."""
    self.step, self.mesh, self.mode, self.watch = step, mesh, mode, watch
    self.compiled = {}

  def put(self, batches):
    """Sends host batches to the devices."""
    group = Group(
      parallel.put_batch(batch, self.mesh, self.mode) for batch in batches
    )
    group.rows = sum(map(count_rows, batches))
    return group

  def compile(self, state, group):
    """Compiles for a group of this length if that was not done yet."""
    if len(group) not in self.compiled:
      program = parallel.compile_step(_several(self.step), self.mesh, self.mode)
      self.compiled[len(group)] = self.watch.compile(
        program, state, tuple(group), steps=len(group)
      )

  def __call__(self, state, group):
    return self.compiled[len(group)](state, tuple(group))


def _several(step):
  """As many steps as there are batches; the metrics of several are stacked."""

  def program(state, batches, *, axis_name):
    def one(state, batch):
      return step(state, batch, axis_name=axis_name)

    if len(batches) == 1:
      return one(state, *batches)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    return jax.lax.scan(one, state, stacked)

  return program
