"""Cells of two views that show the same place of an image.

The unit of distance is the larger cell diagonal of the two views, measured in
the original image, as in PixPro (Xie et al. 2021). `matching_cells` gives one
partner to every cell, of any two views, and `nearby_cells` all partners within
the distance, of views that are affine, in memory linear in the cells.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def matching_cells(
  first: jax.Array, second: jax.Array, *, distance: float = 0.7
) -> tuple[jax.Array, jax.Array]:
  """The nearest cell of the second view for every cell of the first.

  At a distance of 0.7 the same crop twice gives the identity: side-by-side
  square cells lie 0.707 diagonals apart.

      import jax.numpy as jnp
      from gcl_jax.augment import cell_centres, matching_cells

      whole = jnp.asarray(cell_centres((8, 8), (2, 2)))[None]
      corner = whole / 2 - 0.25  # the upper left quarter of the image
      nearest, found = matching_cells(whole, corner)
      # found[0] == [True, True, True, False], nearest[0, 0] == 0

  Args:
    first: float[B, h, w, 2], places of the cells of one view.
    second: float[B, h', w', 2], of the other; h, w, h' and w' at least 2.
    distance: pairs are closer than this many cell diagonals.

  Returns:
    nearest int32[B, h w], the cell of the second view in row-major order, the
    first one of equally near cells; found bool[B, h w], whether it is closer
    than `distance`. Cells that are not found have a nearest cell all the same.

  Raises:
    ValueError: places of other shapes.
  """
  _check_places(first, second)
  own = first.reshape(len(first), -1, 1, 2)
  other = second.reshape(len(second), 1, -1, 2)
  squares = _squared_distances(own, other)
  nearest = jnp.argmin(squares, axis=-1).astype(jnp.int32)
  closest = jnp.min(squares, axis=-1)
  return nearest, closest < distance**2 * _squared_unit(first, second)[:, None]


def nearby_cells(
  first: jax.Array,
  second: jax.Array,
  *,
  count: int = 12,
  distance: float = 0.7,
  overlap_only: bool = True,
) -> tuple[jax.Array, jax.Array]:
  """The cells of the second view that are near to every cell of the first.

  Both grids must be affine with rows perpendicular to columns, as those of
  `two_turned_crops` and `two_crops` are, and of `two_warps` without elastic
  deformation; otherwise pairs are missed. A cell of the first view is then at
  a known, fractional index of the second grid. With that grid's rows and
  columns in the order of their distance to it, the `count` nearest cells are
  among those of ranks m and n from 0 with (m + 1)(n + 1) <= count: 35
  candidates for 12, and no array of h w times h' w' numbers.

  A cell with more than `count` cells within the distance keeps the nearest
  `count`. At distance 0.7, with views of the image's shape, cells that are
  square in a view and crop ratios from 3/4 to 4/3, none has more than 12 where
  both crops are at least 0.29 of the image; at 0.28 some have 14, at 0.08 44.
  Swapping the views gives the same pairs unless some were left out.

      import jax.numpy as jnp
      from gcl_jax.augment import cell_centres, nearby_cells

      whole = jnp.asarray(cell_centres((8, 8), (2, 2)))[None]
      corner = whole / 2 - 0.25  # the upper left quarter of the image
      index, found = nearby_cells(whole, corner, overlap_only=False)
      # found[0].sum(-1) == [4, 2, 2, 0], and [4, 0, 0, 0] with overlap_only

  Args:
    first: float[B, h, w, 2], places of the cells of one view.
    second: float[B, h', w', 2], of the other; h, w, h' and w' at least 2.
    count: K, the most partners of a cell.
    distance: pairs are closer than this many cell diagonals.
    overlap_only: leave out pairs of which one centre lies outside the area of
      the other view (`inside`). PixPro keeps them.

  Returns:
    index int32[B, h w, K], cells of the second view in row-major order, the
    nearest first, of equally near ones that in the nearer row, then in the
    lower row and column; found bool[B, h w, K], whether there is such a pair.
    Without one the index is 0.

  Raises:
    ValueError: places of other shapes, or a count below 1.
  """
  _check_places(first, second)
  if count < 1:
    raise ValueError(f"count must be 1 or more, got {count}")
  index = _candidates(first, second, count)
  places = _rows_at(second.reshape(len(second), -1, 2), index)
  own = first.reshape(len(first), -1, 1, 2)
  squares = _squared_distances(own, places)
  limit = distance**2 * _squared_unit(first, second)[:, None, None]
  _, order = lax.top_k(-squares, min(count, squares.shape[-1]))
  found = jnp.take_along_axis(squares < limit, order, axis=-1)
  index = jnp.take_along_axis(index, order, axis=-1)
  if overlap_only:
    found &= inside(first, second)[..., None]
    found &= _rows_at(inside(second, first), index)
  missing = [(0, 0), (0, 0), (0, count - index.shape[-1])]
  found = jnp.pad(found, missing)
  return jnp.where(found, jnp.pad(index, missing), 0), found


def inside(first: jax.Array, second: jax.Array) -> jax.Array:
  """Whether the cells' centres of the first view lie in the second.

  The area of a view ends half a cell beyond its outermost centres.

  Args:
    first: float[B, h, w, 2], places of the cells of one view.
    second: float[B, h', w', 2], of the other, affine as for `nearby_cells`;
      h, w, h' and w' at least 2.

  Returns:
    bool[B, h w], in row-major order.

  Raises:
    ValueError: places of other shapes.
  """
  _check_places(first, second)
  index = _index_in(second, first)
  last = jnp.asarray(second.shape[1:3]) - 0.5
  return jnp.all((index >= -0.5) & (index <= last), axis=-1)


def _candidates(first, second, count):
  """int32[B, h w, n]: cells of `second` that hold the `count` nearest."""
  height, width = second.shape[1:3]
  ranks = np.array(
    [
      (m, n)
      for m in range(min(count, height))
      for n in range(min(count // (m + 1), width))
    ]
  )
  index = _index_in(second, first)
  rows = _nearest(index[..., 0], height, count)[..., ranks[:, 0]]
  columns = _nearest(index[..., 1], width, count)[..., ranks[:, 1]]
  return rows * width + columns


def _index_in(grid, places):
  """float[B, n, 2]: fractional (row, column) of the grid at n places."""
  origin = grid[:, :1, 0]
  offset = places.reshape(len(places), -1, 2) - origin
  steps = (
    (grid[:, -1:, 0] - origin) / (grid.shape[1] - 1),
    (grid[:, :1, -1] - origin) / (grid.shape[2] - 1),
  )
  along = [jnp.sum(offset * s, -1) / jnp.sum(s**2, -1) for s in steps]
  return jnp.stack(along, axis=-1)


def _nearest(index, size, count):
  """int32[..., n]: the n = min(count, size) whole numbers from 0 to size - 1
  that are nearest to a fractional index, nearest first, the lower one first."""
  number = min(count, size)
  start = jnp.clip(jnp.ceil(index - number / 2), 0, size - number)
  distance = jnp.abs(start[..., None] + np.arange(number) - index[..., None])
  return start.astype(jnp.int32)[..., None] + jnp.argsort(distance, axis=-1)


def _rows_at(tables, index):
  """[B, ..., D] of tables [B, n, D] at int[B, ...]."""
  return jax.vmap(lambda table, at: table[at])(tables, index)


def _check_places(first, second):
  for name, places in (("first", first), ("second", second)):
    small = places.ndim != 4 or min(places.shape[1:3]) < 2
    if small or places.shape[-1] != 2 or len(places) != len(first):
      raise ValueError(
        f"{name} must be float[B, h, w, 2] with h, w >= 2 and the same B as"
        f" first, got {places.shape}"
      )


def _squared_distances(first, second):
  """Differences, not a product of matrices: GPUs and TPUs would round that."""
  rows = (first[..., 0] - second[..., 0]) ** 2
  return rows + (first[..., 1] - second[..., 1]) ** 2


def _squared_unit(first, second):
  """float[B], the larger squared cell diagonal of two views."""
  return jnp.maximum(_squared_diagonal(first), _squared_diagonal(second))


def _squared_diagonal(places):
  """float[B], squared diagonal of a cell: sides^2 added, mean over cells."""
  down = jnp.sum(jnp.diff(places, axis=1) ** 2, axis=-1)
  right = jnp.sum(jnp.diff(places, axis=2) ** 2, axis=-1)
  return jnp.mean(down, axis=(1, 2)) + jnp.mean(right, axis=(1, 2))
