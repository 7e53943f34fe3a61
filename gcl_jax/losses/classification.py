"""Cross-entropy for grades and for several binary labels, some missing."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gcl_jax.collectives import pmean

KINDS = ("softmax", "sigmoid", "ordinal")


def cross_entropy(
  logits: jax.Array,
  target: jax.Array,
  *,
  kind: str,
  class_weights: jax.Array | Sequence[float] | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Mean cross-entropy of the known labels, over the whole batch.

      softmax  loss_b  = -log softmax(logits_b)[y_b]
      sigmoid  loss_bk = -y_bk log s_bk - (1 - y_bk) log(1 - s_bk)
      ordinal  loss_b  = -sum_k ( [y_b > k] log s_bk
                                  + [y_b <= k] log(1 - s_bk) )

  with s = sigmoid(logits). In the ordinal loss logit k is the cumulative logit
  of "the grade is above k", k = 0 to K - 2, and the loss a sum over these K - 1
  thresholds (the loss of CORAL, Cao et al. 2020). Nothing makes the logits
  decrease in k: `ordinal_probabilities` says how that is handled.

  Across devices (`axis_name`) the mean of the returned values over the axis is
  the loss of the whole batch, also where devices have different numbers of
  known labels: take the gradient of the value, then `pmean` both.

  Example:
    >>> import jax.numpy as jnp
    >>> logits, grades = jnp.zeros((3, 4)), jnp.array([2, 0, -1])
    >>> round(float(cross_entropy(logits, grades, kind="softmax")), 4)
    1.3863

  Args:
    logits: float[B, K]; for K grades and "ordinal" float[B, K - 1].
    target: "softmax" and "ordinal": int[B] or float[B], grades 0 to K - 1,
      with -1 or nan for a missing one; any other value gives a loss of nan.
      "sigmoid": float[B, K] of 0, 1, and nan for a missing label.
    kind: one of `KINDS`.
    class_weights: weights >= 0 of the labels in the mean: float[K] by their
      grade or, with "sigmoid", by their column; float[K, 2] with "sigmoid" by
      their column and value, 0 then 1. None means all 1. `balanced(target)` and
      `segmentation.inverse_frequency(grades, K)` give both values, or every
      grade, the same total weight.
    axis_name: mapped axis over which the batch is split, equally many rows on
      each device.

  Returns:
    A scalar >= 0, float32 (float64 where the logits are): sum of weights times
    losses of the known labels / sum of their weights; 0 without any.

  Raises:
    ValueError: an unknown kind or shapes that do not fit.
  """
  _check(logits, target, kind, class_weights)
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  known = ~jnp.isnan(target)
  if kind != "sigmoid":
    known &= target != -1
  label = jnp.where(known, target, 0)
  if kind == "sigmoid":
    losses = optax.sigmoid_binary_cross_entropy(logits, label)
  else:
    losses = _of_grades(logits, label, kind)
  weights = known.astype(losses.dtype)
  if class_weights is not None:
    classes = jnp.asarray(class_weights, losses.dtype)
    weights *= _of_labels(classes, label, kind)
  total = pmean(weights.mean(), axis_name)
  weighted = jnp.where(known, losses * weights, 0.0)
  return weighted.mean() / jnp.where(total > 0, total, 1)


def balanced(target: np.ndarray) -> np.ndarray:
  """Weights of binary labels: each value of a label has the same total.

      w_kc = n_k / (2 n_kc)

  with n_k known labels of column k and n_kc of value c among them. A column of
  one value has weights 1; the mean weight of a known label is 1.

  Args:
    target: float[N, K] of 0, 1, and nan for a missing label.

  Returns:
    float32[K, 2], for `class_weights` of `cross_entropy`.
  """
  target = np.asarray(target, np.float64)
  counts = np.stack([(target == value).sum(0) for value in (0, 1)], 1)
  weights = counts.sum(1, keepdims=True) / np.maximum(2 * counts, 1)
  both = (counts > 0).all(1, keepdims=True)
  return np.where(both, weights, 1).astype(np.float32)


def ordinal_probabilities(logits: jax.Array) -> jax.Array:
  """Probabilities of K grades from the K - 1 logits of "grade above k".

      P(grade = k) = q_{k-1} - q_k,   q_k = min_{j <= k} sigmoid(logits_j)

  with q_{-1} = 1 and q_{K-1} = 0. The running minimum changes nothing where
  the logits decrease in k; where they do not, it keeps every probability at
  or above 0.

  Example:
    >>> import jax.numpy as jnp
    >>> ordinal_probabilities(jnp.zeros(1)).tolist()
    [0.5, 0.5]

  Args:
    logits: float[..., K - 1].

  Returns:
    float[..., K] in [0, 1] with a sum of 1 along the last axis, float32
    (float64 where the logits are).
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  above = jax.lax.cummin(jax.nn.sigmoid(logits), axis=logits.ndim - 1)
  ends = [(0, 0)] * (logits.ndim - 1)
  upper = jnp.pad(above, [*ends, (1, 0)], constant_values=1)
  return upper - jnp.pad(above, [*ends, (0, 1)])


def _of_labels(classes, label, kind):
  """Weights of labels, shaped to multiply their losses."""
  if kind != "sigmoid":
    return classes[label.astype(int)]
  if classes.ndim == 1:
    return classes
  return jnp.where(label == 1, classes[:, 1], classes[:, 0])


def _of_grades(logits, grade, kind):
  """Losses float[B] of grades, nan where one is no integer of 0 to K - 1."""
  index = grade.astype(int)
  if kind == "softmax":
    classes = logits.shape[1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, index)
  else:
    classes = logits.shape[1] + 1
    above = (index[:, None] > jnp.arange(classes - 1)).astype(logits.dtype)
    losses = optax.sigmoid_binary_cross_entropy(logits, above).sum(axis=1)
  valid = (index == grade) & (index >= 0) & (index < classes)
  return jnp.where(valid, losses, jnp.nan)


def _check(logits, target, kind, class_weights):
  if kind not in KINDS:
    raise ValueError(f"unknown kind {kind!r}: one of {', '.join(KINDS)}")
  least = 2 if kind == "softmax" else 1
  if logits.ndim != 2 or logits.shape[1] < least:
    raise ValueError(
      f"logits must be float[B, {least} or more] for {kind}, got {logits.shape}"
    )
  wanted = logits.shape if kind == "sigmoid" else logits.shape[:1]
  if target.shape != wanted:
    raise ValueError(
      f"target must have shape {wanted} for {kind} of logits {logits.shape},"
      f" got {target.shape}"
    )
  classes = logits.shape[1] + (kind == "ordinal")
  allowed = [(classes,), *([(classes, 2)] if kind == "sigmoid" else [])]
  if class_weights is not None and np.shape(class_weights) not in allowed:
    raise ValueError(
      f"class_weights must be float[{classes}], one per class, got"
      f" {np.shape(class_weights)}"
    )
