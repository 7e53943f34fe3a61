"""Places of feature cells in the original image, and the match of two views.

A place is (row, column) in pixels of the original image, 0 the centre of its
first pixel; below 0 and beyond side - 1 it lies outside the image.
"""

import jax
import jax.numpy as jnp
import numpy as np


def cell_centres(size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
  """Centres of the cells of a grid that covers a view.

  Args:
    size: (H, W) of the view.
    cells: (h, w) of the grid, such as the feature map of a network; (H, W)
      gives the pixels themselves.

  Returns:
    float32[h, w, 2], (row, column) in pixels of the view: (i + 1/2) H / h - 1/2
    and (j + 1/2) W / w - 1/2.
  """
  index = np.moveaxis(np.indices(cells), 0, -1) + 0.5
  centres = index * (np.asarray(size) / np.asarray(cells)) - 0.5
  return centres.astype(np.float32)


def matching_cells(
  first: jax.Array, second: jax.Array, *, distance: float = 0.7
) -> tuple[jax.Array, jax.Array]:
  """The nearest cell of the second view for every cell of the first.

  The unit of distance is the larger cell diagonal of the two views, measured
  in the original image, as in PixPro (Xie et al. 2021). At 0.7 of it the same
  crop twice gives the identity: side-by-side square cells lie 0.707 apart.

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
  for name, places in (("first", first), ("second", second)):
    small = places.ndim != 4 or min(places.shape[1:3]) < 2
    if small or places.shape[-1] != 2 or len(places) != len(first):
      raise ValueError(
        f"{name} must be float[B, h, w, 2] with h, w >= 2 and the same B as"
        f" first, got {places.shape}"
      )
  unit = jnp.maximum(_squared_diagonal(first), _squared_diagonal(second))
  own = first.reshape(len(first), -1, 1, 2)
  other = second.reshape(len(second), 1, -1, 2)
  # Differences, not a product of matrices: GPUs and TPUs would round that.
  squares = (own[..., 0] - other[..., 0]) ** 2
  squares += (own[..., 1] - other[..., 1]) ** 2
  nearest = jnp.argmin(squares, axis=-1).astype(jnp.int32)
  closest = jnp.min(squares, axis=-1)
  return nearest, closest < distance**2 * unit[:, None]


def _squared_diagonal(places):
  """float[B], squared diagonal of a cell: sides^2 added, mean over cells."""
  down = jnp.sum(jnp.diff(places, axis=1) ** 2, axis=-1)
  right = jnp.sum(jnp.diff(places, axis=2) ** 2, axis=-1)
  return jnp.mean(down, axis=(1, 2)) + jnp.mean(right, axis=(1, 2))
