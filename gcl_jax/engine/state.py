"""Training state: argument and result of a step, sufficient for resuming."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gcl_jax.collectives import pmean

PyTree = Any


@flax.struct.dataclass
class State:
  """Pytree of arrays with the same shapes in every parallel mode.

  Attributes:
    step: int32 scalar, number of updates so far.
    params: float32 parameters, a nested dict.
    opt_state: state of the optimiser.
    extra: dict of the method (batch statistics, reference gradients, a queue,
      the best parameters so far).
    key: typed PRNG key, never split: fold in `step`, then each sample's index,
      so that results do not depend on the number of devices.
  """

  step: jax.Array
  params: PyTree
  opt_state: PyTree
  extra: PyTree
  key: jax.Array


def create(
  params: PyTree,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  extra: dict | None = None,
) -> State:
  """State before the first step; to be called inside `init_replicated`."""
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    extra={} if extra is None else extra,
    key=key,
  )


def update(
  state: State,
  gradients: PyTree,
  optimizer: optax.GradientTransformation,
  extra: dict | None = None,
) -> State:
  """State after one update by `gradients` (already averaged).

  Args:
    state: the state before the step.
    gradients: pytree like `state.params`, equal on all devices.
    optimizer: the optimiser of `state.opt_state`.
    extra: the new `extra`; None keeps the old one.
  """
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  return state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
    extra=state.extra if extra is None else extra,
  )


def descend(
  state: State,
  objective: Callable[[PyTree], tuple[jax.Array, PyTree]],
  optimizer: optax.GradientTransformation,
  axis_name: str | None,
  **extra: Any,
) -> tuple[State, jax.Array]:
  """State after one update by the gradient of an objective, and its value.

  Args:
    state: the state before the step; `state.extra` holds `batch_stats`.
    objective: params -> (mean loss of this device's rows, new batch
      statistics).
    optimizer: the optimiser of `state.opt_state`.
    axis_name: mapped axis over which loss and gradient are averaged.
    **extra: further new entries of `state.extra`.
  """
  (value, stats), gradients = jax.value_and_grad(objective, has_aux=True)(
    state.params
  )
  value, gradients = pmean((value, gradients), axis_name)
  extra = {**state.extra, "batch_stats": stats, **extra}
  return update(state, gradients, optimizer, extra), value


def follow(teacher: PyTree, params: PyTree, momentum: float) -> PyTree:
  """The parameters of a teacher after one update of those it follows.

      teacher <- momentum * teacher + (1 - momentum) * params

  A teacher (MoCo's key encoder, BYOL's target network) is kept in
  `state.extra` with batch statistics of its own, which its forward passes
  update: they are no average of the student's.

  Args:
    teacher, params: pytrees of float arrays of the same shapes.
    momentum: in [0, 1].
  """
  return optax.incremental_update(params, teacher, 1 - momentum)
