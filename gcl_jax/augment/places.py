"""Places of feature cells, in the original image and in their view.

A place is (row, column) in pixels of the original image, 0 the centre of its
first pixel; below 0 and beyond side - 1 it lies outside the image.
"""

import jax
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


def border_distance(places: jax.Array) -> np.ndarray:
  """Distance of every cell's centre to the nearest border of its own view.

  Args:
    places: float[..., h, w, 2] of the view's cells; their grid alone counts.

  Returns:
    float32[h, w], in shares of the view's side across that border: 1 / (2 h) or
    1 / (2 w), the smaller, in a corner, and up to 1/2 in the middle.
  """
  grid = places.shape[-3:-1]
  shares = (np.moveaxis(np.indices(grid), 0, -1) + 0.5) / np.asarray(grid)
  return np.min(np.minimum(shares, 1 - shares), axis=-1).astype(np.float32)
