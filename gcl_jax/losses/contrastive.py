"""Supervised contrastive losses (Khosla et al. 2020), hard and soft.

For an anchor i of a batch, with A(i) all other rows, w_ip >= 0 the weights of
its positives (1 or 0 in SupCon) and tau the temperature:

    loss_i = -(tau / tau_base) * sum_p w_ip log softmax_A(i)(z_i . z_p / tau)
             / sum_p w_ip

the "sum outside the log" form. An anchor without positives adds 0. The loss
is the mean over all anchors, on all devices.

Across devices (`axis_name`) each device contrasts its own anchors with the rows
of all devices and returns the mean over its own anchors. Take the gradient of
that value, then `pmean` loss and gradient: both are those of the whole batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.losses import blocked
from gcl_jax.losses.affinities import Affinity
from gcl_jax.losses.pairs import (
  check,
  check_labels,
  flat,
  gather,
  mean_over_images,
  weighted_mean,
)


def supcon(
  features: jax.Array,
  labels: jax.Array | None = None,
  *,
  temperature: float = 0.07,
  base_temperature: float | None = None,
  weights: jax.Array | None = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> jax.Array:
  """Supervised contrastive loss; without labels, SimCLR's.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> z = jax.nn.one_hot(jnp.array([[0, 0], [1, 1]]), 3)
    >>> round(float(supcon(z, jnp.array([4, 7]), temperature=1.0)), 4)
    0.5514

  Args:
    features: float[B, V, D], unit vectors: V views of each of B images.
      Logits and softmax are float32, or float64 where the features are.
    labels: int[B]; views of images with equal labels are positives. None:
      only the other views of the same image are.
    temperature: tau > 0.
    base_temperature: tau_base; None means `temperature`, a factor of 1.
    weights: float[B] >= 0, weights of the images in the mean over anchors,
      sum_b weights_b mean_v loss_bv / sum_b weights_b. An image of weight 0
      still is a positive or negative of others. Weights that are all 0 give 0.
    axis_name: mapped axis over which the batch is split, equally many images
      on each device. The mean of the returned values over it is the loss.
    block_size: rows and columns handled at once; None means all. The value is
      the same, memory is O(B V D) instead of O(B V B V); 1024 suits a CPU.

  Returns:
    The loss, a scalar >= 0.

  Raises:
    ValueError: shapes that do not fit, labels that are not integers, a
      temperature or block size that is not positive.
  """
  batch = check(features, weights, temperature, block_size)
  if labels is None:
    first = lax.axis_index(axis_name) * batch if axis_name else 0
    labels = first + jnp.arange(batch)
  check_labels(labels, batch)
  everyone = gather(labels, axis_name)
  if block_size is not None:
    losses = blocked.supcon_losses(
      flat(features),
      labels,
      everyone,
      features.shape[1],
      temperature,
      axis_name,
      block_size,
    )
    base = temperature if base_temperature is None else base_temperature
    return mean_over_images(losses * (temperature / base), weights, axis_name)

  def positives(i, j):
    return labels[i][:, None] == everyone[j][None, :]

  return weighted_mean(
    features,
    positives,
    temperature,
    base_temperature,
    weights,
    axis_name,
    block_size,
  )


def soft_supcon(
  features: jax.Array,
  affinity: jax.Array | Affinity,
  *,
  meta: Any = None,
  temperature: float = 0.07,
  base_temperature: float | None = None,
  weights: jax.Array | None = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> jax.Array:
  """SupCon with positives weighted by how alike two images are.

  Example: images whose thickness differs by at most 20 um are positives:
  `soft_supcon(z, threshold(20.0), meta=thickness)`. With
  `affinity=lambda a, b: a == b` and `meta=labels` it is `supcon`.

  Args:
    features: as in `supcon`.
    affinity: a matrix or a function. Matrix: float[B, B] >= 0, entry (i, j)
      the weight of the views of image j as positives of those of image i;
      with `axis_name` float[B, B of all devices], in the order of the devices.
      Function: (a, b) -> [R, C] >= 0, given the meta values of two sets of
      images as [R, 1, ...] and [1, C, ...], such as `threshold` and `kernel`.
      The entry of an image with itself is the weight of its other views; a
      view is never its own positive.
    meta: the values for an affinity function, an array [B, ...] or a pytree
      of such arrays.
    temperature, base_temperature, weights, axis_name, block_size: as in
      `supcon`.

  Returns:
    The loss, a scalar.

  Raises:
    ValueError: as `supcon`; or a matrix of another shape, or a function
      without `meta`.
  """
  batch = check(features, weights, temperature, block_size)
  if callable(affinity):
    positives = _pairwise(affinity, meta, batch, axis_name)
  else:
    total = batch * (lax.axis_size(axis_name) if axis_name else 1)
    if affinity.shape != (batch, total):
      raise ValueError(
        f"affinity must be float[{batch}, {total}] for {batch} images here"
        f" and {total} on all devices, got shape {affinity.shape}"
      )

    def positives(i, j):
      return affinity[i[:, None], j[None, :]]

  return weighted_mean(
    features,
    positives,
    temperature,
    base_temperature,
    weights,
    axis_name,
    block_size,
  )


def positives_per_anchor(
  labels: jax.Array, axis_name: str | None = None
) -> jax.Array:
  """Mean number of other images of the batch with the label of an anchor.

  Args:
    labels: int[B].
    axis_name: mapped axis over which the batch is split; the mean of the
      returned values over it is the statistic of the whole batch.

  Returns:
    A float32 scalar between 0 and (images in the whole batch) - 1.
  """
  check_labels(labels, labels.shape[0])
  same = labels[:, None] == gather(labels, axis_name)[None, :]
  return jnp.mean(jnp.sum(same, axis=1, dtype=jnp.float32)) - 1


def _pairwise(affinity, meta, batch, axis_name):
  if meta is None or any(m.shape[0] != batch for m in jax.tree.leaves(meta)):
    raise ValueError(
      f"an affinity function needs meta with {batch} values, one per image"
    )
  everyone = jax.tree.map(lambda m: gather(m, axis_name), meta)

  def positives(i, j):
    return affinity(
      jax.tree.map(lambda m: m[i][:, None], meta),
      jax.tree.map(lambda m: m[j][None, :], everyone),
    )

  return positives
