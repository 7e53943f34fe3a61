"""Random keys of single images, independent of batch and device count."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def sample_keys(key: jax.Array, step: jax.Array, index: jax.Array) -> jax.Array:
  """One key per image: fold_in(fold_in(key, step), index).

  Args:
    key: the run's typed key, a scalar.
    step: int scalar.
    index: int[B], each image's row in the data set (or any id of its own).

  Returns:
    keys[B].
  """
  key = jax.random.fold_in(key, step)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def colour_keys(key: jax.Array) -> jax.Array:
  """keys[2] of one view: saturation and hue; grayscale, blur and noise.

  Children of the fourth key of a view: its first three, of
  `jax.random.split(key, 3)`, draw geometry, brightness and contrast.
  """
  return jax.random.split(jax.random.fold_in(key, 3))


def two_views(view: Callable[[jax.Array], Any], keys: jax.Array) -> Any:
  """Two independent views of every image, from two halves of its key.

  Args:
    view: keys[B] -> arrays [B, ...], or a tree of them.
    keys: keys[B], one per image.

  Returns:
    What `view` returns, with an axis of the two views: [B, 2, ...].
  """
  keys = jax.vmap(jax.random.split)(keys)
  views = [view(keys[:, v]) for v in range(2)]
  return jax.tree.map(lambda *both: jnp.stack(both, axis=1), *views)
