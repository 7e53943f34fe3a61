"""Text encoders: descriptions as numbers of words -> unit vectors.

Three of one form. `init(key, (L,))` -> variables, `apply(variables, words,
there)` -> float32[..., D]:

    bag          mean of the word vectors, then a linear layer
    transformer  word and place vectors, blocks of attention, mean, linear
    frozen       a linear layer on vectors that were computed elsewhere

Means and attention run over the words that are there, so that the vector of a
description depends neither on its padding nor on those beside it in a batch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcl_jax.models.heads import unit_length
from gcl_jax.models.layers import Model

LONGEST = 64  # words of a description of a transformer, where none is given


def bag(words: int, out: int = 64, width: int = 64) -> Model:
  """A bag of words.

  `apply(variables, ids int[..., L], there bool[..., L])` -> float32[..., out],
  unit vectors; the order of words does not count, their number does.

  Args:
    words: size of the vocabulary.
    out: D.
    width: length of word vectors.
  """
  return _of_words(_Bag(words, out, width), out)


def transformer(
  words: int,
  out: int = 64,
  width: int = 64,
  *,
  depth: int = 2,
  heads: int = 4,
  longest: int = LONGEST,
) -> Model:
  """A small transformer encoder (Vaswani et al. 2017), normalised before each
  layer, without dropout.

  `apply` as of `bag`; the order of words counts.

  Args:
    words: size of the vocabulary.
    out: D.
    width: length of word vectors, a multiple of `heads`.
    depth: number of blocks.
    heads: of attention.
    longest: words of a description, at most.

  Raises:
    ValueError: at `init` and `apply`, longer descriptions.
  """
  return _of_words(_Transformer(words, out, width, depth, heads, longest), out)


def frozen(out: int = 64) -> Model:
  """A linear layer on precomputed vectors.

  `init(key, (E,))`; `apply(variables, vectors float[..., E], there=None)` ->
  float32[..., out], unit vectors.
  """
  module = nn.Dense(out, use_bias=False)

  def init(key, shape):
    return module.init(key, jnp.zeros((1, *shape)))

  def apply(variables, vectors, there=None):
    return unit_length(module.apply(variables, vectors.astype(jnp.float32)))

  return Model(init, apply, out)


def masked_mean(vectors: jax.Array, there: jax.Array) -> jax.Array:
  """Mean over the words that are there; 0 where none is.

  Args:
    vectors: float[..., L, D].
    there: bool[..., L].

  Returns:
    float[..., D].
  """
  share = there / jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1)
  return jnp.sum(jnp.where(there[..., None], vectors, 0) * share[..., None], -2)


def _of_words(module: nn.Module, out: int) -> Model:
  def apply(variables, ids, there):
    flat = ids.reshape(-1, ids.shape[-1]), there.reshape(-1, ids.shape[-1])
    found = unit_length(module.apply(variables, *flat))
    return found.reshape(*ids.shape[:-1], out)

  return Model(functools.partial(_init, module), apply, out)


def _init(module, key, shape):
  ids = jnp.zeros((1, *shape), int)
  return module.init(key, ids, jnp.ones(ids.shape, bool))


class _Bag(nn.Module):
  words: int
  out: int
  width: int

  @nn.compact
  def __call__(self, ids, there):
    vectors = nn.Embed(self.words, self.width, name="words")(ids)
    return nn.Dense(self.out, name="out")(masked_mean(vectors, there))


class _Transformer(nn.Module):
  words: int
  out: int
  width: int
  depth: int
  heads: int
  longest: int

  @nn.compact
  def __call__(self, ids, there):
    length = ids.shape[-1]
    if length > self.longest:
      raise ValueError(f"{length} words, more than longest {self.longest}")
    places = self.param(
      "places", nn.initializers.normal(0.02), (self.longest, self.width)
    )
    x = nn.Embed(self.words, self.width, name="words")(ids) + places[:length]
    mask = there[:, None, None, :]
    for _ in range(self.depth):
      x += nn.MultiHeadDotProductAttention(self.heads)(
        nn.LayerNorm()(x), mask=mask
      )
      hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
      x += nn.Dense(self.width)(hidden)
    x = masked_mean(nn.LayerNorm()(x), there)
    return nn.Dense(self.out, name="out")(x)
