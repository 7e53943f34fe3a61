"""Places of feature cells, by images that show their own coordinates."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from gcl_jax import augment
from gcl_jax.augment import crops

pytestmark = pytest.mark.compiles

# Compiled in a third of the time without LLVM's optimiser.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
KEY = jax.random.key(21)
SIZE = (40, 30)
UNCHANGED = {"brightness": 0.0, "contrast": 0.0, "mean": 0.0, "std": 1.0}
VIEWS = {
  "crops": functools.partial(augment.two_crops, **UNCHANGED),
  "warps": functools.partial(
    augment.two_warps, elastic=(0.02, 0.05), smoothness=0.15
  ),
  "affine": functools.partial(augment.two_warps, elastic=(0.0, 0.0)),
}


def keys(count):
  return augment.sample_keys(KEY, 0, jnp.arange(count))


def pictures(*shape, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, shape).astype(np.uint8)


def coordinates(count):
  """uint8[B, H, W, 2]: 5 times the row and the column of every pixel."""
  image = 5 * np.stack(np.indices(SIZE), -1)
  return np.tile(image.astype(np.uint8), (count, 1, 1, 1))


def drawn(view, images, cells):
  run = functools.partial(VIEWS[view], cells=cells)
  views, places = jax.device_get(quick_jit(run)(keys(len(images)), images))
  assert views.shape == (len(images), 2, *images.shape[1:])
  assert places.shape == (len(images), 2, *cells, 2)
  return views.astype(np.float64), places.astype(np.float64)


def inside(places, margin=0.0):
  last = np.array(SIZE) - 1
  return ((places >= margin) & (places <= last - margin)).all(-1)


def test_centres_of_cells():
  found = augment.cell_centres((6, 4), (2, 4))
  expected = np.stack(np.meshgrid([1, 4], [0, 1, 2, 3], indexing="ij"), -1)
  np.testing.assert_array_equal(found, expected)
  pixels = np.stack(np.indices((5, 7)), -1)
  np.testing.assert_array_equal(augment.cell_centres((5, 7), (5, 7)), pixels)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_at_a_cell_what_the_image_shows_at_its_place(view):
  """Cells of 5 x 5 pixels: their centres are pixels."""
  images = pictures(6, *SIZE, 3)
  views, places = drawn(view, images, (8, 6))
  shown = 255 * views[:, :, 2::5, 2::5]
  for b, v in np.ndindex(6, 2):
    for c in range(3):
      expected = ndimage.map_coordinates(
        images[b, ..., c].astype(float),
        np.moveaxis(places[b, v], -1, 0),
        order=1,
        mode="nearest",
      )
      np.testing.assert_allclose(shown[b, v, ..., c], expected, atol=0.02)


@pytest.mark.parametrize("view", VIEWS)
def test_an_image_of_coordinates_shows_its_places(view):
  """Cells of 4 x 3 pixels: centres lie between rows."""
  views, places = drawn(view, coordinates(16), (10, 10))
  assert inside(places).mean() > 0.5
  centre = np.moveaxis(augment.cell_centres(SIZE, (10, 10)), -1, 0)
  # An elastic map bends within a pixel.
  tolerance = 0.05 if view == "warps" else 1e-3
  for b, v in np.ndindex(16, 2):
    shown = [
      255 / 5 * ndimage.map_coordinates(views[b, v, ..., c], centre, order=1)
      for c in range(2)
    ]
    away = inside(places[b, v], margin=2.0)
    np.testing.assert_allclose(
      np.stack(shown, -1)[away], places[b, v][away], atol=tolerance
    )


@pytest.mark.parametrize("flipped", [False, True])
def test_places_of_a_known_box(flipped):
  box = jnp.float32([0.5, 0.2, 0.25, 0.4])
  found = crops.crop_places(box, flipped, (40, 30), (2, 3))
  rows = [40 * 0.5 + (i + 0.5) * 5 - 0.5 for i in range(2)]
  columns = [30 * 0.2 + (j + 0.5) * 4 - 0.5 for j in range(3)]
  columns = columns[::-1] if flipped else columns
  expected = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_cells_change_neither_views_nor_masks():
  images, masks = pictures(4, *SIZE, 1), pictures(4, *SIZE, seed=1) % 4
  for view in VIEWS.values():
    plain = quick_jit(view)(keys(4), images)
    none = quick_jit(functools.partial(view, cells=None))(keys(4), images)
    with_cells, _ = quick_jit(functools.partial(view, cells=(4, 3)))(
      keys(4), images
    )
    chex.assert_trees_all_equal(none, plain)
    chex.assert_trees_all_close(with_cells, plain, atol=1e-6)
  pixels, moved = quick_jit(augment.warp)(keys(4), images, masks)
  warp = quick_jit(functools.partial(augment.warp, cells=SIZE))
  again, moved_again, places = warp(keys(4), images, masks)
  chex.assert_trees_all_equal(moved_again, moved)
  chex.assert_trees_all_close(again, pixels, atol=1e-6)
  every_pixel = functools.partial(augment.warp_places, size=SIZE)
  chex.assert_trees_all_close(
    places, quick_jit(every_pixel)(keys(4)), atol=1e-4
  )


# -- matching cells ---------------------------------------------------------

match = quick_jit(augment.matching_cells, static_argnames="distance")


def matched_slowly(first, second, distance):
  """The two loops of the definition, in float64, of one pair of views."""

  def diagonal(places):
    down = np.mean(np.sum(np.diff(places, axis=0) ** 2, axis=-1))
    right = np.mean(np.sum(np.diff(places, axis=1) ** 2, axis=-1))
    return (down + right) ** 0.5

  limit = distance * max(diagonal(first), diagonal(second))
  nearest, found = [], []
  for u in first.reshape(-1, 2):
    best, closest = 0, np.inf
    for v, place in enumerate(second.reshape(-1, 2)):
      if np.hypot(*(u - place)) < closest:
        best, closest = v, np.hypot(*(u - place))
    nearest.append(best)
    found.append(closest < limit)
  return np.array(nearest), np.array(found)


@pytest.mark.parametrize("distance", [0.3, 0.7, 2.0])
@pytest.mark.parametrize("view", VIEWS)
def test_matching_equals_two_loops(view, distance):
  _, places = drawn(view, pictures(6, *SIZE, 1), (6, 5))
  first, second = places[:, 0], places[:, 1, :4]
  nearest, found = match(
    jnp.float32(first), jnp.float32(second), distance=distance
  )
  chex.assert_shape((nearest, found), (6, 30))
  for b in range(6):
    expected, close = matched_slowly(first[b], second[b], distance)
    np.testing.assert_array_equal(nearest[b], expected)
    np.testing.assert_array_equal(found[b], close)
  if distance == 0.7:
    assert 0.1 < np.mean(found) < 0.95


def test_equal_disjoint_and_partly_equal_crops():
  whole = jnp.asarray(augment.cell_centres((28, 28), (7, 7)))[None]
  nearest, found = match(whole, whole)
  np.testing.assert_array_equal(nearest[0], np.arange(49))
  assert np.all(found)
  assert not np.any(match(whole, whole + 40)[1])
  # The whole image and its upper left quarter, 2 x 2 cells each.
  whole = jnp.asarray(augment.cell_centres((8, 8), (2, 2)))[None]
  corner = crops.crop_places(
    jnp.float32([0, 0, 0.5, 0.5]), False, (8, 8), (2, 2)
  )[None]
  nearest, found = match(whole, corner)
  np.testing.assert_array_equal(found[0], [True, True, True, False])
  np.testing.assert_array_equal(nearest[0, 1:3], [1, 2])
  assert np.all(match(corner, whole)[1])


@pytest.mark.parametrize("view", VIEWS)
def test_matched_cells_show_the_same_pixel(view):
  views, places = drawn(view, coordinates(8), (8, 6))
  pair = jnp.float32(places[:, 0]), jnp.float32(places[:, 1])
  nearest, found = match(*pair)
  back, answered = match(*pair[::-1])
  shown = (255 / 5 * views[:, :, 2::5, 2::5]).reshape(8, 2, 48, 2)
  step = np.diff(places, axis=2)
  side = np.sqrt((step**2).sum(-1).max((1, 2, 3)))
  for b, u in zip(*np.nonzero(found), strict=True):
    v = nearest[b, u]
    assert answered[b, v]  # u itself is near enough
    assert np.hypot(*(shown[b, 0, u] - shown[b, 1, v])) < 1.5 * side[b]
  assert np.any(found) and np.any(~np.asarray(found))
  assert np.asarray(back).max() < 48


def test_places_of_other_shapes_are_refused():
  places = jnp.zeros((2, 4, 4, 2))
  for bad in (
    (places[0], places),
    (places, places[..., :1]),
    (places[:, :1], places),
    (places, places[:1]),
  ):
    with pytest.raises(ValueError, match=r"must be float\[B, h, w, 2\]"):
      augment.matching_cells(*bad)


# -- randomness -------------------------------------------------------------


@pytest.mark.parametrize("view", ["crops", "warps"])
def test_the_same_places_on_eight_devices_and_under_vmap(view):
  images = pictures(16, 10, 8, 1)

  def run(index, images):
    keys = augment.sample_keys(KEY, 2, index)
    views, places = VIEWS[view](keys, images, cells=(5, 4))
    return views, places, augment.matching_cells(places[:, 0], places[:, 1])

  batch = jnp.arange(16), images
  expected = quick_jit(run)(*batch)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    run, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
  )
  chex.assert_trees_all_close(quick_jit(mapped)(*batch), expected, atol=1e-5)
  split = [x.reshape(4, 4, *x.shape[1:]) for x in batch]
  stacked = jax.tree.map(
    lambda x: x.reshape(16, *x.shape[2:]), quick_jit(jax.vmap(run))(*split)
  )
  chex.assert_trees_all_close(stacked, expected, atol=1e-5)
