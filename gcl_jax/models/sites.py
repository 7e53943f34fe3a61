"""Predilection sites: vectors of the OCT latent space that fundus can read.

UOPSL (Zhao et al., arXiv 2509.08624, whose formulas are not public; this is our
reading). S float[M, D] holds M sites, each a recurring place with an
appearance; at first they are random, as long as normalised tokens. With tokens
To of an OCT and Tf of a fundus image:

    Bo = softmax((S Wq)(To Wk)^T / sqrt(D))      Zo = Bo To       what is there
    Bf = softmax((Tf Uq)(S Uk)^T / sqrt(D))      Tf' = Tf + Bf (S Uv)

The softmax of Bo runs over the tokens of each site, or over the sites of each
token with rows divided by their sums (slot attention, Locatello et al. 2020).
Uv begins at 0: then Tf' is Tf, bit for bit. Zo stays in the space of the
tokens, so that S can be tied to it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("slots", "classes", "map")
COMPETE = ("slots", "tokens")
_LEAST = 1e-8  # added to the shares of slot attention


class Sites(NamedTuple):
  """A matrix of sites as pure functions of its parameters.

  Attributes:
    init: `init(key)` -> {"sites": float32[M, D], "oct": ..., "fundus": ...};
      fundus reads "sites" and "fundus" alone.
    gather: `gather(params, tokens float[B, L, D])` -> (Zo float32[B, M, D], Bo
      float32[B, M, L]), rows of Bo sum to 1.
    lend: `lend(params, tokens float[B, L, D])` -> (Tf' float32[B, L, D], Bf
      float32[B, L, M]), rows of Bf sum to 1.
    owner: int[M], the class that each site is of; None for sites of no class.
    shape: (M, D).
  """

  init: Callable[..., Any]
  gather: Callable[..., Any]
  lend: Callable[..., Any]
  owner: np.ndarray | None
  shape: tuple[int, int]


def sites(
  count: int,
  size: int,
  *,
  kind: str = "slots",
  compete: str = "slots",
  classes: int = 0,
  positions: int = 0,
) -> Sites:
  """A matrix of sites.

  Args:
    count: M of "slots"; sites of each class of "classes"; "map" has one a
      class.
    size: D, length of the tokens.
    kind: "slots", shared by all classes; "classes", a block of sites for each
      class, which the loss ties to images of that class alone; "map", likewise
      with one site a class, where a learned map over the positions of OCT
      tokens takes the place of attention, the same for all images.
    compete: of attention over OCT tokens, "slots" or "tokens".
    classes: number of classes, of "classes" and "map".
    positions: L of OCT, of "map".

  Raises:
    ValueError: an unknown kind or competition, or a number that is missing.
  """
  if kind not in KINDS or compete not in COMPETE:
    raise ValueError(
      f"kind must be one of {KINDS} and compete of {COMPETE}, got {kind!r} and"
      f" {compete!r}"
    )
  if kind != "slots" and classes < 1 or kind == "map" and positions < 1:
    raise ValueError(
      f"sites of kind {kind} need their number of classes, and a map that of"
      f" positions, got {classes} and {positions}"
    )
  owner = {
    "slots": None,
    "classes": np.repeat(np.arange(classes), count),
    "map": np.arange(classes),
  }[kind]
  rows = count if owner is None else len(owner)

  def init(key):
    keys = jax.random.split(key, 6)
    normal = jax.random.normal
    square = [normal(k, (size, size)) / np.sqrt(size) for k in keys[:4]]
    oct_side = dict(query=square[0], key=square[1])
    if kind == "map":
      oct_side = dict(map=0.01 * normal(keys[5], (rows, positions)))
    return {
      "sites": normal(keys[4], (rows, size)),
      "oct": oct_side,
      "fundus": dict(
        query=square[2], key=square[3], value=jnp.zeros((size, size))
      ),
    }

  def gather(params, tokens):
    tokens = tokens.astype(jnp.float32)
    if kind == "map":
      shares = jax.nn.softmax(params["oct"]["map"], axis=-1)
      shares = jnp.broadcast_to(shares, (len(tokens), *shares.shape))
    else:
      logits = jnp.einsum(
        "md,bld->bml",
        params["sites"] @ params["oct"]["query"],
        tokens @ params["oct"]["key"],
      )
      shares = _shares(logits / np.sqrt(size), compete)
    return jnp.einsum("bml,bld->bmd", shares, tokens), shares

  def lend(params, tokens):
    tokens, own = tokens.astype(jnp.float32), params["fundus"]
    keys, values = (params["sites"] @ own[name] for name in ("key", "value"))
    logits = jnp.einsum("bld,md->blm", tokens @ own["query"], keys)
    shares = jax.nn.softmax(logits / np.sqrt(size), axis=-1)
    return tokens + jnp.einsum("blm,md->bld", shares, values), shares

  return Sites(init, gather, lend, owner, (rows, size))


def _shares(logits: jax.Array, compete: str) -> jax.Array:
  """Attention float[B, M, L] of sites over tokens, rows sum to 1."""
  if compete == "tokens":
    return jax.nn.softmax(logits, axis=2)
  raw = jax.nn.softmax(logits, axis=1) + _LEAST
  return raw / jnp.sum(raw, axis=2, keepdims=True)


def matched_random(key: jax.Array, matrix: jax.Array) -> jax.Array:
  """A random matrix with the singular values of another, and so its norm.

  What it shares with the other is capacity alone: its directions are drawn
  uniformly.

  Args:
    key: PRNG key.
    matrix: float[M, D].

  Returns:
    float[M, D].
  """
  rows, columns = matrix.shape
  left, right = jax.random.split(key)
  values = jnp.linalg.svd(matrix, compute_uv=False)
  count = len(values)
  u = jax.random.orthogonal(left, rows)[:, :count]
  v = jax.random.orthogonal(right, columns)[:, :count]
  return (u * values) @ v.T
