"""Stage `detect`: boxes round lesions, from class maps of other images.

A U-Net learns lesion or not from tiles of the images of stage `lesions`, and
the connected components of what it takes for lesions are the boxes of the
images of stage `data`. The paper takes a Faster R-CNN with a ResNet-50 and a
feature pyramid, with a class for each of four lesions, trained on images of
1600 x 1200 pixels from weights of natural images. Here there is one class,
nothing is pre-trained, and the images are as large as they are prepared, where
the smallest microaneurysms are two pixels wide. A box is as large as what was
found, lesions that touch have one box, and there are no boxes to suppress.
"""

import json
from typing import Any

import numpy as np

from gcl_jax.data import splits
from gcl_jax.data.components import boxes_of
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.losses.segmentation import inverse_frequency
from gcl_jax.methods.comcl import detected, lesion_net, pools
from gcl_jax.pipeline.prepared import Prepared, pixel_statistics
from gcl_jax.pipeline.tiles import tiles_of

CUT = 0.5  # probability of a lesion above which a pixel belongs to one
CHUNK = 256  # images whose probability maps are held at once

Boxes = list[np.ndarray]  # float32[K, 5] of every image


def run(context: Context) -> dict[str, Any]:
  """Trains the detector, tests it on images left out, and finds the boxes.

  Args:
    context: of the stage; sections `detector`, `boxes` and `patches.size`.

  Returns:
    `boxes` float32[M, 5] and `boxes_row` int[M] of the images of stage `data`;
    `metrics`, JSON of `Detector.metrics`; `folds` int[L], the part that each
    image of stage `lesions` was in, and `fold_ids` str[L].

  Raises:
    DataError: no class map holds a lesion, too few images to leave any out, or
      an image with a class map is an evaluation image of stage `data`.
  """
  detector, images = Detector(context), Prepared(context)
  _check_apart(detector, images)
  folds, found = detector.cross_fitted()
  trained = detector.fit(np.arange(len(folds)), "all")
  boxes = detector.find(trained, images.pixels, "boxes")
  return {
    "boxes": np.concatenate([np.zeros((0, 5), np.float32), *boxes]),
    "boxes_row": np.repeat(np.arange(len(boxes)), [len(b) for b in boxes]),
    "metrics": json.dumps(detector.metrics(found)),
    "folds": folds,
    "fold_ids": detector.ids,
  }


class Detector:
  """A U-Net trained again and again on tiles of the same images.

  Attributes:
    pixels: uint8[L, S, S, C], the images that have a class map.
    even: uint8[L, S, S, C], the same images, `lesion_net.evened`.
    masks: uint8[L, S, S], their class maps.
    lesions: uint8[L, S, S], 1 where the class is one of a lesion.
    classes: names of the classes 1..n of `masks`.
    ids, groups: str[L].
  """

  def __init__(self, context: Context):
    """Reads stage `lesions`; see `run`."""
    self.context, self.config = context, context.config.detector
    stored = Prepared(context, "lesions")
    rows = np.flatnonzero(stored.labelled)
    self.ids, self.groups = stored.ids[rows], stored.groups[rows]
    self.pixels, self.masks = stored.pixels[rows], stored.masks[rows]
    self.classes = stored.classes
    self.lesions = lesion_net.lesions_of(self.masks, self.classes)
    if not self.lesions.any():
      raise DataError(
        "no class map of lesion_data holds a lesion: the detector has nothing"
        " to learn from; name another data set with --config.lesion_data.name"
      )
    self.even = self._map(lesion_net.even_batch, {}, self.pixels, "even")
    found = pixel_statistics(self.even, np.arange(len(rows)))
    statistics = tuple(tuple(found[name].tolist()) for name in ("mean", "sd"))
    self._segmenter = lesion_net.segmenter(self.config, *statistics)
    network = self._segmenter.network
    self._side = min(self.config.tile, self.lesions.shape[1])
    self._side -= self._side % network.stride
    self._probability = lesion_net.lesion_probability(network, *statistics)

  def fit(self, rows: np.ndarray, name: str) -> dict[str, Any]:
    """Parameters and batch statistics after training on these images."""
    context, weights = self.context, None
    square = self._side, self._side
    tiles = tiles_of(self.even, self.lesions, rows, self.ids, square)
    if self.config.class_weights:
      weights = inverse_frequency(self.lesions[rows], 2)
    checkpoints = context.checkpoints(f"fits/{name}", keep=1)
    state = self._segmenter.fit(
      context,
      tiles,
      lesion_net.balanced(tiles.masks),
      name=f"detect/{name}",
      seed=context.config.seed,
      class_weights=weights,
      checkpoints=checkpoints,
      save_every=max(1, self.config.steps // 2),
    )
    checkpoints.close()
    return {"params": state.params, "batch_stats": state.extra["batch_stats"]}

  def cross_fitted(self) -> tuple[np.ndarray, Boxes]:
    """The part of every image, int[L], and its boxes by a detector that was
    trained on the other parts."""
    seed, some = self.context.config.seed, self.lesions.any((1, 2))
    folds = splits.folds(self.groups, self.config.folds, seed, some)
    found: Boxes = [np.zeros((0, 5), np.float32)] * len(folds)
    for fold in range(self.config.folds):
      name, rows = f"without{fold}", np.flatnonzero(folds == fold)
      trained = self.fit(np.flatnonzero(folds != fold), name)
      boxes = self.find(trained, self.pixels[rows], name)
      for row, of_row in zip(rows.tolist(), boxes, strict=True):
        found[row] = of_row
    return folds, found

  def find(self, variables: Any, pixels: np.ndarray, name: str) -> Boxes:
    """Boxes of every image uint8[N, S, S, C].

    Probability maps of `CHUNK` images are held at a time.
    """
    found, smallest = [], self.config.smallest
    with self.context.telemetry.progress(len(pixels), name) as bar:
      for start in range(0, len(pixels), CHUNK):
        part = pixels[start : start + CHUNK]
        maps = self._map(self._probability, variables, part, name)
        for one in maps:
          probability = one.astype(np.float32) / 255
          lesion = probability > CUT
          found.append(boxes_of(lesion, probability, smallest=smallest))
        bar.update(len(maps))
    return found

  def metrics(self, found: Boxes) -> dict[str, dict]:
    """`detected.entries` of boxes against the class maps, and
    `detector/<class>/recall` of every class of lesions.

    Args:
      found: of the images of stage `lesions`, by `cross_fitted`.
    """
    smallest = self.config.smallest
    used = [boxes[self._used(boxes)] for boxes in found]
    true = [boxes_of(one, smallest=smallest) for one in self.lesions]
    entries = detected.entries(detected.outcomes(true, used), self.groups)
    for value, name in enumerate(self.classes, 1):
      if name in lesion_net.NO_LESIONS:
        continue
      of_class = [
        boxes_of(one == value, smallest=smallest) for one in self.masks
      ]
      outcomes = detected.outcomes(of_class, used)
      recall = detected.recall(outcomes, self.groups)
      entries[f"detector/{name}/recall"] = recall
    return entries

  def _used(self, boxes) -> np.ndarray:
    """bool[K]: boxes whose confidence and size make them windows."""
    config, size = self.context.config, self.lesions.shape[1]
    side = config.patches.size
    broken = pools.broken_rules(boxes, size, config.boxes, side)
    return ~(broken["confidence"] | broken["size"])

  def _map(self, function, variables, pixels, name):
    return self.context.map(
      function,
      variables,
      {"image": pixels},
      batch_size=self.config.batch_size,
      name=name,
      quiet=True,
    )


def _check_apart(detector: Detector, images: Prepared) -> None:
  """Refuses evaluation images among those that train the detector."""
  tested = np.flatnonzero(~images.part("train"))
  held = {splits.image_hash(images.pixels[row]) for row in tested}
  same = [
    name
    for name, one in zip(detector.ids, detector.pixels, strict=True)
    if splits.image_hash(one) in held
  ]
  if same:
    raise DataError(
      f"{len(same)} images of lesion_data, such as {str(same[0])!r}, are kept"
      " for evaluation in data: the detector would know their lesions; leave"
      " them out of lesion_data, or take their own boxes with boxes.source=data"
    )
