"""All near cells of two views against two loops, by hand numbers, by memory."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from gcl_jax import augment
from gcl_jax.augment import crops

pytestmark = pytest.mark.compiles

# Compiled in a third of the time without LLVM's optimiser.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
near = quick_jit(
  augment.nearby_cells, static_argnames=("count", "distance", "overlap_only")
)
KEY = jax.random.key(5)
# Shares of the unit of distance within which rounding may decide.
ROUNDING = 1e-4


def drawn(count, size, view, cells, **options):
  """float32[count, 2, h, w, 2], places of crops turned by any angle."""
  run = functools.partial(
    augment.two_turned_crops,
    **{
      "size": view,
      "cells": cells,
      "rotation": 180.0,
      "flip_rows": 0.5,
      **options,
    },
  )
  keys = augment.sample_keys(KEY, 0, jnp.arange(count))
  return jax.jit(run)(keys, jnp.zeros((count, *size, 1), jnp.uint8))[1]


def whole(size, cells):
  return jnp.asarray(augment.cell_centres(size, cells))[None]


def upper_left(size, cells):
  box = jnp.float32([0, 0, 0.5, 0.5])
  return crops.crop_places(box, False, size, cells)[None]


def corners(places):
  """The four corners of a view, in order around it."""
  down = (places[-1, 0] - places[0, 0]) / (len(places) - 1)
  right = (places[0, -1] - places[0, 0]) / (places.shape[1] - 1)
  return [
    places[-i, -j] + (i - 0.5) * down + (j - 0.5) * right
    for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))
  ]


def depth(point, around):
  """Distance of a point to the nearest border, negative outside the view."""
  edges = zip(around, around[1:] + around[:1], strict=True)
  sides = [
    float((b - a)[0] * (point - a)[1] - (b - a)[1] * (point - a)[0])
    / np.hypot(*(b - a))
    for a, b in edges
  ]
  return max(min(sides), min(-s for s in sides))


def paired_slowly(first, second, count=10**6, distance=0.7, overlap_only=True):
  """The definition in two loops, in float64, of one pair of views.

  Returns the pairs, {cell of the first: cells of the second, nearest first},
  and the set of pairs that rounding to float32 may decide.
  """
  first, second = (np.asarray(x, np.float64) for x in (first, second))
  units = [
    np.mean(np.sum(np.diff(x, axis=0) ** 2, -1))
    + np.mean(np.sum(np.diff(x, axis=1) ** 2, -1))
    for x in (first, second)
  ]
  limit = distance * max(units) ** 0.5
  around = corners(first), corners(second)
  pairs, doubtful = {}, set()
  for u, here in enumerate(first.reshape(-1, 2)):
    partners = []
    for v, there in enumerate(second.reshape(-1, 2)):
      apart = float(np.hypot(*(here - there)))
      depths = depth(here, around[1]), depth(there, around[0])
      edges = [apart - limit, *(depths if overlap_only else ())]
      if min(np.abs(edges)) < ROUNDING * limit:
        doubtful.add((u, v))
      if apart < limit:
        partners.append((apart, v, not overlap_only or min(depths) >= 0))
    pairs[u] = [v for _, v, counts in sorted(partners)[:count] if counts]
  return pairs, doubtful


def pairs_of(index, found):
  """{(cell of the first view, cell of the second)} of one image."""
  return {
    (u, int(v))
    for u in range(len(index))
    for v in np.asarray(index[u])[np.asarray(found[u])]
  }


# -- the definition ---------------------------------------------------------


@pytest.mark.parametrize("overlap_only", [True, False])
@pytest.mark.parametrize(
  "size, view, cells, options",
  [
    ((40, 30), (), (8, 6), {}),
    ((24, 48), (), (4, 8), {"flip_columns": 1.0}),
    # Cells of a square view of an oblong image are oblong themselves.
    ((24, 40), (20, 20), (5, 5), {"crop_scale": (0.6, 1.0)}),
    ((40, 30), (16, 12), (4, 3), {"rotation": 0.0, "flip_rows": 0.0}),
  ],
)
def test_equals_two_loops(size, view, cells, options, overlap_only):
  places = drawn(12, size, view, cells, **options)
  index, found = near(places[:, 0], places[:, 1], overlap_only=overlap_only)
  chex.assert_shape((index, found), (12, cells[0] * cells[1], 12))
  assert index.dtype == jnp.int32 and found.dtype == bool
  most, doubts = 0, 0
  for b in range(12):
    pairs, doubtful = paired_slowly(*places[b], overlap_only=overlap_only)
    expected = {(u, v) for u, partners in pairs.items() for v in partners}
    assert (pairs_of(index[b], found[b]) ^ expected) <= doubtful
    most = max(most, *(len(partners) for partners in pairs.values()))
    doubts += len(doubtful)
  assert 4 < most <= 12 and doubts < 5
  np.testing.assert_array_equal(np.asarray(index)[~np.asarray(found)], 0)


@pytest.mark.parametrize("overlap_only", [True, False])
def test_the_nearest_are_kept_and_come_first(overlap_only):
  places = drawn(8, (40, 30), (), (8, 6), crop_scale=(0.1, 1.0))
  options = {"count": 3, "overlap_only": overlap_only}
  index, found = near(places[:, 0], places[:, 1], **options)
  full = 0
  for b in range(8):
    pairs, doubtful = paired_slowly(*places[b], **options)
    for u, partners in pairs.items():
      if not any(pair[0] == u for pair in doubtful):
        assert list(np.asarray(index[b, u])[found[b, u]]) == partners
      full += len(partners) == 3
  assert full > 30


def test_no_cell_has_more_than_twelve_from_a_scale_of_0_29_on():
  """Against the whole image: no crop has cells of a larger diagonal."""
  random = np.random.default_rng(0)
  first = jnp.tile(whole((64, 64), (16, 16)), (60, 1, 1, 1))

  def most(scale):
    second = []
    for ratio in np.repeat([3 / 4, 1, 1.2, 4 / 3], 15):
      sides = np.array([(scale / ratio) ** 0.5, (scale * ratio) ** 0.5])
      box = jnp.float32([*(random.uniform(size=2) * (1 - sides)), *sides])
      second.append(crops.crop_places(box, False, (64, 64), (16, 16)))
    views = first, jnp.stack(second)
    _, all_found = near(*views, count=20, overlap_only=False)
    _, found = near(*views, overlap_only=False)
    kept = np.minimum(all_found.sum(-1), 12)
    np.testing.assert_array_equal(found.sum(-1), kept)
    return int(all_found.sum(-1).max())

  assert most(0.29) == 12
  assert most(0.28) > 12


# -- hand numbers -----------------------------------------------------------


def test_the_whole_image_and_its_upper_left_quarter():
  views = whole((8, 8), (2, 2)), upper_left((8, 8), (2, 2))
  index, found = near(*views, overlap_only=False)
  assert list(found[0].sum(-1)) == [4, 2, 2, 0]
  expected = {(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 3), (2, 2), (2, 3)}
  assert pairs_of(index[0], found[0]) == expected
  # Three cells of the whole image lie outside the quarter.
  index, found = near(*views)
  assert list(found[0].sum(-1)) == [4, 0, 0, 0]
  back, seen = near(*views[::-1])
  assert list(seen[0].sum(-1)) == [1, 1, 1, 1] and not np.any(back)


@pytest.mark.parametrize("overlap_only", [True, False])
def test_equal_and_disjoint_crops(overlap_only):
  places = whole((28, 28), (7, 7))
  index, found = near(places, places, overlap_only=overlap_only)
  np.testing.assert_array_equal(index[0, :, 0], np.arange(49))
  assert np.all(found[..., 0]) and np.sum(found) == 49
  for apart in (jnp.float32([0, 40]), jnp.float32([-40, 0])):
    _, found = near(places, places + apart, overlap_only=overlap_only)
    assert not np.any(found)


def test_equally_near_cells_come_in_a_fixed_order():
  places = whole((16, 16), (4, 4))
  # The unit of distance becomes that of cells of 16 x 16 pixels.
  own = jnp.float32([[[5.5, 5.5], [5.5, 21.5]], [[21.5, 5.5], [21.5, 21.5]]])
  options = {"distance": 0.3, "overlap_only": False}
  index, found = near(own[None], places, **options)
  # The cell itself, its neighbours in its row, those in other rows.
  assert list(index[0, 0][found[0, 0]]) == [5, 4, 6, 1, 9, 0, 2, 8, 10]
  # Between four cells all of them are equally near.
  index, found = near(own[None] + 2, places, **options)
  assert list(index[0, 0][found[0, 0]][:4]) == [5, 6, 9, 10]
  index, _ = near(own[None] + 2, places, count=2, **options)
  assert list(index[0, 0]) == [5, 6]


def test_swapping_the_views_gives_the_same_pairs():
  places = drawn(16, (40, 30), (), (8, 6))
  for overlap_only in (True, False):
    run = functools.partial(near, overlap_only=overlap_only)
    there = run(places[:, 0], places[:, 1])
    back = run(places[:, 1], places[:, 0])
    for b in range(16):
      swapped = {(v, u) for u, v in pairs_of(back[0][b], back[1][b])}
      assert pairs_of(there[0][b], there[1][b]) == swapped
    assert np.sum(there[1]) > 500


def test_a_mirrored_view_has_mirrored_partners():
  places = drawn(8, (40, 30), (), (8, 6))
  plain = near(places[:, 0], places[:, 1])
  mirrored = near(places[:, 0], places[:, 1, :, ::-1])
  for b in range(8):
    pairs = pairs_of(mirrored[0][b], mirrored[1][b])
    turned_back = {(u, v + 5 - 2 * (v % 6)) for u, v in pairs}
    assert turned_back == pairs_of(plain[0][b], plain[1][b])


def test_cells_inside_the_other_view():
  places = drawn(12, (40, 30), (), (8, 6))
  found = quick_jit(augment.inside)(places[:, 0], places[:, 1])
  for b in range(12):
    around = corners(np.asarray(places[b, 1], np.float64))
    points = np.asarray(places[b, 0], np.float64).reshape(-1, 2)
    depths = np.array([depth(point, around) for point in points])
    assert np.all((found[b] == (depths >= 0)) | (np.abs(depths) < 1e-3))
  assert 0.2 < np.mean(found) < 0.95
  quarter = augment.inside(whole((8, 8), (2, 2)), upper_left((8, 8), (2, 2)))
  assert list(quarter[0]) == [True, False, False, False]


def test_distance_to_the_border_of_the_own_view():
  found = augment.border_distance(whole((40, 30), (4, 3)))
  sixth, eighth = 1 / 6, 1 / 8
  expected = [[eighth] * 3, [sixth, 3 * eighth, sixth]]
  np.testing.assert_allclose(found, expected + expected[::-1], rtol=1e-6)
  assert found.dtype == np.float32


# -- memory, batches, refusals ----------------------------------------------


def largest(run, *arguments):
  """Most numbers in any array of a program, those of inner ones included."""

  def of(jaxpr):
    sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars]
    inner = jax.tree.leaves([e.params for e in jaxpr.eqns])
    sizes += [of(x.jaxpr) for x in inner if isinstance(x, core.ClosedJaxpr)]
    return max(sizes, default=0)

  return of(jax.make_jaxpr(run)(*arguments).jaxpr)


def test_memory_is_linear_in_the_cells():
  few, many = (
    jax.ShapeDtypeStruct((2, side, side, 2), jnp.float32) for side in (14, 56)
  )
  sizes = [largest(augment.nearby_cells, x, x) for x in (few, many)]
  assert sizes[1] == 16 * sizes[0] < 100 * 2 * 56**2
  # The same measure sees the dense array of the nearest cell alone.
  assert largest(jax.jit(augment.matching_cells), many, many) >= 2 * 56**4
  temporary = [
    quick_jit(augment.nearby_cells)
    .lower(x, x)
    .compile()
    .memory_analysis()
    .temp_size_in_bytes
    for x in (few, many)
  ]
  assert temporary[1] < 17 * temporary[0]


def test_batches_and_vmap_change_nothing():
  places = drawn(6, (40, 30), (), (8, 6))
  expected = near(places[:, 0], places[:, 1])
  order = np.array([4, 0, 3])
  chex.assert_trees_all_equal(
    near(places[order, 0], places[order, 1]),
    jax.tree.map(lambda x: x[order], expected),
  )
  split = places.reshape(2, 3, *places.shape[1:])
  mapped = quick_jit(jax.vmap(augment.nearby_cells))(
    split[:, :, 0], split[:, :, 1]
  )
  mapped = jax.tree.map(lambda x: x.reshape(6, *x.shape[2:]), mapped)
  chex.assert_trees_all_equal(mapped, expected)


def test_more_partners_than_cells():
  """Places stay where there are fewer cells than partners asked for."""
  views = whole((8, 8), (2, 2)), upper_left((8, 8), (2, 2))
  for count in (1, 3, 12, 40):
    index, found = near(*views, count=count, overlap_only=False)
    chex.assert_shape((index, found), (1, 4, count))
    assert list(found[0].sum(-1)) == [min(count, n) for n in (4, 2, 2, 0)]


def test_what_cannot_be_matched_is_refused():
  places = jnp.zeros((2, 4, 4, 2))
  for bad in (
    (places[0], places),
    (places, places[..., :1]),
    (places[:, :1], places),
    (places, places[:1]),
  ):
    for function in (augment.nearby_cells, augment.inside):
      with pytest.raises(ValueError, match=r"must be float\[B, h, w, 2\]"):
        function(*bad)
  with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
    augment.nearby_cells(places, places, count=0)
