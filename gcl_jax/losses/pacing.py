"""Self-paced weights: samples of small loss first, the others later.

Kumar et al. (NeurIPS 2010) and Jiang et al. (AAAI 2014): a sample counts by how
far its loss lies below a threshold, and the threshold rises while training.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.collectives import gather

_LOW = -1e30  # the logit of a row with itself, which is no candidate


def soft(losses: jax.Array, threshold: jax.Array | float) -> jax.Array:
  """Linear weights max(0, 1 - loss / threshold).

  They minimise sum_i w_i l_i + threshold sum_i (w_i^2 / 2 - w_i) over w in
  [0, 1]. Constants: no gradient flows into the losses.

  Example:
    >>> import jax.numpy as jnp
    >>> soft(jnp.float32([0, 1, 2, 3]), 2.0).tolist()
    [1.0, 0.5, 0.0, 0.0]

  Args:
    losses: float[...] >= 0.
    threshold: the loss from which a sample counts no more, above 0; a number
      or an array that broadcasts to the losses.

  Returns:
    float[...] in [0, 1].
  """
  return jnp.maximum(0.0, 1 - lax.stop_gradient(losses) / threshold)


def hard(losses: jax.Array, threshold: jax.Array | float) -> jax.Array:
  """Weights 1 where loss <= threshold, else 0.

  They minimise sum_i w_i l_i - threshold sum_i w_i over w in {0, 1}.
  Constants: no gradient flows into the losses.

  Example:
    >>> import jax.numpy as jnp
    >>> hard(jnp.float32([0, 1, 2, 3]), 2.0).tolist()
    [1.0, 1.0, 1.0, 0.0]

  Args:
    losses: float[...].
    threshold: the largest loss that counts; a number or an array that
      broadcasts to the losses.

  Returns:
    float[...], 0 or 1.
  """
  return (lax.stop_gradient(losses) <= threshold).astype(losses.dtype)


def literal_threshold(count: jax.Array | int) -> jax.Array:
  """1 / K, the published threshold of CoMCL (Hou et al., MICCAI 2024).

  It selects nobody: with K = 7,200 negatives it is 0.000139, and the loss of a
  positive of cosine 0.8 among that many random directions of 128 dimensions is
  0.163 at a temperature of 0.07.

  Args:
    count: K, negatives of an anchor at this step.

  Returns:
    float32, infinity for K = 0.
  """
  count = jnp.asarray(count, jnp.float32)
  return jnp.where(count > 0, 1 / jnp.maximum(count, 1), jnp.inf)


def scaled_threshold(
  first_median: jax.Array | float, total: int, count: jax.Array | int
) -> jax.Array:
  """q0 total / K: the law of 1 / K in the unit of the losses.

  It is the median q0 of the losses of the first epoch while all negatives are
  used, and rises as K falls.

  Args:
    first_median: q0 > 0.
    total: number of negatives of an anchor.
    count: K, those used at this step.

  Returns:
    float32, infinity for K = 0.
  """
  return first_median * total * literal_threshold(count)


_binary = hard  # `pair_weights` has an argument of that name


def pair_weights(
  features: jax.Array,
  threshold: jax.Array | float,
  *,
  hard: bool = False,
  temperature: float | jax.Array = 0.1,
  axis_name: str | None = None,
) -> jax.Array:
  """Self-paced weights of all pairs of images by their contrastive losses.

      l_ij = -mean over views of log( exp(z_i . z_j / tau)
                                      / sum_{a != i} exp(z_i . z_a / tau) )

  Peng et al. (NeurIPS 2021); that the loss of two images is the mean over
  their views is our reading. Multiply an affinity of `soft_supcon` with them.

  Args:
    features: float[B, V, D], unit vectors, V views of each of B images.
    threshold: the loss at which a pair stops counting, above 0.
    hard: weights of `hard` in place of `soft`.
    temperature: tau > 0.
    axis_name: mapped axis over which the batch is split.

  Returns:
    float32[B, B of all devices] in [0, 1], constants. The diagonal is 1: the
    other views of an image always count.
  """
  features = lax.stop_gradient(features).astype(jnp.float32)
  batch, views, size = features.shape
  first = lax.axis_index(axis_name) * batch if axis_name else 0
  rows = features.reshape(-1, size)
  columns = gather(rows, axis_name)
  logits = jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)
  own = first * views + jnp.arange(len(rows))
  itself = own[:, None] == jnp.arange(len(columns))[None]
  logits = jnp.where(itself, _LOW, logits / temperature)
  losses = -jax.nn.log_softmax(logits, axis=1)
  pairs = losses.reshape(batch, views, -1, views).mean(axis=(1, 3))
  weights = (_binary if hard else soft)(pairs, threshold)
  same = first + jnp.arange(batch)[:, None] == jnp.arange(pairs.shape[1])[None]
  return jnp.where(same, 1.0, weights)
