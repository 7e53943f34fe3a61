"""Consistency of the matched cells of two views, weighted by uncertainty.

Pixel-global (Zhang and Zhang, arXiv 2210.00646; its formulas are not public,
these are our reading) and PixPro (Xie et al. 2021). A cell u of the student's
view has the vector y(u), a cell v of the teacher's view t(v), both of length 1,
and A(u, v) is 1 where the two are a pair:

    d(u, v) = 2 - 2 <y(u), t(v)>
    L = sum_uv A(u, v) w(u) d(u, v) / sum_uv A(u, v) w(u)

The teacher's vectors and the weights are constants.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.collectives import pmean

FORMS = ("", "exp", "focus")
REDUCE = ("image", "pairs")
# Of an uncertainty that is divided by, or of which a log is taken.
_LEAST = 1e-6
# A sum of weights that is divided by; far below that of one pair.
_NONE = 1e-12


def unit(vectors: jax.Array) -> jax.Array:
  """Vectors float[..., D] divided by their length.

  Those shorter than 1e-12 become 0 and get no gradient.
  """
  square = jnp.sum(vectors**2, axis=-1, keepdims=True)
  scale = lax.rsqrt(jnp.maximum(square, 1e-24))
  return vectors * jnp.where(square > 1e-24, scale, 0)


def uncertainty(passes: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Spread of unit vectors over passes, and their mean direction.

      s = (1 - |mean_t y_t|^2) T / (T - 1)

  1 - |mean|^2 is the mean squared distance of unit vectors to their mean. The
  factor makes T comparable: independent directions give 1 on average.

  >>> import jax.numpy as jnp
  >>> s, y = uncertainty(jnp.eye(2))  # two vectors at 90 degrees
  >>> round(float(s), 6)
  1.0

  Args:
    passes: float[..., T, D], unit vectors.

  Returns:
    s float[...], from 0 to T / (T - 1), exactly 0 where all passes are equal
    and where T is 1; and the mean divided by its length, float[..., D].
  """
  count = passes.shape[-2]
  # Distances to one of the passes: what they share leaves no rounding error.
  apart = passes - passes[..., :1, :]
  square = jnp.mean(jnp.sum(apart**2, axis=-1), axis=-1)
  mean = jnp.mean(apart, axis=-2)
  spread = jnp.maximum(square - jnp.sum(mean**2, axis=-1), 0)
  return spread * (count / max(count - 1, 1)), unit(passes[..., 0, :] + mean)


def weights(
  uncertainties: jax.Array, form: str, mean: jax.Array | float = 1.0
) -> jax.Array:
  """Weights of the cells of every view, of mean 1 and without a gradient.

      exp    w(u) proportional to exp(-s(u) / mean)
      focus  w(u) proportional to s(u)
      ""     1

  Args:
    uncertainties: float[B, L] >= 0, s of the cells.
    form: one of `FORMS`.
    mean: of s over many views, for `exp`; taken as at least 1e-6.

  Returns:
    float[B, L] >= 0; all 1 in a view whose s are all 0.

  Raises:
    ValueError: an unknown form.
  """
  if form not in FORMS:
    raise ValueError(f"form must be one of {FORMS}, got {form!r}")
  s = lax.stop_gradient(uncertainties)
  if not form:
    return jnp.ones_like(s)
  if form == "exp":
    # The least s of a view has exponent 0: the sum cannot vanish.
    s = s - jnp.min(s, axis=-1, keepdims=True)
    raw = jnp.exp(-s / jnp.maximum(lax.stop_gradient(mean), _LEAST))
  else:
    raw = jnp.where(jnp.max(s, axis=-1, keepdims=True) > 0, s, 1)
  return raw / jnp.mean(raw, axis=-1, keepdims=True)


def pixel_loss(
  cells: jax.Array,
  targets: jax.Array,
  index: jax.Array,
  found: jax.Array,
  weights: jax.Array,
  reduce: str = "image",
  *,
  tolerance: jax.Array | None = None,
  log_variance: jax.Array | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted mean distance of the pairs of a view.

  With `tolerance` m the distance of a cell is max(0, d(u) - m), d(u) its mean
  over the pairs of the cell. With `log_variance` b it is exp(-b(u)) d(u) + b(u)
  (Kendall and Gal 2017), least at b = log d.

  Args:
    cells: float[B, L, D], unit vectors of the student.
    targets: float[B, M, D], unit vectors of the teacher's view; constants.
    index: int[B, L, K], cells of the teacher's view.
    found: bool[B, L, K], which of them are pairs.
    weights: float[B, L] >= 0, of the student's cells; constants.
    reduce: "image", the mean over the pairs of each view, then over the views,
      of which one without pairs counts 0; or "pairs", the mean over all pairs.
    tolerance: float[B] >= 0, of a view.
    log_variance: float[B, L].
    axis_name: mapped axis over which the views are split, equally many on each
      device. The mean of the returned values over it is the loss.

  Returns:
    The loss, a scalar from 0 to 4 (below 0 with a log_variance below 0), and
    facts: `pairs`, the mean number of pairs of a cell, `unmatched`, the share
    of views without a pair.

  Raises:
    ValueError: an unknown `reduce`.
  """
  if reduce not in REDUCE:
    raise ValueError(f"reduce must be one of {REDUCE}, got {reduce!r}")
  count, distance = _distances(cells, targets, index, found)
  if tolerance is not None:
    distance = jnp.maximum(distance - tolerance[:, None], 0)
  if log_variance is not None:
    distance = jnp.exp(-log_variance) * distance + log_variance
  share = lax.stop_gradient(weights) * count
  total, above = jnp.sum(share, axis=1), jnp.sum(share * distance, axis=1)
  if reduce == "image":
    loss = jnp.mean(above / jnp.maximum(total, _NONE))
  else:
    loss = jnp.sum(above) / jnp.maximum(pmean(jnp.sum(total), axis_name), _NONE)
  none = jnp.sum(count, axis=1) == 0
  facts = {"pairs": jnp.mean(count), "unmatched": jnp.mean(none.astype(float))}
  return loss, facts


def byol(predictions: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean of 2 - 2 cos(prediction, target) (Grill et al. 2020, equation 2).

  Args:
    predictions: float[..., D], of any length.
    targets: float[..., D], of any length; constants.

  Returns:
    A scalar from 0 to 4.
  """
  targets = lax.stop_gradient(unit(targets))
  return jnp.mean(2 - 2 * jnp.sum(unit(predictions) * targets, axis=-1))


def gap(
  moved: jax.Array, cells: jax.Array, tolerance: float
) -> tuple[jax.Array, jax.Array]:
  """How far cells were moved, and the penalty on what exceeds a tolerance.

      mean_u max(0, |S(u) - P(u)| - kappa)^2

  Args:
    moved: float[..., D], S(u).
    cells: float[..., D], P(u).
    tolerance: kappa >= 0.

  Returns:
    The penalty and the mean of |S(u) - P(u)|, scalars.
  """
  square = jnp.sum((moved - cells) ** 2, axis=-1)
  some = square > 0  # where nothing moved, a root has no gradient
  length = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)
  penalty = jnp.mean(jnp.maximum(length - tolerance, 0) ** 2)
  return penalty, jnp.mean(length)


def log_uncertainty(uncertainties: jax.Array) -> jax.Array:
  """log s float[..., 1], a constant, what a learned variance reads.

  Args:
    uncertainties: float[...] >= 0, taken as at least 1e-6.
  """
  s = jnp.maximum(lax.stop_gradient(uncertainties), _LEAST)
  return jnp.log(s)[..., None]


def _distances(cells, targets, index, found) -> tuple[Any, jax.Array]:
  """Pairs of every cell, and their mean distance, 2 without any.

  The targets of a cell are added one by one: no array of all cells, pairs and
  dimensions.
  """
  targets = lax.stop_gradient(targets)
  read = jax.vmap(lambda table, at: table[at])

  def add(total, pair):
    at, there = pair
    return total + jnp.where(there[..., None], read(targets, at), 0), None

  pairs = jnp.moveaxis(index, -1, 0), jnp.moveaxis(found, -1, 0)
  total, _ = lax.scan(add, jnp.zeros_like(cells), pairs)
  count = jnp.sum(found, axis=-1).astype(cells.dtype)
  product = jnp.sum(cells * total, axis=-1)
  return count, 2 - 2 * product / jnp.maximum(count, 1)
