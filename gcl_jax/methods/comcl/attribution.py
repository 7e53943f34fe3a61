"""Where a classifier looks: gradient x activation at its last feature map."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gcl_jax import augment, losses
from gcl_jax.models import heads
from gcl_jax.pipeline.finetune_steps import outputs


def gradient_times_activation(
  score: Callable[[jax.Array], jax.Array], activations: jax.Array
) -> jax.Array:
  """Contribution of every place of a feature map to a score.

  The sum over channels of the score's gradient times the activation. For a
  score that is linear in the map, a mean over places and a linear layer, the
  sum over places is the score less its bias.

  Args:
    score: float[B, h, w, C] -> float[B], each of its own row alone.
    activations: float[B, h, w, C].

  Returns:
    float[B, h, w], negative where a place speaks against the score.
  """
  gradient = jax.grad(lambda values: score(values).sum())(activations)
  return (gradient * activations).sum(-1)


def score_of(logits: jax.Array, kind: str) -> jax.Array:
  """The logit that speaks for the prediction, float[B].

  "softmax" and "sigmoid": the largest one. "ordinal": the logit of "the grade
  is at least g" for the most probable grade g, of "above 0", negative, for 0.

  Args:
    logits: float[B, K], K - 1 for "ordinal".
    kind: of `losses.cross_entropy`.
  """
  if kind != "ordinal":
    return logits.max(-1)
  grade = losses.ordinal_probabilities(logits).argmax(-1)
  chosen = jnp.maximum(grade - 1, 0)[:, None]
  logit = jnp.take_along_axis(logits, chosen, axis=-1)[:, 0]
  return jnp.where(grade > 0, logit, -logit)


def mapped(
  encoder: Any, labels: int, statistics: tuple, kind: str
) -> Callable[..., jax.Array]:
  """fn(trained, batch) for `Context.map`: float32[B, H, W].

  The contributions to `score_of` the prediction, enlarged to the image
  (bilinear).

  Args:
    encoder, labels, statistics, kind: as for `finetune.predictor`.
  """
  head = heads.linear(outputs(kind, labels))

  def one_batch(trained, batch):
    images = augment.normalise(batch["image"], *statistics)
    found = encoder.apply(trained["encoder"], images, maps=True)

    def score(activations):
      pooled = activations.mean((1, 2))
      return score_of(head.apply(trained["head"], pooled), kind)

    places = gradient_times_activation(score, found[-1][-1])
    return jax.image.resize(places, images.shape[:3], "bilinear")

  return one_batch
