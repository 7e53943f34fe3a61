"""Self-paced weights of pairs: the competitor that needs no gradients.

Peng et al. (NeurIPS 2021): a pair whose own contrastive loss is large counts
less, and the bar is raised while training. Our reading: the loss of a pair of
slices is the mean over their views, and the weights multiply the affinity.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.collectives import gather

_LOW = -1e30


def weights(
  features: jax.Array,
  gamma: jax.Array | float,
  *,
  hard: bool = False,
  temperature: float = 0.1,
  axis_name: str | None = None,
) -> jax.Array:
  """w_ij = max(0, 1 - l_ij / gamma), or 1 where l_ij <= gamma.

      l_ij = -mean over views of log( exp(z_i . z_j / tau)
                                      / sum_a exp(z_i . z_a / tau) )

  Args:
    features: float[B, V, D], unit vectors; constants here.
    gamma: the loss at which a pair stops counting, above 0.
    hard: 1 or 0 instead of a weight in between.
    temperature: tau.
    axis_name: mapped axis over which the batch is split.

  Returns:
    float32[B, B of all devices] in [0, 1]. The diagonal is 1: the other view
    of a slice always counts.
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
  found = (
    (pairs <= gamma).astype(jnp.float32)
    if hard
    else jnp.maximum(0.0, 1 - pairs / gamma)
  )
  same = first + jnp.arange(batch)[:, None] == jnp.arange(found.shape[1])[None]
  return jnp.where(same, 1.0, found)
