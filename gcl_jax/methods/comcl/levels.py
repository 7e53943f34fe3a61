"""The loss between levels: equation 1, hard negatives and self-pacing."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax import losses
from gcl_jax.collectives import gather
from gcl_jax.losses import pacing
from gcl_jax.losses.pairs import mean_over_images

Pairs = tuple[tuple[str, str], ...]
# The first loss by its readings: (pool of the anchors, pool of the negatives).
FIRST = {
  "high_low": (("lesion_high", "lesion_low"),),
  "low_high": (("lesion_low", "lesion_high"),),
  "high_healthy_low": (("lesion_high", "healthy_low"),),
  "none": (),
}
BY_QUALITY = (("lesion_high", "healthy_high"), ("lesion_low", "healthy_low"))


class Rules(NamedTuple):
  """What the loss of a step is made of.

  Attributes:
    pairs: (pool of the anchors, pool of the negatives), summed.
    steps: T, of the whole training.
    epoch: steps of the first epoch, in which `scaled` selects nobody.
    temperature: tau.
    hard_negatives: "off" (all), "topk" or "hcl".
    pacing: "off", "literal" or "scaled".
    fewest: share of the negatives that K never falls below; with "literal" K
      falls to 0.
    beta, tau_plus: of "hcl".
  """

  pairs: Pairs
  steps: int
  epoch: int
  temperature: float = 0.07
  hard_negatives: str = "topk"
  pacing: str = "scaled"
  fewest: float = 0.05
  beta: float = 1.0
  tau_plus: float = 0.1


class Found(NamedTuple):
  """Loss of one step.

  Attributes:
    value: sum over the pairs of the mean loss of the anchors that count; the
      mean over devices is the loss.
    metrics: `loss/<pair>` and `kept/<pair>`, the share of anchors that count,
      of this device; `negatives`, the number that an anchor has (mean over the
      pairs).
    medians: float32[pairs], of the losses of the anchors of all devices.
  """

  value: jax.Array
  metrics: dict[str, jax.Array]
  medians: jax.Array


def pairs_of(loss: str, first_pair: str) -> Pairs:
  """Pairs of pools of "levels" or "lesions"; see `pools.GROUPS`."""
  if loss == "lesions":
    return (("lesion", "healthy"),)
  return FIRST[first_pair] + BY_QUALITY


def pace(rules: Rules) -> dict[str, np.ndarray]:
  """The sums of medians before the first step, for `state.extra`."""
  medians = np.zeros(len(rules.pairs), np.float32)
  return {"medians": medians, "batches": np.zeros((), np.float32)}


def next_pace(
  rules: Rules, step: jax.Array, before: dict, medians: jax.Array
) -> dict[str, jax.Array]:
  """The sums after a step: medians of the batches of the first epoch."""
  first = jnp.where(step < rules.epoch, 1.0, 0.0)
  return {
    "medians": before["medians"] + first * medians,
    "batches": before["batches"] + first,
  }


def contrast(
  rules: Rules,
  step: jax.Array,
  before: dict[str, jax.Array],
  anchors: dict[str, jax.Array],
  positives: dict[str, jax.Array],
  negatives: dict[str, jax.Array],
  axis_name: str | None = None,
) -> Found:
  """The loss of all pairs (dossier equations 1 and 3).

      L(m, n) = sum_i s_i l_i / max(1, sum_i s_i)

  with l_i InfoNCE of anchor i of pool m against the K_t hardest patches of
  pool n, and s_i = 1 where l_i <= lambda_t. Each pair has a q0 of its own, as
  the pairs differ in difficulty.

  Args:
    rules: of the loss.
    step: t.
    before: from `pace` or `next_pace`.
    anchors, positives: pool -> float[B, D], unit vectors of this device.
    negatives: pool -> float[P, D], unit vectors, of all devices.
    axis_name: mapped axis over which the anchors are split.
  """
  total, metrics, medians, counts = 0.0, {}, [], []
  for k, (anchor, negative) in enumerate(rules.pairs):
    vectors = anchors[anchor], positives[anchor], negatives[negative]
    size = len(negatives[negative])
    few = max(1, math.ceil(rules.fewest * size))
    few = 0 if rules.pacing == "literal" else few
    count = losses.hard_count(step, rules.steps, size, few)
    each = _losses(rules, *vectors, count)
    q0 = before["medians"][k] / jnp.maximum(before["batches"], 1)
    weights = _weights(rules, step, each, q0, size, count)
    value = mean_over_images(each, weights, axis_name)
    total += value
    metrics[f"loss/{anchor}|{negative}"] = value
    metrics[f"kept/{anchor}|{negative}"] = jnp.mean(weights)
    medians.append(jnp.median(gather(lax.stop_gradient(each), axis_name)))
    counts.append(count if rules.hard_negatives == "topk" else size)
  metrics["negatives"] = sum(counts) / jnp.float32(len(counts))
  return Found(total, metrics, jnp.stack(medians))


def _losses(rules, anchors, positives, negatives, count):
  """The loss of every anchor against the negatives that count."""
  vectors = anchors, positives, negatives
  if rules.hard_negatives == "hcl":
    return losses.importance_nce(
      *vectors,
      temperature=rules.temperature,
      beta=rules.beta,
      tau_plus=rules.tau_plus,
    )
  used = None
  if rules.hard_negatives == "topk":
    similarity = jnp.matmul(
      anchors, negatives.T, precision=lax.Precision.HIGHEST
    )
    used = losses.hardest(similarity, count)
  return losses.anchor_losses(
    *vectors, used=used, temperature=rules.temperature
  )


def _weights(rules, step, each, q0, size, count):
  """1 for the anchors that count, else 0."""
  if rules.pacing == "off":
    return jnp.ones_like(each)
  if rules.pacing == "literal":
    return pacing.hard(each, pacing.literal_threshold(count))
  threshold = pacing.scaled_threshold(q0, size, count)
  return pacing.hard(each, jnp.where(step < rules.epoch, jnp.inf, threshold))
