"""Stage `detect`: boxes round lesions, from class maps of other images.

A U-Net learns lesion or not from tiles of the images of stage `lesions`, and
the connected components of its probabilities are the boxes of the images of
stage `data`. The paper takes a Faster R-CNN with a ResNet-50 and a feature
pyramid, pre-trained on natural images, with a class for each of four lesions,
on images of 1600 x 1200 pixels. Here there is one class, no pre-training, and
the images are as large as they are prepared, where the smallest
microaneurysms are two pixels wide. A box is as large as what was found, two
touching lesions have one box, and no box lies in another: there is nothing to
suppress.
"""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.augment.filters import gaussian_blur
from gcl_jax.data import splits
from gcl_jax.data.components import boxes_of
from gcl_jax.engine.arrays import Regions
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.losses.segmentation import inverse_frequency
from gcl_jax.methods.comcl import detected
from gcl_jax.pipeline.prepared import Prepared, pixel_statistics
from gcl_jax.pipeline.segmentation import Segmenter, views_of

NO_LESION = "optic_disc"  # class of the maps of IDRiD that is no lesion
CHUNK = 256  # images whose probability maps are held at once
SPREAD = 1 / 30  # standard deviation of the blur, as a share of the height
GAIN = 4.0  # of the difference to the blurred image


class Tiles(NamedTuple):
  """Tiles as `Segmenter.fit` takes prepared images.

  Attributes:
    pixels: uint8[T, t, t, C].
    masks: uint8[T, t, t], 1 = lesion.
    ids: str[T].
  """

  pixels: Regions
  masks: Regions
  ids: np.ndarray


def run(context: Context) -> dict[str, Any]:
  """Trains the detector, tests it on images left out, and finds the boxes.

  Args:
    context: of the stage; sections `detector`, `boxes` and `patches.size`.

  Returns:
    `boxes` float32[M, 5] of the images of stage `data` and `boxes_row` int[M],
    as in stage `data`; `metrics`, JSON of `detected.entries` of the images of
    stage `lesions` left out of training; `folds` int[L], the part that each of
    these was in, -1 where they are too few to leave any out.

  Raises:
    DataError: no class map holds a lesion.
  """
  lesions, images = Prepared(context, "lesions"), Prepared(context)
  detector = Detector(context, lesions)
  groups = lesions.groups[detector.rows]
  fold, found = detector.cross_fitted(groups)
  metrics = {}
  if found is not None:
    metrics = detected.entries(detector.outcomes(found), groups)
  variables = detector.fit(np.arange(len(detector.rows)), "all")
  boxes = detector.boxes(variables, images.pixels, "boxes")
  return {
    "boxes": np.concatenate([np.zeros((0, 5), np.float32), *boxes]),
    "boxes_row": np.repeat(np.arange(len(boxes)), [len(b) for b in boxes]),
    "metrics": json.dumps(metrics),
    "folds": fold,
  }


class Detector:
  """A U-Net trained again and again on tiles of the same images.

  Attributes:
    rows: int[L], rows of stage `lesions` that have a class map.
    pixels: uint8[L, S, S, C], these images with their contrast evened out.
    masks: uint8[L, S, S], 1 = lesion.
  """

  def __init__(self, context: Context, lesions: Prepared):
    """Takes the images of stage `lesions`; see `run`."""
    self.context, self.config = context, context.config.detector
    self.rows = np.flatnonzero(lesions.labelled)
    self.masks = lesion_masks(lesions.masks[self.rows], lesions.classes)
    if not self.masks.any():
      raise DataError(
        "no class map of lesion_data holds a lesion: the detector has nothing"
        " to learn from; choose another data set with --config.lesion_data.name"
      )
    self.ids = lesions.ids[self.rows]
    self.pixels = context.map(
      even,
      {},
      {"image": lesions.pixels[self.rows]},
      batch_size=self.config.batch_size,
      name="even",
      quiet=True,
    )["image"]
    self.segmenter, self.mapped = programs(
      self.config, *pixel_statistics(self.pixels, np.arange(len(self.rows)))
    )

  def fit(self, rows: np.ndarray, name: str) -> dict[str, Any]:
    """Parameters and statistics after training on these of the images."""
    config, context = self.config, self.context
    tiles = tiles_of(self.pixels, self.masks, rows, self.ids, config.tile)
    weights = None
    if config.class_weights:
      weights = inverse_frequency(self.masks[rows], 2)
    checkpoints = context.checkpoints(f"fits/{name}", keep=1)
    state = self.segmenter.fit(
      context,
      tiles,
      balanced(tiles.masks),
      name=name,
      seed=context.config.seed,
      class_weights=weights,
      checkpoints=checkpoints,
    )
    checkpoints.close()
    return {"params": state.params, "batch_stats": state.extra["batch_stats"]}

  def boxes(
    self, variables: Any, pixels: np.ndarray, name: str
  ) -> list[np.ndarray]:
    """Boxes float32[K, 5] of every image uint8[N, S, S, C].

    Probability maps of `CHUNK` images are held at a time.
    """
    found, size = [], self.config.batch_size
    with self.context.telemetry.progress(len(pixels), name) as bar:
      for start in range(0, len(pixels), CHUNK):
        maps = self.context.map(
          self.mapped,
          variables,
          {"image": pixels[start : start + CHUNK]},
          batch_size=size,
          name=name,
          quiet=True,
        )
        for one in maps:
          probability = one.astype(np.float32) / 255
          found.append(boxes_of(probability, smallest=self.config.smallest))
        bar.update(len(maps))
    return found
