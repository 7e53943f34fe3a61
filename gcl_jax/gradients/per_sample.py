"""Norms and inner products of per-sample gradients, for research code.

For every image of a batch: the norm of the gradient of its own loss with
respect to a layer's kernel, and the products of that gradient with given
directions; from one batched forward and backward pass and a few matrix products
without a loop over images and, if cheaper, without forming the gradients.

  def losses(params):  # float[B], image i in loss i alone
    logits = module.apply({"params": params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

  found = per_sample.statistics(losses, params, references=[direction])
  found.norms["head"], found.products["head"]

Supports Dense, Conv and ConvTranspose layers of any linen model with any
stride, kernel, padding and dilation. Layers that couple images (batch
normalisation in training mode) have no per-sample gradient and must not be in
the model. Formulas and costs: `gradients/products.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.gradients import capture, products
from gcl_jax.gradients.capture import Losses
from gcl_jax.gradients.pairing import Pair, in_order, pair

ENGINES = ("auto", *products.ENGINES)


class Statistics(NamedTuple):
  """Norms and products of the gradients of B images.

  Attributes:
    losses: float[B].
    norms: layer -> float32[B], norm of the gradient of the layer's kernel.
    products: layer -> float32[B, M], products with each reference.
  """

  losses: jax.Array
  norms: dict[str, jax.Array]
  products: dict[str, jax.Array]


def statistics(
  losses: Losses,
  params: Any,
  references: Sequence[Any] = (),
  *,
  layers: Sequence[str] | None = None,
  engine: str = "auto",
) -> Statistics:
  """Norms of per-sample kernel gradients, and products with references.

      norm_i = |dl_i/dW|,   product_im = <dl_i/dW, R_m>

  Products are summed in float32 at full precision for every dtype of a model.

  Args:
    losses: params -> float[B]; calls linen modules on a batch whose image i
      enters loss i alone, not inside a `vmap`, `scan` or `remat` of its own.
    params: the parameters, a nested dict as returned by `module.init`.
    references: M pytrees like `params`; only kernels of the layers are read.
    layers: paths of the layers ("decoder/conv1"), the inner module names
      joined by "/"; None means all of a known kind.
    engine: "batched" forms the gradients of all images, some kernel offsets
      at a time; "each" forms them image by image, which is fast on a CPU;
      "ghost" takes norms from Gram matrices and products from one convolution
      by the references; "auto" chooses per layer by cost.

  Returns:
    Statistics.

  Raises:
    ValueError: an unknown engine or layer; a layer of another kind, with
      groups, a mask or circular padding, or called twice.
  """
  found = _find(losses, params, layers, engine)
  norms, inner = {}, {}
  with jax.default_matmul_precision("float32"):
    values, inputs, gradients = capture.inputs_and_gradients(
      losses, params, found
    )
    for name, layer in found.items():
      maps = pair(layer.geometry, inputs[name], gradients[name])
      square, inner[name] = _measure(maps, name, references, engine)
      norms[name] = jnp.sqrt(square)
  return Statistics(values, norms, inner)


def norms(
  losses: Losses,
  params: Any,
  *,
  layers: Sequence[str] | None = None,
  engine: str = "auto",
) -> dict[str, jax.Array]:
  """Norm of each image's kernel gradient: layer -> float32[B].

  Args and errors as in `statistics`.
  """
  return statistics(losses, params, layers=layers, engine=engine).norms


def inner_products(
  losses: Losses,
  params: Any,
  references: Sequence[Any],
  *,
  layers: Sequence[str] | None = None,
  engine: str = "auto",
) -> dict[str, jax.Array]:
  """Products of the gradients with M references: layer -> float32[B, M].

  Args and errors as in `statistics`.
  """
  return statistics(
    losses, params, references, layers=layers, engine=engine
  ).products


def plan(
  losses: Losses,
  params: Any,
  references: int = 0,
  *,
  layers: Sequence[str] | None = None,
  engine: str = "auto",
  platform: str | None = None,
) -> dict[str, str]:
  """Engine that `statistics` would use for each layer, without computing.

  Args as in `statistics`, with the number of references; `platform` is "cpu",
  "gpu" or "tpu", None the default one.
  """
  found, chosen = _find(losses, params, layers, engine), {}
  for name, layer in found.items():
    geometry = layer.geometry
    maps = jax.eval_shape(
      lambda *ends, geometry=geometry: pair(geometry, *ends)[:2],
      layer.inputs,
      layer.outputs,
    )
    chosen[name] = _way(
      engine,
      Pair(*maps, geometry),
      references,
      platform or jax.default_backend(),
    )
  return chosen


def _find(losses, params, layers, engine):
  if engine not in ENGINES:
    raise ValueError(f"unknown engine {engine!r}: one of {', '.join(ENGINES)}")
  return capture.find(losses, params, layers)


def _way(engine, maps, references, platform) -> str:
  if engine != "auto":
    return engine
  return products.choose(maps, references, platform)


def _measure(maps, name, references, engine):
  """Squared norms and products, by the engine for the target platform."""
  kernels = jnp.zeros((0,))
  if references:
    kernels = jnp.stack(
      [in_order(maps.geometry, _kernel(tree, name)) for tree in references]
    )

  def by(platform):
    way = _way(engine, maps, len(references), platform)

    def measure(small, large, kernels):
      pair = Pair(small, large, maps.geometry)
      if references:
        return products.norm_and_products(pair, kernels, way)
      none = jnp.zeros((len(small), 0), jnp.float32)
      return products.square_norm(pair, way), none

    return measure

  return lax.platform_dependent(
    maps.small,
    maps.large,
    kernels,
    cpu=by("cpu"),
    tpu=by("tpu"),
    default=by("gpu"),
  )


def _kernel(tree, name):
  for part in name.split("/"):
    tree = tree[part]
  return tree["kernel"]
