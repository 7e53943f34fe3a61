"""Collectives over a mapped axis; without an axis they change nothing.

A loss or a step is written once, with `axis_name=None` where the whole batch
is in one place (plain `jit`, `vmap`) and the name of the axis under
`shard_map` and `pmap`.
"""

from typing import Any

import jax
from jax import lax


def pmean(tree: Any, axis_name: str | None) -> Any:
  """The mean of a pytree over the devices of an axis, `lax.pmean`."""
  return tree if axis_name is None else lax.pmean(tree, axis_name)


def pmax(tree: Any, axis_name: str | None) -> Any:
  """The largest values of a pytree over the devices of an axis."""
  return tree if axis_name is None else lax.pmax(tree, axis_name)


def gather(tree: Any, axis_name: str | None) -> Any:
  """The rows of all devices, [B, ...] each -> [B of all, ...], in order."""
  if axis_name is None:
    return tree
  return jax.tree.map(
    lambda rows: lax.all_gather(rows, axis_name, tiled=True), tree
  )
