"""Windows round boxes, and their views, on the device.

The host sends the region that holds every window of a box; a window is drawn
in it anew for every view, with one key per view.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax import augment
from gcl_jax.augment import degradations


class Views(NamedTuple):
  """How views of windows are made.

  Attributes:
    side: P of a window, in pixels.
    size: S of the square image, in pixels.
    crop: keywords of `augment.crop`.
    degrade: probability of a degradation.
    family: of `augment.degradations`.
  """

  side: int
  size: int
  crop: dict[str, Any]
  degrade: float = 0.0
  family: str = "fundus"


def region_side(side: int, size: int) -> int:
  """R = min(S, 2 P): a region about a box that holds all of its windows."""
  return min(size, 2 * side)


def corners(
  keys: jax.Array, boxes: jax.Array, side: int, region: int
) -> jax.Array:
  """Random windows that hold a whole box, clipped to the region.

  The free room of a window is shared out uniformly between top and bottom, and
  between left and right. A box that is longer than a window because its edges
  lie between pixels loses less than a pixel at an edge.

  Args:
    keys: keys[B].
    boxes: float32[B, 4], top, left, bottom, right in pixels of the region.
    side: P, of a window.
    region: R, of the region, P <= R.

  Returns:
    int32[B, 2], row and column of the first pixel, from 0 to R - P.
  """
  last = region - side
  highest = jnp.clip(jnp.floor(boxes[:, :2]).astype(jnp.int32), 0, last)
  lowest = jnp.ceil(boxes[:, 2:]).astype(jnp.int32) - side
  lowest = jnp.clip(lowest, 0, highest)

  def draw(key, low, high):
    return jax.random.randint(key, (2,), low, high + 1)

  return jax.vmap(draw)(keys, lowest, highest)


def cut(regions: jax.Array, corners: jax.Array, side: int) -> jax.Array:
  """[B, R, R, C] and int32[B, 2] -> the windows [B, P, P, C]."""

  def window(region, corner):
    shape = (side, side, region.shape[-1])
    return lax.dynamic_slice(region, (*corner, 0), shape)

  return jax.vmap(window)(regions, corners)


def views(
  keys: jax.Array, pool: dict[str, jax.Array], options: Views
) -> jax.Array:
  """One view of every row of a pool, before cropping and normalising.

  Each view has a window of its own. A degradation is drawn for the whole image
  and applied to the region, so that a window sees no edge of its own.

  Args:
    keys: keys[B], one per view.
    pool: `image` uint8[B, R, R, C], `box` float32[B, 4] in pixels of the
      region, `corner` float32[B, 2] of the region in pixels of the image.
    options: of the views.

  Returns:
    float32[B, P, P, C] in 0 to 255.
  """
  regions = pool["image"]
  shift, artefact = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  if options.degrade:
    regions = degradations.degrade(
      artefact,
      regions,
      family=options.family,
      probability=options.degrade,
      corner=pool["corner"],
      size=(options.size, options.size),
    )
  places = corners(shift, pool["box"], options.side, regions.shape[1])
  return cut(regions, places, options.side).astype(jnp.float32)


def batch_views(
  state: Any,
  batch: dict[str, dict[str, jax.Array]],
  counts: dict[str, int],
  options: Views,
) -> jax.Array:
  """All views of a batch of pools, one row each.

  A view depends on the run's key, the step, the pool's place in `counts`, the
  row's index and the number of the view alone.

  Args:
    state: of training; its key and step.
    batch: pools of `views`, each with `index` int[B].
    counts: pool -> V, its number of views.
    options: of the views.

  Returns:
    float32[sum of B V, P, P, C], pool by pool, row by row; `by_pool` takes
    them apart.
  """
  keys, rows, start = [], [], 0
  for place, (name, count) in enumerate(counts.items()):
    index = batch[name]["index"]
    key = jax.random.fold_in(state.key, place)
    of_rows = augment.sample_keys(key, state.step, index)
    split = jax.vmap(lambda k, n=count: jax.random.split(k, (n, 2)))
    keys.append(split(of_rows).reshape(-1, 2))
    rows.append(start + np.repeat(np.arange(len(index)), count))
    start += len(index)
  keys, rows = jnp.concatenate(keys), np.concatenate(rows)
  # Joined before they are cut: on a CPU half the time of cutting pool by pool.
  joined = {
    column: jnp.concatenate([batch[name][column] for name in counts])[rows]
    for column in ("image", "box", "corner")
  }
  return augment.crop(
    keys[:, 1], views(keys[:, 0], joined, options), **options.crop
  )


def by_pool(
  rows: jax.Array,
  batch: dict[str, dict[str, jax.Array]],
  counts: dict[str, int],
) -> dict[str, jax.Array]:
  """[sum of B V, ...] of `batch_views` -> {pool: [B, V, ...]}."""
  found, start = {}, 0
  for name, count in counts.items():
    size = len(batch[name]["index"])
    part = rows[start : start + size * count]
    found[name] = part.reshape(size, count, *rows.shape[1:])
    start += size * count
  return found
