"""The organ phantom: structure, gap, textures, and what is local."""

import inspect
import pickle

import jax
import numpy as np
import optax
import pytest
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from gcl_jax import data
from gcl_jax.data.phantoms import organ_picture
from gcl_jax.data.readers.organs import organ_phantom
from gcl_jax.errors import DataError
from gcl_jax.losses.segmentation import cross_entropy_dice
from gcl_jax.methods.pixel_global.config import get_config
from gcl_jax.models.unet import unet

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


def test_nothing_but_the_bright_face_tells_the_sides():
  seen, turned = [], []
  for mask in all_masks(organ_phantom(patients=1000, size=(32, 32))):
    middles = [np.argwhere(mask == k).mean(axis=0) for k in (LEFT, RIGHT)]
    turned.append(middles[0][1] > middles[1][1])
    # The same without the names of the sides.
    first, second = sorted(middles, key=lambda place: place[1])
    bar = np.argwhere(mask == BAR)
    areas = [(mask == k).sum() for k in (LEFT, RIGHT)][:: 1 - 2 * turned[-1]]
    tilt = np.cov(bar.T)[0, 1]
    seen.append([*first, *second, *bar.mean(axis=0), tilt, *areas])
  seen, turned = np.array(seen), np.array(turned)
  seen = (seen - seen.mean(axis=0)) / seen.std(axis=0)
  model = LogisticRegression().fit(seen[:500], turned[:500])
  guess = model.decision_function(seen[500:])
  assert roc_auc_score(turned[500:], guess) == pytest.approx(0.5, abs=0.08)
  assert turned.mean() == pytest.approx(0.5, abs=0.06)


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


def crop(rng, size) -> tuple[float, ...]:
  """Top, left, bottom, right of a random crop of area 0.3 to 1, in pixels."""
  while True:
    area, ratio = rng.uniform(0.3, 1), np.exp(rng.uniform(-0.28, 0.28))
    height, width = np.sqrt(area / ratio), np.sqrt(area * ratio)
    if max(height, width) <= 1:
      top, left = rng.uniform(size=2) * (1 - height, 1 - width)
      return tuple(size * np.array([top, left, top + height, left + width]))


def shares(gap: float) -> tuple[float, float]:
  """Share of organ pixels of two crops with the bar in one, and in neither."""
  phantom, rng = organ_phantom(patients=120, gap=gap), np.random.default_rng(0)
  found = np.zeros(3)
  for box, mask in zip(boxes(phantom), all_masks(phantom), strict=True):
    points = np.argwhere((mask > 0) & (mask != BAR)) + 0.5
    for _ in range(6):
      pair, inside, seen = [crop(rng, 64) for _ in range(2)], True, []
      for top, left, bottom, right in pair:
        inside &= ((points >= (top, left)) & (points < (bottom, right))).all(1)
        rows = max(0, min(bottom, box[2]) - max(top, box[0]))
        columns = max(0, min(right, box[3]) - max(left, box[1]))
        seen.append(2 * rows * columns >= np.prod(box[2:] - box[:2]))
      found[sum(seen)] += inside.sum()
  return found[1] / found.sum(), found[0] / found.sum()


def test_the_gap_sets_how_often_crops_cut_the_bar_away():
  one, none = zip(*map(shares, (0.0, 0.5, 1.0)), strict=True)
  np.testing.assert_allclose(one, (0.01, 0.20, 0.45), atol=0.05)
  np.testing.assert_allclose(none, (0, 0.02, 0.12), atol=0.03)
  assert one[0] < 0.05 and one[2] > 0.25


def test_the_place_of_an_organ_does_not_give_it_away():
  centres, left = [], []
  for mask in all_masks(organ_phantom(patients=1200, size=(32, 32))):
    for label in (LEFT, RIGHT):
      apart, count = ndimage.label(mask == label)
      found = ndimage.center_of_mass(mask, apart, range(1, count + 1))
      centres += found
      left += [label == LEFT] * count
  left, half = np.array(left), len(left) // 2
  y, x = np.array(centres).T / 32
  for place in ([y, x], [y, x, y * y, x * x, x * y]):
    place = np.stack(place, axis=1)
    model = LogisticRegression().fit(place[:half], left[:half])
    guess = model.decision_function(place[half:])
    assert roc_auc_score(left[half:], guess) == pytest.approx(0.5, abs=0.05)
  assert 0.45 < left.mean() < 0.55


def patches(phantom, rows, side, labels, rng):
  """Six patches of each label and image, and whether it is the first label."""
  found, first = [], []
  for row in rows:
    image, mask = phantom.read(row) / 255, phantom.read_mask(row)
    image = np.pad(image, side // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    for label in labels:
      places = rng.choice(np.argwhere(mask == label), 6)
      found.append(windows[tuple(places.T)].reshape(6, -1))
      first += [label == labels[0]] * 6
  found = np.concatenate(found)
  # What few examples would not teach: texture.
  middle, deviation = found.mean(axis=1), found.std(axis=1)
  steps = abs(np.diff(found, axis=1)).mean(axis=1)
  return np.column_stack([found, middle, deviation, steps]), np.array(first)


def local_accuracy(gap, side, labels=(LEFT, RIGHT), size=64) -> float:
  """Balanced accuracy on other images of a random forest that sees a patch."""
  phantom = organ_phantom(patients=600, size=(size, size), gap=gap)
  rng = np.random.default_rng(0)
  seen, label = patches(phantom, range(300), side, labels, rng)
  other, wanted = patches(phantom, range(300, 600), side, labels, rng)
  model = RandomForestClassifier(60, min_samples_leaf=8, random_state=0)
  guess = model.fit(seen, label).predict(other)
  return balanced_accuracy_score(wanted, guess)


@pytest.mark.parametrize(("gap", "side"), [(0.0, 3), (1.0, 3), (1.0, 9)])
def test_patches_do_not_tell_left_from_right(gap, side):
  assert local_accuracy(gap, side) == pytest.approx(0.5, abs=0.04)


def test_patches_tell_what_is_local():
  assert local_accuracy(1.0, 3, (LEFT, 0)) > 0.75
  # With the bar between the organs, a larger patch sees its face.
  assert local_accuracy(0.0, 9, size=32) > 0.6


def trained_unet(images, masks, steps=320):
  """fn(images) -> classes, of a small U-Net trained on all these labels."""
  network = unet((8, 16, 32, 32), classes=4)
  init = jax.jit(network.init, static_argnums=1)
  variables = init(jax.random.key(0), images.shape[1:])
  schedule = optax.cosine_onecycle_schedule(steps, 1e-2)
  optimizer = optax.adamw(schedule, weight_decay=1e-4)

  @jax.jit
  def step(variables, moments, batch, truth):
    def objective(params):
      logits, stats = network.segment(
        {**variables, "params": params}, batch, train=True
      )
      return cross_entropy_dice(logits, truth, dice_weight=1.0), stats

    params = variables["params"]
    gradients, stats = jax.grad(objective, has_aux=True)(params)
    updates, moments = optimizer.update(gradients, moments, params)
    params = optax.apply_updates(params, updates)
    return {"params": params, "batch_stats": stats}, moments

  moments = jax.jit(optimizer.init)(variables["params"])
  rng = np.random.default_rng(0)
  for _ in range(steps):
    rows = rng.choice(len(images), 8, replace=False)
    variables, moments = step(variables, moments, images[rows], masks[rows])
  return lambda x: np.argmax(jax.jit(network.segment)(variables, x)[0], -1)


@pytest.mark.compiles
def test_a_unet_with_all_labels_tells_left_from_right():
  phantom = organ_phantom(patients=360, size=(48, 48), gap=1.0)
  images, masks = all_images(phantom)[..., None] / 255, all_masks(phantom)
  images = ((images - images.mean()) / images.std()).astype(np.float32)
  predict = trained_unet(images[:300], masks[:300].astype(np.int32))
  guess, truth = predict(images[300:]), masks[300:]
  for label in (LEFT, RIGHT):
    both = ((guess == label) & (truth == label)).sum((1, 2))
    either = (guess == label).sum((1, 2)) + (truth == label).sum((1, 2))
    assert (2 * both / either).mean() > 0.9


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
