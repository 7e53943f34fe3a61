"""The pure step of the autoencoder: GradCON's constrained training."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gcl_jax import augment
from gcl_jax.collectives import pmean
from gcl_jax.engine.state import State, update
from gcl_jax.engine.train import Step
from gcl_jax.gradients import gradcon


def unit_range(images: jax.Array) -> jax.Array:
  """uint8[...] -> float32[...] in [0, 1]."""
  return images.astype(jnp.float32) / 255.0


def gradcon_step(
  model: Any,
  optimizer: optax.GradientTransformation,
  *,
  alpha: float | None,
  rule: str = "mean",
  flip: bool = False,
) -> Step:
  """One iteration of GradCON training: J = L + alpha * G.

  The reference gradients r (state.extra["reference"]) are updated with the
  gradient of J, and enter G of the next iteration.

  Args:
    model: an autoencoder of `gcl_jax.models.autoencoder`.
    optimizer: an optax transformation.
    alpha: weight of the gradient term on the absolute scale; None takes it
      from state.extra["alpha"], so that folds which differ in nothing else
      share a program.
    rule: how r follows the gradients of J: mean (authors), unit or ema.
    flip: mirror scans at random, one key per scan.
  """

  def step(state, batch, *, axis_name=None):
    images = _mirror(state, batch) if flip else unit_range(batch["image"])
    reference = state.extra["reference"]
    weight = state.extra["alpha"] if alpha is None else alpha

    def objective(params):
      return gradcon.loss(
        model, params, images, reference, alpha=weight, axis_name=axis_name
      )

    (value, aux), grads = jax.value_and_grad(objective, has_aux=True)(
      state.params
    )
    grads = pmean(grads, axis_name)
    reference = gradcon.update(reference, model.decoder_weights(grads), rule)
    extra = {**state.extra, "reference": reference}
    state = update(state, grads, optimizer, extra)
    metrics = {
      "loss": pmean(value, axis_name),
      "reconstruction": pmean(aux["recon"], axis_name),
      "gradient": aux["gradient"],
    }
    return state, metrics

  return step


def _mirror(state: State, batch: dict) -> jax.Array:
  """Each scan mirrored left to right with probability one half."""
  keys = augment.sample_keys(state.key, state.step, batch["index"])
  coin = jax.vmap(jax.random.bernoulli)(keys)
  images = unit_range(batch["image"])
  return jnp.where(coin[:, None, None, None], images[:, :, ::-1], images)
