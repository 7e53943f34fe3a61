"""Batches of one pool and of several pools.

A batch is a dict of arrays, or a dict of such dicts, its pools:

  {"anchor": {"image": ..., "index": ...}, "negative": {"image": ..., ...}}

Pools may differ in their number of rows and in the shapes of their arrays.
Each is shared out over processes and devices by itself. Anchors and negatives
in one array would not do: devices get consecutive rows, so the first would
hold anchors alone and the last negatives alone. The devices must divide the
rows of every pool: a method lists all of them in its `batch_sizes`.
"""

from collections.abc import Callable
from typing import Any

from gcl_jax.errors import UserError


def each(function: Callable, tree: Any, *more: Any) -> Any:
  """The result of a function for every pool.

  >>> each(sorted, {"anchor": {"b": 1, "a": 2}, "negative": {"c": 3}})
  {'anchor': ['a', 'b'], 'negative': ['c']}
  >>> each(sorted, {"b": 1, "a": 2})
  ['a', 'b']

  Args:
    function: (pool, *more of that pool) -> anything.
    tree: a dict of pools, each of them a dict; anything else is one pool.
    *more: dicts with the same pools.

  Returns:
    Dict with the pools of `tree`, or of one pool the result itself.

  Raises:
    ValueError: `more` has other pools.
    UserError: raised by the function, with the name of the pool added.
  """
  if not _has_pools(tree):
    return function(tree, *more)
  for other in more:
    if not isinstance(other, dict) or other.keys() != tree.keys():
      found = sorted(other) if isinstance(other, dict) else type(other).__name__
      raise ValueError(
        f"a dict with the pools {sorted(tree)} is needed, got {found}"
      )
  results = {}
  for name, pool in tree.items():
    try:
      results[name] = function(pool, *(other[name] for other in more))
    except UserError as error:
      raise type(error)(f"{error} (pool {name!r})") from error
  return results


def _has_pools(tree: Any) -> bool:
  if not isinstance(tree, dict) or not tree:
    return False
  return all(isinstance(pool, dict) for pool in tree.values())
