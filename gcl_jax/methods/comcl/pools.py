"""Which windows are drawn: pools of boxes of images, level by level."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.arrays import Regions
from gcl_jax.errors import DataError
from gcl_jax.methods.comcl import windows

LEVELS = ("lesion_high", "lesion_low", "healthy_high", "healthy_low")
# The pools of a batch by the loss, and the levels that each of them is made of.
GROUPS = {
  "levels": {level: (level,) for level in LEVELS},
  "lesions": {"lesion": LEVELS[:2], "healthy": LEVELS[2:]},
  "simclr": {"window": LEVELS},
}
# Rows of such a pool in a batch, as multiples of the batch size b of a level:
# the network sees 6 b views in a step, whatever the loss.
ROWS = {"levels": 1, "lesions": 2, "simclr": 3}
_TRIES = 400  # places that `lesion_free` looks at in an image


class Pool(NamedTuple):
  """Boxes that windows are drawn round.

  Attributes:
    rows: int64[M], the image of each.
    boxes: float32[M, 4], top, left, bottom, right in pixels of the image.
  """

  rows: np.ndarray
  boxes: np.ndarray


def build(
  boxes: np.ndarray,
  boxes_row: np.ndarray,
  *,
  diseased: np.ndarray,
  low: np.ndarray,
  eligible: np.ndarray,
  size: int,
  rules: ConfigDict,
  patches: ConfigDict,
  seed: int,
) -> tuple[dict[str, Pool], dict[str, int]]:
  """The pools of all four levels.

  Lesion windows lie round the boxes of diseased images that keep the rules.
  Healthy windows lie on healthy images where a lesion window of the same
  quality could lie (`matched`: the box of one is taken over), round a box of
  that size anywhere (`uniform`), or round the detector's own boxes where it
  found any on a healthy image and else as matched (`false_boxes`). Images that
  are neither known to be diseased nor healthy take no part. For data without
  healthy images, `lesion_free` takes windows of the diseased ones, placed as
  those of lesions are, that touch no box of any confidence; they are not moved
  from view to view.

  Args:
    boxes: float[M, 5], top, left, bottom, right in pixels of the prepared
      image, and the confidence.
    boxes_row: int[M], the image of each.
    diseased: float[N], 1 diseased, 0 healthy, nan unknown.
    low: bool[N], of low quality.
    eligible: bool[N], images that windows may come from: the training part.
    size: S, side of the images in pixels.
    rules: `confidence` that a box must exceed, `margin` in pixels, more than
      which it must keep from the frame.
    patches: `size` that no side of a box may exceed, `healthy`, `per_image`,
      `shuffle_quality` (permutes `low` among the diseased and among the healthy
      images).
    seed: of the draws.

  Returns:
    {level: Pool}, and counts: `images/<level>` and `windows/<level>`; `boxes`
    in all; those not used, by the first rule that they break: `boxes/part`,
    `boxes/not_diseased`, `boxes/confidence`, `boxes/size`, `boxes/margin`;
    `boxes/false`, used as healthy windows.
  """
  boxes = np.asarray(boxes, np.float32).reshape(-1, 5)
  boxes_row = np.asarray(boxes_row, np.int64)
  random = np.random.default_rng((seed, 18))
  if patches.shuffle_quality:
    low = _shuffled(low, diseased, eligible, random)
  broken = broken_rules(boxes, size, rules, patches.size)
  images = {
    "part": ~eligible[boxes_row],
    "not_diseased": diseased[boxes_row] != 1,
  }
  facts, left = _first_broken(images | broken, len(boxes))
  false = eligible[boxes_row] & (diseased[boxes_row] == 0)
  false &= ~np.any(list(broken.values()), axis=0)
  false &= patches.healthy == "false_boxes"
  facts["boxes/false"] = int(false.sum())
  every = Pool(boxes_row, boxes[:, :4])
  lesions, false = taken(every, left), taken(every, false)
  pools = {}
  for quality, chosen in (("high", ~low), ("low", low)):
    own = taken(lesions, chosen[lesions.rows])
    pools[f"lesion_{quality}"] = own
    like = own.boxes if len(own.boxes) else lesions.boxes
    if patches.healthy == "lesion_free":
      rows = np.flatnonzero(eligible & (diseased == 1) & chosen)
      found = _lesion_free(rows, every, like, size, patches, random)
    else:
      rows = np.flatnonzero(eligible & (diseased == 0) & chosen)
      false_here = taken(false, chosen[false.rows])
      margin = rules.margin
      found = _healthy(rows, false_here, like, size, margin, patches, random)
    pools[f"healthy_{quality}"] = found
  pools = {level: pools[level] for level in LEVELS}
  for level, pool in pools.items():
    facts[f"images/{level}"] = len(np.unique(pool.rows))
    facts[f"windows/{level}"] = len(pool.rows)
  return pools, facts


def grouped(
  pools: dict[str, Pool], loss: str, facts: dict[str, int]
) -> dict[str, Pool]:
  """The pools that the batches of a loss are made of, a key of `GROUPS`.

  Raises:
    DataError: one of them is empty; says what was left out and why.
  """
  found = {}
  for name, levels in GROUPS[loss].items():
    found[name] = joined([pools[level] for level in levels])
    if not len(found[name].rows):
      counts = ", ".join(f"{key} {value}" for key, value in facts.items())
      raise DataError(
        f"no training image gives a window to the pool {name!r} ({counts}):"
        " look at --config.boxes, --config.quality.train_share and the labels"
      )
  return found


def arrays(pool: Pool, images: Any, side: int, fewest: int) -> dict[str, Any]:
  """What batches of a pool are read from, a row for every window.

  Args:
    pool: of windows.
    images: array-like uint8[N, S, S, C].
    side: P, of a window.
    fewest: rows of a batch; a smaller pool is repeated up to them.

  Returns:
    `image` uint8[M, R, R, C], regions that hold all windows of a box; `box`
    float32[M, 4] in pixels of the region; `corner` float32[M, 2], of the
    region in the image.
  """
  size = images.shape[1]
  region = windows.region_side(side, size)
  order = np.arange(max(len(pool.rows), fewest)) % len(pool.rows)
  rows, boxes = pool.rows[order], pool.boxes[order]
  centre = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.int64)
  corner = np.clip(centre - region // 2, 0, size - region)
  return {
    "image": Regions(images, rows, corner, region),
    "box": np.float32(boxes - np.tile(corner, 2)),
    "corner": np.float32(corner),
  }


def corners_of(
  random: np.random.Generator, boxes: np.ndarray, side: int, size: int
) -> np.ndarray:
  """Random windows that hold a whole box, by the law of `windows.corners`.

  Args:
    random: of the draws.
    boxes: float[K, 4] in pixels of the image.
    side: P, of a window.
    size: S, of the image.

  Returns:
    int64[K, 2], row and column of the first pixel, from 0 to S - P.
  """
  highest = np.clip(np.floor(boxes[:, :2]), 0, size - side)
  lowest = np.clip(np.ceil(boxes[:, 2:]) - side, 0, highest)
  return random.integers(lowest.astype(int), highest.astype(int) + 1)


def _first_broken(
  rules: dict[str, np.ndarray], count: int
) -> tuple[dict[str, int], np.ndarray]:
  """Counts by the first rule that boxes break, and the boxes that keep all."""
  facts, left = {"boxes": count}, np.ones(count, bool)
  for rule, broken in rules.items():
    facts[f"boxes/{rule}"] = int((left & broken).sum())
    left &= ~broken
  return facts, left


def _shuffled(low, diseased, eligible, random) -> np.ndarray:
  """`low` permuted among the diseased and among the healthy images."""
  found = np.array(low)
  for value in (1, 0):
    rows = np.flatnonzero(eligible & (diseased == value))
    found[rows] = found[random.permutation(rows)]
  return found


def broken_rules(
  boxes: np.ndarray, size: int, rules: ConfigDict, side: int
) -> dict[str, np.ndarray]:
  """{"confidence", "size", "margin"}: bool[M], boxes that break the rule.

  A box that is not a number breaks it.

  Args:
    boxes: float[M, 5].
    size: S, of the image.
    rules: `confidence` and `margin`, as for `build`.
    side: P, of a window.
  """
  sides = boxes[:, 2:4] - boxes[:, :2]
  room = np.concatenate([boxes[:, :2], size - boxes[:, 2:4]], axis=1)
  return {
    "confidence": ~(boxes[:, 4] > rules.confidence),
    "size": ~((sides > 0) & (sides <= side)).all(1),
    "margin": ~(room > rules.margin).all(1),
  }


def taken(pool: Pool, chosen: np.ndarray) -> Pool:
  """The boxes bool[M] or int[K] of a pool."""
  return Pool(*(column[chosen] for column in pool))


def joined(pools: Sequence[Pool]) -> Pool:
  """The boxes of several pools, one after another."""
  return Pool(*map(np.concatenate, zip(*pools, strict=True)))


def _healthy(rows, false, lesions, size, margin, patches, random) -> Pool:
  """Windows of the healthy images of one quality."""
  bare = np.setdiff1d(rows, false.rows)
  own = np.repeat(bare, patches.per_image)
  if not len(lesions):
    return false
  # Every lesion box once before one is taken twice.
  rounds = -(-len(own) // len(lesions))
  decks = [random.permutation(len(lesions)) for _ in range(rounds)]
  boxes = lesions[np.concatenate([np.zeros(0, int), *decks])[: len(own)]]
  if patches.healthy == "uniform":
    sides = boxes[:, 2:] - boxes[:, :2]
    free = np.maximum(size - 2 * margin - sides, 0)
    first = margin + random.uniform(size=sides.shape) * free
    boxes = np.concatenate([first, first + sides], axis=1)
  return joined([false, Pool(own, np.float32(boxes))])


def _lesion_free(rows, every, lesions, size, patches, random) -> Pool:
  """Windows of these images that touch none of their boxes."""
  side, found = patches.size, Pool([], [])
  if not len(lesions):
    return Pool(np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
  for row in rows:
    taken = every.boxes[every.rows == row]
    picked = lesions[random.integers(len(lesions), size=_TRIES)]
    first = corners_of(random, picked, side, size)
    window = np.concatenate([first, first + side], axis=1)
    apart = window[:, None, :2] >= taken[None, :, 2:]
    apart |= window[:, None, 2:] <= taken[None, :, :2]
    free = window[apart.any(-1).all(1)][: patches.per_image]
    found.rows.extend([row] * len(free))
    found.boxes.extend(free)
  boxes = np.array(found.boxes, np.float32).reshape(-1, 4)
  return Pool(np.array(found.rows, np.int64), boxes)
