"""Initial weights cut from one draw, against slices taken by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.models.layers import draw_kernels

pytestmark = pytest.mark.compiles

SHAPES = {
  "a": {"kernel": (2, 3), "bias": (3,)},
  "b": {"norm": {"scale": (4,), "bias": (4,), "mean": (4,), "var": (4,)}},
  "c": {"kernel": (5, 1, 2), "bias": (2,)},
}


def shapes_of(tree):
  return jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    tree,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def scale(path, shape):
  return {"a": 2.0, "b": 3.0, "c": 0.5}[path[0]] * shape[0]


def test_kernels_are_consecutive_slices_and_the_rest_is_constant():
  key = jax.random.key(3)
  draw = np.asarray(jax.random.normal(key, (16,)))
  expected = {
    "a": {"kernel": 4 * draw[:6].reshape(2, 3), "bias": np.zeros(3)},
    "b": {
      "norm": {
        "scale": np.ones(4),
        "bias": np.zeros(4),
        "mean": np.zeros(4),
        "var": np.ones(4),
      }
    },
    "c": {"kernel": 2.5 * draw[6:].reshape(5, 1, 2), "bias": np.zeros(2)},
  }
  run = functools.partial(draw_kernels, shapes=shapes_of(SHAPES), scale=scale)
  for each in (run, jax.jit(run)):
    chex.assert_trees_all_equal(each(key), jax.tree.map(np.float32, expected))
  keys = jax.random.split(key, 2)
  stacked = jax.vmap(run)(keys)
  for k in range(2):
    chex.assert_trees_all_close(
      jax.tree.map(lambda x, k=k: x[k], stacked), run(keys[k]), rtol=1e-6
    )


def test_other_arrays_and_distributions_are_drawn_where_asked():
  key = jax.random.key(1)
  uniform = functools.partial(jax.random.uniform, minval=-1.0)
  found = draw_kernels(
    key,
    shapes_of({"a": SHAPES["a"]}),
    scale,
    drawn=("kernel", "bias"),
    sample=uniform,
  )
  draw = np.asarray(uniform(key, (9,)))
  # "bias" sorts before "kernel".
  expected = {"bias": 6 * draw[:3], "kernel": 4 * draw[3:].reshape(2, 3)}
  chex.assert_trees_all_equal(found, {"a": expected})
