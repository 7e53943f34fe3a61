"""Token maps: the last map of an encoder as vectors that know their place.

    t_l = norm(W2 gelu(W1 m_l + p_l))

for the cell l of the map m, a learned vector p_l of each place, and a layer
normalisation. The vector of a place stands inside the nonlinearity: added
outside, it would be the same constant in the mean over all tokens of every
image.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcl_jax.models.layers import Model


def tokens(encoder: Model, size: int) -> Model:
  """An encoder whose output are the tokens of its last map.

  `init(key, (H, W, C))` -> {"params", "batch_stats"}, params {"encoder",
  "head"}; `apply(variables, images float[B, H, W, C], *, train=False,
  axis_name=None)` -> (float32[B, L, size], batch_stats). Images have the size
  that `init` was given.

  Args:
    encoder: from `models.resnet`.
    size: D, length of a token.
  """
  head = _Head(size)

  def init(key, shape):
    for_encoder, for_head = jax.random.split(key)
    variables = encoder.init(for_encoder, shape)
    grid = jax.ShapeDtypeStruct(
      (1, count(encoder, shape), encoder.feature_dim), jnp.float32
    )
    params = head.init(for_head, jnp.zeros(grid.shape, grid.dtype))["params"]
    return {
      "params": {"encoder": variables["params"], "head": params},
      "batch_stats": variables["batch_stats"],
    }

  def apply(variables, images, *, train=False, axis_name=None):
    params = variables["params"]
    _, stats, maps = encoder.apply(
      {"params": params["encoder"], "batch_stats": variables["batch_stats"]},
      images,
      train=train,
      axis_name=axis_name,
      maps=True,
    )
    last = maps[-1].reshape(len(images), -1, encoder.feature_dim)
    return head.apply({"params": params["head"]}, last), stats

  return Model(init, apply, size)


def count(encoder: Model, shape: Sequence[int]) -> int:
  """L, the number of tokens of an image of this shape."""
  return math.prod(grid(encoder, shape))


def grid(encoder: Model, shape: Sequence[int]) -> tuple[int, int]:
  """Rows and columns of the last map of an image of shape (H, W, C)."""

  def last(image) -> Any:
    variables = encoder.init(jax.random.key(0), tuple(shape))
    return encoder.apply(variables, image, maps=True)[-1][-1]

  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  return jax.eval_shape(last, image).shape[1:3]


class _Head(nn.Module):
  size: int

  @nn.compact
  def __call__(self, cells):
    places = self.param(
      "places", nn.initializers.normal(0.1), (cells.shape[1], self.size)
    )
    hidden = nn.Dense(self.size, name="cells")(cells) + places
    return nn.LayerNorm(name="norm")(
      nn.Dense(self.size, name="out")(nn.gelu(hidden))
    )
