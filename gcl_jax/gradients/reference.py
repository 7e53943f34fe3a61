"""Reference gradients of GradCON: running means of training gradients.

In GradCON (Kwon et al., ECCV 2020) r_l is the arithmetic mean, over all
iterations so far, of the gradient of the total loss J with respect to the
weight of decoder layer l.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

RULES = ("mean", "unit", "ema")
EPS = 1e-8  # lower bound of the norms in a cosine


class Reference(NamedTuple):
  """Reference gradients; a pytree of arrays that can be checkpointed directly.

  Attributes:
    mean: one array per decoder layer, with that layer's weight shape.
    count: int32 scalar, number of gradients so far; 0 means no history.
  """

  mean: tuple[jax.Array, ...]
  count: jax.Array


def start(weights: Sequence[jax.Array]) -> Reference:
  """Reference without history.

  Args:
    weights: the decoder weights, `model.decoder_weights(params)`; only their
      shapes and types are used.
  """
  return Reference(
    tuple(jnp.zeros_like(weight) for weight in weights),
    jnp.zeros((), jnp.int32),
  )


def constant(
  reference: Reference | Sequence[jax.Array],
) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """Arrays and count, not differentiated; the count of bare arrays is 1."""
  if not isinstance(reference, Reference):
    reference = Reference(tuple(reference), jnp.ones((), jnp.int32))
  return jax.lax.stop_gradient(tuple(reference))


def update(
  reference: Reference,
  gradients: Sequence[jax.Array],
  rule: str = "mean",
  *,
  eps: float = 1e-8,
) -> Reference:
  """Adds one iteration's gradients to the reference.

  Args:
    reference: the reference so far.
    gradients: gradients of the total loss J, `model.decoder_weights(grads)`,
      already averaged over devices.
    rule: "mean", the arithmetic mean since the first iteration (the authors'
      rule); "unit", the mean of the gradients scaled to norm 1, so that the
      large early ones do not dominate; "ema", an exponential average of decay
      0.95 that starts as the plain mean of its first 20 gradients.
    eps: lower bound of the norms under "unit".

  Returns:
    The next reference, count one higher.

  Raises:
    ValueError: an unknown rule, or shapes other than the reference's.
  """
  if rule not in RULES:
    raise ValueError(f"unknown rule {rule!r}: one of {', '.join(RULES)}")
  check_shapes(reference.mean, gradients)
  if rule == "unit":
    gradients = [gradient / norm(gradient, eps) for gradient in gradients]
  count = reference.count + 1
  window = jnp.minimum(count, 20) if rule == "ema" else count
  mean = tuple(
    old + (new - old) / window
    for old, new in zip(reference.mean, gradients, strict=True)
  )
  return Reference(mean, count)


def norm(array: jax.Array, eps: float) -> jax.Array:
  """Euclidean norm of all elements, at least eps, with a finite gradient."""
  return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(array)), eps**2))


def cosine(a: jax.Array, b: jax.Array, eps: float) -> jax.Array:
  """Cosine of two arrays seen as vectors, each norm clamped at eps."""
  return jnp.sum(a * b) / (norm(a, eps) * norm(b, eps))


def check_shapes(
  reference: Sequence[jax.Array], weights: Sequence[jax.Array]
) -> None:
  """Raises ValueError with the shapes if a reference does not fit."""
  got = [jnp.shape(array) for array in reference]
  want = [jnp.shape(array) for array in weights]
  if got != want:
    raise ValueError(
      f"reference gradients of shapes {got} do not fit decoder weights of "
      f"shapes {want}"
    )
