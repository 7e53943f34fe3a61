"""Per-sample statistics against the gradient of one image after the other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.gradients import per_sample, products
from gcl_jax.models.convolution import Conv
from gcl_jax.models.transposed import TransposedConv

pytestmark = pytest.mark.compiles


class One(nn.Module):
  """One layer between two non-linear ones, so that gradients differ."""

  layer: nn.Module

  @nn.compact
  def __call__(self, x):
    return jnp.tanh(self.layer(x))


def conv(*args, **kwargs):
  return nn.Conv(*args, **kwargs, name="layer")


def up(*args, **kwargs):
  return nn.ConvTranspose(*args, **kwargs, name="layer")


CASES = {
  "dense": ((5,), nn.Dense(4, name="layer")),
  "dense on a sequence": ((3, 2, 5), nn.Dense(4, name="layer")),
  "conv": ((6, 7, 2), conv(3, (3, 3))),
  "conv stride": ((7, 8, 2), conv(3, (4, 4), strides=2, padding=1)),
  "conv odd stride": ((9, 8, 2), conv(3, (3, 2), strides=(2, 3))),
  "conv valid": ((7, 8, 2), conv(3, (3, 3), strides=2, padding="VALID")),
  "conv dilated": ((9, 9, 2), conv(3, (3, 3), kernel_dilation=2)),
  "conv 1-D": ((9, 3), conv(4, (5,), strides=2)),
  "conv 3-D": ((4, 5, 4, 2), conv(3, (3, 2, 2), strides=(2, 1, 2))),
  "conv uneven": ((6, 6, 2), conv(2, (3, 3), padding=((2, 0), (0, 1)))),
  "up": ((4, 3, 3), up(2, (4, 4), strides=(2, 2))),
  "up valid": ((4, 3, 3), up(2, (3, 3), strides=(2, 2), padding="VALID")),
  "up sparse": ((4, 3, 3), up(2, (2, 2), strides=(3, 3))),
  "up pairs": ((4, 4, 3), up(2, (4, 3), (2, 1), padding=((1, 2), (2, 0)))),
  "up dilated": ((4, 4, 3), up(2, (3, 3), (2, 2), kernel_dilation=(2, 1))),
  "up mirrored": ((4, 3, 3), up(2, (4, 4), (2, 2), transpose_kernel=True)),
  "ours": ((8, 8, 2), Conv(3, (3, 3), 2, 1, name="layer")),
  "our transposed": ((4, 5, 3), TransposedConv(2, 2, name="layer")),
}


def case(shape, layer, batch=3, references=2):
  """Losses, params, references and loss of one image."""
  module = One(layer)
  x = jax.random.normal(jax.random.key(1), (batch, *shape))
  params = module.init(jax.random.key(0), x)["params"]
  directions = [
    jax.tree.map(lambda p, k=k: jnp.cos(jnp.arange(p.size) * k), params)
    for k in range(1, references + 1)
  ]
  directions = [
    jax.tree.map(lambda d, p: d.reshape(p.shape), tree, params)
    for tree in directions
  ]

  def losses(params, x=x):
    y = module.apply({"params": params}, x)
    return jnp.mean(y**2 + jnp.sin(3 * y), axis=tuple(range(1, y.ndim)))

  def one(params, image):
    return losses(params, image[None])[0]

  return losses, params, directions, jax.vmap(jax.grad(one), (None, 0)), x


@pytest.mark.parametrize("name", CASES)
def test_every_geometry_equals_one_image_at_a_time(name):
  losses, params, references, gradients, x = case(*CASES[name])

  @jax.jit
  def everything(params):
    found = {
      engine: per_sample.statistics(losses, params, references, engine=engine)
      for engine in per_sample.ENGINES
    }
    return losses(params), gradients(params, x)["layer"]["kernel"], found

  values, slow, found = everything(params)
  slow = np.asarray(slow, float).reshape(len(x), -1)
  kernels = [np.ravel(tree["layer"]["kernel"]) for tree in references]
  for engine, got in found.items():
    np.testing.assert_allclose(got.losses, values, rtol=1e-6)
    np.testing.assert_allclose(
      got.norms["layer"],
      np.linalg.norm(slow, axis=1),
      rtol=1e-5,
      err_msg=engine,
    )
    np.testing.assert_allclose(
      got.products["layer"], slow @ np.stack(kernels).T, atol=1e-5
    )
  assert np.linalg.norm(slow, axis=1).min() > 1e-3


class Net(nn.Module):
  """Two convolutions, a pool and two dense layers."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(3, (3, 3), name="c1")(x))
    x = nn.relu(nn.Conv(4, (3, 3), strides=2, name="c2")(x)).mean((1, 2))
    x = nn.LayerNorm(name="norm")(x)
    return nn.Dense(2, name="d2")(nn.relu(nn.Dense(5, name="d1")(x)))


def of_net(x):
  module = Net()
  params = module.init(jax.random.key(0), x)["params"]

  def losses(params):
    return -nn.log_softmax(module.apply({"params": params}, x))[:, 0]

  return losses, params


def test_gram_matrices_in_blocks_are_the_whole(monkeypatch):
  losses, params, references, *_ = case((9, 9, 2), conv(3, (3, 3)))

  def ghost():
    return per_sample.statistics(losses, params, references, engine="ghost")

  whole = ghost()
  monkeypatch.setattr(products, "_GRAM_ROWS", 16)  # 81 positions: 6 blocks
  parts = ghost()
  np.testing.assert_allclose(
    parts.norms["layer"], whole.norms["layer"], rtol=1e-6
  )
  text = jax.jit(ghost).lower().as_text()
  assert "81x81" not in text and "16x96" in text


def test_layers_are_chosen_by_path_and_all_by_default():
  losses, params = of_net(jax.random.normal(jax.random.key(1), (2, 6, 6, 1)))
  both = per_sample.norms(losses, params)
  assert sorted(both) == ["c1", "c2", "d1", "d2"]
  one = per_sample.norms(losses, params, layers=["d2"])
  assert list(one) == ["d2"]
  np.testing.assert_allclose(one["d2"], both["d2"])
  found = per_sample.inner_products(losses, params, [params], layers=["c2"])
  assert {k: v.shape for k, v in found.items()} == {"c2": (2, 1)}


def test_nothing_below_the_lowest_layer_is_differentiated():
  """The last layer alone costs one forward pass and no more convolution."""
  x = jax.random.normal(jax.random.key(1), (2, 6, 6, 1))
  losses, params = of_net(x)

  def convolutions(layers):
    def norms(params):
      return per_sample.norms(losses, params, layers=layers, engine="batched")

    return jax.jit(norms).lower(params).as_text().count("stablehlo.conv")

  assert convolutions(["d2"]) == 2
  assert convolutions(["c2"]) == 2  # c1 needs no gradient of its output
  assert convolutions(["c1"]) == 3


def test_the_plan_is_what_costs_least():
  def plan(shape, layer, engine="auto"):
    losses, params, *_ = case(shape, layer)
    return per_sample.plan(losses, params, 1, engine=engine)["layer"]

  few = (2, 2, 64), conv(256, (3, 3))
  many = (32, 32, 2), conv(4, (3, 3))
  assert plan(*few) == "ghost" and plan(*many) == "batched"
  assert plan(*few, engine="batched") == "batched"


def test_bfloat16_keeps_two_digits():
  """bfloat16 has 8 bits: norms and cosines within 2 %."""
  module = nn.Conv(8, (3, 3), dtype=jnp.bfloat16)
  x = jax.random.normal(jax.random.key(1), (4, 9, 9, 4))
  params = {"layer": module.init(jax.random.key(0), x)["params"]}

  def losses(params, dtype):
    layer = nn.Conv(8, (3, 3), dtype=dtype, name="layer")
    y = One(layer).apply({"params": params}, x)
    return jnp.mean(jnp.square(y.astype(jnp.float32)), (1, 2, 3))

  for engine in ("batched", "each", "ghost"):
    exact, rough = (
      per_sample.statistics(
        lambda p, dtype=dtype: losses(p, dtype), params, [params], engine=engine
      )
      for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rough.norms["layer"].dtype == jnp.float32
    np.testing.assert_allclose(
      rough.norms["layer"], exact.norms["layer"], rtol=0.02
    )
    np.testing.assert_allclose(
      rough.products["layer"], exact.products["layer"], rtol=0.05, atol=1e-2
    )


def test_what_cannot_be_expressed_is_refused_by_name():
  x = jax.random.normal(jax.random.key(1), (2, 6, 6, 2))

  def refused(layer, message, **options):
    module = One(layer)
    params = module.init(jax.random.key(0), x)["params"]

    def losses(params):
      return module.apply({"params": params}, x).sum((1, 2, 3))

    with pytest.raises(ValueError, match=message):
      per_sample.norms(losses, params, **options)

  grouped = conv(4, (3, 3), feature_group_count=2)
  refused(grouped, "layer 'layer': feature_group_count 2")
  refused(conv(4, (3, 3), padding="CIRCULAR"), "'layer': padding 'CIRCULAR'")
  refused(conv(4, (3, 3), padding=1, input_dilation=2), "input_dilation")
  mask = jnp.ones((3, 3, 2, 4))
  refused(conv(4, (3, 3), mask=mask), "mask")
  norm = nn.LayerNorm(name="layer")
  refused(norm, "'layer' is a LayerNorm", layers=["layer"])
  refused(norm, "no Dense, Conv or ConvTranspose layer")
  refused(conv(4, (3, 3)), "no layer 'head'", layers=["head"])
  refused(conv(4, (3, 3)), "unknown engine 'fast'", engine="fast")


def test_a_layer_called_twice_is_refused():
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = nn.Dense(3, name="layer")
      return layer(layer(x))

  module, x = Twice(), jnp.ones((2, 3))
  params = module.init(jax.random.key(0), x)["params"]

  def losses(params):
    return module.apply({"params": params}, x).sum(1)

  with pytest.raises(ValueError, match="'layer' is called twice"):
    per_sample.norms(losses, params)
