"""Pure pre-training step: K meta labels, one update of one encoder.

After one forward pass of the encoder, the gradient of each meta label's loss is
taken with respect to the encoder's parameters (`level` parameters: one backward
pass per label) or to the feature map of each slice (`level` features: one
backward pass in all). The Gradient Mitigator combines the K gradients into one,
separately for the image and the pixel branch; the heads get the plain mean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gcl_jax import augment
from gcl_jax.collectives import pmax, pmean
from gcl_jax.engine.state import State, update
from gcl_jax.gradients import mitigation
from gcl_jax.methods.gcl.branches import Contrast, image_losses, pixel_losses

# Gradients below this share of the slice's largest one count as rounding.
_ROUNDING = 1e-6
Step = Callable[..., tuple[State, dict[str, jax.Array]]]
# (K gradients, a key for a random order, c of CAGrad) -> one.
MITIGATORS = {
  "mean": lambda gradients, key, c: mitigation.mean(gradients),
  "pcgrad": lambda gradients, key, c: mitigation.pcgrad(gradients, key),
  "cone": lambda gradients, key, c: mitigation.cone(gradients),
  "cagrad": lambda gradients, key, c: mitigation.cagrad(gradients, c),
  "min_norm": lambda gradients, key, c: mitigation.min_norm(gradients),
}


class _Conflict(NamedTuple):
  """Pairwise conflict, float[K, K]; mean over slices at level `features`."""

  cosines: jax.Array
  negative: jax.Array  # share of cosines below 0


def pretrain_step(
  contrast: Contrast,
  optimizer: optax.GradientTransformation,
  *,
  views: dict[str, Any],
  mitigator: str = "cone",
  level: str = "parameters",
  norm: bool = False,
  cagrad_c: float = 0.5,
  gamma: Callable[[jax.Array], jax.Array] | None = None,
) -> Step:
  """Builds the pre-training step; without rules it is SimCLR.

  The batch holds `image` uint8[B, H, W, C], `index` int32[B], and under the
  text of every rule float32[B, 2], as `rules.values_of` returns it. Parameters
  are {"encoder", "head": {name: variables}, "pixel_head"}; the encoder's batch
  statistics are in state.extra.

  Args:
    contrast: models, meta labels and branches.
    optimizer: an optax transformation.
    views: options of `augment.warp`.
    mitigator: a key of `MITIGATORS`.
    level: "parameters" or "features".
    norm: scale the K gradients to their mean norm before mitigation.
    cagrad_c: c of `mitigation.cagrad`.
    gamma: step -> the loss above which self-pacing drops a pair
      (`pacing.pair_weights`); None weighs all pairs equally.

  Returns:
    step(state, batch, *, axis_name) -> (state, metrics): `loss` (their mean),
    `loss/<rule>`, `cos/<rule>|<rule>` of the gradients before mitigation and
    `conflict_rate`, the share of label pairs with a cosine below 0 (at level
    "features" the share over pairs and slices); with the prefix `pixel_` the
    same for the pixel branch.
  """
  mitigate = MITIGATORS[mitigator]
  names = tuple(rule.text for rule in contrast.rules) or ("slice",)
  pixels = contrast.pixels

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    # [2 B, H, W, C]: rows 2 i and 2 i + 1 are the views of slice i.
    images = augment.two_warps(keys, batch["image"], **views)
    images = images.reshape(-1, *images.shape[2:])
    maps, backward, stats = _forward(
      contrast.networks.unet, state, images, axis_name
    )
    heads = {k: v for k, v in state.params.items() if k != "encoder"}
    key = order_key(state)

    def combine(gradients):
      scaled = mitigation.rescale(gradients) if norm else gradients
      return mitigate(scaled, key, cagrad_c)

    threshold = None if gamma is None else gamma(state.step)

    def of_images(maps, heads):
      return image_losses(contrast, maps, heads, batch, threshold, axis_name)

    def of_pixels(maps, heads):
      return pixel_losses(contrast, maps, heads, batch, keys, axis_name)

    branches = [("", 1.0, of_images)]
    if pixels is not None:
      on = (state.step >= pixels.start).astype(jnp.float32)
      branches.append(("pixel_", pixels.weight * on, of_pixels))
    total, metrics = None, {}
    for prefix, weight, branch in branches:
      values, encoder, head, conflict = _branch(
        branch, maps, heads, backward, combine, level, axis_name
      )
      total = _added(total, {"encoder": encoder, **head}, weight)
      metrics |= _named(prefix, names, values, conflict)
    state = update(state, total, optimizer, {"batch_stats": stats})
    return state, metrics

  return step


def _forward(unet, state, images, axis_name):
  """Feature maps, their vector-Jacobian product, and the batch statistics."""

  def encode(params):
    variables = {
      "params": {"encoder": params},
      "batch_stats": {"encoder": state.extra["batch_stats"]},
    }
    (maps, _), stats = unet.encode(
      variables, images, train=True, axis_name=axis_name
    )
    return maps, stats["encoder"]

  return jax.vjp(encode, state.params["encoder"], has_aux=True)


def _added(total, gradient, weight):
  """Adds weight * gradient to total, which is None on the first call."""
  gradient = jax.tree.map(lambda g: weight * g, gradient)
  return gradient if total is None else jax.tree.map(jnp.add, total, gradient)


def order_key(state: State) -> jax.Array:
  """Key of PCGrad's random order of labels, the same on all devices and for all
  slices of a step."""
  return jax.random.fold_in(jax.random.split(state.key)[1], state.step)


def _branch(branch, maps, heads, backward, combine, level, axis_name):
  """Losses of a branch, mitigated encoder gradient, mean head gradient and
  `_Conflict` of the gradients before mitigation, over all devices."""
  values, pull = jax.vjp(branch, maps, heads)
  each = [pull(one) for one in jnp.eye(len(values), dtype=values.dtype)]
  of_maps = jnp.stack([maps_gradient for maps_gradient, _ in each])
  of_heads = jax.tree.map(
    lambda *g: sum(g) / len(g), *[gradient for _, gradient in each]
  )
  values, of_heads = pmean((values, of_heads), axis_name)
  if level == "features":
    of_maps = _without_rounding(of_maps, axis_name)
    directions = jax.vmap(combine, in_axes=1)(of_maps)
    (encoder,) = backward(directions)
    cosines = jax.vmap(mitigation.cosines, in_axes=1)(of_maps)
    conflict = jax.tree.map(
      lambda each: jnp.mean(each, axis=0), _conflict(cosines)
    )
    encoder, conflict = pmean((encoder, conflict), axis_name)
    return values, encoder, of_heads, conflict
  gradients = [backward(gradient)[0] for gradient in of_maps]
  stacked = jax.tree.map(lambda *g: jnp.stack(g), *gradients)
  # Averaged before mitigation: conflicts differ from shard to shard.
  stacked = pmean(stacked, axis_name)
  conflict = _conflict(mitigation.cosines(stacked))
  return values, combine(stacked), of_heads, conflict


def _conflict(cosines):
  """Cosine of every pair of labels, and whether it is below 0."""
  return _Conflict(cosines, (cosines < 0).astype(jnp.float32))


def _without_rounding(of_maps, axis_name):
  """Sets gradients that are only rounding error, as behind a dead head, to 0.

  Mitigators use directions alone, and the direction of rounding is random.
  """
  sizes = jnp.max(jnp.abs(of_maps), axis=tuple(range(2, of_maps.ndim)))
  largest = pmax(jnp.max(sizes), axis_name)
  real = sizes > _ROUNDING * largest
  return jnp.where(
    real.reshape(real.shape + (1,) * (of_maps.ndim - 2)), of_maps, 0
  )


def _named(prefix, names, values, conflict):
  """Names the losses and the pairwise conflict of one branch."""
  found = {f"{prefix}loss": jnp.mean(values)}
  for k, name in enumerate(names):
    found[f"{prefix}loss/{name}"] = values[k]
  pairs = [(i, j) for j in range(len(names)) for i in range(j)]
  for i, j in pairs:
    found[f"{prefix}cos/{names[i]}|{names[j]}"] = conflict.cosines[i, j]
  if pairs:
    found[f"{prefix}conflict_rate"] = jnp.mean(
      jnp.stack([conflict.negative[i, j] for i, j in pairs])
    )
  return found
