"""Colour changes against colorsys, PIL, scipy and loops in float64."""

import colorsys
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from gcl_jax import augment
from gcl_jax.augment import colour, filters, tints

pytestmark = pytest.mark.compiles

# Compiled in a third of the time without LLVM's optimiser.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
KEY = jax.random.key(11)
WEIGHTS = np.array([0.299, 0.587, 0.114])
CROP_STILL = {
  "crop_scale": (1.0, 1.0),
  "crop_ratio": (1.0, 1.0),
  "flip": 0.0,
  "brightness": 0.0,
  "contrast": 0.0,
  "jitter": 1.0,
  "mean": 0.0,
  "std": 1.0,
}
WARP_STILL = {
  "rotation": 0.0,
  "scale": (1.0, 1.0),
  "flip_rows": 0.0,
  "flip_columns": 0.0,
  "shift": 0.0,
  "elastic": (0.0, 0.0),
}
EVERYTHING = {
  "saturation": 0.4,
  "hue": 0.1,
  "grayscale": 0.3,
  "blur": 0.5,
  "blur_sigma": (0.02, 0.1),
  "noise": 0.5,
}


def keys(count, step=0):
  return augment.sample_keys(KEY, step, jnp.arange(count))


def pictures(*shape, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, shape).astype(np.uint8)


def cropped(**options):
  return quick_jit(functools.partial(augment.crop, **options))


def still_crop(**options):
  return cropped(**{**CROP_STILL, **options})


def still_warp(**options):
  run = functools.partial(augment.warp, **{**WARP_STILL, **options})
  return quick_jit(lambda keys, images: run(keys, images)[0])


STILL = {"crop": still_crop, "warp": still_warp}


# -- slow references --------------------------------------------------------


def saturated(pixels, factor):
  found = np.empty(pixels.shape)
  for place in np.ndindex(pixels.shape[:2]):
    grey = sum(w * p for w, p in zip(WEIGHTS, pixels[place], strict=True))
    for c in range(3):
      mixed = factor * pixels[place][c] + (1 - factor) * grey
      found[place][c] = min(max(mixed, 0), 1)
  return found


def rotated(pixels, turns):
  found = np.empty(pixels.shape)
  for place in np.ndindex(pixels.shape[:2]):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixels[place])
    found[place] = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
  return found


def brightened(pixels, factor):
  return np.clip(factor * pixels, 0, 1)


def stretched(pixels, factor):
  centre = (pixels @ WEIGHTS).mean()
  return np.clip(centre + factor * (pixels - centre), 0, 1)


# -- single changes ---------------------------------------------------------


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 1 / 3, 0.5])
def test_hue_equals_colorsys(turns):
  image = pictures(6, 7, 3) / 255
  # Greys, pure colours, equal channels: the corners of the definition.
  image[0, :3] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]
  image[1, :4] = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]
  found = quick_jit(tints.rotate_hue)(jnp.float32(image), turns)
  chex.assert_trees_all_close(
    np.asarray(found, np.float64), rotated(image, turns), atol=2e-6
  )


def test_a_third_of_a_turn_makes_red_green():
  found = tints.rotate_hue(jnp.float32([[1.0, 0, 0]]), 1 / 3)
  np.testing.assert_allclose(found, [[0, 1, 0]], atol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
def test_saturation_equals_a_loop_and_pil(factor):
  image = pictures(6, 7, 3)
  found = quick_jit(tints.saturate)(jnp.float32(image / 255), factor)
  chex.assert_trees_all_close(
    np.asarray(found, np.float64), saturated(image / 255, factor), atol=1e-6
  )
  of_pil = ImageEnhance.Color(Image.fromarray(image)).enhance(factor)
  # PIL rounds the luminance and the result.
  np.testing.assert_allclose(255 * found, np.asarray(of_pil), atol=2)


def test_grayscale_equals_pil():
  image = pictures(6, 7, 3)
  found = np.asarray(quick_jit(tints.grayscale)(jnp.float32(image / 255)))
  assert found.shape == image.shape
  expected = np.asarray(Image.fromarray(image).convert("L"))
  np.testing.assert_allclose(255 * found[..., 0], expected, atol=0.51)
  np.testing.assert_allclose(found[..., 0], image / 255 @ WEIGHTS, atol=1e-6)
  np.testing.assert_array_equal(found, found[..., :1].repeat(3, -1))


@pytest.mark.parametrize("shape", [(9, 14, 1), (12, 5, 3)])
@pytest.mark.parametrize("sigma, radius", [(0.0, 2), (0.7, 3), (2.5, 8)])
def test_blur_equals_scipy(shape, sigma, radius):
  image = pictures(*shape) / 255
  blur = functools.partial(filters.gaussian_blur, radius=radius)
  found = quick_jit(blur)(jnp.float32(image), sigma)
  expected = image
  if sigma:
    expected = ndimage.gaussian_filter(
      image, sigma, mode="nearest", axes=(0, 1), radius=radius
    )
  np.testing.assert_allclose(found, expected, atol=2e-6)


# -- drawn changes ----------------------------------------------------------


@pytest.mark.parametrize("view", ["crop", "warp"])
@pytest.mark.parametrize(
  "name, change, low, high",
  [("saturation", saturated, 0.6, 1.4), ("hue", rotated, -0.4, 0.4)],
)
def test_tints_change_by_one_drawn_number(view, name, change, low, high):
  image = pictures(1, 2, 3, 3, seed=3)
  batch = np.tile(image, (200, 1, 1, 1))
  found = np.asarray(STILL[view](**{name: 0.4})(keys(200), batch))
  grid = np.linspace(low, high, 401)
  table = np.stack([change(image[0] / 255, f) for f in grid])
  errors = np.abs(table[None] - found[:, None]).max((2, 3, 4))
  assert errors.min(1).max() < 8e-3
  share = (grid[errors.argmin(1)] - low) / (high - low)
  assert stats.kstest(share, "uniform").pvalue > 1e-3


def test_saturation_stays_above_zero():
  batch = np.tile(np.uint8([[[[200, 20, 20]]]]), (100, 1, 1, 1))
  found = np.asarray(still_crop(saturation=1.5)(keys(100), batch))
  # A factor below 0 would make the red pixel cyan.
  assert np.all(found[..., 0] >= found[..., 1] - 1e-6)


def test_all_orders_of_the_jitter_occur_equally_often():
  """Each image equals one of 24 orders of the same four changes."""
  options = dict(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
  image = np.uint8(
    [[[250, 120, 30], [20, 240, 90]], [[60, 10, 200], [255] * 3]]
  )
  count = 1200
  run = jax.vmap(
    lambda key, tint_key, pixels: (
      colour.jitter(key, tint_key, pixels, **options, probability=1.0),
      jax.random.uniform(key, (4,)),
      jax.random.uniform(tint_key, (4,)),
    ),
    in_axes=(0, 0, None),
  )
  found, draws, more = jax.device_get(
    quick_jit(run)(keys(count), keys(count, step=1), jnp.float32(image / 255))
  )
  orders = []
  for k in range(count):
    changes = {
      "b": functools.partial(brightened, factor=0.5 + draws[k, 0]),
      "c": functools.partial(stretched, factor=0.5 + draws[k, 1]),
      "s": functools.partial(saturated, factor=0.5 + more[k, 0]),
      "h": functools.partial(rotated, turns=0.2 * (2 * more[k, 1] - 1)),
    }
    order = ["b", "c"] if draws[k, 2] < 0.5 else ["c", "b"]
    order.insert(int(3 * more[k, 2]), "s")
    order.insert(int(4 * more[k, 3]), "h")
    expected = image / 255
    for name in order:
      expected = changes[name](expected)
    if k < 300:
      np.testing.assert_allclose(found[k], expected, atol=5e-6)
    orders.append("".join(order))
  names, times = np.unique(orders, return_counts=True)
  assert len(names) == 24 and stats.chisquare(times).pvalue > 1e-3


@pytest.mark.parametrize("view", ["crop", "warp"])
@pytest.mark.parametrize("name", ["grayscale", "blur", "noise"])
def test_each_change_has_its_probability(view, name):
  batch = pictures(400, 5, 6, 3)
  run = STILL[view](**{name: 0.3, "blur_sigma": (0.1, 0.2)})
  found = np.asarray(run(keys(400), batch))
  changed = ~np.isclose(found, batch / 255, atol=1e-5).all((1, 2, 3))
  assert 0.23 < changed.mean() < 0.37


@pytest.mark.parametrize("view", ["crop", "warp"])
def test_grayscale_of_a_view_is_its_luminance(view):
  batch = pictures(4, 5, 6, 3)
  found = STILL[view](grayscale=1.0)(keys(4), batch)
  expected = (batch / 255 @ WEIGHTS)[..., None].repeat(3, -1)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("view", ["crop", "warp"])
def test_blur_of_a_view_draws_sigma_as_a_share_of_the_height(view):
  impulse = np.zeros((1, 20, 17, 1), np.uint8)
  impulse[:, 10, 8] = 255
  batch = np.tile(impulse, (100, 1, 1, 1))
  run = STILL[view](blur=1.0, blur_sigma=(0.03, 0.06))
  found = np.asarray(run(keys(100), batch), np.float64)[..., 0]
  grid = np.linspace(0.6, 1.2, 301)
  table = [
    ndimage.gaussian_filter(
      impulse[0, ..., 0] / 255, s, mode="nearest", radius=4
    )
    for s in grid
  ]
  errors = np.abs(np.stack(table)[None] - found[:, None]).max((2, 3))
  assert errors.min(1).max() < 2e-3
  share = (grid[errors.argmin(1)] - 0.6) / 0.6
  assert stats.kstest(share, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("view", ["crop", "warp"])
def test_noise_is_gaussian_and_independent(view):
  batch = np.full((4, 40, 50, 3), 128, np.uint8)
  found = STILL[view](noise=1.0, noise_sigma=0.04)(keys(4), batch)
  noise = np.asarray(found, np.float64) - 128 / 255
  assert stats.kstest(noise.ravel() / 0.04, "norm").pvalue > 1e-3
  flat = np.concatenate(list(noise.reshape(4, -1, 3)), axis=1)
  assert np.abs(np.corrcoef(flat.T) - np.eye(12)).max() < 0.1
  bright = STILL[view](noise=1.0)(keys(1), np.full((1, 9, 9, 1), 255, np.uint8))
  assert np.max(bright) == 1 and np.min(bright) < 1


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("view", ["crop", "warp"])
def test_without_colour_nothing_is_tinted(view, channels):
  batch = pictures(8, 5, 6, channels)
  options = {"brightness": 0.4, "contrast": 0.4}
  plain = STILL[view](**options)(keys(8), batch)
  tinted = STILL[view](**options, saturation=0.5, hue=0.3, grayscale=1.0)
  chex.assert_trees_all_equal(tinted(keys(8), batch), plain)


@pytest.mark.parametrize("view", ["crop", "warp"])
def test_changes_that_are_never_drawn_leave_the_other_draws_alone(view):
  """Old draws do not move: probabilities near 0 give the plain view."""
  batch = pictures(6, 8, 9, 3)
  plain = {"brightness": 0.4, "contrast": 0.4}
  run = {"crop": augment.crop, "warp": lambda *a, **o: augment.warp(*a, **o)[0]}
  rare = {"grayscale": 1e-9, "blur": 1e-9, "noise": 1e-9}
  found = [
    quick_jit(functools.partial(run[view], **o))(keys(6), batch)
    for o in (plain, plain | rare, plain | {"saturation": 1e-7, "hue": 1e-7})
  ]
  chex.assert_trees_all_close(found[1], found[0], atol=1e-6)
  chex.assert_trees_all_close(found[2], found[0], atol=1e-5)


def test_normalise_takes_numbers_of_each_channel():
  batch = pictures(2, 4, 5, 3)
  mean, std = (0.426, 0.297, 0.213), (0.277, 0.202, 0.169)
  expected = np.empty(batch.shape)
  for place in np.ndindex(batch.shape):
    c = place[-1]
    expected[place] = (batch[place] / 255 - mean[c]) / std[c]
  found = augment.normalise(batch, mean, std)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  for view in STILL.values():
    seen = view(mean=mean, std=std)(keys(2), batch)
    np.testing.assert_allclose(seen, expected, atol=2e-5)


@pytest.mark.parametrize("view", [augment.crop, augment.warp])
def test_what_does_not_fit_is_refused(view):
  batch = pictures(2, 4, 4, 3)
  for options, message in (
    ({"hue": 0.6}, "hue must be in"),
    ({"hue": -0.1}, "hue must be in"),
    ({"blur_sigma": (0.2, 0.1)}, "blur_sigma must be"),
    ({"blur_sigma": (-0.1, 0.1)}, "blur_sigma must be"),
  ):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(functools.partial(view, **options), keys(2), batch)


# -- randomness -------------------------------------------------------------


@pytest.mark.parametrize("view", ["crop", "warp"])
def test_views_depend_on_the_key_only_also_under_vmap(view):
  batch = pictures(8, 10, 12, 3)
  run = functools.partial(augment.crop, **EVERYTHING)
  if view == "warp":
    run = lambda *args: augment.warp(*args, **EVERYTHING)[0]  # noqa: E731
  found = quick_jit(run)(keys(8), batch)
  assert found.shape == batch.shape and found.dtype == jnp.float32
  order = np.random.default_rng(0).permutation(8)
  shuffled = quick_jit(run)(keys(8)[order], batch[order])
  chex.assert_trees_all_close(shuffled, found[order], atol=1e-6)
  split = keys(8).reshape(2, 4), batch.reshape(2, 4, *batch.shape[1:])
  stacked = quick_jit(jax.vmap(run))(*split)
  chex.assert_trees_all_close(stacked.reshape(found.shape), found, atol=1e-6)
  other = quick_jit(run)(keys(8, step=1), batch)
  assert np.all(np.abs(other - found).max((1, 2, 3)) > 0.05)


def test_the_same_views_on_eight_devices():
  batch = pictures(16, 6, 8, 3)
  run = functools.partial(augment.crop, **EVERYTHING)
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec("data")
  mapped = jax.shard_map(
    run, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  expected = quick_jit(run)(keys(16), batch)
  chex.assert_trees_all_close(
    quick_jit(mapped)(keys(16), batch), expected, atol=1e-6
  )
