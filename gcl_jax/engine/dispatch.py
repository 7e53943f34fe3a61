"""One or several training steps as one program, each of them guarded."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gcl_jax.engine import parallel
from gcl_jax.engine.telemetry import Stopwatch, count_rows


class Group(tuple):
  """Batches on the devices that one program takes.

  Attributes:
    rows: of all batches and pools together, over all processes.
  """

  rows: int


class Dispatch:
  """Compiled programs of one or several steps, one for the shapes of each."""

  def __init__(self, step: Callable, mesh: jax.sharding.Mesh, mode: str):
    """Arguments as in `train.fit`."""
    self.step, self.mesh, self.mode = step, mesh, mode
    self.compiled, self.program = {}, None

  def put(self, batches):
    """Sends host batches to the devices, as a `Group`."""
    group = Group(
      parallel.put_batch(batch, self.mesh, self.mode) for batch in batches
    )
    group.rows = sum(map(count_rows, batches))
    return group

  def compile(self, state, group, watch: Stopwatch):
    """Compiles the program for groups of these shapes, once."""
    key = _shapes(group)
    if key not in self.compiled:
      program = parallel.compile_step(several(self.step), self.mesh, self.mode)
      program = watch.compile(program, state, tuple(group), steps=len(group))
      self.compiled[key] = program, watch.flops
    self.program, watch.flops = self.compiled[key]

  def __call__(self, state, group):
    return self.program(state, tuple(group))


def _shapes(group) -> tuple:
  leaves, structure = jax.tree.flatten(tuple(group))
  return structure, tuple((x.shape, x.dtype) for x in leaves)


def several(step: Callable) -> Callable:
  """A program that runs one guarded step for each of its batches.

  Args:
    step: (state, batch, *, axis_name) -> (state, metrics).

  Returns:
    (state, tuple of batches, *, axis_name) -> (state, metrics); with more than
    one batch the metrics have a leading axis. Metric `skipped` is 1 where the
    loss or a parameter was not finite and the step changed nothing.
  """

  def program(state, batches, *, axis_name):
    def one(state, batch):
      return _guarded(state, *step(state, batch, axis_name=axis_name))

    if len(batches) == 1:
      return one(state, *batches)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    return jax.lax.scan(one, state, stacked)

  return program


def _guarded(before, after, metrics):
  """The state after a step, or before it if the result is not finite.

  The loss and every parameter are checked; `step` grows by 1 either way.
  A norm's statistics or a queue would carry one bad batch into every later
  step, so all of the state goes back, not the parameters alone.
  """
  values = [metrics.get("loss", 0.0), *jax.tree.leaves(after.params)]
  fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in values]))
  state = jax.lax.platform_dependent(
    fine, after, before, cpu=_by_branch, default=_by_element
  )
  return state.replace(step=after.step), metrics | {"skipped": 1.0 - fine}


def _by_branch(fine, after, before):
  """One of two states, chosen by a branch, for a CPU.

  Chosen by element there, XLA computes the update twice, for the test and for
  the choice, and compiles it twice.
  """
  return jax.lax.cond(fine, lambda: after, lambda: before)


def _by_element(fine, after, before):
  """One of two states, chosen by element, for accelerators.

  A branch would wait for the host there.
  """
  return jax.tree.map(lambda new, old: jnp.where(fine, new, old), after, before)
