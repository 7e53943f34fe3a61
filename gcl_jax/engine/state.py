"""What a step takes and gives back: everything a resume needs, nothing else."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

PyTree = Any


@flax.struct.dataclass
class State:
  """A pytree of arrays with the same shapes in every parallel mode.

  Attributes:
    step: int32 scalar, the number of updates done.
    params: float32 parameters, a nested dict.
    opt_state: what the optimiser keeps.
    extra: dict owned by the method (batch statistics, reference gradients, a
      queue, the best parameters so far).
    key: typed PRNG key, never split: fold in `step`, then each sample's index,
      so that results do not depend on how many devices there are.
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
  """The state before the first step; call it inside `init_replicated`."""
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
  """The state after one update by `gradients` (already averaged).

  Args:
    state: before the step.
    gradients: pytree like `state.params`, equal on all devices.
    optimizer: the one `state.opt_state` belongs to.
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
