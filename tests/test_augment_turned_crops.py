"""Turned crops: their map by hand, what they show, their draws, their keys."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from gcl_jax import augment
from gcl_jax.augment import crops, turned_crops

pytestmark = pytest.mark.compiles

# Compiled in a third of the time without LLVM's optimiser.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
KEY = jax.random.key(13)
SIZE = (40, 30)
TURNED = {"rotation": 180.0, "flip_rows": 0.5}
CHANGES = {
  "brightness": 0.4,
  "contrast": 0.4,
  "gamma": 0.4,
  "blur": 0.5,
  "noise": 0.5,
}


def keys(count, step=0):
  return augment.sample_keys(KEY, step, jnp.arange(count))


def pictures(*shape, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, shape).astype(np.uint8)


def drawn(images, **options):
  run = functools.partial(augment.two_turned_crops, **options)
  return jax.device_get(quick_jit(run)(keys(len(images)), images))


def mapped(box, degrees=0.0, flips=(False, False), size=SIZE, cells=SIZE):
  places = turned_crops.turned_places(
    jnp.float32(box), jnp.radians(degrees), jnp.array(flips), size, cells
  )
  return np.asarray(places, np.float64)


def read(image, places):
  """[h, w, C], what an image shows at its places, by scipy."""
  channels = [
    ndimage.map_coordinates(
      image[..., c].astype(float),
      np.moveaxis(places, -1, 0),
      order=1,
      mode="nearest",
    )
    for c in range(image.shape[-1])
  ]
  return np.stack(channels, -1)


# -- the map ----------------------------------------------------------------


@pytest.mark.parametrize("flips", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("degrees", [0.0, 33.0, -150.0])
def test_places_equal_a_loop_over_cells(degrees, flips):
  """An oblong crop of an oblong image, with complex numbers."""
  box = (0.2, 0.1, 0.5, 0.8)
  found = mapped(box, degrees, flips, cells=(4, 2))
  # The crop: rows 8 to 28 and columns 3 to 27 of 40 x 30 pixels.
  centre = complex(18 - 0.5, 15 - 0.5)
  for i, j in np.ndindex(4, 2):
    row = 20 * ((i + 0.5) / 4 - 0.5) * (-1 if flips[0] else 1)
    column = 24 * ((j + 0.5) / 2 - 0.5) * (-1 if flips[1] else 1)
    turned = complex(row, column) * np.exp(1j * math.radians(degrees))
    expected = centre + turned
    np.testing.assert_allclose(
      found[i, j], [expected.real, expected.imag], atol=1e-4
    )


def test_a_plain_crop_is_that_of_crop():
  box, image = jnp.float32([0.13, 0.3, 0.51, 0.62]), pictures(*SIZE, 2)
  expected = crops.crop_places(box, False, SIZE, (8, 6))
  np.testing.assert_allclose(mapped(box, cells=(8, 6)), expected, atol=1e-4)
  shown = augment.sample_bilinear(image[None], jnp.float32(mapped(box))[None])
  view = crops.resized_crop(image, box, False)
  np.testing.assert_allclose(shown[0], view, atol=0.02)


def test_quarter_and_half_turns_are_exact():
  image = pictures(8, 12, 1)
  # A square of 4 x 4 pixels: rows 2 to 5, columns 6 to 9.
  box, square = (0.25, 0.5, 0.5, 1 / 3), image[2:6, 6:10]
  for degrees, flips, expected in (
    (0, (False, False), square),
    (90, (False, False), np.rot90(square, -1)),
    (-90, (False, False), np.rot90(square)),
    (180, (False, False), square[::-1, ::-1]),
    (0, (True, False), square[::-1]),
    (0, (False, True), square[:, ::-1]),
    (90, (False, True), np.rot90(square, -1)[:, ::-1]),
  ):
    places = mapped(box, degrees, flips, (8, 12), (4, 4))
    np.testing.assert_allclose(read(image, places), expected, atol=0.01)


# -- what views show --------------------------------------------------------


@pytest.mark.parametrize("view", [(), (24, 36)])
def test_a_view_shows_what_the_image_shows_at_its_places(view):
  images = pictures(6, *SIZE, 2)
  rows, columns = view or SIZE
  views, places = drawn(images, size=view, cells=(rows, columns), **TURNED)
  chex.assert_shape(views, (6, 2, rows, columns, 2))
  chex.assert_shape(places, (6, 2, rows, columns, 2))
  beyond = (places < -1) | (places > np.array(SIZE))
  assert 0.01 < beyond.any(-1).mean() < 0.5  # the outside is looked at
  for b, v in np.ndindex(6, 2):
    expected = read(images[b], places[b, v].astype(np.float64))
    np.testing.assert_allclose(255 * views[b, v], expected, atol=0.02)
  apart = np.abs(views[:, 0] - views[:, 1]).max((1, 2, 3))
  assert np.all(apart > 0.1)


def test_cells_lie_at_the_mean_of_their_pixels():
  images = pictures(5, *SIZE, 1)
  views, pixels = drawn(images, size=(24, 36), cells=(24, 36), **TURNED)
  again, cells = drawn(images, size=(24, 36), cells=(6, 9), **TURNED)
  means = pixels.reshape(5, 2, 6, 4, 9, 4, 2).mean((3, 5))
  np.testing.assert_allclose(cells, means, atol=1e-3)
  alone = drawn(images, size=(24, 36), **TURNED)
  np.testing.assert_allclose(alone, again, atol=1e-6)
  np.testing.assert_allclose(alone, views, atol=1e-6)


def test_photometric_changes_are_those_of_warp():
  images = pictures(6, *SIZE, 1)
  options = {**CHANGES, "mean": 0.3, "std": 0.2}
  whole = {"crop_scale": (1.0, 1.0), "rotation": 0.0, "flip_columns": 0.0}
  views = drawn(images, **whole, **options)
  still = {
    **{"rotation": 0.0, "scale": (1.0, 1.0), "shift": 0.0},
    **{"flip_rows": 0.0, "flip_columns": 0.0, "elastic": (0.0, 0.0)},
  }
  halves = jax.vmap(jax.random.split)(keys(6))
  warp = quick_jit(functools.partial(augment.warp, **still, **options))
  for v in range(2):
    expected, _ = warp(halves[:, v], images)
    np.testing.assert_allclose(views[:, v], expected, atol=1e-4)
  plain = augment.normalise(jnp.asarray(images), 0.3, 0.2)
  assert np.all(np.abs(views - plain[:, None]).max((2, 3, 4)) > 0.1)


def test_views_standardised_by_their_own_pixels():
  images = pictures(4, *SIZE, 2)
  images[..., 1] //= 4
  images[3, ..., 0] = 200
  options = {**CHANGES, "noise": 0.0, "mean": 5.0, "std": 7.0}
  found = drawn(images, per_view=True, **options)
  plain = drawn(images, **options, per_view=False).astype(np.float64)
  plain -= plain.mean((2, 3), keepdims=True)
  std = plain.std((2, 3), keepdims=True)
  np.testing.assert_allclose(
    found[:3], plain[:3] / std[:3], atol=1e-4, rtol=1e-4
  )
  np.testing.assert_allclose(found[:3].mean((2, 3)), 0, atol=1e-4)
  np.testing.assert_allclose(found[:3].std((2, 3)), 1, atol=1e-4)
  # One grey everywhere stays finite.
  np.testing.assert_allclose(found[3, ..., 0], 0, atol=0.01)


# -- the draws --------------------------------------------------------------


def test_boxes_angles_and_flips_have_their_distributions():
  """Read back from the places, in pixels of an oblong image."""
  count = 2000
  places = drawn(
    np.zeros((count, *SIZE, 1), np.uint8),
    cells=(2, 2),
    crop_scale=(0.3, 0.6),
    crop_ratio=(0.8, 1.25),
    rotation=20.0,
    flip_rows=0.3,
    flip_columns=0.6,
  )[1].astype(np.float64)
  corner = places[..., 0, 0, :]
  # Two cells a side: one step is half of the crop.
  down = 2 * (places[..., 1, 0, :] - corner)
  right = 2 * (places[..., 0, 1, :] - corner)
  height, width = np.hypot(*down.T), np.hypot(*right.T)
  cosine = np.sum(down * right, -1).T / (height * width)
  np.testing.assert_allclose(cosine, 0, atol=1e-5)
  shares = height * width / (SIZE[0] * SIZE[1])
  assert 0.2999 < shares.min() < 0.31 and 0.59 < shares.max() < 0.6001
  np.testing.assert_allclose(shares.mean(), 0.45, atol=0.01)
  ratio = (width / SIZE[1]) / (height / SIZE[0])
  assert 0.7999 < ratio.min() < 0.82 and 1.22 < ratio.max() < 1.2501
  # Within 20 degrees, the sign of a step tells whether its axis is flipped.
  flipped = np.stack([down[..., 0] < 0, right[..., 1] < 0], -1)
  np.testing.assert_allclose(flipped.mean((0, 1)), [0.3, 0.6], atol=0.03)
  upright = np.where(flipped[..., :1], -down, down)
  angle = np.degrees(np.arctan2(upright[..., 1], upright[..., 0]))
  assert -20.001 < angle.min() < -19 and 19 < angle.max() < 20.001
  np.testing.assert_allclose(angle.std(), 20 / 3**0.5, atol=0.3)
  # Crops lie anywhere: centres fill the room there is.
  centre = places.mean((2, 3)) + 0.5
  sides = np.stack([height.T, width.T], -1)
  room = np.array(SIZE) - sides
  at = (centre - sides / 2) / room
  assert at.min() > -0.001 and at.max() < 1.001
  np.testing.assert_allclose(at.mean((0, 1)), 0.5, atol=0.03)
  np.testing.assert_allclose(at.std((0, 1)), 12**-0.5, atol=0.03)
  # Draws do not go with each other, nor the two views of an image.
  columns = [shares.T, angle, *np.moveaxis(flipped, -1, 0), at[..., 0]]
  table = np.concatenate([np.stack(columns, -1)[:, v] for v in range(2)], 1)
  apart = np.corrcoef(table.T) - np.eye(table.shape[1])
  assert np.abs(apart).max() < 0.1


def test_views_depend_on_seed_step_and_index_only():
  images = pictures(6, 12, 16, 1)
  run = quick_jit(
    functools.partial(augment.two_turned_crops, cells=(3, 4), **CHANGES)
  )
  index = jnp.arange(6) + 30
  views, places = run(augment.sample_keys(KEY, 5, index), images)
  order = np.array([3, 0, 5])
  some = run(augment.sample_keys(KEY, 5, index[order]), images[order])
  chex.assert_trees_all_close(some, (views[order], places[order]), atol=1e-5)
  for key, step in ((KEY, 6), (jax.random.key(8), 5)):
    other = run(augment.sample_keys(key, step, index), images)[1]
    assert np.all(np.abs(other - places).max((2, 3, 4)) > 0.1)


def test_the_same_views_on_eight_devices_and_under_vmap():
  batch = jnp.arange(16), pictures(16, 10, 8, 1)

  def run(index, images):
    views, places = augment.two_turned_crops(
      augment.sample_keys(KEY, 2, index), images, cells=(5, 4), **CHANGES
    )
    return views, places, augment.nearby_cells(places[:, 0], places[:, 1])

  expected = quick_jit(run)(*batch)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  spread = jax.shard_map(
    run, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
  )
  chex.assert_trees_all_close(quick_jit(spread)(*batch), expected, atol=1e-5)
  split = [x.reshape(4, 4, *x.shape[1:]) for x in batch]
  stacked = jax.tree.map(
    lambda x: x.reshape(16, *x.shape[2:]), quick_jit(jax.vmap(run))(*split)
  )
  chex.assert_trees_all_close(stacked, expected, atol=1e-5)


def test_what_cannot_be_drawn_is_refused():
  images = jnp.zeros((2, 8, 8, 1), jnp.uint8)

  def shapes_of(images, **options):
    run = functools.partial(augment.two_turned_crops, **options)
    return jax.eval_shape(run, keys(2), images)

  assert shapes_of(images, size=(6, 4)).shape == (2, 2, 6, 4, 1)
  for options, message in (
    ({"size": (8,)}, "size must be"),
    ({"size": (8, 0)}, "size must be"),
    ({"crop_scale": (0.5, 1.2)}, "crop_scale must be"),
    ({"crop_scale": (0.0, 1.0)}, "crop_scale must be"),
    ({"crop_ratio": (2.0, 1.0)}, "crop_ratio must be"),
    ({"blur": 0.5, "blur_sigma": (2.0, 1.0)}, "blur_sigma must be"),
  ):
    with pytest.raises(ValueError, match=message):
      shapes_of(images, **options)
  with pytest.raises(ValueError, match="images must be uint8"):
    shapes_of(images / 255)
  with pytest.raises(TypeError, match="jitter"):
    shapes_of(images, jitter=0.5)
