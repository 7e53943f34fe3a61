"""Pictures of the report: degradations, windows, attributions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.arrays import Regions
from gcl_jax.methods.comcl.pools import Pool
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.methods.comcl.targets import spread
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.report import html, tiles


def degraded(
  images: Prepared, quality: Quality, config: ConfigDict
) -> html.Section:
  """Evaluation images, clean and as they are degraded."""
  rows = np.flatnonzero(images.evaluation & ~quality.native)
  rows = spread(rows, config.report.pictures)
  pairs = [(quality.clean[k], quality.degraded[k]) for k in rows]
  names = [str(images.ids[k]) for k in rows]
  picture = tiles.before_after(pairs, names, ("clean", "degraded"))
  caption = (
    f"Evaluation images and their one degradation (family"
    f" {config.quality.family}), which is the same at every share."
  )
  return html.Section("Degradations", [html.Figure(picture, caption)])


def windows(
  images: Any, pools: Mapping[str, Pool], side: int, count: int
) -> html.Figure:
  """Windows of every level, from boxes spread over its pool.

  Args:
    images: array-like uint8[N, S, S, C], as training sees them.
    pools: level -> boxes that windows are drawn round.
    side: P, of a window in pixels.
    count: windows of a level at most.
  """
  rows = {}
  for level, pool in pools.items():
    chosen = spread(np.arange(len(pool.rows)), count)
    boxes = np.asarray(pool.boxes, float)[chosen]
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    corners = np.round(centres - side / 2).astype(int)
    corners = np.clip(corners, 0, images.shape[1] - side)
    cut = Regions(images, np.asarray(pool.rows)[chosen], corners, side)[:]
    blank = np.full((count - len(cut), *cut.shape[1:]), 255, np.uint8)
    rows[level.replace("_", ", ")] = np.concatenate([cut, blank])
  caption = (
    f"Windows of {side} pixels that pre-training draws, centred on their boxes;"
    " in training they are shifted at random, anew for every view."
  )
  return html.Figure(tiles.grid(rows), caption)


def attributions(
  images: Prepared, quality: Quality, found: dict, names: list[str]
) -> list[html.Section]:
  """Where each explained arm looks, on clean and on degraded images.

  Args:
    images: the prepared images.
    quality: of the run.
    found: the artifact of stage `diagnosis`.
    names: its arms, this method's own first.
  """
  cases, explained = found["cases"], found["attributions"]
  shown = [name for name in names if name in explained]
  if not len(cases) or not shown:
    return []
  captions, figures = [str(images.ids[k]) for k in cases], []
  for version, pixels, word in (
    ("clean", quality.clean, "clean"),
    ("low", quality.degraded, "degraded"),
  ):
    raw = [pixels[int(k)] for k in cases]
    rows = {word: raw} | {
      name: [
        tiles.heated(image, places)
        for image, places in zip(raw, explained[name][version], strict=True)
      ]
      for name in shown
    }
    caption = (
      f"Gradient x activation at the last feature map, {word} images: orange is"
      " what speaks for the predicted grade or finding, each image scaled to"
      " its own largest value. The images are grey, to set it off."
    )
    figures.append(html.Figure(tiles.grid(rows, captions), caption))
  return [html.Section("Where the classifier looks", figures)]
