"""Image branch and pixel branch, each with K losses, one per meta label."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gcl_jax import losses
from gcl_jax.collectives import gather
from gcl_jax.gradients import pixel_filter
from gcl_jax.methods.gcl.rules import Rule

SHARED = "shared"  # key of the only head


class Networks(NamedTuple):
  """U-Net and projection heads on its bottleneck.

  Attributes:
    unet: `models.unet.unet`, of which only the encoder is trained.
    image_head: pooled map -> unit vector.
    pixel_head: map -> a unit vector per position.
  """

  unet: Any
  image_head: Any
  pixel_head: Any


class Pixels(NamedTuple):
  """Settings of the pixel branch.

  Attributes:
    variant: one of `pixel_filter.VARIANTS`.
    weight: lambda of v_image + lambda v_pixel.
    start: step from which the branch is added.
    theta, rho: of `pixel_filter.select`.
    negatives: numbers of negatives from other images and from the same one.
  """

  variant: str
  weight: float
  start: int
  theta: float = 0.3
  rho: float = 0.25
  negatives: tuple[int, int] = (256, 64)


class Contrast(NamedTuple):
  """Models and settings of both branches.

  Attributes:
    networks: the models.
    rules: the meta labels; empty for SimCLR.
    temperature: tau.
    hard: argument of `losses.pacing.pair_weights`.
    pixels: the pixel branch, or None.
  """

  networks: Networks
  rules: tuple[Rule, ...]
  temperature: float
  hard: bool = False
  pixels: Pixels | None = None


def head_name(rule: Rule | None, heads: dict) -> str:
  """Key of a rule's head: the rule's own, or the shared one."""
  text = SHARED if rule is None else rule.text
  return text if text in heads else SHARED


def image_losses(contrast, maps, heads, batch, threshold, axis_name):
  """Contrastive loss of the pooled maps for each rule, float[K].

  Args:
    contrast: models and settings.
    maps: float32[2 B, h, w, C]; rows 2 i and 2 i + 1 are views of slice i.
    heads: {"head": {name: variables}}.
    batch: rule text -> float32[B, 2].
    threshold: gamma of `losses.pacing.pair_weights`, or None.
    axis_name: mapped axis over which the batch is split.
  """
  networks, rules, temperature, hard, _ = contrast
  pooled = jnp.mean(maps, axis=(1, 2))
  per_rule = []
  for rule in rules or (None,):
    name = head_name(rule, heads["head"])
    z = networks.image_head.apply(heads["head"][name], pooled)
    z = z.reshape(-1, 2, z.shape[-1])
    common = dict(temperature=temperature, axis_name=axis_name)
    if rule is None:
      per_rule.append(losses.supcon(z, **common))
    elif threshold is None:
      meta = batch[rule.text]
      per_rule.append(losses.soft_supcon(z, rule.weights, meta=meta, **common))
    else:
      affinity = _all_pairs(rule, batch[rule.text], axis_name)
      affinity *= losses.pacing.pair_weights(z, threshold, hard=hard, **common)
      per_rule.append(losses.soft_supcon(z, affinity, **common))
  return jnp.stack(per_rule)


def _all_pairs(rule, values, axis_name):
  """Affinity of every pair of slices, float[B, B of all devices]."""
  gathered = gather(values, axis_name)
  return rule.weights(values[:, None], gathered[None])


def pixel_losses(contrast, maps, heads, batch, keys, axis_name):
  """Pixel contrastive loss of one device's slices for each rule, float[K].

  Args:
    contrast, maps, batch, axis_name: as in `image_losses`.
    heads: {"head": ..., "pixel_head": variables}.
    keys: keys[B], one per slice.
  """
  networks, rules, temperature, _, pixels = contrast
  embeddings = networks.pixel_head.apply(heads["pixel_head"], maps)
  count = len(maps)
  sources = jnp.repeat(jnp.arange(count // 2), 2)
  keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, 2)))(
    keys
  ).reshape(-1)
  per_rule = []
  for rule in rules or (None,):
    name = head_name(rule, heads["head"])

    def head(pooled, name=name):
      return networks.image_head.apply(heads["head"][name], pooled)

    if rule is None:
      alike = sources[:, None] == sources[None]
    else:
      values = jnp.repeat(batch[rule.text], 2, axis=0)
      alike = rule.weights(values[:, None], values[None]) > 0.5
    pairs = pixel_filter.select(
      keys,
      head,
      maps,
      embeddings,
      alike,
      sources=sources,
      variant=pixels.variant,
      theta=pixels.theta,
      rho=pixels.rho,
      temperature=temperature,
      outside=pixels.negatives[0],
      own=pixels.negatives[1],
    )
    per_rule.append(
      losses.pixel_nce(
        *pixel_filter.take(embeddings, pairs),
        pairs.weights,
        temperature,
        used=pairs.used,
        axis_name=axis_name,
      )
    )
  return jnp.stack(per_rule)
