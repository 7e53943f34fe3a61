"""Images side by side, each a PNG inside one SVG with words in the page's
font."""

import base64
import io
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from gcl_jax.report.canvas import WIDTH, nothing
from gcl_jax.report.style import LIGHT, clean

_GAP = 10
_LARGEST = 320  # pixels: an image is stored no larger than this


def gallery(
  images: Any,
  captions: Sequence[str] = (),
  columns: int = 6,
  *,
  ends: tuple[str, str] = ("lowest", "highest"),
) -> bytes:
  """Images in reading order, from the lowest to the highest.

  Args:
    images: [N, H, W] or [N, H, W, 1 or 3]; uint8, or numbers that are
      stretched image by image.
    captions: one short line under each image, or none.
    columns: images in a row.
    ends: words at the two ends of the arrow above the images.

  Returns:
    SVG bytes.

  Raises:
    ValueError: the number of captions is not the number of images.
  """
  images = list(images)
  if captions and len(captions) != len(images):
    raise ValueError(f"{len(captions)} captions for {len(images)} images")
  if not images:
    return nothing("no image")
  width, height = _box(images, min(columns, max(len(images), 3)))
  sheet = _Sheet(30)
  sheet.arrow(*ends)
  step = height + (24 if captions else _GAP)
  for i, image in enumerate(images):
    x = (i % columns) * (width + _GAP)
    y = 30 + (i // columns) * step
    sheet.image(image, x, y, width, height)
    if captions:
      sheet.text(captions[i], x, y + height + 15, limit=int(width / 6.2))
  return sheet.close(30 + -(-len(images) // columns) * step)


def before_after(
  pairs: Sequence[tuple[Any, Any]],
  captions: Sequence[str] = (),
  *,
  labels: tuple[str, str] = ("as stored", "as used"),
) -> bytes:
  """What preprocessing did: each image before, an arrow, and after.

  Args:
    pairs: (before, after), each [H, W] or [H, W, 1 or 3], of any size and
      number type.
    captions: one line under each pair, or none.
    labels: what the two sides are.

  Returns:
    SVG bytes, two pairs in a row.

  Raises:
    ValueError: the number of captions is not the number of pairs.
  """
  pairs = list(pairs)
  if captions and len(captions) != len(pairs):
    raise ValueError(f"{len(captions)} captions for {len(pairs)} pairs")
  if not pairs:
    return nothing("no image")
  half = (WIDTH - 36) // 2
  width, height = _box([side for pair in pairs for side in pair], 4, 24)
  sheet, step = _Sheet(22), height + (26 if captions else 14)
  for i, pair in enumerate(pairs):
    left, y = (i % 2) * (half + 36), 22 + (i // 2) * step
    for j, side in enumerate(pair):
      x = left + j * (half - width)
      sheet.image(side, x, y, width, height)
      if i < 2:
        sheet.text(labels[j], x, 13)
    sheet.chevron(left + half / 2, y + height / 2)
    if captions:
      sheet.text(captions[i], left, y + height + 15, limit=int(half / 6.2))
  return sheet.close(22 + -(-len(pairs) // 2) * step)


def reconstructions(
  images: Any,
  recons: Any,
  errors: Any = None,
  captions: Sequence[str] = (),
  *,
  columns: int = 6,
) -> bytes:
  """Three rows: images, their reconstructions, and where they differ.

  The errors of all images share one colour scale, printed below; its top is
  the largest finite error.

  Args:
    images: [N, H, W] or [N, H, W, 1].
    recons: the same shape and range of values.
    errors: [N, H, W] or [N, H, W, 1], 0 or more; None: |images - recons|.
    captions: one line under each column, or none.
    columns: images in a row of the page.

  Returns:
    SVG bytes.

  Raises:
    ValueError: the shapes or the number of captions differ.
  """
  images, recons = np.asarray(images), np.asarray(recons)
  shapes = [images.shape, recons.shape]
  shapes += [] if errors is None else [np.shape(errors)]
  if len({shape[:3] for shape in shapes}) > 1:
    raise ValueError(f"images, reconstructions, errors differ: {shapes}")
  if errors is None:
    errors = np.abs(images.astype(np.float64) - recons.astype(np.float64))
  errors = np.asarray(errors, np.float64)
  if captions and len(captions) != len(images):
    raise ValueError(f"{len(captions)} captions for {len(images)} images")
  if not len(images):
    return nothing("no image")
  low, high = _range(np.stack((images, recons)))
  top = max(np.max(errors, initial=0, where=np.isfinite(errors)), 1e-12)
  hot = [_heat(error, top) for error in errors]
  rows = [_stretch(images, low, high), _stretch(recons, low, high), hot]
  return _three_rows(rows, captions, columns, top)


def _three_rows(rows, captions, columns: int, top: float) -> bytes:
  count, left = len(rows[0]), 104
  fit = min(columns, max(count, 3))
  width, height = _box(rows[0], fit, left / fit)
  sheet, block = _Sheet(0), 3 * (height + 6) + (26 if captions else 8)
  for i in range(count):
    x = left + (i % columns) * (width + _GAP)
    y = (i // columns) * block
    for j, name in enumerate(("input", "reconstruction", "error")):
      sheet.image(rows[j][i], x, y + j * (height + 6), width, height)
      if i % columns == 0:
        sheet.text(name, 0, y + j * (height + 6) + height / 2 + 4, ink="ink")
    if captions:
      limit = int(width / 6.2)
      sheet.text(captions[i], x, y + 3 * (height + 6) + 12, limit=limit)
  bottom = -(-count // columns) * block
  ramp = np.linspace(0, top, 64)[None]
  sheet.image(_heat(ramp, top), left, bottom + 6, 160, 8, stretch=True)
  sheet.text("0", left - 14, bottom + 14)
  sheet.text(f"{top:.3g}", left + 168, bottom + 14)
  return sheet.close(bottom + 22)


def sheet_of_rows(
  rows: dict[str, Sequence[Any]],
  captions: Sequence[str] = (),
  legend: Sequence[tuple[str, str]] = (),
) -> bytes:
  """Named rows of images, one column each, and a legend of colours below.

  Args:
    rows: name -> images, as many in every row.
    captions: one line under each column, or none.
    legend: (name, colour as #rrggbb).

  Returns:
    SVG bytes.
  """
  left, count = 104, len(next(iter(rows.values())))
  width, height = _box(next(iter(rows.values())), max(count, 3), left / count)
  sheet = _Sheet(0)
  for j, (name, images) in enumerate(rows.items()):
    y = j * (height + 6)
    sheet.text(name, 0, y + height / 2 + 4, ink="ink", limit=14)
    for i, image in enumerate(images):
      sheet.image(image, left + i * (width + _GAP), y, width, height)
  bottom = len(rows) * (height + 6)
  for i, caption in enumerate(captions):
    x = left + i * (width + _GAP)
    sheet.text(caption, x, bottom + 12, limit=int(width / 6.2))
  bottom += 22 if captions else 4
  for i, (name, colour) in enumerate(legend):
    sheet.swatch(name, colour, left + i * 130, bottom + 6)
  return sheet.close(bottom + (26 if legend else 0))


class _Sheet:
  """The SVG under construction: `WIDTH` wide, as high as it gets."""

  def __init__(self, top: float):
    self.parts: list[str] = []
    self.top = top

  def image(self, image, x, y, width, height, *, stretch=False) -> None:
    data, side = _png(image)
    smooth = "auto" if side >= 64 or stretch else "pixelated"
    fit = "none" if stretch else "xMidYMid"
    self.parts.append(
      f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
      f'height="{height:.1f}" preserveAspectRatio="{fit}" '
      f'style="image-rendering:{smooth}" '
      f'href="data:image/png;base64,{data}"/>'
    )

  def text(self, text, x, y, *, ink="muted", anchor="start", limit=60) -> None:
    self.parts.append(
      f'<text x="{x:.1f}" y="{y:.1f}" style="font:12px \'DejaVu Sans\';'
      f'fill:{LIGHT[ink]};text-anchor:{anchor}">'
      f"{escape(clean(text, max(limit, 4)))}</text>"
    )

  def swatch(self, name, colour, x, y) -> None:
    """A square of a colour and its name."""
    self.parts.append(
      f'<path d="M{x:.1f} {y:.1f}h11v11h-11z" style="fill:{colour}"/>'
    )
    self.text(name, x + 16, y + 10, limit=16)

  def line(self, path: str) -> None:
    self.parts.append(
      f'<path d="{path}" style="fill:none;stroke:{LIGHT["muted"]};'
      'stroke-width:1.2;stroke-linecap:round"/>'
    )

  def arrow(self, low: str, high: str) -> None:
    """A line with words at its ends, across the top."""
    self.text(low, 0, 14)
    self.text(high, WIDTH, 14, anchor="end")
    start, end = 8 + 7.2 * len(low), WIDTH - 8 - 7.2 * len(high)
    self.line(f"M{start:.0f} 10H{end:.0f}m-5-4 5 4-5 4")

  def chevron(self, x: float, y: float) -> None:
    self.line(f"M{x - 6:.1f} {y:.1f}h12m-5-4 5 4-5 4")

  def close(self, height: float) -> bytes:
    return (
      '<svg xmlns="http://www.w3.org/2000/svg" '
      f'viewBox="0 0 {WIDTH} {height:.0f}">{"".join(self.parts)}</svg>'
    ).encode()


def _box(images: Sequence[Any], columns: int, spare: float = 0) -> tuple:
  """Width and height of a tile so that `columns` of them fill the sheet."""
  width = (WIDTH + _GAP) / columns - _GAP - spare
  shapes = [np.shape(image)[:2] for image in images]
  tall = max((h / w for h, w in shapes if h and w), default=1.0)
  return width, width * min(tall, 1.6)


def _png(image: Any) -> tuple[str, int]:
  """Base64 of the image as PNG, and its shorter side in pixels."""
  from PIL import Image

  pixels = np.asarray(image)
  if pixels.ndim == 3 and pixels.shape[2] == 1:
    pixels = pixels[..., 0]
  if not pixels.size:
    pixels = np.zeros((1, 1), np.uint8)
  if pixels.dtype != np.uint8:
    pixels = _stretch(pixels, *_range(pixels))
  picture, file = Image.fromarray(pixels), io.BytesIO()
  picture.thumbnail((_LARGEST, _LARGEST))
  picture.save(file, "PNG", optimize=True)
  return base64.b64encode(file.getvalue()).decode(), min(pixels.shape[:2])


def _range(values: np.ndarray) -> tuple[float, float]:
  """Black and white: 0 and 255 for bytes, else the finite extremes."""
  if values.dtype == np.uint8:
    return 0.0, 255.0
  finite = values[np.isfinite(values)]
  if not finite.size:
    return 0.0, 1.0
  return float(finite.min()), float(finite.max())


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
  """uint8 of values between low and high; what is not finite is black."""
  values = np.nan_to_num(values.astype(np.float64), nan=low)
  scaled = (np.clip(values, low, high) - low) / (high - low or 1.0)
  return np.round(255 * scaled).astype(np.uint8)


def _heat(error: np.ndarray, top: float) -> np.ndarray:
  """uint8 [H, W, 3]: black for 0 to pale yellow for `top`."""
  from matplotlib import colormaps

  error = np.asarray(error, np.float64)
  error = error[..., 0] if error.ndim == 3 else error
  shades = colormaps["inferno"](np.clip(np.nan_to_num(error) / top, 0, 1))
  return np.round(255 * shades[..., :3]).astype(np.uint8)
