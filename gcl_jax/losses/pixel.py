"""Contrast of single pixels: the pixel-wise loss of GCL, in our reading."""

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.losses.pairs import mean_over_images

# Stands for "not a negative" before a logarithm of exponentials; finite, so
# that an anchor without any negative has loss 0 and no nan.
_LOW = -1e30


def pixel_nce(
  anchors: jax.Array,
  positives: jax.Array,
  negatives: jax.Array,
  weights: jax.Array | None = None,
  temperature: float = 0.1,
  *,
  used: jax.Array | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """InfoNCE of pixel pairs against negatives shared by an image's anchors.

      loss_a = -log( exp(y_a . y_p / tau)
                     / (exp(y_a . y_p / tau) + sum_w exp(y_a . y_w / tau)) )

  with p the positive of anchor a and w the negatives used for it; the mean of
  loss_a by `weights`. GCL (Wu et al., ACM MM 2023) gives no formula; this is
  InfoNCE (van den Oord et al. 2018, equation 4) of pixels. Everything given
  as vectors is differentiated. Memory is O(images x A x (D + P)).

  Example:
    >>> import jax.numpy as jnp
    >>> one, other = jnp.float32([[[1, 0]]]), jnp.float32([[[0, 1]]])
    >>> round(float(pixel_nce(one, one, other, temperature=1.0)), 4)
    0.3133

  Args:
    anchors: float[..., A, D], unit vectors: A pixels of each image.
    positives: float[..., A, D], unit vectors: the positive of each.
    negatives: float[..., P, D], unit vectors, candidates of all A anchors.
    weights: float[..., A] >= 0: 1 for a pair that counts, 0 for padding. None
      means all 1. Weights that are all 0 give 0.
    temperature: tau > 0.
    used: bool[..., A, P]: which negatives count for which anchor. None means
      all. An anchor without negatives adds a loss of 0.
    axis_name: mapped axis over which the images are split, equally many on
      each device. The mean of the returned values over it is the loss of all
      pairs of all devices; pmean loss and gradient.

  Returns:
    The loss, a scalar >= 0, float32 (float64 where the anchors are).

  Raises:
    ValueError: shapes that do not fit, or a temperature not positive.
  """
  _check(anchors, positives, negatives, weights, used, temperature)
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
  # log(1 + sum exp(other - positive)): exact where the pair is won already.
  losses = jax.nn.softplus(jax.nn.logsumexp(others, axis=-1) - positive)
  weights = None if weights is None else weights.reshape(-1)
  return mean_over_images(losses.reshape(-1), weights, axis_name)


def _check(anchors, positives, negatives, weights, used, temperature):
  if anchors.ndim < 2 or positives.shape != anchors.shape:
    raise ValueError(
      "anchors and positives must be float[..., A, D] of one shape, got"
      f" {anchors.shape} and {positives.shape}"
    )
  *images, count, size = anchors.shape
  pool = negatives.shape[-2] if negatives.ndim > 1 else 0
  if negatives.shape != (*images, pool, size):
    raise ValueError(
      f"negatives must be float{[*images, 'P', size]}, got {negatives.shape}"
    )
  if weights is not None and weights.shape != (*images, count):
    raise ValueError(
      f"weights must be float{[*images, count]}, got {weights.shape}"
    )
  if used is not None and used.shape != (*images, count, pool):
    raise ValueError(
      f"used must be bool{[*images, count, pool]}, got {used.shape}"
    )
  if not isinstance(temperature, jax.core.Tracer) and temperature <= 0:
    raise ValueError(f"temperature must be positive, got {temperature}")
