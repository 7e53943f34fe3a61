"""Images of a run whose lesions are known."""

from typing import Any, NamedTuple

import numpy as np

from gcl_jax.data import splits
from gcl_jax.data.components import boxes_of
from gcl_jax.engine.context import Context
from gcl_jax.methods.comcl import lesion_net
from gcl_jax.pipeline.prepared import Prepared

SMALLEST = 4  # pixels of a component of a class map that counts as a lesion
NONE = np.zeros((0, 5), np.float32)


class Truth(NamedTuple):
  """Images with true boxes of lesions.

  Attributes:
    pixels: array-like uint8[N, S, S, C].
    boxes: float32[K, 5] of every image, none where nothing is known.
    ids, groups: str[N].
    train: bool[N], images that train a probe.
    evaluation: bool[N], images that test it.
  """

  pixels: Any
  boxes: list[np.ndarray]
  ids: np.ndarray
  groups: np.ndarray
  train: np.ndarray
  evaluation: np.ndarray


def of_run(context: Context) -> Truth | str:
  """Images with true boxes, or why there are none.

  Boxes are those of the class maps, else those that came with the data set.
  What a detector found is no truth. With one that was trained here, the images
  are those of stage `lesions`, half of whose groups are for evaluation; no
  encoder was trained on them.
  """
  source, seed = context.config.boxes.source, context.config.seed
  images = Prepared(context, "lesions" if source == "detector" else "data")
  train, evaluation = images.train, images.evaluation
  if source == "detector":
    if len(np.unique(images.groups)) < 2:
      return "all class maps are of one group"
    evaluation = splits.split_by_group(images.groups, 0.5, seed)
    train = ~evaluation
  if images.masks is not None:
    boxes = _of_maps(images)
  elif source == "data" and "boxes" in images.artifact:
    boxes = _of_data(images)
  else:
    return "the data set has neither class maps nor boxes of its own"
  return Truth(
    images.pixels, boxes, images.ids, images.groups, train, evaluation
  )


def _of_maps(images: Prepared) -> list[np.ndarray]:
  found = []
  for row, known in enumerate(images.labelled.tolist()):
    lesions = lesion_net.lesions_of(images.masks[row], images.classes)
    found.append(boxes_of(lesions, smallest=SMALLEST) if known else NONE)
  return found


def _of_data(images: Prepared) -> list[np.ndarray]:
  boxes = np.asarray(images.artifact["boxes"], np.float32)
  row = np.asarray(images.artifact["boxes_row"])
  bounds = np.searchsorted(row, np.arange(len(images) + 1))
  return [boxes[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
