"""Square crops: round the disc of a fundus photograph, or of whole images.

Positions are continuous: pixel i covers the interval from i to i + 1, as in
boxes, whose bottom and right are excluded.
"""

import numpy as np
from scipy import ndimage

from gcl_jax.data.formats import to_uint8
from gcl_jax.data.preprocess import resize
from gcl_jax.errors import DataError

_LOOK = 256  # longest side in pixels of the copy in which the disc is sought
_TRIPLES = 300  # circles through three points of the edge that are compared
_NEAR = 0.015  # of the radius: points so close to a circle support it
_AGREE = 0.9  # least overlap (IoU) of a circle with the bright region
_SUPPORT = 0.5  # least share of the edge that lies on the circle


def disc_of(image: np.ndarray) -> tuple[float, float, float] | None:
  """Finds the bright disc of a fundus photograph before a dark border.

  The bright region is what exceeds the level of the corners by 12 % of the way
  to the 90th percentile. Its edge, where it is not the edge of the image, is
  fitted by the circle through three of its points that most points support
  (RANSAC with a fixed seed), then by least squares over these points. A disc
  that the image cuts at the top and bottom is found by its sides.

  Args:
    image: [H, W] or [H, W, C], any real dtype.

  Returns:
    Row and column of the centre and the radius, in pixels; the centre and parts
    of the disc may lie outside the image. None if there is no disc: no dark
    border, or a region that is not round.
  """
  grey = image if image.ndim == 2 else image.max(axis=2)
  scale = max(1.0, max(grey.shape) / _LOOK)
  small = tuple(max(1, round(side / scale)) for side in grey.shape)
  bright = _bright(ndimage.gaussian_filter(resize(grey, small), 1.0))
  points = _edge(bright)
  found = None if len(points) < 12 else _circle(points)
  if found is None or not _fits(bright, found, points):
    return None
  row, column, radius = found
  rows, columns = grey.shape[0] / small[0], grey.shape[1] / small[1]
  return row * rows, column * columns, radius * (rows + columns) / 2


def crop_to_disc(
  image: np.ndarray,
  boxes: np.ndarray | None = None,
  mask: np.ndarray | None = None,
  *,
  size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Crops to the square round the disc and resizes; boxes and mask follow.

  Pixels outside the disc become 0, and so does what the image cuts off the
  square. An image without a disc (`disc_of`) is treated by `square`.

  Args:
    image: [H, W] or [H, W, C]; other types than uint8 are converted by
      `formats.to_uint8`.
    boxes: [K, 5] of `Dataset.read_boxes`.
    mask: integer [H, W], a class map.
    size: rows and columns of the result.

  Returns:
    The image, uint8 [size, size, C] (C = 1 for a grey one); the boxes, float32
    [M, 5] in pixels of the result, clipped to it, without those whose centre
    lies outside the disc (K - M were dropped; [0, 5] without `boxes`); and the
    class map, uint8 [size, size], or None.

  Raises:
    DataError: the mask is not of the size of the image, boxes that are not
      [K, 5], or as `formats.to_uint8`.
  """
  image = to_uint8(np.asarray(image))
  found = disc_of(image)
  if found is None:
    return square(image, boxes, mask, size=size)
  row, column, radius = found
  side = max(1, round(2 * radius))
  corner = round(row - side / 2), round(column - side / 2)
  image, boxes, mask = _moved(image, boxes, mask, corner, side, size)
  # The circle in pixels of the result.
  centre = (np.array([row, column]) - corner) * size / side
  reach = radius * size / side
  where = np.arange(size) + 0.5
  outside = (where[:, None] - centre[0]) ** 2 > reach**2 - (
    where - centre[1]
  ) ** 2
  image[outside] = 0
  if mask is not None:
    mask[outside] = 0
  middle = (boxes[:, :2] + boxes[:, 2:4]) / 2
  boxes = boxes[((middle - centre) ** 2).sum(1) <= reach**2]
  return image, _clipped(boxes, size), mask


def square(
  image: np.ndarray,
  boxes: np.ndarray | None = None,
  mask: np.ndarray | None = None,
  *,
  size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Pads the shorter axis evenly with zeros and resizes to a square.

  Arguments, results and errors are those of `crop_to_disc`; dropped are boxes
  whose centre lies outside the image.
  """
  image = to_uint8(np.asarray(image))
  height, width = image.shape[:2]
  side = max(height, width)
  corner = -((side - height) // 2), -((side - width) // 2)
  low = np.array(corner) * -size / side
  high = low + np.array([height, width]) * size / side
  image, boxes, mask = _moved(image, boxes, mask, corner, side, size)
  middle = (boxes[:, :2] + boxes[:, 2:4]) / 2
  inside = ((middle >= low) & (middle <= high)).all(1)
  return image, _clipped(boxes[inside], size), mask


def _bright(grey: np.ndarray) -> np.ndarray:
  """bool [h, w]: the largest region brighter than the corners."""
  side = max(1, min(grey.shape) // 25)
  ends = (slice(None, side), slice(-side, None))
  corners = [grey[rows, columns].ravel() for rows in ends for columns in ends]
  dark, high = np.median(np.concatenate(corners)), np.percentile(grey, 90)
  if not high > dark:
    return np.zeros(grey.shape, bool)
  bright = grey > dark + 0.12 * (high - dark)
  labels, _ = ndimage.label(ndimage.binary_opening(bright, iterations=2))
  pixels = np.bincount(labels.ravel())
  pixels[0] = 0
  return ndimage.binary_fill_holes((labels == pixels.argmax()) & (labels > 0))


def _edge(bright: np.ndarray) -> np.ndarray:
  """float [n, 2]: outermost points of rows and columns, inside the image."""
  points = []
  for axis in (0, 1):
    lines = np.moveaxis(bright, axis, 0)
    length = lines.shape[1]
    numbers = np.flatnonzero(lines.any(1))
    first = lines[numbers].argmax(1)
    last = length - lines[numbers, ::-1].argmax(1)
    for ends in (first, last):
      inner = (ends > 1) & (ends < length - 1)
      pair = np.stack([numbers[inner] + 0.5, ends[inner]], axis=1)
      points.append(pair if axis == 0 else pair[:, ::-1])
  return np.concatenate(points)


def _circle(points: np.ndarray) -> tuple[float, float, float] | None:
  """Row, column and radius of the circle that most points support."""
  draw = np.random.default_rng(0)
  triples = points[draw.integers(len(points), size=(_TRIPLES, 3))]
  circles = np.array([c for c in map(_least_squares, triples) if c is not None])
  if not len(circles):
    return None
  best = max(circles, key=lambda circle: _on(circle, points).sum())
  for _ in range(3):
    best = _least_squares(points[_on(best, points)])
    if best is None:
      return None
  return tuple(float(value) for value in best)


def _least_squares(points: np.ndarray) -> np.ndarray | None:
  """Circle (row, column, radius) by linear least squares; None of a line."""
  terms = np.column_stack([2 * points, np.ones(len(points))])
  solved, _, rank, _ = np.linalg.lstsq(terms, (points**2).sum(1), rcond=1e-6)
  squared = solved[2] + solved[0] ** 2 + solved[1] ** 2
  if rank < 3 or squared <= 0:
    return None
  return np.array([solved[0], solved[1], np.sqrt(squared)])


def _on(circle: np.ndarray, points: np.ndarray) -> np.ndarray:
  """bool [n]: points on the circle, within a share of its radius."""
  distance = np.hypot(*(points - circle[:2]).T)
  return np.abs(distance - circle[2]) <= max(0.75, _NEAR * circle[2])


def _fits(
  bright: np.ndarray, circle: tuple[float, float, float], points: np.ndarray
) -> bool:
  """Whether the circle, as far as the image shows it, is the bright region."""
  row, column, radius = circle
  rows, columns = np.indices(bright.shape) + 0.5
  inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
  overlap = (inside & bright).sum() / max(1, (inside | bright).sum())
  on = _on(np.array(circle), points).mean()
  return bool(overlap >= _AGREE and on >= _SUPPORT)


def _moved(
  image: np.ndarray,
  boxes: np.ndarray | None,
  mask: np.ndarray | None,
  corner: tuple[int, int],
  side: int,
  size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Image, boxes and mask in a window of `side` pixels, resized to `size`."""
  boxes = np.zeros((0, 5)) if boxes is None else np.asarray(boxes, float)
  if boxes.ndim != 2 or boxes.shape[1] != 5:
    raise DataError(f"boxes of shape {boxes.shape}: expected [boxes, 5]")
  if mask is not None and mask.shape != image.shape[:2]:
    raise DataError(
      f"a class map of {mask.shape} for an image of {image.shape[:2]}"
    )
  planes = image[..., None] if image.ndim == 2 else image
  planes = _window(planes, corner, side)
  resized = [
    resize(planes[..., channel], (size, size))
    for channel in range(planes.shape[2])
  ]
  image = np.floor(np.stack(resized, axis=-1) + 0.5).astype(np.uint8)
  places = (boxes[:, :4] - np.tile(corner, 2)) * size / side
  boxes = np.concatenate([places, boxes[:, 4:]], axis=1)
  if mask is not None:
    nearest = ((np.arange(size) + 0.5) * side / size).astype(int)
    mask = _window(mask, corner, side)[np.ix_(nearest, nearest)]
    mask = mask.astype(np.uint8)
  return image, boxes, mask


def _window(
  image: np.ndarray, corner: tuple[int, int], side: int
) -> np.ndarray:
  """[side, side, ...] of an image, 0 outside it."""
  result = np.zeros((side, side, *image.shape[2:]), image.dtype)
  low = [max(0, start) for start in corner]
  high = [min(n, c + side) for n, c in zip(image.shape, corner, strict=False)]
  into = tuple(
    slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True)
  )
  result[into] = image[low[0] : high[0], low[1] : high[1]]
  return result


def _clipped(boxes: np.ndarray, size: int) -> np.ndarray:
  """float32 [K, 5] with all sides within the square."""
  boxes[:, :4] = np.clip(boxes[:, :4], 0, size)
  return boxes.astype(np.float32)
