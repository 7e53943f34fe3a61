"""The disc of fundus photographs, and square crops."""

import numpy as np
import pytest
from PIL import Image

from gcl_jax.data import disc
from gcl_jax.data.circles import best_circle
from gcl_jax.data.components import boxes_of
from gcl_jax.data.formats import read_image
from gcl_jax.data.readers import idrid
from gcl_jax.errors import DataError


def fundus(shape, centre, radius, level=180, noise=0.0):
  """uint8 [H, W, 3]: a reddish disc that darkens outwards, on black."""
  rows, columns = np.indices(shape) + 0.5
  away = np.hypot(rows - centre[0], columns - centre[1]) / radius
  light = level * (1 - 0.5 * away**2) * (away <= 1)
  image = light[..., None] * [1, 0.5, 0.3]
  image += noise * np.random.default_rng(0).normal(size=image.shape)
  return np.clip(image, 0, 255).astype(np.uint8)


WHOLE = ((200, 260), (95, 140), 80)  # shape, centre, radius


@pytest.mark.parametrize(
  ("shape", "centre", "radius", "settings"),
  [
    (*WHOLE, {}),
    (*WHOLE, {"level": 14}),
    (*WHOLE, {"level": 60, "noise": 5.0}),
    ((200, 300), (104, 140), 125, {}),  # cut at the top and bottom
    ((200, 300), (98, 180), 145, {}),  # and at the right
    ((128, 128), (63, 65), 62, {}),
    ((514, 768), (258, 350), 305, {}),
    ((1400, 1000), (640, 500), 480, {}),
  ],
)
def test_a_disc_is_found(shape, centre, radius, settings):
  found = disc.disc_of(fundus(shape, centre, radius, **settings))
  scale = max(1, max(shape) / 256)
  assert np.abs(np.array(found) - (*centre, radius)).max() < 2 * scale


def test_a_grey_image_has_the_same_disc():
  image = fundus(*WHOLE)
  assert disc.disc_of(image[..., 0]) == disc.disc_of(image)


def faded():
  """A photograph without border, darker towards its corners."""
  return fundus((200, 260), (100, 130), 400)


def pictures():
  plain = np.full((100, 120, 3), 90, np.uint8)
  box = np.zeros((100, 120), np.uint8)
  box[20:80, 30:90] = 200
  draw = np.random.default_rng(0)
  return {
    "faded": faded(),
    "plain": plain,
    "black": 0 * plain,
    "grey_border": np.maximum(fundus(*WHOLE), 70),
    "box": box,
    "noise": draw.integers(0, 256, (100, 120)).astype(np.uint8),
    "tiny": plain[:2, :3],
  }


@pytest.mark.parametrize(
  "name", ["faded", "plain", "black", "grey_border", "box", "noise", "tiny"]
)
def test_no_disc(name):
  assert disc.disc_of(pictures()[name]) is None


def test_an_image_that_fades_to_black_has_no_disc():
  rows, columns = np.indices((200, 260)) + 0.5
  away = np.hypot(rows - 100, columns - 130) / np.hypot(100, 130)
  assert disc.disc_of((200 * (1 - away**2)).astype(np.uint8)) is None


def marked(radius=80):
  """A fundus, three boxes (inside, at the rim, outside), and a class map.

  What is outside lies in a corner of the square round the disc.
  """
  image = fundus((200, 260), (95, 140), radius)
  boxes = np.array(
    [[80, 110, 96, 130, 0.5], [90, 205, 100, 225, 0.6], [18, 64, 30, 76, 0.7]],
    np.float32,
  )
  mask = np.zeros(image.shape[:2], np.uint8)
  mask[80:96, 110:130] = 2
  mask[18:30, 64:76] = 1
  return image, boxes, mask


def test_boxes_and_mask_follow_the_crop():
  image, boxes, mask = marked()
  row, column, radius = disc.disc_of(image)
  cropped, moved, classes = disc.crop_to_disc(image, boxes, mask, size=64)
  assert cropped.shape == (64, 64, 3) and cropped.dtype == np.uint8
  assert moved.dtype == np.float32 and classes.dtype == np.uint8
  scale = 64 / (2 * radius)
  wanted = (boxes[:2, :4] - np.tile([row - radius, column - radius], 2)) * scale
  np.testing.assert_allclose(moved[:, :4], np.minimum(wanted, 64), atol=0.7)
  np.testing.assert_array_equal(moved[:, 4], np.float32([0.5, 0.6]))
  # The class map moved with the boxes, and has nothing outside the disc.
  np.testing.assert_allclose(boxes_of(classes)[:, :4], moved[:1, :4], atol=1.0)
  assert set(np.unique(classes)) == {0, 2}


def test_the_crop_fills_its_square_and_is_black_outside():
  image, *_ = marked()
  image = np.maximum(image, 9)  # a border that is not quite black
  cropped, *_ = disc.crop_to_disc(image, size=64)
  assert (cropped[0, 0] == 0).all() and (cropped[-1, -1] == 0).all()
  grey = cropped[..., 0]
  assert grey[32, [1, -2]].min() > 30 and grey[[1, -2], 32].min() > 30


def test_a_cut_disc_is_padded():
  image = fundus((200, 300), (104, 140), 125)
  cropped, *_ = disc.crop_to_disc(image, size=100)
  light = np.flatnonzero(cropped[:, 50, 0])
  # Rows 0 to 200 of a square from -21 to 229, which has 250 rows.
  assert abs(light[0] - 8.4) <= 1.5 and abs(light[-1] - 87.4) <= 1.5
  assert cropped[50, [1, -2], 0].min() > 30


def test_without_a_disc_the_whole_image_is_padded():
  image = faded()
  boxes = np.array([[0, 0, 20, 26, 1], [150, 250, 210, 262, 0.5]])
  mask = np.zeros(image.shape[:2], int)
  mask[:20, :26] = 3
  found = disc.crop_to_disc(image, boxes, mask, size=130)
  padded = disc.square(image, boxes, mask, size=130)
  for one, other in zip(found, padded, strict=True):
    np.testing.assert_array_equal(one, other)
  cropped, moved, classes = found
  np.testing.assert_array_equal(cropped[[14, 115]], 0)
  assert cropped[15:115].min() > 0
  np.testing.assert_allclose(moved[0], [15, 0, 25, 13, 1])
  np.testing.assert_allclose(moved[1], [90, 125, 120, 130, 0.5])
  assert (classes[15:25, :13] == 3).all() and (classes == 3).sum() == 130


def test_square_drops_boxes_outside_the_image():
  image = np.full((10, 20), 7, np.uint8)
  boxes = np.array([[-5, 0, -1, 4, 1], [2, 2, 4, 4, 1]])
  cropped, moved, mask = disc.square(image, boxes, size=20)
  assert cropped.shape == (20, 20, 1) and mask is None
  np.testing.assert_array_equal(moved, [[7, 2, 9, 4, 1]])
  assert disc.square(image, size=5)[1].shape == (0, 5)


def test_wrong_shapes_are_refused():
  image = fundus(*WHOLE)
  with pytest.raises(DataError, match="class map of"):
    disc.crop_to_disc(image, mask=np.zeros((3, 4), np.uint8), size=8)
  with pytest.raises(DataError, match="boxes of shape"):
    disc.crop_to_disc(image, boxes=np.zeros((2, 4)), size=8)


def test_the_circle_survives_outliers():
  draw = np.random.default_rng(1)
  angles = draw.uniform(0, 2 * np.pi, 200)
  points = [30, 40] + 20 * np.stack([np.sin(angles), np.cos(angles)], 1)
  points[:70] = draw.uniform(0, 60, (70, 2))
  np.testing.assert_allclose(best_circle(points), (30, 40, 20), atol=0.1)
  assert best_circle(np.zeros((0, 2))) is None
  line = np.stack([np.arange(20.0), 2 * np.arange(20.0)], 1)
  assert best_circle(line) is None


@pytest.mark.parametrize("names", ["p001_L", "p022_L", "p087_L", "p248_L"])
def test_real_fundus_discs(real_data, names):
  folder = real_data / "fundus_dr"
  if not folder.is_dir():
    pytest.skip("no fundus_dr here")
  image = read_image(folder / f"{names}.jpg")
  row, column, radius = disc.disc_of(image)
  assert abs(row - 258) < 8 and abs(column - 350) < 10
  assert abs(radius - 302) < 6
  small = Image.fromarray(image).resize((128, 86), Image.BOX)
  found = np.array(disc.disc_of(np.array(small))) * 6
  assert np.abs(found - (row, column, radius)).max() < 6
  dark = (image * 0.1).astype(np.uint8)
  assert (
    np.abs(np.subtract(disc.disc_of(dark), (row, column, radius))).max() < 3
  )


def test_real_lesions_stay_on_their_boxes(real_data):
  folder = real_data / "fundus_idrid"
  if not folder.is_dir():
    pytest.skip("no fundus_idrid here")
  dataset = idrid.read(folder)
  mask, boxes = dataset.read_mask(0), dataset.read_boxes(0)
  lesions = np.where(mask <= idrid.LESIONS, mask, 0)
  _, moved, classes = disc.crop_to_disc(
    dataset.read(0), boxes, lesions, size=1024
  )
  assert len(moved) == len(boxes) > 100
  found = boxes_of(classes)
  centres = [(b[:, :2] + b[:, 2:4]) / 2 for b in (found, moved)]
  nearest = np.abs(centres[0][:, None] - centres[1]).max(2).min(1)
  assert np.median(nearest) < 0.6 and np.percentile(nearest, 95) < 2
