"""A noisy detector of the fundus phantom's lesions."""

import numpy as np

from gcl_jax.data.phantoms import fundus_spots as spots_

# Beta distributions of the confidence: of lesions, of artefacts.
_TRUE, _FALSE = (6.0, 2.0), (4.0, 4.0)
# Standard deviation and limit of the shift of an edge, in sides of the box.
_JITTER, _LARGEST = 0.10, 0.3


def detect(
  rng: np.random.Generator,
  lesions: spots_.Spots,
  artefacts: spots_.Spots,
  size: int,
  recall: float,
  false_boxes: float,
) -> np.ndarray:
  """Draws what a detector finds in an image.

  Each lesion is found with probability `recall`. False boxes, Poisson with the
  mean `false_boxes`, lie round artefacts that touch no lesion, each artefact
  once before one has a second box; without such an artefact there is none.
  Every edge is off by about a tenth of the box. The confidence is Beta(6, 2)
  distributed for lesions (94 % above 0.5) and Beta(4, 4) for artefacts (50 %).

  Args:
    rng: of this image's detector.
    lesions, artefacts: of the image.
    size: of the image in pixels.
    recall: 0 to 1.
    false_boxes: not negative.

  Returns:
    float32[K, 5]: top, left, bottom, right in pixels and the confidence, the
    most confident first.
  """
  found = rng.random(lesions.y.size) < recall
  true = _boxes(rng, lesions.where(found), _TRUE)
  alone = artefacts.where(~_touching(artefacts, lesions))
  order = rng.permutation(alone.y.size)
  count = rng.poisson(false_boxes) if order.size else 0
  false = _boxes(rng, alone.where(np.resize(order, count)), _FALSE)
  boxes = np.concatenate([true, false])
  boxes[:, :4] = np.clip(boxes[:, :4] * size, 0, size)
  return boxes[np.argsort(-boxes[:, 4])].astype(np.float32)


def _touching(artefacts: spots_.Spots, lesions: spots_.Spots) -> np.ndarray:
  """Whether the box of each artefact meets a lesion's, bool[L]."""
  ours = spots_.boxes(artefacts)[:, None]
  theirs = spots_.boxes(lesions)
  meet = (ours[..., :2] < theirs[:, 2:]) & (theirs[:, :2] < ours[..., 2:])
  return meet.all(axis=2).any(axis=1)


def _boxes(
  rng: np.random.Generator, spots: spots_.Spots, beta: tuple[float, float]
) -> np.ndarray:
  """Jittered boxes in fractions and confidences, float[L, 5]."""
  boxes = spots_.boxes(spots)
  side = boxes[:, 2:] - boxes[:, :2]
  shift = np.clip(rng.normal(0, _JITTER, boxes.shape), -_LARGEST, _LARGEST)
  confidence = rng.beta(*beta, (len(boxes), 1))
  return np.concatenate([boxes + shift * np.tile(side, 2), confidence], axis=1)
