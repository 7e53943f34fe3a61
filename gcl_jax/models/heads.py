"""Heads on feature vectors: the projection SupCon sees, a linear probe."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcl_jax.models.layers import Model

# Weights uniform within +-1 / sqrt(inputs), as PyTorch's linear layers.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def projection(hidden: int = 512, out: int = 128) -> Model:
  """Linear, ReLU, Linear, unit length (Khosla et al. 2020, section 3.1).

  `init(key, (D,))` -> variables; `apply(variables, features float[..., D])` ->
  float32[..., out], each vector of Euclidean length 1 (0 for a zero vector).

  Args:
    hidden: length of the hidden layer.
    out: length of the projected vectors.
  """
  module = nn.Sequential([_dense(hidden), nn.relu, _dense(out)])

  def apply(variables, features):
    projected = module.apply(variables, features.astype(jnp.float32))
    square = jnp.sum(projected**2, axis=-1, keepdims=True)
    return projected * jax.lax.rsqrt(jnp.maximum(square, 1e-24))

  return Model(functools.partial(_init, module), apply, out)


def linear(out: int) -> Model:
  """One linear layer with a bias: float[..., D] -> logits float32[..., out].

  `init(key, (D,))` -> variables; `apply(variables, features)` -> logits.

  Args:
    out: how many logits.
  """
  module = _dense(out)

  def apply(variables, features):
    return module.apply(variables, features.astype(jnp.float32))

  return Model(functools.partial(_init, module), apply, out)


def _dense(features: int) -> nn.Dense:
  return nn.Dense(features, kernel_init=_uniform)


def _init(module, key, image_shape):
  return module.init(key, jnp.zeros((1, *image_shape), jnp.float32))
