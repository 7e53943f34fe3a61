"""Random keys of single images, independent of batch and device count."""

import jax


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
