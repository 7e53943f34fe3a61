"""InfoNCE: each anchor has one positive and explicitly given negatives.

`anchor_losses` is the loss of every anchor; `info_nce` (momentum contrast) and
`pixel_nce` (pixels) are means of it.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.losses.pairs import mean_over_images

# The logit of an unused negative; finite, so that an anchor without negatives
# has loss 0 and a gradient of 0 in place of nan.
_LOW = -1e30


def anchor_losses(
  anchors: jax.Array,
  positives: jax.Array,
  negatives: jax.Array,
  *,
  used: jax.Array | None = None,
  temperature: float | jax.Array,
) -> jax.Array:
  """InfoNCE of each anchor (van den Oord et al. 2018, equation 4).

      loss_a = -log( exp(y_a . y_p / tau)
                     / (exp(y_a . y_p / tau) + sum_n exp(y_a . y_n / tau)) )

  with p the positive of anchor a and n the negatives used for it. Other
  anchors are no negatives. All vectors are differentiated; `stop_gradient`
  makes some of them constants. Memory is O(A (D + P)) per leading entry.

  Example:
    >>> import jax.numpy as jnp
    >>> one, other = jnp.float32([[1, 0]]), jnp.float32([[0, 1]])
    >>> round(float(anchor_losses(one, one, other, temperature=1.0)[0]), 4)
    0.3133

  Args:
    anchors: float[..., A, D], unit vectors.
    positives: float[..., A, D], unit vectors, the positive of each anchor.
    negatives: float[..., P, D], unit vectors, shared by the A anchors.
    used: bool[..., A, P], which negatives count for which anchor. None means
      all.
    temperature: tau > 0.

  Returns:
    float[..., A] >= 0, float32 (float64 where the anchors are); 0 for an
    anchor without negatives.

  Raises:
    ValueError: shapes that do not fit, or a temperature not positive.
  """
  _check(anchors, positives, negatives, used, temperature)
  dtype = jnp.promote_types(anchors.dtype, jnp.float32)
  anchors, positives, negatives = (
    x.astype(dtype) for x in (anchors, positives, negatives)
  )
  positive = jnp.sum(anchors * positives, axis=-1) / temperature
  others = jnp.einsum(
    "...ad,...pd->...ap", anchors, negatives, precision=lax.Precision.HIGHEST
  )
  others = others / temperature
  if used is not None:
    others = jnp.where(used, others, _LOW)
  # log(1 + sum exp(other - positive)) keeps the digits of a loss close to 0.
  return jax.nn.softplus(jax.nn.logsumexp(others, axis=-1) - positive)


def info_nce(
  query: jax.Array,
  key: jax.Array,
  queue: jax.Array,
  *,
  temperature: float | jax.Array = 0.07,
) -> jax.Array:
  """InfoNCE of momentum contrast (He et al. 2020, equation 1; MoCo v2).

  The mean over the batch of `anchor_losses` with the queries as anchors. Keys
  and queue are constants: only the query is differentiated. The loss of one
  query needs no other query, so across devices the mean of the values is the
  loss.

  Args:
    query: float[B, D], unit vectors from the encoder.
    key: float[B, D], unit vectors of the other view from the momentum
      encoder.
    queue: float[K, D], unit vectors, keys of earlier batches.
    temperature: tau > 0.

  Returns:
    A scalar >= 0, float32 (float64 where the query is).

  Raises:
    ValueError: shapes that do not fit, or a temperature not positive.
  """
  if query.ndim != 2 or key.shape != query.shape:
    raise ValueError(
      f"query and key must be float[B, D], got {query.shape} and {key.shape}"
    )
  if queue.ndim != 2 or queue.shape[1] != query.shape[1]:
    raise ValueError(
      f"queue must be float[K, {query.shape[1]}], got {queue.shape}"
    )
  key, queue = lax.stop_gradient((key, queue))
  return jnp.mean(anchor_losses(query, key, queue, temperature=temperature))


def pixel_nce(
  anchors: jax.Array,
  positives: jax.Array,
  negatives: jax.Array,
  weights: jax.Array | None = None,
  temperature: float | jax.Array = 0.1,
  *,
  used: jax.Array | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """InfoNCE of pixel pairs against negatives shared by an image's anchors.

  The mean of `anchor_losses` by `weights`. GCL (Wu et al., ACM MM 2023) gives
  no formula of its pixel-wise loss; InfoNCE of pixels is our reading.

  Args:
    anchors: float[..., A, D], unit vectors, A pixels of each image.
    positives: float[..., A, D], unit vectors, the positive of each anchor.
    negatives: float[..., P, D], unit vectors, shared by the A anchors.
    weights: float[..., A] >= 0, 1 for a pair that counts, 0 for padding. None
      means all 1. Weights that are all 0 give 0.
    temperature: tau > 0.
    used: bool[..., A, P], which negatives count for which anchor. None means
      all.
    axis_name: mapped axis over which the images are split, equally many on
      each device. The mean of the returned values over it is the loss of all
      pairs of all devices; `pmean` loss and gradient.

  Returns:
    The loss, a scalar >= 0, float32 (float64 where the anchors are).

  Raises:
    ValueError: shapes that do not fit, or a temperature not positive.
  """
  losses = anchor_losses(
    anchors, positives, negatives, used=used, temperature=temperature
  )
  if weights is not None:
    if weights.shape != losses.shape:
      raise ValueError(
        f"weights must be float{list(losses.shape)}, got {weights.shape}"
      )
    weights = weights.reshape(-1)
  return mean_over_images(losses.reshape(-1), weights, axis_name)


def _check(anchors, positives, negatives, used, temperature):
  if anchors.ndim < 2 or positives.shape != anchors.shape:
    raise ValueError(
      "anchors and positives must be float[..., A, D] of one shape, got"
      f" {anchors.shape} and {positives.shape}"
    )
  *leading, count, size = anchors.shape
  pool = negatives.shape[-2] if negatives.ndim > 1 else 0
  if negatives.shape != (*leading, pool, size):
    raise ValueError(
      f"negatives must be float{[*leading, 'P', size]}, got {negatives.shape}"
    )
  if used is not None and used.shape != (*leading, count, pool):
    raise ValueError(
      f"used must be bool{[*leading, count, pool]}, got {used.shape}"
    )
  if not isinstance(temperature, jax.core.Tracer) and temperature <= 0:
    raise ValueError(f"temperature must be positive, got {temperature}")
