"""GradCON: a gradient constraint in training and a gradient score afterwards.

Kwon, Prabhushankar, Temel and AlRegib, "Backpropagated Gradient
Representations for Anomaly Detection", ECCV 2020. An autoencoder learns
healthy images while the gradients of its decoder are kept aligned with the mean
of earlier ones; an image with a gradient in another direction is abnormal.

Only the weights (not the biases) of the decoder's transposed convolutions are
used.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcl_jax.collectives import pmean
from gcl_jax.gradients.anomaly import (
  ENGINES,
  Scores,
  check_images,
  error_map,
  plan,
  scores,
  select,
)
from gcl_jax.gradients.reference import (
  EPS,
  Reference,
  check_shapes,
  constant,
  cosine,
  start,
  update,
)
from gcl_jax.models.autoencoder import Autoencoder, Params

__all__ = [
  "ENGINES",
  "Reference",
  "Scores",
  "error_map",
  "loss",
  "plan",
  "scores",
  "select",
  "start",
  "update",
]


def loss(
  model: Autoencoder,
  params: Params,
  images: jax.Array,
  reference: Reference | Sequence[jax.Array] | None,
  *,
  alpha: float | jax.Array = 0.03,
  axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """GradCON's training loss, J = L + alpha G.

      L = mean squared error over all elements of the batch
      G = -(1/4) sum over decoder layers l of cos(dL/dW_l, r_l)

  The derivative of J includes the second-order terms of G, also with respect to
  the encoder. Across devices: `value_and_grad`, then `pmean` of the gradient,
  under `pmap` or `shard_map(check_vma=False)`, equals one device with the whole
  batch if the shards have equal sizes.

  Example:
    >>> (total, aux), grads = jax.value_and_grad(
    ...   gradcon.loss, argnums=1, has_aux=True
    ... )(model, params, images, reference)
    >>> reference = gradcon.update(reference, model.decoder_weights(grads))

  Args:
    model: the result of `gcl_jax.models.autoencoder.autoencoder`.
    params: its parameters.
    images: float[B, H, W, C] in [0, 1].
    reference: the Reference, or its four arrays alone, constant under
      differentiation. With None or a count of 0 (first iteration) there is no
      history and G is exactly 0.
    alpha: weight of G. A Python 0 leaves G out (reported as 0), which saves
      the second backward pass.
    axis_name: axis over which the batch is split, or None.

  Returns:
    J and {"recon": L, "gradient": G, "cos": float[4]}, equal on all devices.

  Raises:
    ValueError: images that are not float[B, H, W, C] or do not fit the model;
      reference gradients whose shapes do not fit the decoder.
  """
  check_images(images)
  weights = model.decoder_weights(params)
  latents = model.encode(params, images)

  def reconstruction_error(weights):
    decoded = model.decode(model.with_decoder_weights(params, weights), latents)
    return jnp.mean(jnp.square(decoded - images))

  if reference is None or (isinstance(alpha, (int, float)) and alpha == 0):
    recon = pmean(reconstruction_error(weights), axis_name)
    none = jnp.zeros((len(weights),), recon.dtype)
    return recon, {"recon": recon, "gradient": none.sum(), "cos": none}

  mean, count = constant(reference)
  check_shapes(mean, weights)
  recon, gradients = pmean(
    jax.value_and_grad(reconstruction_error)(weights), axis_name
  )
  cos = jnp.stack(
    [cosine(g, r, EPS) for g, r in zip(gradients, mean, strict=True)]
  )
  cos = jnp.where(count > 0, cos, 0.0)
  gradient = -jnp.mean(cos)
  aux = {"recon": recon, "gradient": gradient, "cos": cos}
  return recon + alpha * gradient, aux
