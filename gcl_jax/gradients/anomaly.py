"""GradCON's anomaly scores from the cosine of each image's gradient with the
reference gradient; public names are in `gcl_jax.gradients.gradcon`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.gradients import per_sample
from gcl_jax.gradients.reference import (
  EPS,
  Reference,
  check_shapes,
  constant,
  cosine,
  norm,
)
from gcl_jax.models.autoencoder import Autoencoder, Params

ENGINES = (*per_sample.ENGINES, "vmap")
MODES = ("gradcon", "grad", "recon")


class Scores(NamedTuple):
  """Scores of a batch of B images under a decoder of L layers.

  Attributes:
    score: float[B], recon - beta * mean over layers of cos. Higher is more
      abnormal.
    recon: float[B], mean squared error of each image, in [0, 1].
    cos: float[B, L], cosine of each image's gradient with the reference; 0
      where an image's gradient in the layer is 0 (a dead layer).
    norm: float[B, L], norm of each image's gradient; 0 in a dead layer.
  """

  score: jax.Array
  recon: jax.Array
  cos: jax.Array
  norm: jax.Array


def scores(
  model: Autoencoder,
  params: Params,
  images: jax.Array,
  reference: Reference | Sequence[jax.Array],
  *,
  beta: float | jax.Array = 0.12,
  engine: str = "auto",
  chunk: int | None = None,
  dtype: str = "float32",
  eps: float = EPS,
) -> Scores:
  """GradCON's anomaly score of every image, from the image's own gradient.

      score = L(x) - beta * (1/4) sum over l of cos(dL(x)/dW_l, r_l)

  Images are independent: batch size, padding and order do not change a score.
  Products run in full float32 on every backend; the encoder is never
  differentiated. Call it under `jit`: uncompiled it is many small programs.
  All engines agree within 1e-6 on the score and 1e-5 on the cosines.

  Args:
    model: the result of `gcl_jax.models.autoencoder.autoencoder`.
    params: its trained parameters.
    images: float[B, H, W, C] in [0, 1].
    reference: the Reference after training, or its four arrays alone.
    beta: weight of the gradient term, four times training's alpha.
    engine: algorithm for norms and products of the per-image gradients.
      "vmap": `vmap(grad)` of one image, which forms every image's four
      gradients, the slow reference. "batched", "each", "ghost": one backward
      pass of the batch, then products, see `per_sample.statistics`. "auto":
      the cheapest of these for each layer, as `plan` returns.
    chunk: images processed at once; None means all. One image takes about 0.5
      MB for its gradients at the default widths, besides its activations.
    dtype: compute dtype of the autoencoder. With "bfloat16" (not for engine
      "vmap") the cosines are within 0.03 and the errors within 1 % of those
      in float32; norms, products and means stay float32.
    eps: lower bound of the norms in a cosine. A zero gradient has cosine 0.

  Returns:
    Scores, float32.

  Raises:
    ValueError: "no reference gradients" for None or a count of 0 (under `jit`
      the count is traced: cosines and scores are then NaN); an unknown
      engine; a chunk below 1; images or reference that do not fit the model.
  """
  if engine not in ENGINES:
    raise ValueError(f"unknown engine {engine!r}: one of {', '.join(ENGINES)}")
  if dtype not in ("float32", "bfloat16") or (
    engine == "vmap" and dtype != "float32"
  ):
    raise ValueError(f"dtype {dtype!r} is not one that engine {engine!r} has")
  if chunk is not None and chunk < 1:
    raise ValueError(f"chunk must be at least 1, got {chunk}")
  check_images(images)
  mean, count = _known(reference)
  check_shapes(mean, model.decoder_weights(params))
  with jax.default_matmul_precision("float32"):
    if engine == "vmap":
      one = _score_one(model, params, mean, eps)
      recon, cos, norms = _over_batch(model, params, images, one, chunk)
    else:
      if dtype == "bfloat16":
        params = jax.tree.map(lambda p: p.astype(dtype), params)
      score_batch = _score_batch(model, params, mean, eps, engine)
      recon, cos, norms = _in_chunks(score_batch, images, chunk)
  cos = jnp.where(count > 0, cos, jnp.nan)
  return Scores(recon - beta * cos.mean(axis=1), recon, cos, norms)


def plan(
  model: Autoencoder,
  params: Params,
  image_shape: Sequence[int],
  engine: str = "auto",
) -> dict[str, str]:
  """Engine that `scores` would use for each decoder layer, without computing.

  Args:
    model, params, engine: as in `scores`.
    image_shape: (H, W, C).
  """
  if engine == "vmap":
    return dict.fromkeys(model.decoder_layers, "vmap")
  losses = _losses(model, jnp.zeros((1, *image_shape)), None)
  layers = model.decoder_layers
  return per_sample.plan(losses, params, 1, layers=layers, engine=engine)


def error_map(
  model: Autoencoder, params: Params, images: jax.Array
) -> jax.Array:
  """Squared reconstruction error of every pixel, float[B, H, W, C].

  Its mean over an image is the image's `recon`.
  """
  check_images(images)
  with jax.default_matmul_precision("float32"):
    return jnp.square(model.apply(params, images) - images)


def select(scores: Scores, mode: str = "gradcon") -> jax.Array:
  """One severity number per image, float[B], higher for more abnormal.

  Args:
    scores: Scores, of jax or numpy arrays.
    mode: "gradcon", the whole score; "recon", the mean squared error alone;
      "grad", the gradient term alone, minus the mean cosine.

  Raises:
    ValueError: an unknown mode.
  """
  if mode not in MODES:
    raise ValueError(f"unknown mode {mode!r}: one of {', '.join(MODES)}")
  if mode == "grad":
    return -scores.cos.mean(axis=1)
  return scores.score if mode == "gradcon" else scores.recon


def _score_one(model, params, mean, eps) -> Callable:
  """Function (latent, image) -> (recon, cos[L], norm[L]) of one image."""
  weights = model.decoder_weights(params)

  def error(weights, latent, image):
    changed = model.with_decoder_weights(params, weights)
    decoded = model.decode(changed, latent[None])[0]
    return jnp.mean(jnp.square(decoded - image))

  def one(latent, image):
    recon, gradients = jax.value_and_grad(error)(weights, latent, image)
    cos = [cosine(g, r, eps) for g, r in zip(gradients, mean, strict=True)]
    norms = [norm(g, 0.0) for g in gradients]
    return recon, jnp.stack(cos), jnp.stack(norms)

  return one


def _score_batch(model, params, mean, eps, engine) -> Callable:
  """Function images -> (recon[B], cos[B, L], norm[B, L])."""
  reference = model.with_decoder_weights(params, mean)

  def score_batch(images):
    # The parameters' dtype is the compute dtype.
    kind = jax.tree.leaves(params)[0].dtype
    latents = model.encode(params, images.astype(kind))
    statistics = per_sample.statistics(
      _losses(model, images, latents),
      params,
      [reference],
      layers=model.decoder_layers,
      engine=engine,
    )
    cos = [
      statistics.products[name][:, 0]
      / (jnp.maximum(statistics.norms[name], eps) * norm(r, eps))
      for name, r in zip(model.decoder_layers, mean, strict=True)
    ]
    norms = [statistics.norms[name] for name in model.decoder_layers]
    return statistics.losses, jnp.stack(cos, 1), jnp.stack(norms, 1)

  return score_batch


def _losses(model, images, latents) -> Callable:
  """Function params -> float[B], each image's reconstruction error."""

  def losses(params):
    z = model.encode(params, images) if latents is None else latents
    decoded = model.decode(params, z).astype(images.dtype)
    square = jnp.square(decoded - images)
    return jnp.mean(square, axis=(1, 2, 3))

  return losses


def _in_chunks(function, images, chunk):
  """Applies a function of a batch to at most `chunk` images at a time."""
  count = len(images)
  if chunk is None or chunk >= count:
    return function(images)
  whole = count - count % chunk
  parts = images[:whole].reshape(-1, chunk, *images.shape[1:])
  results = jax.tree.map(
    lambda x: x.reshape(whole, *x.shape[2:]), lax.map(function, parts)
  )
  if whole == count:
    return results
  rest = function(images[whole:])
  return jax.tree.map(lambda *x: jnp.concatenate(x), results, rest)


def _over_batch(model, params, images, one, chunk):
  """Maps `one` over a batch, at most `chunk` images at a time."""
  if chunk is None or chunk >= images.shape[0]:
    return jax.vmap(one)(model.encode(params, images), images)

  def encode_and_score(image):
    return one(model.encode(params, image[None])[0], image)

  return lax.map(encode_and_score, images, batch_size=chunk)


def _known(reference):
  """Mean and count of a reference; ValueError if it has no history."""
  message = (
    "no reference gradients: scores need the reference that training with "
    "gradcon.loss left, and this one has no history"
  )
  if reference is None:
    raise ValueError(message)
  mean, count = constant(reference)
  if not isinstance(count, jax.core.Tracer) and count == 0:
    raise ValueError(message)
  return mean, count


def check_images(images: jax.Array) -> None:
  """Raises ValueError unless images is float[B, H, W, C]."""
  if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      "images must be float[B, H, W, C] in [0, 1], got "
      f"{images.dtype}{list(images.shape)}"
    )
