"""The organ phantom: structure, masks, the box of the bar, grey values."""

import inspect
import pickle

import numpy as np
import pytest
from scipy import ndimage

from gcl_jax import data
from gcl_jax.data.phantoms import organ_picture
from gcl_jax.data.readers.organs import organ_phantom
from gcl_jax.errors import DataError
from gcl_jax.methods.pixel_global.config import get_config

LEFT, RIGHT, BAR = 1, 2, 3
BOX = ("marker_top", "marker_left", "marker_bottom", "marker_right")
PLAIN = dict(swapped=0.0, shading=0.0, noise=0.0)


def all_images(dataset) -> np.ndarray:
  return np.stack([dataset.read(row) for row in range(len(dataset))])


def all_masks(dataset) -> np.ndarray:
  return np.stack([dataset.read_mask(row) for row in range(len(dataset))])


def boxes(dataset) -> np.ndarray:
  return np.stack([dataset.table[name] for name in BOX], axis=1)


def test_a_patient_is_one_slice():
  phantom = organ_phantom(patients=3, size=(32, 128), gap=0.25)
  assert phantom.name == "organ_phantom" and phantom.labels == ()
  assert phantom.classes == ("left", "right", "bar")
  assert phantom.ids.tolist() == ["p0000_s0", "p0001_s0", "p0002_s0"]
  assert phantom.groups.tolist() == ["p0000", "p0001", "p0002"]
  table = phantom.table
  assert set(phantom.meta) == set(table) - {"id", "group"}
  np.testing.assert_array_equal(table["volume"], table["group"])
  assert table["slice"].tolist() == [0] * 3 and table["slice"].dtype.kind == "i"
  for name, value in (
    ("position", 1.0),
    ("spacing_z", 1.0),
    ("spacing_y", 2.0),
    ("spacing_x", 0.5),
    ("gap", 0.25),
  ):
    assert table[name].tolist() == [value] * 3
    assert table[name].dtype.kind == "f"


def test_it_is_found_by_its_name_and_the_settings_are_its_own():
  config = get_config("paper").data
  defaults = inspect.signature(organ_phantom).parameters
  assert config.organs.to_dict() == {k: p.default for k, p in defaults.items()}
  config.name = "organs"
  config.organs.update(patients=2, gap=0.0, seed=3)
  made = data.load(config)
  assert len(made) == 2 and made.table["gap"].tolist() == [0, 0]
  same = organ_phantom(patients=2, gap=0.0, seed=3)
  np.testing.assert_array_equal(all_images(made), all_images(same))


def test_images_depend_on_seed_and_row_alone():
  phantom = organ_phantom(patients=9, seed=4)
  rows = (8, 0, 5)
  seen = [(phantom.read(row), phantom.read_mask(row)) for row in rows]
  again = organ_phantom(patients=400, seed=4)
  copy = pickle.loads(pickle.dumps(phantom.read))
  for row, (image, mask) in reversed(list(zip(rows, seen, strict=True))):
    assert image.dtype == mask.dtype == np.uint8
    assert image.shape == mask.shape == (64, 64)
    np.testing.assert_array_equal(again.read(row), image)
    np.testing.assert_array_equal(copy(row), image)
    np.testing.assert_array_equal(again.read_mask(row), mask)
  for name in BOX:
    np.testing.assert_array_equal(again.table[name][:9], phantom.table[name])
  changed = organ_phantom(patients=9, seed=5)
  assert (changed.read(8) != seen[0][0]).mean() > 0.5
  assert (changed.read_mask(8) != seen[0][1]).mean() > 0.02


def test_what_is_added_to_the_picture_leaves_the_masks():
  wanted = all_masks(organ_phantom(patients=6))
  for added in ({"swapped": 0.4}, {"shading": 1.0}, {"noise": 0.3}, PLAIN):
    phantom = organ_phantom(patients=6, **added)
    np.testing.assert_array_equal(all_masks(phantom), wanted)


def test_every_image_has_every_class_and_organs_inside():
  masks = all_masks(organ_phantom(patients=150, size=(48, 64)))
  share = 100 * np.bincount(masks.ravel()) / masks.size
  np.testing.assert_allclose(share, (88.9, 4.35, 4.35, 2.4), atol=0.4)
  rim = np.ones((48, 64), bool)
  rim[1:-1, 1:-1] = False
  cut = 0
  for mask in masks:
    assert ndimage.label(mask == BAR)[1] == 1
    counts = [ndimage.label(mask == k)[1] for k in (LEFT, RIGHT)]
    assert 1 <= min(counts) and max(counts) <= 2
    cut += bool(mask[rim & (mask != BAR)].any())
  assert cut <= 3


def test_organs_of_a_side_are_separated_by_the_axis_of_the_bar():
  masks = all_masks(organ_phantom(patients=60, size=(96, 96), gap=1.0))
  for mask in masks:
    points = np.argwhere(mask == BAR) - 0.0
    centre = points.mean(axis=0)
    along = np.linalg.svd(points - centre)[2][0]
    across = np.array([-along[1], along[0]])
    sides = [(np.argwhere(mask == k) - centre) @ across for k in (LEFT, RIGHT)]
    sign = np.sign(sides[0].mean())
    assert (sign * sides[0]).min() > 0 > (sign * sides[1]).max()


def test_the_bright_face_looks_at_the_left_organs():
  phantom = organ_phantom(patients=30, size=(96, 96), gap=0.0, **PLAIN)
  for row in range(30):
    image, mask = phantom.read(row), phantom.read_mask(row)
    away = {
      k: ndimage.distance_transform_edt(mask != k)[mask == BAR]
      for k in (LEFT, RIGHT)
    }
    bar = image[mask == BAR]
    bright = away[LEFT] < away[RIGHT] - 3
    dark = away[RIGHT] < away[LEFT] - 3
    assert np.median(bar[bright]) > 220 and np.median(bar[dark]) < 40


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (128, 40)])
def test_the_box_of_the_marker_is_that_of_the_bar(size):
  for gap in (0.0, 0.4, 1.0):
    phantom = organ_phantom(patients=20, size=size, gap=gap)
    for box, mask in zip(boxes(phantom), all_masks(phantom), strict=True):
      points = np.argwhere(mask == BAR)
      tight = np.concatenate([points.min(axis=0), points.max(axis=0) + 1])
      outside = (tight - box) * (1, 1, -1, -1)
      assert outside.min() >= 0 and outside.max() <= 2
      assert box.min() >= 0 and (box[2:] <= size).all()


def test_the_gap_moves_the_bar_alone():
  made = [organ_phantom(patients=25, gap=g) for g in (0.0, 0.5, 1.0)]
  distances = []
  for masks in zip(*map(all_masks, made), strict=True):
    organs = [np.where(mask == BAR, 0, mask) for mask in masks]
    np.testing.assert_array_equal(organs[0], organs[1])
    np.testing.assert_array_equal(organs[0], organs[2])
    # From each organ's nearest pixel to the bar, in pixels.
    apart = ndimage.label(organs[0])[0]
    away = [ndimage.distance_transform_edt(mask != BAR) for mask in masks]
    names = np.unique(apart[apart > 0])
    distances.append(
      np.max([ndimage.minimum(a, apart, names) for a in away], axis=1)
    )
  near, middle, far = np.transpose(distances)
  assert 2 < near.min() and near.max() < 9
  assert (near < middle).all() and (middle < far).all() and far.min() > 14


def test_swapped_pixels_come_from_another_place_in_small_pieces():
  picture = np.arange(64 * 80.0).reshape(64, 80)
  for share in (0.0, 0.1, 0.5):
    for seed in range(4):
      rng = np.random.default_rng(seed)
      swapped = organ_picture.swap(picture, share, rng)
      moved = swapped != picture
      assert moved.sum() == round(share * picture.size)
      if share:
        rows, columns = np.divmod(swapped[moved].astype(int), 80)
        y, x = np.nonzero(moved)
        steps = np.unique([(rows - y) % 64, (columns - x) % 80], axis=1)
        assert steps.shape == (2, 1)
        assert 16 <= steps[0, 0] <= 48 and 20 <= steps[1, 0] <= 60
  moved = organ_picture.swap(picture, 0.1, np.random.default_rng(0)) != picture
  sizes = np.bincount(ndimage.label(moved)[0].ravel())[1:]
  assert 4 < sizes.mean() < 40 and sizes.max() < 120


def test_shading_is_a_smooth_factor():
  flat, none = np.full((64, 96), 0.5), np.random.default_rng(0)
  lows, highs = [], []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    shaded = organ_picture.expose(flat, 0.3, 0.0, rng, none) / 255
    factor = shaded / 0.5 * 1.3
    lows.append(factor.min())
    highs.append(factor.max())
    # A tenth of the image changes it by a third of its range at most.
    for axis in (0, 1):
      apart = np.take(factor, range(6, 64), axis) - np.take(
        factor, range(58), axis
      )
      assert abs(apart).max() < 0.3 * 2 * 0.34
    assert factor.max() - factor.min() > 0.3
  assert min(lows) == pytest.approx(0.7, abs=0.01)
  assert max(highs) == pytest.approx(1.3, abs=0.01)
  plain = organ_picture.expose(flat, 0.0, 0.0, none, none)
  np.testing.assert_array_equal(plain, 128)


def test_noise_has_its_deviation_and_is_new_in_every_image():
  plain = all_images(organ_phantom(patients=4, noise=0.0)) / 255
  noisy = all_images(organ_phantom(patients=4, noise=0.06)) / 255
  inside = ((plain > 0.2) & (plain < 0.8)).all(axis=0)
  noise = (noisy - plain)[:, inside]
  np.testing.assert_allclose(noise.std(axis=1), 0.06, rtol=0.1)
  assert abs(np.corrcoef(noise)[np.triu_indices(4, 1)]).max() < 0.1


def test_discs_are_as_bright_and_dark_as_the_bar_and_touch_nothing():
  phantom = organ_phantom(patients=40, size=(96, 96), gap=1.0, **PLAIN)
  for row in range(40):
    image, mask = phantom.read(row), phantom.read_mask(row)
    near = ndimage.binary_dilation(mask > 0, iterations=2)
    bright, dark = (image > 220) & ~near, (image < 20) & ~near
    for disc in (bright, dark):
      apart, count = ndimage.label(disc)
      assert count == 1
      height, width = (s.stop - s.start for s in ndimage.find_objects(apart)[0])
      assert abs(height - width) <= 1 and 9 <= height <= 12


def test_size_samples_the_same_field_of_view():
  small = organ_phantom(patients=4, size=(48, 32), **PLAIN)
  large = organ_phantom(patients=4, size=(96, 128), **PLAIN)
  for row in range(4):
    # The middle of every small pixel lies between two by four large ones.
    middle = large.read_mask(row)[::2, 2::4]
    assert (middle == small.read_mask(row)).mean() > 0.96
    halved = large.read(row).reshape(48, 2, 32, 4).mean((1, 3))
    both = [
      ndimage.gaussian_filter(i * 1.0, 1) for i in (small.read(row), halved)
    ]
    assert np.corrcoef(both[0].ravel(), both[1].ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
  "wrong",
  [
    {"patients": 0},
    {"size": (16, 64)},
    {"size": (64, 64, 3)},
    {"gap": -0.1},
    {"gap": 1.1},
    {"gap": float("nan")},
    {"swapped": 1.5},
    {"swapped": -0.1},
    {"shading": -0.1},
    {"shading": 1.01},
    {"noise": -0.01},
    {"noise": 1.5},
    {"seed": -1},
  ],
)
def test_settings_out_of_range_are_named(wrong):
  (name,) = wrong
  with pytest.raises(DataError, match=name) as caught:
    organ_phantom(**wrong)
  assert "\n" not in str(caught.value)
