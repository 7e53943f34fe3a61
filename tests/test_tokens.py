"""Token maps: sizes, places, and that the last map is what is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.models import tokens
from gcl_jax.models.resnet import resnet

pytestmark = pytest.mark.compiles

SHAPE = (16, 24, 1)


@pytest.fixture(scope="module")
def made():
  encoder = resnet("resnet8", "cifar", 2)
  model = tokens.tokens(encoder, 6)
  variables = jax.jit(lambda key: model.init(key, SHAPE))(jax.random.key(0))
  return encoder, model, variables


def test_a_map_of_three_stages_is_a_quarter_of_the_image(made):
  encoder, model, variables = made
  assert encoder.feature_dim == 8 and tokens.grid(encoder, SHAPE) == (4, 6)
  assert tokens.count(encoder, SHAPE) == 24
  images = np.random.default_rng(0).normal(size=(3, *SHAPE))
  found, stats = jax.jit(model.apply)(variables, images)
  assert found.shape == (3, 24, 6) and found.dtype == jnp.float32
  np.testing.assert_allclose(found.mean(-1), 0, atol=1e-5)
  for a, b in zip(
    *map(jax.tree.leaves, (stats, variables["batch_stats"])), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_tokens_are_a_head_on_the_last_map_and_its_places(made):
  encoder, model, variables = made
  images = np.random.default_rng(1).normal(size=(2, *SHAPE))
  params = variables["params"]
  of_encoder = {**variables, "params": params["encoder"]}
  cells = np.array(encoder.apply(of_encoder, images, maps=True)[-1][-1])
  head = jax.tree.map(np.asarray, params["head"])
  hidden = cells.reshape(2, 24, 8) @ head["cells"]["kernel"]
  hidden = hidden + head["cells"]["bias"] + head["places"]
  out = np.asarray(jax.nn.gelu(hidden)) @ head["out"]["kernel"]
  out = out + head["out"]["bias"]
  out = (out - out.mean(-1, keepdims=True)) / np.sqrt(
    out.var(-1, keepdims=True) + 1e-6
  )
  found, _ = model.apply(variables, images)
  np.testing.assert_allclose(found, out, atol=1e-4)


def test_one_look_in_two_places_gives_two_means(made):
  """A place added outside the nonlinearity would leave them the same."""
  _, model, variables = made
  flat = np.zeros((1, *SHAPE))
  params = variables["params"]
  head = {**params["head"], "places": params["head"]["places"][::-1]}
  other = {**variables, "params": {**params, "head": head}}
  means = [
    np.array(model.apply(v, flat)[0]).mean(1) for v in (variables, other)
  ]
  assert np.abs(means[0] - means[1]).max() < 1e-5  # all cells alike
  image = flat.copy()
  image[:, :4, :4] = 5
  means = [
    np.array(model.apply(v, image)[0]).mean(1) for v in (variables, other)
  ]
  assert np.abs(means[0] - means[1]).max() > 1e-3
