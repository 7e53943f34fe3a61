"""The organ phantom: left and right are told by their context."""

import jax
import numpy as np
import optax
import pytest
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from gcl_jax.data.readers.organs import organ_phantom
from gcl_jax.losses.segmentation import cross_entropy_dice
from gcl_jax.models.unet import unet

LEFT, RIGHT, BAR = 1, 2, 3
BOX = ("marker_top", "marker_left", "marker_bottom", "marker_right")


def all_images(dataset) -> np.ndarray:
  return np.stack([dataset.read(row) for row in range(len(dataset))])


def all_masks(dataset) -> np.ndarray:
  return np.stack([dataset.read_mask(row) for row in range(len(dataset))])


def boxes(dataset) -> np.ndarray:
  return np.stack([dataset.table[name] for name in BOX], axis=1)


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
