"""Heads on feature vectors: projections, and a linear layer for logits."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcl_jax.models.layers import Model

# Weights uniform within +-1 / sqrt(inputs), as in PyTorch's linear layers.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def projection(
  hidden: int = 512, out: int = 128, norm: bool = False, unit: bool = True
) -> Model:
  """Linear, ReLU, Linear, unit length (Khosla et al. 2020, section 3.1).

  `init(key, (D,))` -> variables; `apply(variables, features float[..., D])` ->
  float32[..., out], each vector of Euclidean length 1 (0 for a zero vector).

  With `norm`, a batch normalisation stands between the first layer and the
  ReLU, as in BYOL (Grill et al. 2020, section 3.3), SimCLR v2 and MoCo v3; the
  first layer then has no bias, because the normalisation would subtract it.
  `init` -> {"params", "batch_stats"} and `apply(variables, features, *,
  train=False, axis_name=None)` -> (float32[..., out], batch_stats), where
  `train` and `axis_name` act as in `models.resnet`. Statistics are taken over
  all axes but the last: a map float[B, h, w, D] counts B h w vectors.

  Args:
    hidden: length of the hidden layer.
    out: length of the projected vectors.
    norm: whether there is a batch normalisation.
    unit: whether vectors are divided by their length. False leaves that to the
      loss: a predictor (BYOL) takes the projection as it comes.

  >>> head = projection(hidden=8, out=4, norm=True)
  >>> variables = head.init(jax.random.key(0), (16,))
  >>> features = jax.random.normal(jax.random.key(1), (32, 16))
  >>> projected, batch_stats = head.apply(variables, features, train=True)
  >>> projected.shape
  (32, 4)
  """
  if norm:
    return _normalised_projection(hidden, out, unit)
  module = nn.Sequential([_dense(hidden), nn.relu, _dense(out)])

  def apply(variables, features):
    projected = module.apply(variables, features.astype(jnp.float32))
    return unit_length(projected) if unit else projected

  return Model(functools.partial(_init, module), apply, out)


def linear(out: int) -> Model:
  """One linear layer with a bias: float[..., D] -> logits float32[..., out].

  `init(key, (D,))` -> variables; `apply(variables, features)` -> logits.

  Args:
    out: number of logits.
  """
  module = _dense(out)

  def apply(variables, features):
    return module.apply(variables, features.astype(jnp.float32))

  return Model(functools.partial(_init, module), apply, out)


def _normalised_projection(hidden, out, unit) -> Model:
  def apply(variables, features, *, train=False, axis_name=None):
    module = _NormalisedProjection(hidden, out, train, axis_name)
    projected, updated = module.apply(
      variables,
      features.astype(jnp.float32),
      mutable=["batch_stats"] if train else [],
    )
    stats = updated["batch_stats"] if train else variables["batch_stats"]
    return unit_length(projected) if unit else projected, stats

  module = _NormalisedProjection(hidden, out)
  return Model(functools.partial(_init, module), apply, out)


class _NormalisedProjection(nn.Module):
  """Linear, batch normalisation, ReLU, Linear."""

  hidden: int
  out: int
  train: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, features):
    hidden = nn.Dense(self.hidden, use_bias=False, kernel_init=_uniform)
    norm = nn.BatchNorm(
      use_running_average=not self.train,
      momentum=0.9,
      axis_name=self.axis_name,
    )
    return _dense(self.out)(nn.relu(norm(hidden(features))))


def unit_length(vectors: jax.Array) -> jax.Array:
  """Vectors float[..., D] divided by their length.

  Vectors shorter than 1e-12 become 0 and get no gradient: where all hidden
  units are off, a projection is 0.
  """
  square = jnp.sum(vectors**2, axis=-1, keepdims=True)
  scale = jax.lax.rsqrt(jnp.maximum(square, 1e-24))
  return vectors * jnp.where(square > 1e-24, scale, 0)


def _dense(features: int) -> nn.Dense:
  return nn.Dense(features, kernel_init=_uniform)


def _init(module, key, image_shape):
  return module.init(key, jnp.zeros((1, *image_shape), jnp.float32))
