"""The two branches: K losses each, one per meta label."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gcl_jax import losses
from gcl_jax.collectives import gather
from gcl_jax.gradients import pixel_filter
from gcl_jax.methods.gcl.rules import Rule

SHARED = "shared"  # key of the only head


class Networks(NamedTuple):
  """The U-Net and the heads on its bottleneck.

  Attributes:
    unet: `models.unet.unet`; its encoder alone is trained.
    image_head: on the pooled map, -> unit vectors.
    pixel_head: on the map, -> a unit vector per position.
  """

  unet: Any
  image_head: Any
  pixel_head: Any


class Pixels(NamedTuple):
  """The pixel branch.

  Attributes:
    variant: of `pixel_filter.VARIANTS`.
    weight: lambda of v_image + lambda v_pixel.
    start: steps before it counts.
    theta, rho: of the filter.
    negatives: of other images, and of the same.
  """

  variant: str
  weight: float
  start: int
  theta: float = 0.3
  rho: float = 0.25
  negatives: tuple[int, int] = (256, 64)


class Contrast(NamedTuple):
  """What both branches are made of.

  Attributes:
    networks: the models.
    rules: the meta labels; none is SimCLR.
    temperature: tau.
    hard: of `losses.pacing.pair_weights`.
    pixels: the pixel branch, or None.
  """

  networks: Networks
  rules: tuple[Rule, ...]
  temperature: float
  hard: bool = False
  pixels: Pixels | None = None


def head_name(rule: Rule | None, heads: dict) -> str:
  """The head of a rule: its own, or the shared one."""
  text = SHARED if rule is None else rule.text
  return text if text in heads else SHARED


def image_losses(contrast, maps, heads, batch, bar, axis_name):
  """float[K]: contrast of the pooled maps, by every rule.

  Args:
    contrast: what the branches are made of.
    maps: float32[2 B, h, w, C], the two views of a slice beside each other.
    heads: {"head": {name: variables}}.
    batch: rule text -> float32[B, 2].
    bar: threshold of `losses.pacing.pair_weights`, or None.
    axis_name: mapped axis over which the batch is split.
  """
  networks, rules, temperature, hard, _ = contrast
  pooled = jnp.mean(maps, axis=(1, 2))
  found = []
  for rule in rules or (None,):
    name = head_name(rule, heads["head"])
    z = networks.image_head.apply(heads["head"][name], pooled)
    z = z.reshape(-1, 2, z.shape[-1])
    common = dict(temperature=temperature, axis_name=axis_name)
    if rule is None:
      found.append(losses.supcon(z, **common))
    elif bar is None:
      meta = batch[rule.text]
      found.append(losses.soft_supcon(z, rule.weights, meta=meta, **common))
    else:
      affinity = _all_pairs(rule, batch[rule.text], axis_name)
      affinity *= losses.pacing.pair_weights(z, bar, hard=hard, **common)
      found.append(losses.soft_supcon(z, affinity, **common))
  return jnp.stack(found)


def _all_pairs(rule, values, axis_name):
  """float[B, B of all devices]: the affinity of every pair of slices."""
  everyone = gather(values, axis_name)
  return rule.weights(values[:, None], everyone[None])


def pixel_losses(contrast, maps, heads, batch, keys, axis_name):
  """float[K]: contrast of pixels of one device's slices, by every rule.

  Args:
    contrast, maps, batch, axis_name: as in `image_losses`.
    heads: also "pixel_head".
    keys: keys[B], one per slice.
  """
  networks, rules, temperature, _, pixels = contrast
  embeddings = networks.pixel_head.apply(heads["pixel_head"], maps)
  count = len(maps)
  sources = jnp.repeat(jnp.arange(count // 2), 2)
  keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, 2)))(
    keys
  ).reshape(-1)
  found = []
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
    found.append(
      losses.pixel_nce(
        *pixel_filter.take(embeddings, pairs),
        pairs.weights,
        temperature,
        used=pairs.used,
        axis_name=axis_name,
      )
    )
  return jnp.stack(found)
