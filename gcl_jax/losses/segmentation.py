"""Cross-entropy plus soft Dice for segmentation with few labels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax.collectives import pmean


def cross_entropy_dice(
  logits: jax.Array,
  masks: jax.Array,
  *,
  dice_weight: float = 1.0,
  class_weights: jax.Array | Sequence[float] | None = None,
  background: bool = False,
  axis_name: str | None = None,
) -> jax.Array:
  """Cross-entropy plus soft Dice, both pooled over the whole batch.

  With p softmax probabilities, y one-hot labels, w class weights, sums over
  all pixels of all images:

      CE   = -sum_u w[y_u] log p[u, y_u] / sum_u w[y_u]
      Dice_c = 2 sum_u p[u, c] y[u, c] / (sum_u p[u, c] + sum_u y[u, c])
      loss = CE + dice_weight (1 - mean of Dice_c over the classes c in y)

  The Dice term gives every class the same weight (Milletari et al. 2016), so
  that ignoring a small class raises the loss by as much as ignoring a large
  one. A class without a pixel in the batch is left out of the mean of Dice_c;
  the cross-entropy alone lowers its probability. Without any class left the
  Dice term is 0.

  Across devices (`axis_name`) all sums are over the pixels of all devices. The
  mean of the returned values over the axis is the loss of the whole batch:
  take the gradient of the value, then `pmean` both.

  Args:
    logits: float[B, ..., K]; the loss is float32, or float64 where they are.
    masks: int[B, ...], labels 0 to K - 1, 0 the background. Pixels with any
      other label (255, say) are left out of both terms.
    dice_weight: weight of the Dice term; 0 is cross-entropy alone.
    class_weights: float[K] >= 0 for the cross-entropy (`inverse_frequency`);
      None weighs every pixel the same.
    background: True includes class 0 in the Dice term.
    axis_name: mapped axis over which the batch is split.

  Returns:
    The loss, a scalar >= 0.

  Raises:
    ValueError: shapes that do not fit, masks that are not integers, fewer
      than two classes.
  """
  _check(logits, masks, class_weights)
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  classes = logits.shape[-1]
  truth = jax.nn.one_hot(masks, classes, dtype=logits.dtype)
  truth = truth.reshape(-1, classes)
  log_probabilities = jax.nn.log_softmax(logits).reshape(-1, classes)
  weighted = truth
  if class_weights is not None:
    weighted = truth * jnp.asarray(class_weights, logits.dtype)
  total = pmean(jnp.sum(weighted), axis_name)
  loss = -jnp.sum(weighted * log_probabilities) / jnp.where(total, total, 1)
  if isinstance(dice_weight, (int, float)) and dice_weight == 0:
    return loss
  probabilities = jnp.exp(log_probabilities)
  start = 0 if background else 1
  dice = _missing_dice(probabilities, truth, start, axis_name)
  return loss + dice_weight * dice


def inverse_frequency(masks: np.ndarray, classes: int) -> np.ndarray:
  """Class weights N / (K n_c): equal total weight of the classes, in numpy.

  n_c is the number of pixels of class c and K the number of classes with any
  pixel. Classes without a pixel, as few labelled patients may leave, have
  weight 0. The mean weight of a pixel is 1.

  Args:
    masks: int[...], the masks of the whole labelled set, or its grades; N of
      the labels are from 0 to classes - 1, the others are not counted.
    classes: number of classes.

  Returns:
    float32[classes].
  """
  masks = np.asarray(masks)
  known = masks[(masks >= 0) & (masks < classes)].astype(np.int64)
  counts = np.bincount(known.ravel(), minlength=classes)
  wanted = max(1, np.count_nonzero(counts)) * counts
  weights = counts.sum() / np.maximum(wanted, 1)
  return np.where(counts > 0, weights, 0).astype(np.float32)


def _missing_dice(probabilities, truth, start, axis_name):
  """1 - mean soft Dice of the classes from `start` that have a pixel."""
  known = jnp.sum(truth, axis=1, keepdims=True)
  overlap = jnp.sum(probabilities * truth, axis=0)[start:]
  size = jnp.sum(truth, axis=0)[start:]
  both = jnp.sum(probabilities * known, axis=0)[start:] + size
  if axis_name:
    overlap, size, both = lax.psum((overlap, size, both), axis_name)
  some = size > 0
  missing = jnp.where(some, 1 - 2 * overlap / jnp.where(some, both, 1), 0)
  return jnp.sum(missing) / jnp.maximum(jnp.sum(some), 1)


def _check(logits, masks, class_weights):
  if logits.ndim < 2 or logits.shape[-1] < 2:
    raise ValueError(
      f"logits must be [B, ..., K] with K of at least 2, got {logits.shape}"
    )
  if masks.shape != logits.shape[:-1]:
    raise ValueError(
      f"masks must be int{list(logits.shape[:-1])} for logits of shape "
      f"{logits.shape}, got shape {masks.shape}"
    )
  if not jnp.issubdtype(masks.dtype, jnp.integer):
    raise ValueError(f"masks must be integers, got {masks.dtype}")
  if class_weights is not None and np.shape(class_weights) != (
    logits.shape[-1],
  ):
    raise ValueError(
      f"class_weights must be float[{logits.shape[-1]}], one per class, got "
      f"shape {np.shape(class_weights)}"
    )
