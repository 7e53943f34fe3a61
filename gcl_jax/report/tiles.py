"""Sheets of images: rows of scores, preparation, reconstructions, class maps.

Every function takes uint8 images [H, W], [H, W, 1] (grey) or [H, W, 3]
(RGB); other numbers are stretched from their lowest to their highest value.
An image keeps its pixels, up to 320 a side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gcl_jax.report.canvas import MUTED, SERIES, WIDTH, nothing, save
from gcl_jax.report.sheet import NAMES, extremes, note, sheet, stretch
from gcl_jax.report.words import clean

HEAT = (255.0, 120.0, 0.0)  # colour of what stands out
_COLUMNS = 5  # of the legend of classes


def gallery(
  images: Any, captions: Sequence[str] = (), columns: int = 6
) -> bytes:
  """Draws images in reading order under an arrow from lowest to highest.

  Args:
    images: [N, H, W] or [N, H, W, 1 or 3].
    captions: one short line under each image, or none.
    columns: images in a row.

  Returns:
    SVG bytes.

  Raises:
    ValueError: the number of captions is not the number of images.
  """
  images = list(images)
  _one_caption_each(captions, images, "images")
  if not images:
    return nothing("no image")
  with sheet({"": images}, captions, columns, top=30) as (figure, tiles):
    y = 1 - 10 / figure.bbox.height
    figure.text(0, y, "lowest", color=MUTED, va="center")
    figure.text(1, y, "highest", color=MUTED, va="center", ha="right")
    tiles[0][0].annotate(
      "",
      (1 - 58 / WIDTH, y),
      (52 / WIDTH, y),
      xycoords="figure fraction",
      arrowprops={"arrowstyle": "->", "color": MUTED},
      annotation_clip=False,
    )
    return save(figure)


def before_after(
  pairs: Sequence[tuple[Any, Any]],
  captions: Sequence[str] = (),
  names: tuple[str, str] = ("as stored", "as used"),
) -> bytes:
  """Draws each image as stored, an arrow, and as used after preparation.

  Args:
    pairs: (before, after), each [H, W] or [H, W, 1 or 3], of any size and
      number type.
    captions: one line under each pair, or none.
    names: above the two.

  Returns:
    SVG bytes, two pairs in a row.

  Raises:
    ValueError: the number of captions is not the number of pairs.
  """
  pairs = list(pairs)
  _one_caption_each(captions, pairs, "pairs")
  if not pairs:
    return nothing("no image")
  sides = [side for pair in pairs for side in pair]
  rows = {"": sides}
  with sheet(rows, captions, 4, top=24, gap=36, span=2) as (figure, tiles):
    for i, axes in enumerate(tiles[0]):
      if i < 4:
        note(axes, names[i % 2], (0, 1), (0, 5))
      if i % 2 == 0:
        place = {"ha": "center", "va": "center", "fontsize": 18}
        note(axes, "\u2192", (1, 0.5), (18, 0), **place)
    return save(figure)


def grid(
  rows: Mapping[str, Sequence[Any]],
  captions: Sequence[str] = (),
  columns: int = 6,
) -> bytes:
  """Draws rows of images, each with its name.

  Args:
    rows: name -> N images [H, W] or [H, W, 1 or 3].
    captions: one line under each column, or none.
    columns: images in a row; more go on in further rows of the same names.

  Returns:
    SVG bytes.

  Raises:
    ValueError: rows of different lengths, or another number of captions.
  """
  rows = {name: list(images) for name, images in rows.items()}
  lengths = {name: len(images) for name, images in rows.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f"rows differ in length: {lengths}")
  if not any(lengths.values()):
    return nothing("no image")
  _one_caption_each(captions, next(iter(rows.values())), "columns")
  with sheet(rows, captions, columns) as (figure, _):
    return save(figure)


def reconstructions(
  images: Any, recons: Any, captions: Sequence[str] = ()
) -> bytes:
  """Draws images, their reconstructions, and the absolute differences.

  The differences of all images share one colour scale, drawn below; its top
  is the largest finite difference.

  Args:
    images: [N, H, W] or [N, H, W, 1].
    recons: [N, H, W] or [N, H, W, 1] as images, in the same range.
    captions: one line under each column, or none.

  Returns:
    SVG bytes, six columns at most beside each other.

  Raises:
    ValueError: the shapes or the number of captions differ.
  """
  from matplotlib import colormaps

  images, recons = np.asarray(images), np.asarray(recons)
  if images.shape != recons.shape:
    raise ValueError(
      f"images {images.shape} and reconstructions {recons.shape} differ"
    )
  _one_caption_each(captions, images, "images")
  if not len(images):
    return nothing("no image")
  low, high = extremes(np.stack((images, recons)))
  errors = np.abs(images.astype(np.float64) - recons.astype(np.float64))
  errors = errors[..., 0] if errors.ndim == 4 else errors
  top = max(np.max(errors, initial=0, where=np.isfinite(errors)), 1e-12)
  errors = np.clip(np.nan_to_num(errors / top), 0, 1)
  rows = {
    "input": stretch(images, low, high),
    "reconstruction": stretch(recons, low, high),
    "error": colormaps["inferno"](errors, bytes=True)[..., :3],
  }
  with sheet(rows, captions, 6, bottom=28) as (figure, _):
    _scale(figure, top)
    return save(figure)


def heated(
  image: np.ndarray, places: np.ndarray, top: float | None = None
) -> np.ndarray:
  """A grey image with what stands out in colour, such as attributions.

  Args:
    image: uint8[H, W, C].
    places: float[H, W]; negative ones are left grey.
    top: value of the full colour; None is the largest of this image.

  Returns:
    uint8[H, W, 3].
  """
  heat = np.clip(np.nan_to_num(places), 0, None)
  top = heat.max(initial=0) if top is None else top
  heat = 0.75 * np.minimum(heat / max(top, 1e-12), 1)[..., None]
  grey = image.astype(np.float64).mean(-1, keepdims=True)
  mixed = (1 - heat) * 0.8 * grey + heat * np.array(HEAT)
  return np.round(np.clip(mixed, 0, 255)).astype(np.uint8)


def overlays(
  images: Any,
  maps: Mapping[str, Any],
  classes: Sequence[str],
  captions: Sequence[str] = (),
) -> bytes:
  """Draws slices in columns; under each, the same slice with its class maps.

  Args:
    images: uint8 [N, H, W] or [N, H, W, 1].
    maps: name -> integer [N, H, W], 0 background, 1..n the classes.
    classes: names of the classes, in the order of the legend.
    captions: one line under each column, or none.

  Returns:
    SVG bytes, six columns at most beside each other.

  Raises:
    ValueError: maps or captions of another number or shape than the images.
  """
  images = np.asarray(images)
  images = images[..., 0] if images.ndim == 4 else images
  for name, found in maps.items():
    if np.shape(found) != images.shape:
      raise ValueError(
        f"map {name!r} is {np.shape(found)} for images {images.shape}"
      )
  _one_caption_each(captions, images, "images")
  if not len(images):
    return nothing("no slice")
  rows = {"slice": images} | {
    name: _tinted(images, np.asarray(found)) for name, found in maps.items()
  }
  lines = -(-len(classes) // _COLUMNS)
  with sheet(rows, captions, 6, bottom=4 + 18 * lines) as (figure, _):
    _legend(figure, classes)
    return save(figure)


def _one_caption_each(captions, images, kind: str) -> None:
  if captions and len(captions) != len(images):
    raise ValueError(f"{len(captions)} captions for {len(images)} {kind}")


def _scale(figure: Any, top: float) -> None:
  """Draws the colours from 0 to `top` in the lower left corner."""
  height = figure.bbox.height
  axes = figure.add_axes((NAMES / WIDTH, 6 / height, 160 / WIDTH, 8 / height))
  axes.imshow(np.linspace(0, 1, 256)[None], cmap="inferno", aspect="auto")
  axes.set_axis_off()
  note(axes, "0", (0, 0.5), (-6, 0), ha="right", va="center")
  note(axes, f"{top:.3g}", (1, 0.5), (6, 0), va="center")


def _legend(figure: Any, classes: Sequence[str]) -> None:
  """Draws the colour of each class in the lower left corner."""
  from matplotlib.patches import Patch

  handles = [
    Patch(color=SERIES[i % len(SERIES)], label=clean(name, 16))
    for i, name in enumerate(classes)
  ]
  place = {"loc": "lower left", "bbox_to_anchor": (NAMES / WIDTH, 0)}
  figure.legend(
    handles=handles,
    ncols=_COLUMNS,
    borderaxespad=0,
    borderpad=0,
    handlelength=1,
    handleheight=1,
    **place,
  )


def _tinted(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
  """uint8 [N, H, W, 3]: grey slices, half covered by the classes' colours."""
  from matplotlib.colors import to_rgb

  colours = 255 * np.array([to_rgb(colour) for colour in SERIES])
  grey = np.repeat(images[..., None].astype(np.float64), 3, axis=-1)
  colour = colours[(classes.astype(int) - 1) % len(SERIES)]
  mixed = np.where(classes[..., None] > 0, 0.5 * grey + 0.5 * colour, grey)
  return np.round(mixed).astype(np.uint8)
