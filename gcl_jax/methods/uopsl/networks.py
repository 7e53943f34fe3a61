"""The networks of UOPSL, and the part of them that fundus needs by itself."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from gcl_jax.models import sites as sites_of
from gcl_jax.models import text, tokens
from gcl_jax.models.heads import unit_length
from gcl_jax.models.layers import Model
from gcl_jax.pipeline import encoders

Shape = tuple[int, ...]


class Networks(NamedTuple):
  """The networks of an arm.

  Attributes:
    fundus: images -> tokens (`models.tokens`).
    text: descriptions -> unit vectors (`models.text`).
    oct: as `fundus`, of OCT; None without it.
    sites: `models.sites`; None without them.
  """

  fundus: Model
  text: Model
  oct: Model | None = None
  sites: sites_of.Sites | None = None


def make(
  settings: ConfigDict,
  of_text: ConfigDict,
  oct_shape: Shape,
  classes: int,
  words: int,
) -> Networks:
  """The networks of an arm.

  Args:
    settings: section `pretrain` of the arm.
    of_text: section `text`.
    oct_shape: (H, W, C) of OCT scans.
    classes: number of classes of both modalities.
    words: size of the vocabulary.
  """
  size, encoder = settings.size, encoders.make(settings)
  image = tokens.tokens(encoder, size)
  # Photographs know neither classes nor places of scans.
  kind = "slots" if settings.sites == "fundus" else settings.kind
  number = settings.count
  if settings.sites == "means":
    kind, number = "classes", 1
  return Networks(
    image,
    _text(of_text, words, size),
    image if settings.oct else None,
    sites_of.sites(
      number,
      size,
      kind=kind,
      compete=settings.compete,
      classes=classes,
      positions=tokens.count(encoder, oct_shape),
    )
    if settings.sites
    else None,
  )


def _text(settings: ConfigDict, words: int, size: int) -> Model:
  if settings.encoder == "frozen":
    return text.frozen(size)
  if settings.encoder == "bag":
    return text.bag(words, size, settings.width)
  return text.transformer(
    words, size, settings.width, depth=settings.depth, heads=settings.heads
  )


def pooled(tokens: jax.Array) -> jax.Array:
  """Mean over the tokens float[B, L, D] -> float[B, D]."""
  return jnp.mean(tokens, axis=1)


def gathered(weights: jax.Array, found: jax.Array) -> jax.Array:
  """Unit vector of an OCT scan from what is found at its sites.

      vo = unit( sum_m alpha_m Zo_m ),  alpha = softmax(Zo wa)

  Args:
    weights: float[D], wa.
    found: float[B, M, D], Zo.

  Returns:
    float[B, D].
  """
  alpha = jax.nn.softmax(found @ weights, axis=-1)
  return unit_length(jnp.einsum("bm,bmd->bd", alpha, found))


def for_fundus(
  networks: Networks, params: dict, stats: dict, sites: Any = None
) -> dict[str, Any]:
  """Variables of `fundus_encoder`: nothing in them is of OCT.

  Args:
    networks: of the arm.
    params: of a pre-training, "fundus" and, with sites, "fusion".
    stats: batch statistics, "fundus".
    sites: float[M, D], S.
  """
  kept, fixed = {"tokens": params["fundus"]}, {"tokens": stats["fundus"]}
  if networks.sites is not None:
    kept["fusion"], fixed["sites"] = params["fusion"], sites
  return {"params": kept, "batch_stats": fixed}


def fundus_encoder(networks: Networks, rate: float = 0.0) -> Model:
  """The fundus network with its sites as one encoder.

  `apply(variables, images, *, train=False, axis_name=None, looks=False)` ->
  (features float32[B, D], batch_stats), as of `models.resnet`; with `looks`
  also the attention Bf float32[B, L, M] of tokens to sites. S is in
  "batch_stats", where no optimiser changes it. Without sites there is no
  fusion, and with one whose values are 0 features are the same, bit for bit.

  Args:
    networks: of the arm; OCT and text play no part.
    rate: of the sites in a fine-tune, as a share of the learning rate of an
      optimiser such as Adam, whose steps do not depend on the size of
      gradients; 0 keeps them. "shift" in the parameters is how far they moved,
      divided by it.
  """
  size = networks.fundus.feature_dim

  def init(key, shape):
    for_tokens, for_sites = jax.random.split(key)
    found = networks.fundus.init(for_tokens, shape)
    params, stats = {"tokens": found["params"]}, found["batch_stats"]
    fixed = {"tokens": stats}
    if networks.sites is not None:
      drawn = networks.sites.init(for_sites)
      params["fusion"], fixed["sites"] = drawn["fundus"], drawn["sites"]
    return moved({"params": params, "batch_stats": fixed}, rate)

  def apply(variables, images, *, train=False, axis_name=None, looks=False):
    params, fixed = variables["params"], variables["batch_stats"]
    found, stats = networks.fundus.apply(
      {"params": params["tokens"], "batch_stats": fixed["tokens"]},
      images,
      train=train,
      axis_name=axis_name,
    )
    fixed, attention = {**fixed, "tokens": stats}, None
    if networks.sites is not None:
      matrix = lax.stop_gradient(fixed["sites"])
      if "shift" in params:
        matrix += rate * params["shift"]
      own = {"sites": matrix, "fundus": params["fusion"]}
      found, attention = networks.sites.lend(own, found)
    outputs = pooled(found), fixed
    return (*outputs, attention) if looks else outputs

  return Model(init, apply, size)


def moved(variables: dict[str, Any], rate: float) -> dict[str, Any]:
  """Variables of a `fundus_encoder` of this rate, its sites where they are."""
  fixed = variables["batch_stats"]
  if not rate or "sites" not in fixed:
    return variables
  shift = jnp.zeros_like(fixed["sites"])
  return {**variables, "params": {**variables["params"], "shift": shift}}
