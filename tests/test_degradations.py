"""Degradations against float64 references, at several sizes and as regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from gcl_jax.augment import (
  degradation_fields,
  degradations,
  fundus_degradations,
  fundus_draws,
  sample_keys,
  xray_degradations,
)

pytestmark = pytest.mark.compiles
KEY = jax.random.key(5)
WEIGHTS = np.array([0.299, 0.587, 0.114])
TINTS = np.array([[251, 249, 246], [141, 238, 238], [177, 195, 147]]) / 255
draw = jax.jit(degradations.draw, static_argnums=(1, 2))
apply = jax.jit(degradations.apply, static_argnames="size")


def keys(count, step=0):
  return sample_keys(KEY, step, jnp.arange(count))


@functools.cache
def drawn(family, count=2000):
  return jax.tree.map(np.asarray, host(draw(keys(count), family, None)))


def host(found):
  """Without the keys of noise, which numpy cannot hold."""
  return found._replace(noise_key=0) if hasattr(found, "noise_key") else found


def one_of_each(family):
  """The first draw of every kind."""
  found = draw(keys(60), family, None)
  kind = np.asarray(found.kind)
  rows = [np.flatnonzero(kind == k)[0] for k in range(8)]
  return jax.tree.map(lambda values: values[np.array(rows)], found)


def only(found, row):
  return jax.tree.map(lambda values: values[row : row + 1], found)


def picture(family, side):
  """A disc with vessels on black, or waves; the same scene at every size."""
  rows, columns = (np.indices((side, side)) + 0.5) / side - 0.5
  waves = np.sin(31 * rows + 9 * np.sin(14 * columns)) * np.cos(23 * columns)
  waves = waves + 0.5 * np.sin(170 * rows) * np.sin(140 * columns)
  if family == "xray":
    image = 0.5 + 0.25 * waves - 0.4 * rows
    return np.round(255 * image)[..., None].astype(np.uint8)
  inside = rows**2 + columns**2 < 0.24
  disc = (rows - 0.1) ** 2 + (columns + 0.2) ** 2 < 0.004
  light = 0.6 + 0.1 * waves + 0.3 * disc
  image = light[..., None] * np.array([0.95, 0.6, 0.25]) * inside[..., None]
  return np.round(255 * image).clip(0, 255).astype(np.uint8)


def smaller(images, side):
  """Mean over blocks: [B, H, H, C] -> [B, side, side, C]."""
  count, height, _, channels = images.shape
  step = height // side
  blocks = images.reshape(count, side, step, side, step, channels)
  return blocks.mean((2, 4))


# -- slow references --------------------------------------------------------


def places(height, width):
  rows, columns = (np.indices((height, width)) + 0.5) / height
  return rows, columns, width / height


def disc(height, width, row, column, radius, softness):
  """A loop over pixels: half at the radius, smooth in the squared distance."""
  found = np.zeros((height, width))
  softness = max(softness, 1 / height)
  for i in range(height):
    for j in range(width):
      down = (i + 0.5) / height - row
      right = (j + 0.5 - column * width) / height
      step = (radius**2 - down**2 - right**2) / (2 * radius * softness) + 0.5
      step = min(max(step, 0), 1)
      found[i, j] = 3 * step**2 - 2 * step**3
  return found


def box(deviation):
  """The kernel as a list: a box, and a share of one pixel more either side."""
  m = 0
  while (m + 1) * (m + 2) / 3 <= deviation**2:
    m += 1
  offsets = np.arange(-m - 1, m + 2)
  # The variance grows with the share: bisection instead of its formula.
  low, high = 0.0, 1.0
  for _ in range(60):
    share = (low + high) / 2
    kernel = np.where(abs(offsets) <= m, 1.0, share)
    kernel /= kernel.sum()
    low, high = (
      (share, high) if kernel @ offsets**2 < deviation**2 else (low, share)
    )
  return kernel


def blurred(image, deviations):
  for axis, deviation in enumerate(deviations):
    if deviation:
      kernel = box(deviation)
      image = ndimage.convolve1d(image, kernel, axis=axis, mode="reflect")
  return image


def grey(image):
  return image @ WEIGHTS if image.shape[-1] == 3 else image[..., 0]


def coloured(image, colour):
  image = np.clip(image * colour.brightness, 0, 1)
  image = contrasted(image, colour.contrast)
  return saturated(image, colour.saturation)


def contrasted(image, factor):
  mean = grey(image).mean()
  return np.clip(mean + factor * (image - mean), 0, 1)


def saturated(image, factor):
  middle = grey(image)[..., None]
  return np.clip(middle + factor * (image - middle), 0, 1)


def spots_of(spots, height, width):
  found = np.zeros((height, width))
  for k in range(int(spots.count)):
    s = 512 * spots.radii[k] / 25
    k1, beta, d = 14 / 25 + 1 - s, 0.5 + s, 0.3 * s
    amplitude = k1 * (1 - np.exp(-beta * d))
    found += amplitude * disc(
      *(height, width, spots.rows[k], spots.columns[k]),
      *(spots.radii[k] / 2, spots.softness[k]),
    )
  return found


def illuminated(image, eye, one):
  height, width = image.shape[:2]
  image = coloured(image, one.colour)
  halo, hole = one.halo, one.hole
  ring = 1 - disc(
    *(height, width, halo.row, halo.column, halo.radius, halo.softness)
  )
  tint = TINTS[int(halo.tint)]
  tint = tint if image.shape[-1] == 3 else tint.mean()
  image = np.clip(image + image.mean() * tint * ring[..., None], 0, 1)
  mean = (image * eye).sum() / max(eye.sum(), 1) / image.shape[-1]
  depth = hole.depth + hole.slope * mean if mean > 0.25 else 0
  dark = disc(
    *(height, width, hole.row, hole.column, hole.radius, hole.softness)
  )
  return np.clip(image - depth * dark[..., None], 0, 1)


def hazy(image, haze):
  height, width = image.shape[:2]
  rows, columns, ratio = places(height, width)
  away = np.hypot(rows - haze.row, columns - haze.column * ratio)
  off = np.hypot(haze.row - 0.5, (haze.column - 0.5) * ratio)
  field = np.minimum(away / (0.5 + off), 1)[..., None]
  panel = field * (image.max((0, 1)) - image)
  image = np.clip(0.8 * image + haze.strength * panel, 0, 1)
  image = contrasted(image, haze.colour.contrast)
  image = np.clip(image * haze.colour.brightness, 0, 1)
  return saturated(image, haze.colour.saturation)


def fundus_reference(image, one):
  image = clean = image / 255
  height, width = image.shape[:2]
  parts = degradations.KINDS["fundus"][int(one.kind)].split("+")
  eye = np.clip((255 * image.max(-1, keepdims=True) - 10) / 10, 0, 1)
  if "illumination" in parts:
    image = illuminated(image, eye, one)
  if "spots" in parts:
    image = np.clip(image + spots_of(one.spots, height, width)[..., None], 0, 1)
  image = clean + eye * (image - clean)
  if "blur" in parts:
    image = blurred(image, 2 * [height * one.blur])
  if "cataract" in parts:
    image = blurred(image, 2 * [height * one.haze.blur])
    image = image + eye * (hazy(image, one.haze) - image)
  return 255 * image


def xray_reference(image, one, noise):
  image = image / 255
  height, width = image.shape[:2]
  rows, columns, ratio = places(height, width)
  parts = degradations.KINDS["xray"][int(one.kind)].split("+")
  if "blur" in parts:
    image = blurred(image, height * one.blur)
  if "veil" in parts:
    veil = one.veil
    along = np.cos(veil.angle) * (rows - 0.5)
    along += np.sin(veil.angle) * (columns / ratio - 0.5)
    level = (veil.level + veil.slope * along)[..., None]
    image = (1 - veil.share) * image + veil.share * level
  if "grid" in parts:
    image = np.clip(image + lines(one.grid, height, width), 0, 1)
  if "noise" in parts:
    image = image + one.noise * 10 ** (image - 1) * noise
    image = np.clip(image, 0, 1)
  if "exposure" in parts:
    image = 0.5 + one.contrast * (image**one.gamma - 0.5)
  return 255 * image


def lines(grid, height, width, parts=40):
  """The sine averaged over parts x parts places of every pixel."""
  fine = (np.arange(height * parts) + 0.5) / parts / height
  wide = (np.arange(width * parts) + 0.5) / parts / height
  phase = (
    2
    * np.pi
    * grid.lines
    * (np.cos(grid.angle) * fine[:, None] + np.sin(grid.angle) * wide)
    + grid.phase
  )
  wave = grid.amplitude * np.cos(phase)
  return wave.reshape(height, parts, width, parts).mean((1, 3))[..., None]


# -- what is applied --------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 52, 3), (33, 33, 1)])
def test_fundus_equals_the_reference(shape):
  image = np.random.default_rng(0).integers(90, 250, shape).astype(np.uint8)
  image[:6], image[6:9] = 3, 15  # outside the eye, on its edge
  found = one_of_each("fundus")
  images = np.repeat(image[None], 8, axis=0)
  result = np.asarray(apply(images, found))
  assert result.shape == images.shape and result.dtype == np.float32
  for row in range(8):
    one = jax.tree.map(lambda v, r=row: np.asarray(v[r], np.float64), found)
    expected = fundus_reference(image.astype(float), one)
    np.testing.assert_allclose(result[row], expected, atol=2e-3)
    assert np.abs(result[row] - image).max() > 1
  np.testing.assert_allclose(result[:, :4], images[:, :4], atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 52, 1), (28, 28, 1), (30, 24, 3)])
def test_xray_equals_the_reference(shape):
  image = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
  found = one_of_each("xray")
  images = np.repeat(image[None], 8, axis=0)
  result = np.asarray(apply(images, found))
  where = degradation_fields.frame(shape[:2], jnp.zeros(2), shape[:2])
  noise = jax.jit(lambda key: degradation_fields.grain(key, where))
  for row in range(8):
    plain = found._replace(noise_key=found.noise)
    one = jax.tree.map(lambda v, r=row: np.asarray(v[r], np.float64), plain)
    drawn_noise = np.asarray(noise(found.noise_key[row]), np.float64)[..., None]
    expected = xray_reference(image.astype(float), one, drawn_noise)
    np.testing.assert_allclose(result[row], expected, atol=0.03)
    assert np.abs(result[row] - image).max() > 1


def test_noise_is_a_lattice_of_normal_values_averaged_over_pixels():
  key, side = jax.random.key(3), 256
  field = functools.partial(degradation_fields.frame, corner=jnp.zeros(2))
  at = {
    n: np.asarray(degradation_fields.grain(key, field((n, n), size=(n, n))))
    for n in (64, 256, 512)
  }
  lattice = np.asarray(jax.random.normal(key, (side, side)), np.float64)
  # Linear between the points, at 16 x 16 places of every cell.
  fine = (np.arange(side * 16) + 0.5) / 16 - 0.5
  grid = np.meshgrid(fine, fine, indexing="ij")
  expected = ndimage.map_coordinates(lattice, grid, order=1, mode="nearest")
  for n, found in at.items():
    means = smaller(expected[None, ..., None], n)[0, ..., 0] / 0.59375
    inner = slice(n // 64, -n // 64)  # at the edge the tents are cut
    np.testing.assert_allclose(
      found[inner, inner], means[inner, inner], atol=0.01
    )
  assert at[256].std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("deviation", [0.0, 0.2, 0.8164966, 1.0, 2.3])
def test_box_has_its_deviation_and_equals_scipy(deviation):
  image = np.random.default_rng(2).uniform(size=(70, 45, 2))
  blur = jax.jit(degradation_fields.box_blur, static_argnums=2)
  found = blur(jnp.float32(image), jnp.float32([deviation, 0.5]), 2.4)
  expected = blurred(image, (deviation, 0.5))
  np.testing.assert_allclose(found, expected, atol=2e-5)
  point = np.zeros((41, 41, 1), np.float32)
  point[20, 20] = 1
  spread = np.asarray(blur(point, jnp.float32([deviation, 0.0]), 2.4))[:, 20, 0]
  variance = spread @ (np.arange(41) - 20.0) ** 2
  assert spread.sum() == pytest.approx(1, abs=1e-5)
  assert variance == pytest.approx(deviation**2, abs=1e-4)


# -- what is drawn ----------------------------------------------------------


def test_ranges_of_fundus():
  found = drawn("fundus")
  ranges = {
    ("colour", "brightness"): (0.7, 1.2),
    ("colour", "contrast"): (0.6, 1.4),
    ("colour", "saturation"): (0.6, 1.4),
    ("halo", "row"): (0.375, 0.625),
    ("halo", "column"): (0.375, 0.625),
    ("halo", "radius"): (0.375, 0.5),
    ("halo", "softness"): (0, 0.5),
    ("halo", "tint"): (0, 2),
    ("hole", "row"): (0.375, 0.625),
    ("hole", "column"): (0.25, 0.75),
    ("hole", "radius"): (0.2, 0.35),
    ("hole", "depth"): (0.26, 0.262),
    ("hole", "slope"): (0.05, 0.06),
    ("spots", "count"): (5, 10),
    ("spots", "radii"): (0.01, 0.05),
    ("haze", "row"): (0.2, 0.8),
    ("haze", "column"): (0.2, 0.8),
    ("haze", "strength"): (0.6, 0.8),
    ("haze", "blur"): (0, 2 / 512),
  }
  for (part, name), (low, high) in ranges.items():
    values = getattr(getattr(found, part), name)
    span = high - low
    assert low - 1e-6 <= values.min() < low + 0.06 * span, (part, name)
    assert high - 0.12 * span < values.max() <= high + 1e-6, (part, name)
  wide = found.hole.softness / found.hole.radius / 2
  assert 0.55 <= wide.min() < 0.56 and 0.74 < wide.max() <= 0.75
  colour = found.haze.colour
  assert 0.9 <= colour.brightness.min() and colour.brightness.max() <= 1
  for factor in (colour.contrast, colour.saturation):
    assert 0.9 <= factor.min() < 0.92 and 1.28 < factor.max() <= 1.3
  # Kernels of 1, 3, 5 and 7 px of 512, and of 5/3 to 15/2 px.
  kernels = np.sqrt(12 * (512 * found.haze.blur) ** 2 + 1)
  np.testing.assert_allclose(np.unique(kernels.round(4)), [1, 3, 5, 7])
  kernels = np.sqrt(12 * (512 * found.blur) ** 2 + 1)
  assert 5 / 3 <= kernels.min() < 2 and 7 < kernels.max() <= 7.5


def test_spots_lie_inside_the_frame_and_their_edge_grows_with_them():
  spots = drawn("fundus").spots
  for centre in (spots.rows, spots.columns):
    assert (centre >= spots.radii).all()
    assert (centre <= 1 - spots.radii).all()
    assert centre.min() < 0.03 and centre.max() > 0.97
  sigma = (10 + 40 * spots.radii * 512 / 25) / 512
  share = spots.softness / sigma
  assert 0.2 <= share.min() < 0.201 and 0.249 < share.max() <= 0.2501


@pytest.mark.parametrize("family", ["fundus", "xray"])
def test_every_kind_is_as_probable(family):
  counts = np.bincount(drawn(family).kind, minlength=8)
  assert len(counts) == 8 and len(degradations.KINDS[family]) == 8
  # Five standard deviations of 2,000 draws with probability 1/8.
  assert np.abs(counts - 250).max() < 75


def test_the_seven_combinations_and_the_cataract_are_the_kinds():
  names = ("blur", "spots", "illumination")
  sets = {
    frozenset(n for k, n in enumerate(names) if code >> k & 1)
    for code in range(1, 8)
  }
  kinds = {frozenset(k.split("+")) for k in degradations.KINDS["fundus"]}
  assert kinds == sets | {frozenset(["cataract"])}


@pytest.mark.parametrize("wanted", [True, False])
def test_spots_can_be_forced(wanted):
  kind = np.asarray(draw(keys(300), "fundus", wanted).kind)
  names = [degradations.KINDS["fundus"][k] for k in kind]
  assert all(("spots" in name) == wanted for name in names)
  assert len(set(names)) == 4


def test_ranges_of_xray():
  found = drawn("xray")
  strength = np.abs(np.log(found.gamma))
  assert 0.4 <= strength.min() < 0.42 and 0.88 < strength.max() <= 0.9001
  assert 0.45 < (found.gamma < 1).mean() < 0.55
  lengths = 512 * np.sqrt(12) * np.sort(found.blur, axis=-1)
  still = np.isclose(lengths[:, 0], lengths[:, 1])
  assert 0.45 < still.mean() < 0.55
  assert 3 <= lengths[:, 0].min() and lengths[:, 0].max() <= 8.001
  moved = np.sqrt(lengths[~still, 1] ** 2 - lengths[~still, 0] ** 2)
  assert 7.99 <= moved.min() < 8.5 and 23.5 < moved.max() <= 24.01
  longer = found.blur[~still, 0] > found.blur[~still, 1]
  assert 0.45 < longer.mean() < 0.55
  level = found.veil.level + np.abs(found.veil.slope) * np.sqrt(0.5)
  assert 0 < found.veil.level.min() and level.max() <= 1.02


def test_unknown_families_and_forced_spots_of_radiographs_are_refused():
  with pytest.raises(ValueError, match="fundus, xray"):
    degradations.draw(keys(1), "mri")
  with pytest.raises(ValueError, match="no spots"):
    degradations.draw(keys(1), "xray", True)
  with pytest.raises(ValueError, match="h, w, C"):
    degradations.apply(jnp.zeros((2, 8, 8)), draw(keys(2), "xray", None))


# -- sizes, regions, batches ------------------------------------------------


@pytest.mark.parametrize("family", ["fundus", "xray"])
def test_images_of_256_to_1024_pixels_are_degraded_alike(family):
  found = one_of_each(family)
  differences = {}
  for side in (256, 512, 1024):
    clean = np.round(smaller(picture(family, 1024)[None], side))
    result = [np.asarray(apply(clean, only(found, row)))[0] for row in range(8)]
    differences[side] = smaller(np.stack(result) - clean, 256)
  for row, kind in enumerate(degradations.KINDS[family]):
    for side in (512, 1024):
      pair = differences[256][row].ravel(), differences[side][row].ravel()
      assert np.corrcoef(*pair)[0, 1] > 0.9, (kind, side)
      # Alike in strength, too.
      assert 0.6 < pair[0].std() / pair[1].std() < 1.6, (kind, side)


def test_amplitude_of_spots():
  """Numbers computed by hand for radii of 6, 12 and 25 pixels of 512."""
  found = fundus_degradations.spot_amplitude(np.array([6, 12, 25]) / 512)
  np.testing.assert_allclose(found, [0.068489, 0.142144, 0.202928], atol=2e-6)
  radii = np.linspace(0.01, 0.05, 100)
  assert (np.asarray(fundus_degradations.spot_amplitude(radii)) > 0.05).all()


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_bright_spots_are_bright_at_every_size(side):
  found = draw(keys(40), "fundus", True)
  row = np.flatnonzero(np.asarray(found.kind) == 1)[0]  # spots alone
  found = only(found, row)
  clean = np.full((1, side, side, 3), 100, np.uint8)
  change = np.asarray(apply(clean, found))[0] - clean[0]
  assert change.min() >= -1e-3
  spots = jax.tree.map(lambda v: np.asarray(v[0], np.float64), found.spots)
  for k in range(int(spots.count)):
    i, j = int(spots.rows[k] * side), int(spots.columns[k] * side)
    share = 512 * spots.radii[k] / 25
    amplitude = (1.56 - share) * (1 - np.exp(-(0.5 + share) * 0.3 * share))
    assert change[i, j, 0] > 0.75 * 255 * amplitude


@pytest.mark.parametrize("family", ["fundus", "xray"])
def test_regions_equal_the_crop_of_the_whole(family):
  found = one_of_each(family)
  kinds = degradations.KINDS[family]
  # The others depend on statistics of the image.
  rows = [
    k
    for k, name in enumerate(kinds)
    if "illumination" not in name and "cataract" not in name
  ]
  found = jax.tree.map(lambda values: values[np.array(rows)], found)
  whole = np.repeat(picture(family, 128)[None], len(rows), axis=0)
  degraded = np.asarray(apply(whole, found))
  corner = np.array([[20 + 3 * k, 50 - 2 * k] for k in range(len(rows))])
  cut = np.stack(
    [whole[k, i : i + 48, j : j + 48] for k, (i, j) in enumerate(corner)]
  )
  region = apply(cut, found, corner=jnp.float32(corner), size=(128, 128))
  inner = slice(8, 40)  # a blur repeats the edge of the region
  for k, (i, j) in enumerate(corner):
    expected = degraded[k, i : i + 48, j : j + 48]
    np.testing.assert_allclose(
      region[k][inner, inner], expected[inner, inner], atol=2e-2
    )


@pytest.mark.parametrize("family", ["fundus", "xray"])
def test_an_image_does_not_depend_on_its_batch(family):
  images = np.repeat(picture(family, 48)[None], 6, axis=0)
  run = jax.jit(functools.partial(degradations.degrade, family=family))
  together = np.asarray(run(keys(6), images))
  for k in (0, 4):
    alone = run(keys(6)[k : k + 1], images[k : k + 1])[0]
    np.testing.assert_allclose(alone, together[k], atol=1e-3)
  nested = jax.vmap(run)(
    keys(6).reshape(2, 3), images.reshape(2, 3, 48, 48, -1)
  )
  np.testing.assert_allclose(
    nested.reshape(together.shape), together, atol=1e-3
  )
  floats = run(keys(6), images.astype(np.float32))
  np.testing.assert_allclose(floats, together, atol=1e-4)


def test_what_is_drawn_does_not_depend_on_the_probability():
  images = np.repeat(picture("fundus", 24)[None], 400, axis=0)
  run = jax.jit(degradations.degrade, static_argnames="probability")
  always = np.asarray(run(keys(400), images))
  half = np.asarray(run(keys(400), images, probability=0.5))
  same = (half == images).all((1, 2, 3))
  assert 0.4 < same.mean() < 0.6
  np.testing.assert_allclose(half[~same], always[~same], atol=1e-3)
  never = np.asarray(run(keys(400), images, probability=0.0))
  np.testing.assert_array_equal(never, images)
  # Whether an image is degraded tells nothing about its kind.
  kind = drawn("fundus", 400).kind
  counts = np.bincount(kind[~same], minlength=8) / np.bincount(
    kind, minlength=8
  )
  assert 0.2 < counts.min() and counts.max() < 0.8


def test_facts_name_what_was_applied():
  found = one_of_each("fundus")
  kind, parts = degradations.facts(found, 6)
  assert kind == "blur+spots+illumination"
  assert set(parts) == {"blur", "spots", "colour", "halo", "hole"}
  assert len(parts["spots"]["rows"]) == int(found.spots.count[6])
  assert parts["halo"]["row"] == pytest.approx(
    float(found.halo.row[6]), abs=1e-6
  )
  kind, parts = degradations.facts(one_of_each("xray"), 5)
  assert kind == "exposure+noise" and set(parts) == {
    "gamma",
    "contrast",
    "noise",
  }


@pytest.mark.parametrize("module", [fundus_draws, xray_degradations])
def test_every_part_has_fields_and_a_kind(module):
  assert module.HAS.any(0).all() and module.HAS.any(1).all()
  kind = (
    fundus_draws.Fundus if module is fundus_draws else xray_degradations.XRay
  )
  fields = {name for names in module.FIELDS.values() for name in names}
  assert fields == set(kind._fields) - {"kind", "noise_key"}
