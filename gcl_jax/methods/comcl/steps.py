"""The pure steps of pre-training on windows.

A batch is {pool: {"image", "box", "corner", "index"}} of `pools.arrays`, with
the pools of `pools.GROUPS`. Batch statistics are in state.extra, and so is
`rank`, the effective rank of every pool, computed at every tenth step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gcl_jax import losses
from gcl_jax.collectives import gather, pmean
from gcl_jax.engine.state import State, follow, update
from gcl_jax.engine.train import Step
from gcl_jax.methods.comcl import levels
from gcl_jax.methods.comcl.windows import Views, batch_views, by_pool
from gcl_jax.pipeline import monitors
from gcl_jax.pipeline.contrast import Networks
from gcl_jax.pipeline.contrast_steps import embed


def views_of(pairs: levels.Pairs) -> dict[str, int]:
  """{pool: its views in a step}: two of anchors, one of mere negatives."""
  anchors = {anchor for anchor, _ in pairs}
  names = dict.fromkeys(name for pair in pairs for name in pair)
  return {name: 1 + (name in anchors) for name in names}


def levels_step(networks: Networks, rules: levels.Rules, views: Views) -> Step:
  """One step against the negatives of the batch, of all devices.

  All views go through the network in one call: two of every anchor, one of
  the other patches, whose first view also is the negative of other levels.

  Args:
    networks: encoder, projection head and optimiser.
    rules: of the loss; state.extra["pace"] is `levels.pace`.
    views: of the windows.

  Returns:
    step(state, batch, *, axis_name) -> (state, metrics): `loss`, those of
    `levels.Found`, `variance/<pool>` and `rank/<pool>` of the first views.
  """
  counts = views_of(rules.pairs)

  def step(state, batch, *, axis_name=None):
    images = batch_views(state, batch, counts, views)

    def objective(params):
      stats = state.extra["batch_stats"]
      z, stats = _encode(networks, params, stats, images, axis_name)
      z = by_pool(z, batch, counts)
      first = {name: each[:, 0] for name, each in z.items()}
      second = {name: each[:, -1] for name, each in z.items()}
      found = levels.contrast(
        rules,
        state.step,
        state.extra["pace"],
        first,
        second,
        gather(first, axis_name),
        axis_name,
      )
      return found.value, (stats, found, first)

    return _paced(networks, rules, state, objective, axis_name)

  return step


def queue_step(
  networks: Networks, rules: levels.Rules, views: Views, momentum: float
) -> Step:
  """One step against queues of keys, one for each pool of negatives.

  The positive of an anchor is its second view through the momentum encoder
  (state.extra["teacher"]); state.extra["queue"][pool] float32[Q, D] holds the
  keys of that pool's last windows, from before this step. A pool that is no
  pool of negatives has no queue.

  Args:
    networks, rules, views: as of `levels_step`.
    momentum: of the momentum encoder.
  """
  counts = views_of(rules.pairs)
  once = dict.fromkeys(counts, 1)
  queries = {name: 1 for name, count in counts.items() if count == 2}

  def step(state, batch, *, axis_name=None):
    images = batch_views(state, batch, counts, views)
    images = by_pool(images, batch, counts)
    teacher, queue = state.extra["teacher"], state.extra["queue"]
    slow = follow(teacher["params"], state.params, momentum)
    keys, slow_stats = _encode(
      networks,
      slow,
      teacher["batch_stats"],
      jnp.concatenate([images[name][:, -1] for name in once]),
      axis_name,
    )
    keys = by_pool(jax.lax.stop_gradient(keys), batch, once)
    keys = {name: key[:, 0] for name, key in keys.items()}

    def objective(params):
      stats = state.extra["batch_stats"]
      first = jnp.concatenate([images[name][:, 0] for name in queries])
      z, stats = _encode(networks, params, stats, first, axis_name)
      z = by_pool(z, batch, queries)
      z = {name: each[:, 0] for name, each in z.items()}
      found = levels.contrast(
        rules, state.step, state.extra["pace"], z, keys, queue, axis_name
      )
      return found.value, (stats, found, keys | z)

    pushed = {
      name: jnp.concatenate([gather(keys[name], axis_name), old])[: len(old)]
      for name, old in queue.items()
    }
    return _paced(
      networks,
      rules,
      state,
      objective,
      axis_name,
      teacher={"params": slow, "batch_stats": slow_stats},
      queue=pushed,
    )

  return step


def simclr_step(networks: Networks, views: Views, temperature: float) -> Step:
  """One step of SimCLR on two views of every window of the pool "window"."""
  counts = {"window": 2}

  def step(state, batch, *, axis_name=None):
    images = batch_views(state, batch, counts, views)

    def objective(params):
      stats = state.extra["batch_stats"]
      z, stats = _encode(networks, params, stats, images, axis_name)
      z = z.reshape(-1, 2, z.shape[-1])
      value = losses.supcon(z, temperature=temperature, axis_name=axis_name)
      return value, (stats, {"window": z[:, 0]})

    state, value, first = _descend(networks, state, objective, axis_name)
    return _monitored(state, {"loss": value}, first, axis_name)

  return step


def _encode(networks, params, stats, images, axis_name):
  """Unit vectors float32[rows, D] of images, and new batch statistics."""
  z, stats = embed(
    networks.encoder, networks.head, params, stats, images[:, None], axis_name
  )
  return z[:, 0], stats


def _descend(
  networks: Networks,
  state: State,
  objective: Callable,
  axis_name: str | None,
  **extra: Any,
) -> tuple[State, jax.Array, Any]:
  """State after one update, loss over all devices and what else was found."""
  found = jax.value_and_grad(objective, has_aux=True)(state.params)
  (value, (stats, *rest)), gradients = found
  value, gradients = pmean((value, gradients), axis_name)
  extra = {**state.extra, "batch_stats": stats, **extra}
  return update(state, gradients, networks.optimizer, extra), value, *rest


def _paced(networks, rules, state, objective, axis_name, **extra):
  """One update by a loss of levels; state and metrics."""
  after, value, found, z = _descend(
    networks, state, objective, axis_name, **extra
  )
  pace = levels.next_pace(rules, state.step, state.extra["pace"], found.medians)
  after = after.replace(extra={**after.extra, "pace": pace})
  metrics = {"loss": value, **pmean(found.metrics, axis_name)}
  return _monitored(after, metrics, z, axis_name)


def _monitored(state, metrics, z, axis_name):
  """Adds variance and rank of the vectors of every pool, of all devices."""
  state, spread, rank = monitors.watched(state, z, axis_name)
  for name in z:
    metrics[f"variance/{name}"] = spread[name]
    metrics[f"rank/{name}"] = rank[name]
  return state, metrics
