"""Monitors of collapse inside a training step."""

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from gcl_jax.collectives import gather
from gcl_jax.engine.state import State
from gcl_jax.losses import collapse

RANK_EVERY = 10  # steps: a singular value decomposition is slow on accelerators


def no_ranks(names: Iterable[str]) -> dict[str, np.ndarray]:
  """`rank` of `state.extra` before the first step."""
  return {name: np.zeros((), np.float32) for name in names}


def watched(
  state: State, vectors: Mapping[str, jax.Array], axis_name: str | None
) -> tuple[State, dict[str, jax.Array], dict[str, jax.Array]]:
  """Variance and effective rank of the vectors of all devices.

  Args:
    state: after the update; `state.extra["rank"]` holds the last ranks, which
      are computed at every tenth step.
    vectors: name -> float[N, D], of length 1, of this device.
    axis_name: mapped axis over which the vectors are split.

  Returns:
    The state, `collapse.spread` and `collapse.effective_rank` by name.
  """
  vectors = gather(jax.lax.stop_gradient(dict(vectors)), axis_name)
  rank = jax.lax.cond(
    (state.step - 1) % RANK_EVERY == 0,
    lambda: {name: collapse.effective_rank(z) for name, z in vectors.items()},
    lambda: state.extra["rank"],
  )
  spread = {name: collapse.spread(z) for name, z in vectors.items()}
  return state.replace(extra={**state.extra, "rank": rank}), spread, rank
