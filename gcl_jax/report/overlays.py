"""Class maps drawn over their slices, one row per model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcl_jax.report.canvas import nothing
from gcl_jax.report.style import SERIES
from gcl_jax.report.tiles import sheet_of_rows


def overlays(
  images: Any,
  maps: dict[str, Any],
  classes: Sequence[str],
  captions: Sequence[str] = (),
) -> bytes:
  """Slices in columns; under each, the same slice under every class map.

  Args:
    images: uint8 [N, H, W] or [N, H, W, 1].
    maps: name -> integer [N, H, W], 0 background, 1..n the classes.
    classes: names of the classes, in the order of the legend.
    captions: one line under each column, or none.

  Returns:
    SVG bytes.

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
  if captions and len(captions) != len(images):
    raise ValueError(f"{len(captions)} captions for {len(images)} images")
  if not len(images):
    return nothing("no slice")
  rows = {"slice": list(images)} | {
    name: [tinted(*pair) for pair in zip(images, found, strict=True)]
    for name, found in maps.items()
  }
  legend = [(name, SERIES[i % len(SERIES)]) for i, name in enumerate(classes)]
  return sheet_of_rows(rows, captions, legend)


def tinted(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
  """uint8 [H, W, 3]: the grey slice, its classes in the colours of `SERIES`."""
  grey = np.repeat(np.asarray(image, np.float64)[..., None], 3, axis=2)
  colours = np.array(
    [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SERIES], np.float64
  )
  classes = np.asarray(classes).astype(int)
  colour = colours[(classes - 1) % len(SERIES)]
  mixed = np.where(classes[..., None] > 0, 0.5 * grey + 0.5 * colour, grey)
  return np.round(mixed).astype(np.uint8)
