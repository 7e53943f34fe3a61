"""Alignment of images with text: contrast whose targets are soft.

For rows v_i of one kind and e_j of another with classes c_i and c_j, a scale s
= 1 / temperature and T_ij = 1[c_i = c_j] / sum_k 1[c_i = c_k]:

    loss = (CE(s v e^T, T) + CE(s e v^T, T')) / 2

the form of CLIP (Radford et al. 2021) in which all rows of a class are
positives (FLAIR: Silva-Rodriguez et al. 2025); T' normalises the rows of e.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.losses.pairs import check_labels, gather


def soft_clip(
  first: jax.Array,
  second: jax.Array,
  first_classes: jax.Array,
  second_classes: jax.Array,
  scale: jax.Array | float,
  *,
  axis_name: str | None = None,
) -> jax.Array:
  """Cross-entropy between cosines of two kinds and who shares a class.

  With all classes distinct it is CLIP's loss; with all equal it is at least log
  N. A row whose class the other kind has not adds 0.

  Example:
    >>> import jax.numpy as jnp
    >>> v = jnp.eye(2)
    >>> round(float(soft_clip(v, v, jnp.arange(2), jnp.arange(2), 1.0)), 4)
    0.3133

  Args:
    first: float[B, D], unit vectors, of images for instance.
    second: float[C, D], unit vectors, of text for instance.
    first_classes: int[B].
    second_classes: int[C].
    scale: s > 0, a number or a learned scalar.
    axis_name: mapped axis over which both are split, equally many on each
      device: each device contrasts its rows with those of all devices. The mean
      of the returned values over it is the loss.

  Returns:
    The loss, a scalar >= 0.

  Raises:
    ValueError: shapes that do not fit or classes that are not integers.
  """
  for rows in (first, second):
    if rows.ndim != 2 or rows.shape[1] != first.shape[1]:
      raise ValueError(
        "vectors must be float[B, D] and float[C, D], got shapes"
        f" {first.shape} and {second.shape}"
      )
  check_labels(first_classes, len(first))
  check_labels(second_classes, len(second))
  return 0.5 * (
    _one_side(first, second, first_classes, second_classes, scale, axis_name)
    + _one_side(second, first, second_classes, first_classes, scale, axis_name)
  )


def _one_side(rows, others, classes, other_classes, scale, axis_name):
  """Mean cross-entropy of rows of this device over the others of all."""
  dtype = jnp.promote_types(rows.dtype, jnp.float32)
  everyone = gather(others.astype(dtype), axis_name)
  cosines = jnp.matmul(
    rows.astype(dtype), everyone.T, precision=lax.Precision.HIGHEST
  )
  same = classes[:, None] == gather(other_classes, axis_name)[None]
  targets = same / jnp.maximum(jnp.sum(same, axis=1, keepdims=True), 1)
  log_share = jax.nn.log_softmax(scale * cosines, axis=1)
  return -jnp.mean(jnp.sum(targets * log_share, axis=1))


def prototypes(
  vectors: jax.Array, there: jax.Array | None = None, unit: bool = True
) -> jax.Array:
  """Means of the text vectors of every class (a prompt ensemble).

  The mean of unit vectors is shorter than they are: six at mutual cosines of
  0.6 have a mean of length 0.816, which a softmax over classes would take for
  a lower cosine. `unit` divides by that length.

  Args:
    vectors: float[C, N, D], unit vectors of N descriptions of each class.
    there: bool[C, N], which descriptions a class has; None for all.
    unit: whether the means are brought back to length 1.

  Returns:
    float[C, D]; zeros for a class without descriptions.
  """
  if there is None:
    there = jnp.ones(vectors.shape[:2], bool)
  share = there / jnp.maximum(jnp.sum(there, axis=1, keepdims=True), 1)
  mean = jnp.sum(share[..., None] * vectors, axis=1)
  if not unit:
    return mean
  square = jnp.sum(mean**2, axis=-1, keepdims=True)
  some = square > 0
  return jnp.where(some, mean * lax.rsqrt(jnp.where(some, square, 1)), 0)


def zero_shot(
  vectors: jax.Array, classes: jax.Array, scale: jax.Array | float
) -> jax.Array:
  """Probabilities of classes by the cosine with their prototypes.

      p(c | i) = softmax_c(s v_i . e_c)

  Args:
    vectors: float[B, D], unit vectors of images.
    classes: float[C, D], from `prototypes`.
    scale: s.

  Returns:
    float[B, C], rows sum to 1.
  """
  return jax.nn.softmax(scale * vectors @ classes.T, axis=-1)
