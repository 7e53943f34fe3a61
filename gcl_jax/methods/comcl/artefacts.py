"""Windows round lesions and windows round spots that imitate them.

Images with true boxes of lesions are degraded with bright spots forced on. A
window round a lesion that no spot touches is set against a window round a spot
that no lesion touches. Both kinds come from the same images, so that patient,
colour, blur and illumination tell nothing, and they are paired by nearest
position, so that the place in the eye tells little.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.augment import degradations
from gcl_jax.engine.arrays import Regions
from gcl_jax.engine.context import Context
from gcl_jax.methods.comcl import contact, pools
from gcl_jax.methods.comcl.quality import code_of
from gcl_jax.methods.comcl.truth import Truth

IMAGES = 256  # degraded images at most
DRAWS = 8  # degradations of an image at most
PER_IMAGE = 8  # windows of a kind that a degraded image gives at most
MOST = 1000  # windows of a kind in training, and in evaluation
DARK = 20  # largest channel, of 255, of what lies outside the eye


class Windows(NamedTuple):
  """Windows of two kinds, to be told apart by a probe.

  Attributes:
    images: uint8[W, P, P, C].
    positive: float[W], 1 or 0.
    groups: str[W].
    evaluation: bool[W]; the others train the probe.
    places: float[W, 2], row and column of the centre as shares of the image.
  """

  images: np.ndarray
  positive: np.ndarray
  groups: np.ndarray
  evaluation: np.ndarray
  places: np.ndarray


class Candidates(NamedTuple):
  """Boxes that windows may lie round.

  Attributes:
    number: int[K], the degraded image of each.
    boxes: float32[K, 4].
    positive: bool[K], whether a lesion and not a spot is in the box.
  """

  number: np.ndarray
  boxes: np.ndarray
  positive: np.ndarray


def lesions_and_spots(context: Context, images: Truth, side: int) -> Windows:
  """Windows round lesions (positive) and round spots, of the same images.

  Args:
    context: of the stage; `seed`.
    images: with true boxes.
    side: P, of a window.

  Returns:
    As many windows of one kind as of the other in training, and in evaluation.
  """
  seed, size = context.config.seed, images.pixels.shape[1]
  random = np.random.default_rng((seed, 7))
  rows = _rows(images, random)
  degraded, circles = _degraded(context, images, rows)
  shown = [
    visible(found, images.pixels[row])
    for found, row in zip(circles, rows.tolist(), strict=True)
  ]
  boxes = [images.boxes[row] for row in rows.tolist()]
  found = candidates(boxes, shown, side)
  corners = pools.corners_of(random, found.boxes, side, size)
  left = np.flatnonzero(apart(found, corners, boxes, circles, side))
  left = left[random.permutation(len(left))]
  left = left[_first(found.number[left] * 2 + found.positive[left], PER_IMAGE)]
  chosen = _paired(found, corners, left, images.evaluation[rows], side)
  of, corners = rows[found.number[chosen]], corners[chosen]
  cut = Regions(degraded, found.number[chosen], corners, side)
  return Windows(
    cut[:],
    found.positive[chosen].astype(float),
    images.groups[of],
    images.evaluation[of],
    (corners + side / 2) / size,
  )


def candidates(
  boxes: list[np.ndarray], circles: list[np.ndarray], side: int
) -> Candidates:
  """Boxes of lesions that fit into a window, and boxes round visible spots.

  Args:
    boxes: float32[K, 5] of the lesions of every degraded image.
    circles: float[L, 3], its visible spots: row, column and outer radius.
    side: P, of a window.
  """
  number, found, positive = [], [], []
  for k, (lesions, spots) in enumerate(zip(boxes, circles, strict=True)):
    fits = (lesions[:, 2:4] - lesions[:, :2] <= side).all(1)
    # The disc of a spot has half of the radius in which it fades.
    half = spots[:, 2:] / 2
    round_spots = np.concatenate([spots[:, :2] - half, spots[:, :2] + half], 1)
    found += [lesions[fits, :4], round_spots]
    number.append(np.full(fits.sum() + len(spots), k))
    positive.append(np.arange(fits.sum() + len(spots)) < fits.sum())
  blank = np.zeros((0, 4))
  return Candidates(
    np.concatenate([np.zeros(0, int), *number]),
    np.concatenate([blank, *found]).astype(np.float32),
    np.concatenate([np.zeros(0, bool), *positive]),
  )


def apart(
  found: Candidates,
  corners: np.ndarray,
  boxes: list[np.ndarray],
  circles: list[np.ndarray],
  side: int,
) -> np.ndarray:
  """bool[K]: lesion windows without any spot, spot windows without any lesion.

  Args:
    found: the candidates.
    corners: int[K, 2] of their windows.
    boxes, circles: of all lesions and all spots of every degraded image.
    side: P, of a window.
  """
  kept = np.zeros(len(corners), bool)
  for k, (lesions, spots) in enumerate(zip(boxes, circles, strict=True)):
    here = np.flatnonzero(found.number == k)
    spotted = contact.touching_circles(corners[here], side, spots)
    diseased = contact.touching_boxes(corners[here], side, lesions)
    kept[here] = np.where(found.positive[here], ~spotted, ~diseased)
  return kept


def visible(circles: np.ndarray, image: np.ndarray) -> np.ndarray:
  """The circles whose centre lies in the image and in the eye.

  Args:
    circles: float[K, 3], row, column and radius in pixels.
    image: uint8[S, S, C], before it was degraded.
  """
  at = np.floor(circles[:, :2]).astype(int)
  inside = ((at >= 0) & (at < image.shape[0])).all(1)
  circles, at = circles[inside], at[inside]
  return circles[image[at[:, 0], at[:, 1]].max(-1) > DARK]


def _rows(images: Truth, random: np.random.Generator) -> np.ndarray:
  """int[M]: the image of every degraded image; each comes equally often."""
  some = np.array([len(boxes) > 0 for boxes in images.boxes], bool)
  rows = np.flatnonzero(some & (images.train | images.evaluation))
  rows = np.sort(random.permutation(rows)[:IMAGES])
  return np.repeat(rows, np.clip(IMAGES // max(len(rows), 1), 1, DRAWS))


def _spotted(tree: Any, batch: dict) -> dict:
  """Images with spots and what else was drawn, and the spots' circles."""
  key = jax.random.key(7)
  keys = jax.vmap(lambda code: jax.random.fold_in(key, code))(batch["code"])
  drawn = degradations.draw(keys, "fundus", spots=True)
  found = degradations.apply(batch["image"], drawn)
  spots, size = drawn.spots, batch["image"].shape[1]
  shown = jnp.arange(spots.rows.shape[1]) < spots.count[:, None]
  circles = jnp.stack([spots.rows, spots.columns, spots.radii], -1) * size
  return {
    "image": jnp.clip(jnp.round(found), 0, 255).astype(jnp.uint8),
    "circles": jnp.where(shown[..., None], circles, jnp.nan),
  }


def _degraded(context, images, rows) -> tuple[np.ndarray, list[np.ndarray]]:
  """uint8[M, S, S, C] and the circles float[K, 3] of the spots of each."""
  if not len(rows):
    return np.zeros((0, *images.pixels.shape[1:]), np.uint8), []
  names = [f"{images.ids[row]}#{k}" for k, row in enumerate(rows.tolist())]
  found = context.map(
    _spotted,
    {},
    {
      "image": images.pixels[rows],
      "code": np.array([code_of(name) for name in names], np.uint32),
    },
    batch_size=context.config.diagnosis.batch_size,
    name="patches/spots",
  )
  circles = [c[~np.isnan(c[:, 2])] for c in found["circles"]]
  return found["image"], circles


def _first(codes: np.ndarray, most: int) -> np.ndarray:
  """bool[K]: the first `most` rows of every code."""
  order = np.argsort(codes, kind="stable")
  start = np.searchsorted(codes[order], codes[order])
  kept = np.zeros(len(codes), bool)
  kept[order] = np.arange(len(codes)) - start < most
  return kept


def _paired(found, corners, left, evaluation, side) -> np.ndarray:
  """int[W]: candidates in pairs of a lesion and a spot, part by part."""
  chosen = [np.zeros(0, int)]
  for part in (False, True):
    here = left[evaluation[found.number[left]] == part]
    kinds = [here[found.positive[here] == kind][:MOST] for kind in (1, 0)]
    pairs = contact.nearest_pairs(*(corners[kind] for kind in kinds), side / 2)
    chosen += [kind[at] for kind, at in zip(kinds, pairs, strict=True)]
  return np.concatenate(chosen)
