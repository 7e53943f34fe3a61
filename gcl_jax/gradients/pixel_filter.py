"""Gradient Filter of GCL: selection of pixel pairs by gradient magnitude.

GCL (Wu et al., ACM MM 2023) states that pixel pairs are screened by the size of
gradients, guided by the image branch, and gives no formula; this is our
reading. For an anchor image i and one partner j drawn from its positives P(i),
with maps F, embeddings z = head(mean_u F(u)) and pixel embeddings Y:

    w_ij   = d(z_i . z_j) / d(mean_u F_i(u))
    r_i(u) = max(0, w_ij . F_i(u)), scaled to a largest value of 1
    m(u,v) = |dL / d(Y_i(u) . Y_j(v))| = (1 - p_uv) / tau, L of `pixel_nce`

Candidates are mutual nearest neighbours (cosine of F_i(u) and F_j(v)) among
the positions with r_i(u) >= theta and r_j(v) >= theta. With theta = 0 and
rho = 1 every variant selects all mutual nearest neighbours, the same set as F0.
Of the C candidates of a pair of images ceil(rho C) are kept. Variants:

    F1      candidates by r_i(u) r_j(v) m(u,v); the hardest negatives
    F2      theta = 0, by m(u,v); the hardest negatives
    F3      candidates by r_i(u) r_j(v); all negatives
    F0      theta = 0, every candidate; all negatives
    random  as many of F0's candidates as F1 keeps (or all, if there are
            fewer), at random; as many negatives as F1, at random

The gradient dL/dF_i(u) itself cannot rank positions: behind a global average
pool it is the same vector at every u.

Nothing here is differentiated. Memory is linear in the positions of a map: a
block of positions of i is compared with all of j, and only the nearest is kept.
Pairs and negatives are taken among the given images, which under shard_map or
pmap are one device's: keep views and patients to be paired on one device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax.gradients.correspondence import (
  Head,
  candidates,
  draw_partners,
  relevance,
)
from gcl_jax.gradients.pixel_negatives import (
  draw_negatives,
  hardest_of,
  log_magnitude,
)

VARIANTS = ("F0", "F1", "F2", "F3", "random")


class Pairs(NamedTuple):
  """Pixel pairs of N images, at most A of each, and P negatives of each.

  Positions are row * width + column. Pass the vectors from `take`, `weights`
  and `used` to `gcl_jax.losses.pixel_nce`.

  Attributes:
    partner: int[N], image j of each anchor image i; i itself means none.
    anchor: int[N, A], positions u in i, best first.
    positive: int[N, A], positions v in j.
    weights: float32[N, A], 1 for a kept pair, 0 for padding.
    candidates: int[N], C of each pair of images (for random the C of F1).
    negative_image: int[N, P].
    negative_position: int[N, P].
    used: bool[N, A, P], the negatives used for an anchor.
  """

  partner: jax.Array
  anchor: jax.Array
  positive: jax.Array
  weights: jax.Array
  candidates: jax.Array
  negative_image: jax.Array
  negative_position: jax.Array
  used: jax.Array


def select(
  keys: jax.Array,
  head: Head,
  maps: jax.Array,
  embeddings: jax.Array,
  positives: jax.Array,
  *,
  sources: jax.Array | None = None,
  variant: str = "F1",
  theta: float = 0.3,
  rho: float = 0.25,
  temperature: float = 0.1,
  outside: int = 256,
  own: int = 64,
  hardest: int = 64,
  block_size: int = 128,
) -> Pairs:
  """Selects the pixel pairs and negatives of one batch and one meta label.

  Args:
    keys: keys[N], one per image.
    head: pooled float32[N, C] -> unit vectors float[N, E], row by row (no batch
      statistics).
    maps: float[N, h, w, C], the encoder's maps.
    embeddings: float[N, h, w, D], unit vectors of the pixels.
    positives: bool[N, N], images of equal meta label; the diagonal is ignored.
    sources: int[N], the image each row is a view of; negatives never come
      from another view of the anchor's image. None: all rows differ.
    variant: one of `VARIANTS`.
    theta: minimum relevance, in [0, 1].
    rho: share of the candidates of each pair of images that is kept, in
      (0, 1], a Python number; F0 keeps all.
    temperature: tau > 0, of the loss.
    outside: number of random pixels of images outside P(i), drawn once for all
      anchors of an image; all of them if there are fewer.
    own: number of random pixels of i in no candidate pair, more than 2 cells
      (Chebyshev) from the anchor; all of them if there are fewer.
    hardest: negatives kept per anchor by F1, F2 and random.
    block_size: positions compared with those of the partner at once.

  Returns:
    Pairs, A = ceil(rho h w) and P = outside + min(own + 25, h w).

  Raises:
    ValueError: an unknown variant, shapes that do not fit, theta, rho,
      temperature or block_size out of range.
  """
  _check_arrays(keys, maps, embeddings, positives, sources)
  _check_settings(variant, theta, rho, temperature, block_size)
  maps, embeddings = lax.stop_gradient((maps, embeddings))
  keys = jax.vmap(lambda key: jax.random.split(key, 4))(keys)
  partner = draw_partners(keys[:, 0], positives)
  positive, candidate, shared, count = _candidates(
    variant, head, maps, partner, theta, block_size
  )
  negatives, usable = draw_negatives(
    keys[:, 1], positives, candidate, sources, maps.shape[2], outside, own
  )
  near, far = _similarities(embeddings, partner, positive, negatives)
  score, hardness = _scores(
    variant, keys[:, 2:], shared, near, far, usable, temperature
  )
  anchor, weights = _best(
    score, candidate, count, 1 if variant == "F0" else rho
  )
  positive = jnp.take_along_axis(positive, anchor, axis=1)
  used = jnp.take_along_axis(usable, anchor[..., None], axis=1)
  if hardness is not None:
    hardness = jnp.take_along_axis(hardness, anchor[..., None], axis=1)
    used = hardest_of(hardness, used, hardest)
  return Pairs(partner, anchor, positive, weights, count, *negatives, used)


def take(
  embeddings: jax.Array, pairs: Pairs
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gathers the vectors of the pairs, differentiably, for `pixel_nce`.

  Args:
    embeddings: float[N, h, w, D].
    pairs: the result of `select` for them.

  Returns:
    Anchors float[N, A, D], positives float[N, A, D], negatives float[N, P, D].
  """
  rows = embeddings.reshape(len(embeddings), -1, embeddings.shape[-1])
  anchors = jnp.take_along_axis(rows, pairs.anchor[..., None], axis=1)
  positives = rows[pairs.partner[:, None], pairs.positive]
  return anchors, positives, rows[pairs.negative_image, pairs.negative_position]


def _candidates(variant, head, maps, partner, theta, block_size):
  """Nearest v, candidates, score r_i(u) r_j(v), number of F1's candidates."""
  images, height, width, _ = maps.shape
  everywhere = jnp.ones((images, height * width), bool)
  score = jnp.ones(everywhere.shape, jnp.float32)
  own = other = everywhere
  if variant in ("F1", "F3", "random"):
    own, other = relevance(head, maps, partner)
    first, second = (r.reshape(images, -1) for r in (own, other))
    own, other = first >= theta, second >= theta
  nearest, candidate = candidates(maps, partner, own, other, block_size)
  count = jnp.sum(candidate, axis=1)
  if variant in ("F1", "F3"):
    score = first * jnp.take_along_axis(second, nearest, axis=1)
  elif variant == "random":
    nearest, candidate = candidates(
      maps, partner, everywhere, everywhere, block_size
    )
  return nearest, candidate, score, count


def _similarities(embeddings, partner, positive, negatives):
  """Similarity to the positive, [N, h w], and to negatives, [N, h w, P]."""
  rows = embeddings.reshape(len(embeddings), -1, embeddings.shape[-1])
  rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
  near = jnp.sum(rows * rows[partner[:, None], positive], axis=-1)
  far = jnp.einsum(
    "nad,npd->nap", rows, rows[negatives], precision=lax.Precision.HIGHEST
  )
  return near, far


def _scores(variant, keys, shared, near, far, usable, temperature):
  """Scores of pairs and hardness of negatives (None: all are used)."""
  if variant == "random":
    return _noise(keys[:, 0], shared), _noise(keys[:, 1], far)
  if variant in ("F1", "F2"):
    pull, push = log_magnitude(near, far, usable, temperature)
    return jnp.log(shared) + pull, push
  return shared, None


def _best(score, candidate, count, rho):
  """Positions of the best candidates, int[N, A], and weights 1 (kept) or 0."""
  kept = _kept_counts(rho, candidate.shape[1])
  # Relevance 0 has log -inf, as non-candidates have: clamp to rank above them.
  score = jnp.maximum(score, jnp.finfo(score.dtype).min)
  _, anchor = lax.top_k(jnp.where(candidate, score, -jnp.inf), kept[-1])
  number = jnp.minimum(jnp.asarray(kept)[count], jnp.sum(candidate, axis=1))
  weights = jnp.arange(kept[-1]) < number[:, None]
  return anchor, weights.astype(jnp.float32)


def _kept_counts(rho, pixels):
  """ceil(rho C) of each C, int[pixels + 1]; rounds so that 0.07 * 100 is 7."""
  every = np.arange(pixels + 1)
  counts = np.ceil(np.round(rho * every, 9)).astype(np.int32)
  return np.maximum(counts, every > 0)  # at least 1, for every rho


def _noise(keys, like):
  return jax.vmap(lambda key: jax.random.uniform(key, like.shape[1:]))(keys)


def _check_arrays(keys, maps, embeddings, positives, sources):
  if maps.ndim != 4 or embeddings.shape[:-1] != maps.shape[:-1]:
    raise ValueError(
      "maps and embeddings must be float[N, h, w, C] and float[N, h, w, D],"
      f" got {maps.shape} and {embeddings.shape}"
    )
  images = len(maps)
  if positives.shape != (images, images) or positives.dtype != bool:
    raise ValueError(
      f"positives must be bool[{images}, {images}], got"
      f" {positives.dtype}{list(positives.shape)}"
    )
  for name, array in (("keys", keys), ("sources", sources)):
    if array is not None and array.shape != (images,):
      raise ValueError(
        f"{name} must have {images} entries, one per image, got {array.shape}"
      )


def _check_settings(variant, theta, rho, temperature, block_size):
  if variant not in VARIANTS:
    raise ValueError(
      f"unknown variant {variant!r}: one of {', '.join(VARIANTS)}"
    )
  if not isinstance(theta, jax.core.Tracer) and not 0 <= theta <= 1:
    raise ValueError(f"theta must be in [0, 1], got {theta}")
  if not 0 < rho <= 1:
    raise ValueError(f"rho must be in (0, 1], got {rho}")
  if not isinstance(temperature, jax.core.Tracer) and temperature <= 0:
    raise ValueError(f"temperature must be positive, got {temperature}")
  if block_size < 1:
    raise ValueError(f"block_size must be at least 1, got {block_size}")
