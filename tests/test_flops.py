"""FLOPs counted by hand, through loops, conditions and devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from gcl_jax.engine import flops, parallel

pytestmark = pytest.mark.compiles


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_products():
  assert flops.count(lambda a, b: a @ b, shape(2, 3), shape(3, 5)) == 60
  batched = functools.partial(jnp.einsum, "bij,bkj->bik")
  assert flops.count(batched, shape(7, 2, 3), shape(7, 5, 3)) == 7 * 60


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_and_its_gradients(groups):
  layer = nn.Conv(8, (3, 3), 2, padding=1, feature_group_count=groups)
  images = shape(4, 10, 12, 6)
  params = jax.eval_shape(layer.init, jax.random.key(0), images)
  forward = 2 * (4 * 5 * 6 * 8) * (3 * 3 * 6 // groups)
  assert flops.count(layer.apply, params, images) == forward

  def loss(params, images):
    return jnp.sum(layer.apply(params, images))

  both = jax.grad(loss, argnums=(0, 1))
  # Its own gradients multiply a row of padding here and there.
  assert 3 * forward == pytest.approx(
    flops.count(both, params, images), rel=0.15
  )


def test_a_loop_counts_as_often_as_it_runs():
  def seven(a):
    return lax.scan(lambda x, _: (x @ a, None), a, None, 7)[0]

  assert flops.count(seven, shape(3, 3)) == 7 * 54


def test_of_two_branches_the_larger_counts():
  def either(flag, a):
    return lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, a)

  flag = jax.ShapeDtypeStruct((), jnp.bool_)
  assert flops.count(either, flag, shape(3, 3)) == 2 * 54


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_all_devices_count(mode):
  mesh = parallel.make_mesh(jax.devices()[:4])

  def rows(tree, batch):
    return {"out": batch["x"] @ tree}

  mapped = parallel.compile_map(rows, mesh, mode)
  tree = parallel.replicate(jnp.ones((3, 5)), mesh)
  batch = parallel.put_batch({"x": jnp.ones((8, 3))}, mesh, mode)
  assert flops.count(mapped, tree, batch) == 8 * 30
