"""What a lesion detector finds and what it invents, on images left out.

A window drawn round a found box holds the whole box. It therefore shows a
lesion if the centre of the lesion lies in the box, or the centre of the box in
the lesion. That is the rule here: a true box is found, and a found box is no
false one, if the centre of one lies in the other, both grown by `SLACK` pixels
on every side. Found boxes are those that become windows: of more than the
least confidence, no side longer than a window.
"""

import numpy as np

from gcl_jax.evaluation import metrics

SLACK = 1.0  # pixels on every side: boxes of small lesions are 2 pixels wide


def matches(true: np.ndarray, found: np.ndarray) -> np.ndarray:
  """bool[T, F]: whether a window round a found box shows a true one.

  Args:
    true: float[T, 4 or more], top, left, bottom and right.
    found: float[F, 4 or more].
  """
  return _inside(true, found) | _inside(found, true).T


def outcomes(
  true: list[np.ndarray], found: list[np.ndarray]
) -> dict[str, np.ndarray]:
  """Outcome of every true box and every image.

  Args:
    true, found: boxes of every image.

  Returns:
    `found` bool[sum of T], whether each true box was found; `image` int[sum of
    T], the image it is of; `false` int[N], found boxes of each image that match
    no true one.
  """
  hits, image, false = [np.zeros(0, bool)], [np.zeros(0, int)], []
  for k, (real, seen) in enumerate(zip(true, found, strict=True)):
    match = matches(real, seen)
    hits.append(match.any(1))
    image.append(np.full(len(real), k))
    false.append(int((~match.any(0)).sum()))
  return {
    "found": np.concatenate(hits),
    "image": np.concatenate(image),
    "false": np.array(false),
  }


def entries(
  found: dict[str, np.ndarray], groups: np.ndarray
) -> dict[str, dict]:
  """Metrics with intervals that leave out one group of images at a time.

  Args:
    found: from `outcomes`.
    groups: [N], the group of each image.

  Returns:
    `detector/recall`, of `recall`, and `detector/false_boxes`, the mean number
    of false boxes in an image.
  """
  false = metrics.jackknife(_mean, found["false"], groups=groups)
  return {
    "detector/recall": recall(found, groups),
    "detector/false_boxes": false,
  }


def recall(found: dict[str, np.ndarray], groups: np.ndarray) -> dict:
  """Share of the true boxes that were found, with its interval."""
  hits = found["found"].astype(float)
  return metrics.jackknife(
    metrics.sensitivity,
    np.ones(len(hits)),
    hits,
    groups=groups[found["image"]],
  )


def _mean(values: np.ndarray) -> float | None:
  return float(np.mean(values)) if len(values) else None


def _inside(boxes, others) -> np.ndarray:
  """bool[K, L]: whether the centre of a box lies in another, grown one."""
  centres = (boxes[:, None, :2] + boxes[:, None, 2:4]) / 2
  low, high = others[None, :, :2] - SLACK, others[None, :, 2:4] + SLACK
  return ((centres >= low) & (centres <= high)).all(-1)
