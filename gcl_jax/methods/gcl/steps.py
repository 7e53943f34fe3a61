"""The pure pre-training step: K meta labels, one update of one encoder.

One forward pass of the encoder, then for every meta label the gradient of its
loss: with respect to the encoder's parameters (`level` parameters: a backward
pass per label) or to the map of each slice (`level` features: one backward
pass in all). The Gradient Mitigator makes one direction of them, for the image
branch and the pixel branch apart; the heads get the plain mean.
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

# Share of the largest gradient of a slice below which one is rounding.
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
  """float[K, K] each; at level `features` the means over slices."""

  cosines: jax.Array
  negative: jax.Array  # share below 0


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
  """One step of pre-training; without rules it is SimCLR.

  The batch holds `image` uint8[B, H, W, C], `index` int32[B], and for every
  rule its text -> float32[B, 2], as `rules.values_of` gives them. Parameters
  are {"encoder", "head": {name: variables}, "pixel_head"}; the encoder's batch
  statistics are in state.extra.

  Args:
    contrast: models, meta labels and branches.
    optimizer: an optax transformation.
    views: options of `augment.warp`.
    mitigator: a key of `MITIGATORS`.
    level: "parameters" or "features".
    norm: scale the K gradients to their mean norm first.
    cagrad_c: c of `mitigation.cagrad`.
    gamma: step -> the loss at which a pair stops counting (`pacing.weights`);
      None weighs no pair.

  Returns:
    step(state, batch, *, axis_name) -> (state, metrics): `loss` (their mean),
    `loss/<rule>`, `cos/<rule>|<rule>` of the gradients before mitigation and
    `conflict_rate`, the share of pairs of labels whose cosine is below 0 (at
    level "features" of pairs of labels and slices), and the same with `pixel_`
    for the pixel branch.
  """
  mitigate = MITIGATORS[mitigator]
  names = tuple(rule.text for rule in contrast.rules) or ("slice",)
  pixels = contrast.pixels

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    # [2 B, H, W, C], the two views of a slice beside each other.
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

    bar = None if gamma is None else gamma(state.step)

    def of_images(maps, heads):
      return image_losses(contrast, maps, heads, batch, bar, axis_name)

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
  """The maps, their pull-back to the encoder's parameters, the statistics."""

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
  """total + weight * gradient; no total yet is None."""
  gradient = jax.tree.map(lambda g: weight * g, gradient)
  return gradient if total is None else jax.tree.map(jnp.add, total, gradient)


def order_key(state: State) -> jax.Array:
  """The key of the random order in which PCGrad meets the other labels, the
  same on all devices and for all slices of a step."""
  return jax.random.fold_in(jax.random.split(state.key)[1], state.step)


def _branch(branch, maps, heads, backward, combine, level, axis_name):
  """Losses of a branch, its mitigated encoder gradient, its mean head gradient
  and the `_Conflict` of the gradients that were compared, over all devices."""
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
  # Averaged before they are compared: shards disagree about what conflicts.
  stacked = pmean(stacked, axis_name)
  conflict = _conflict(mitigation.cosines(stacked))
  return values, combine(stacked), of_heads, conflict


def _conflict(cosines):
  """Of every pair of labels: the cosine, and whether it is below 0."""
  return _Conflict(cosines, (cosines < 0).astype(jnp.float32))


def _without_rounding(of_maps, axis_name):
  """Gradients that are 0 but for rounding, such as behind a dead head, as 0.

  A mitigator looks at directions alone, and that of rounding is random.
  """
  sizes = jnp.max(jnp.abs(of_maps), axis=tuple(range(2, of_maps.ndim)))
  largest = pmax(jnp.max(sizes), axis_name)
  real = sizes > _ROUNDING * largest
  return jnp.where(
    real.reshape(real.shape + (1,) * (of_maps.ndim - 2)), of_maps, 0
  )


def _named(prefix, names, values, conflict):
  """Metrics of one branch."""
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
