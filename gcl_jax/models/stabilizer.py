"""Layers that move the cells of a view by what else is in it.

The context stabilizer of Pixel-global (Zhang and Zhang, arXiv 2210.00646, whose
formulas are not public; this is our reading) and the pixel propagation of
PixPro (Xie et al. 2021). With P(u) the vector of cell u:

    a(u, v) = max(cos(P(u), P(v)), 0)^gamma
    C(u) = sum_v a(u, v) V(P(v)) / sum_v a(u, v)        context of the view
    S(u) = W2 drop(relu(W1 [P(u); C(u)]))               context stabilizer

A residual S(u) + P(u) begins near the identity, which a student without
negatives cannot have for its predictor: all cells fall together within 200
steps (docs/results.md). The sums run over the cell itself too, and over
averages of neighbouring cells where the view has many, so that memory is linear
in the number of cells.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.models.heads import unit_length
from gcl_jax.models.layers import Model

# Weights uniform within +-1 / sqrt(inputs), as in PyTorch's linear layers.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_LEAST = 1e-12  # a sum of similarities that is divided by


def stabilizer(
  size: int,
  hidden: int,
  *,
  passes: int = 8,
  dropout: float = 0.2,
  gamma: float = 2.0,
  context_cells: int = 14,
  residual: bool = False,
) -> Model:
  """The context stabilizer S, several passes with dropout at once.

  `init(key, (D,))` -> variables; `apply(variables, cells float[B, h, w, D],
  keys[B])` -> float32[B, h, w, T, D], S(u) of T passes, of any length. The
  units that a pass drops are drawn from the view's key, and are the same at all
  its cells: a pass is one thinned network that sees the whole view, so that
  passes differ between two cells by what is in them and not by the draw. Units
  that stay are divided by 1 - dropout. All passes of a view are one product of
  matrices, and lie side by side for each cell: a mean over a leading axis of
  passes takes a CPU three times as long.

  With dropout 0 all passes are equal, bit for bit, and keys are not used.

  Args:
    size: D, length of the cells' vectors.
    hidden: length of the hidden layer.
    passes: T >= 1.
    dropout: probability of dropping a hidden unit, in [0, 1).
    gamma: exponent of the similarities, at least 0.
    context_cells: rows and columns of the averaged cells, at most.
    residual: S(u) + P(u) in the place of S(u).

  Raises:
    ValueError: passes or dropout out of range.
  """
  if passes < 1 or not 0 <= dropout < 1:
    raise ValueError(
      "passes must be 1 or more and dropout in [0, 1), got"
      f" {passes} and {dropout}"
    )
  module = _Stabilizer(size, hidden, gamma, context_cells, residual)

  def init(key, shape):
    masks = jnp.ones((1, 1, hidden))
    return module.init(key, jnp.zeros((1, 2, 2, *shape)), masks)

  def draw(key):
    kept = jax.random.bernoulli(key, 1 - dropout, (passes, hidden))
    return kept / (1 - dropout)

  def apply(variables, cells, keys=None):
    cells = cells.astype(jnp.float32)
    if dropout:
      return module.apply(variables, cells, jax.vmap(draw)(keys))
    moved = module.apply(variables, cells, jnp.ones((len(cells), 1, hidden)))
    return jnp.broadcast_to(moved, (*cells.shape[:-1], passes, size))

  return Model(init, apply, size)


def propagation(
  size: int, *, gamma: float = 2.0, context_cells: int = 14
) -> Model:
  """PixPro's propagation: C(u) of values V(P(v)) of unit length.

  `init(key, (D,))` -> variables; `apply(variables, cells float[B, h, w, D])`
  -> float32[B, h, w, 1, D], C(u) divided by its length: one pass, in the place
  of those of `stabilizer`.

  Args:
    size: D, length of the cells' vectors.
    gamma, context_cells: as of `stabilizer`.
  """
  module = nn.Dense(size, kernel_init=_uniform)

  def apply(variables, cells, keys=None):
    cells = cells.astype(jnp.float32)
    others = averaged(cells, context_cells)
    others = others.reshape(len(cells), -1, size)
    values = unit_length(module.apply(variables, others))
    own = cells.reshape(len(cells), -1, size)
    mixed = unit_length(propagate(own, others, values, gamma))
    return mixed.reshape(*cells.shape[:-1], 1, size)

  def init(key, shape):
    return module.init(key, jnp.zeros((1, *shape)))

  return Model(init, apply, size)


def propagate(
  queries: jax.Array, keys: jax.Array, values: jax.Array, gamma: float = 2.0
) -> jax.Array:
  """Means of values by the similarity of keys to each query.

      out_u = sum_v a(u, v) value_v / sum_v a(u, v)
      a(u, v) = max(cos(query_u, key_v), 0)^gamma

  Args:
    queries: float[B, N, D].
    keys: float[B, M, D].
    values: float[B, M, E].
    gamma: at least 0; at 0 all keys within 90 degrees count alike.

  Returns:
    float32[B, N, E]; 0 for a query at 90 degrees or more from all keys.
  """
  cosines = jnp.einsum("bnd,bmd->bnm", unit_length(queries), unit_length(keys))
  near = cosines > 0  # below 1, a power has no gradient at 0
  share = jnp.where(near, jnp.where(near, cosines, 1.0) ** gamma, 0.0)
  total = jnp.sum(share, axis=-1, keepdims=True)
  mixed = jnp.einsum("bnm,bme->bne", share, values)
  return mixed / jnp.maximum(total, _LEAST)


def averaged(maps: jax.Array, most: int) -> jax.Array:
  """Maps of at most `most` rows and columns: means over equal rectangles.

  Cell i of n covers rows i h / n to (i + 1) h / n, parts of rows included.

  Args:
    maps: float[B, h, w, C].
    most: rows and columns of the result; smaller maps are not enlarged.

  Returns:
    float[B, min(h, most), min(w, most), C].
  """
  rows, columns = (_shares(side, min(side, most)) for side in maps.shape[1:3])
  if len(rows) < maps.shape[1]:
    maps = jnp.einsum("ih,bhwc->biwc", rows, maps)
  if len(columns) < maps.shape[2]:
    maps = jnp.einsum("jw,bhwc->bhjc", columns, maps)
  return maps


def _shares(size: int, cells: int) -> np.ndarray:
  """float32[cells, size]: the share of every input in each mean."""
  edges = np.arange(cells + 1) * size / cells
  place = np.arange(size)
  first, last = edges[:-1, None], edges[1:, None]
  covered = np.minimum(place + 1, last) - np.maximum(place, first)
  return (np.maximum(covered, 0) * cells / size).astype(np.float32)


class _Stabilizer(nn.Module):
  """S(u) of the passes whose scaled masks float[B, T, hidden] are given."""

  size: int
  hidden: int
  gamma: float
  context_cells: int
  residual: bool

  @nn.compact
  def __call__(self, cells, masks):
    dense = functools.partial(nn.Dense, kernel_init=_uniform)
    own = cells.reshape(len(cells), -1, self.size)
    others = averaged(cells, self.context_cells)
    others = others.reshape(len(cells), -1, self.size)
    values = dense(self.size, name="value")(others)
    context = propagate(own, others, values, self.gamma)
    both = jnp.concatenate([own, context], axis=-1)
    hidden = nn.relu(dense(self.hidden, name="first")(both))
    shape = self.hidden, self.size
    kernel = self.param("second_kernel", _uniform, shape)
    bias = self.param("second_bias", nn.initializers.zeros, shape[1:])
    # Dropping units is dropping rows of the kernel: no array of all hidden
    # units of all passes.
    thinned = jnp.einsum("bth,hd->bhtd", masks, kernel)
    thinned = thinned.reshape(*thinned.shape[:2], -1)
    moved = jnp.einsum("bnh,bhe->bne", hidden, thinned)
    moved = moved.reshape(*own.shape[:2], -1, self.size)
    moved += (bias + own if self.residual else bias)[..., None, :]
    return moved.reshape(*cells.shape[:-1], -1, self.size)
