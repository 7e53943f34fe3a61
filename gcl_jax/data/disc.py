"""Square crops: round the disc of a fundus photograph, or of whole images.

Positions are continuous: pixel i covers the interval from i to i + 1, as in
boxes, whose bottom and right are excluded.
"""

import numpy as np
from scipy import ndimage

from gcl_jax.data.circles import best_circle, on_circle
from gcl_jax.data.formats import to_uint8
from gcl_jax.data.preprocess import resize
from gcl_jax.errors import DataError

_LOOK = 256  # longest side in pixels of the copy in which the disc is sought
_AGREE = 0.9  # least overlap (IoU) of a circle with the bright region
_SUPPORT = 0.5  # least share of the edge that lies on the circle
_DARK = 0.25  # largest level of the corners, as a share of the 90th percentile
_STEP = 0.25  # least fall across the edge, as a share of that difference


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
    border, a region that is not round, or no step at its edge (an image that
    merely fades towards its corners).
  """
  grey = image if image.ndim == 2 else image.max(axis=2)
  scale = max(1.0, max(grey.shape) / _LOOK)
  small = tuple(max(1, round(side / scale)) for side in grey.shape)
  smooth = ndimage.gaussian_filter(resize(grey, small), 1.0)
  dark, high = _levels(smooth)
  if not dark <= _DARK * high or not high > dark:
    return None
  bright = _bright(smooth, dark + 0.12 * (high - dark))
  points = _edge(bright)
  found = None if len(points) < 12 else best_circle(points)
  if found is None or not _fits(bright, found, points):
    return None
  if not _step(smooth, found) >= _STEP * (high - dark):
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


def _levels(grey: np.ndarray) -> tuple[float, float]:
  """Median of the four corners, and 90th percentile of the image."""
  side = max(1, min(grey.shape) // 25)
  ends = (slice(None, side), slice(-side, None))
  corners = [grey[rows, columns].ravel() for rows in ends for columns in ends]
  dark = np.median(np.concatenate(corners))
  return float(dark), float(np.percentile(grey, 90))


def _bright(grey: np.ndarray, threshold: float) -> np.ndarray:
  """bool [h, w]: the largest region above the threshold, its holes filled."""
  opened = ndimage.binary_opening(grey > threshold, iterations=2)
  labels, _ = ndimage.label(opened)
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


def _fits(
  bright: np.ndarray, circle: tuple[float, float, float], points: np.ndarray
) -> bool:
  """Whether the circle, as far as the image shows it, is the bright region."""
  row, column, radius = circle
  rows, columns = np.indices(bright.shape) + 0.5
  inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
  overlap = (inside & bright).sum() / max(1, (inside | bright).sum())
  on = on_circle(circle, points).mean()
  return bool(overlap >= _AGREE and on >= _SUPPORT)


def _step(grey: np.ndarray, circle: tuple[float, float, float]) -> float:
  """Median fall from 0.95 to 1.05 of the radius; nan if the image has none."""
  angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
  turn = np.stack([np.sin(angles), np.cos(angles)])
  centre, radius = np.array(circle[:2])[:, None], circle[2]
  inner, outer = (
    np.floor(centre + share * radius * turn).astype(int)
    for share in (0.95, 1.05)
  )
  limit = np.array(grey.shape)[:, None]
  seen = np.all([(p >= 0) & (p < limit) for p in (inner, outer)], axis=(0, 1))
  if not seen.any():
    return np.nan
  inner, outer = inner[:, seen], outer[:, seen]
  return float(np.median(grey[tuple(inner)] - grey[tuple(outer)]))


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
