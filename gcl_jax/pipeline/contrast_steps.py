"""The pure steps of contrastive pre-training: SupCon, MoCo v2 and PCL."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gcl_jax import augment, losses
from gcl_jax.collectives import gather
from gcl_jax.engine.state import descend, follow
from gcl_jax.engine.train import Step


def supcon_step(
  encoder: Any,
  head: Any,
  optimizer: optax.GradientTransformation,
  *,
  label_names: tuple[str, ...] = (),
  label_weights: tuple[float, ...] = (),
  temperature: float = 0.07,
  block_size: int | None = None,
  soft_width: float = 0.0,
  views: dict[str, Any] | None = None,
) -> Step:
  """One step of supervised contrastive pre-training; no labels = SimCLR.

  loss = sum_k weight_k * SupCon(z, labels_k). The weights should sum to one
  if losses of several label sets are to be on the scale of one.

  Args:
    encoder, head: models; batch statistics live in state.extra.
    optimizer: an optax transformation.
    label_names: keys of the batch with int[B] labels.
    label_weights: one weight per label set.
    temperature: of the softmax.
    block_size: rows and columns of a loss block, None = dense.
    soft_width: above 0, `batch["score"]` float[B] gives the affinity
      exp(-(difference / soft_width)^2 / 2) in place of label equality.
    views: keywords of `augment.two_crops`.
  """

  def contrast(z, batch, axis_name):
    common = dict(
      temperature=temperature, axis_name=axis_name, block_size=block_size
    )
    if soft_width:
      near = losses.kernel(soft_width)
      return losses.soft_supcon(z, near, meta=batch["score"], **common)
    if not label_names:
      return losses.supcon(z, **common)
    terms = [
      weight * losses.supcon(z, batch[name], **common)
      for name, weight in zip(label_names, label_weights, strict=True)
    ]
    return sum(terms)

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    images = augment.two_crops(keys, batch["image"], **(views or {}))

    def objective(params):
      stats = state.extra["batch_stats"]
      z, stats = embed(encoder, head, params, stats, images, axis_name)
      return contrast(z, batch, axis_name), stats

    state, value = descend(state, objective, optimizer, axis_name)
    metrics = {"loss": value}
    for name in label_names:
      metrics[f"positives/{name}"] = losses.positives_per_anchor(
        batch[name], axis_name=axis_name
      )
    return state, metrics

  return step


def moco_step(
  encoder: Any,
  head: Any,
  optimizer: optax.GradientTransformation,
  *,
  temperature: float = 0.07,
  momentum: float = 0.999,
  prototypes: bool = False,
  views: dict[str, Any] | None = None,
) -> Step:
  """One step of MoCo v2, or of PCL when `prototypes` is set.

  The query is the first view through the encoder, the key the second view
  through the momentum encoder; state.extra["queue"] float32[Q, D] holds the
  keys of the last Q images. PCL adds the prototype term of the clusterings
  in state.extra["clusters"], once there is one.
  """

  def step(state, batch, *, axis_name=None):
    sample = augment.sample_keys(state.key, state.step, batch["index"])
    images = augment.two_crops(sample, batch["image"], **(views or {}))
    teacher = state.extra["teacher"]
    slow = follow(teacher["params"], state.params, momentum)
    key, slow_stats = embed(
      encoder, head, slow, teacher["batch_stats"], images[:, 1:], axis_name
    )
    key = jax.lax.stop_gradient(key[:, 0])

    def objective(params):
      query, stats = embed(
        encoder,
        head,
        params,
        state.extra["batch_stats"],
        images[:, :1],
        axis_name,
      )
      query = query[:, 0]
      queue = state.extra["queue"]
      value = losses.info_nce(query, key, queue, temperature=temperature)
      if prototypes:
        value += _prototype_term(query, batch["index"], state.extra["clusters"])
      return value, stats

    queue = state.extra["queue"]
    keys = jnp.concatenate([gather(key, axis_name), queue])[: len(queue)]
    state, value = descend(
      state,
      objective,
      optimizer,
      axis_name,
      teacher={"params": slow, "batch_stats": slow_stats},
      queue=keys,
    )
    return state, {"loss": value}

  return step


def _prototype_term(query, index, clusters):
  """Mean ProtoNCE over the clusterings; 0 before the first clustering."""
  value = losses.prototype_nce(
    query,
    clusters["centroids"],
    [assignment[index] for assignment in clusters["assignments"]],
    clusters["densities"],
  )
  return clusters["ready"] * value


def embed(encoder, head, params, batch_stats, images, axis_name):
  """Images of V views, float32[B, V, ...] -> unit vectors float32[B, V, D]."""
  rows, views = images.shape[:2]
  features, batch_stats = encoder.apply(
    {"params": params["encoder"], "batch_stats": batch_stats},
    images.reshape(rows * views, *images.shape[2:]),
    train=True,
    axis_name=axis_name,
  )
  unit = head.apply(params["head"], features)
  return unit.reshape(rows, views, -1), batch_stats
