"""The same scan exported twice is found; scans that are alike are not."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from gcl_jax.data import near_copies, preprocess
from gcl_jax.data.readers.phantom import oct_phantom


@pytest.fixture(scope="module")
def stored():
  """Different patients of the phantom, one scan each: [N, 96, 256]."""
  phantom = oct_phantom(patients=24, visits=1, scans=1, size=(96, 256))
  return np.stack([phantom.read(row) for row in range(0, 48, 2)])


@pytest.fixture(scope="module")
def scans(stored):
  """The same as the severity method prepares them: [N, 48, 128]."""
  return np.stack([prepared(image) for image in stored])


def prepared(image):
  return preprocess.prepare(
    image, size=(48, 128), flatten=True, normalise=True, crop=True
  )


def _jpeg(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "JPEG", quality=60)
  return np.asarray(Image.open(file))


def _cropped(image):
  return image[3:-1, 2:-2]


def _dimmer(image):
  return (image * 0.8 + 20).astype(np.uint8)


def _annotated(image):
  image = image.copy()
  image[-8:, -8:] = 255
  return image


CHANGES = {
  f.__name__: f for f in (_jpeg, _cropped, _dimmer, _annotated, np.copy)
}


def found(images, parts, **settings):
  ids = [f"i{n}" for n in range(len(images))]
  return near_copies.near_copies(images[..., None], parts, ids, **settings)


@pytest.mark.parametrize("name", CHANGES)
def test_one_scan_exported_twice_is_found(scans, stored, name):
  parts = np.array(["train"] * 12 + ["eval"] * 12)
  assert found(scans, parts) == []
  images = scans.copy()
  images[20] = prepared(CHANGES[name](stored[3]))
  ((first, second, value),) = found(images, parts)
  assert (first, second) == ("i20", "i3")
  assert near_copies.THRESHOLD < value <= 1.0001


def test_only_pairs_across_the_parts_count(scans):
  images = scans.copy()
  images[1] = images[0]
  images[20] = images[21]
  parts = np.array(["train"] * 12 + ["eval"] * 12)
  assert found(images, parts) == []
  assert found(images, np.full(24, "train")) == []
  assert found(images, np.full(24, "eval")) == []


def test_the_correlation_is_that_of_the_details(scans):
  """Against numpy, cell by cell, in float64."""

  def details(image):
    rows = np.array_split(np.arange(48), 16)
    columns = np.array_split(np.arange(128), 32)
    cells = np.array(
      [[image[np.ix_(r, c)].mean() for c in columns] for r in rows]
    )
    return np.concatenate(
      [np.diff(cells, axis=axis).ravel() for axis in (0, 1)]
    )

  def unit(vector):
    return (vector - vector.mean()) / np.linalg.norm(vector - vector.mean())

  parts = np.array(["train"] * 23 + ["eval"])
  ((_, nearest, value),) = found(scans, parts, threshold=0.0)
  each = [unit(details(scan)) for scan in scans]
  common = np.mean(each[:23], axis=0)
  wanted = [
    np.corrcoef(each[23] - common, other - common)[0, 1] for other in each[:23]
  ]
  assert nearest == f"i{np.argmax(wanted)}"
  assert abs(value - max(wanted)) < 1e-5


def test_blocks_change_nothing_and_the_likest_come_first(scans, monkeypatch):
  parts = np.array(["train", "eval"] * 12)
  whole = found(scans, parts, threshold=0.3)
  monkeypatch.setattr(near_copies, "_BLOCK", 5)
  assert len(whole) > 5
  assert [p[:2] for p in found(scans, parts, threshold=0.3)] == [
    p[:2] for p in whole
  ]
  values = [pair.correlation for pair in whole]
  assert values == sorted(values, reverse=True)


def test_flat_and_small_images(scans):
  flat = np.full((4, 8, 8), 7, np.uint8)
  parts = np.array(["train", "train", "eval", "eval"])
  assert found(flat, parts) == []
  small = np.random.default_rng(0).integers(0, 255, (4, 8, 8), dtype=np.uint8)
  small[3] = small[0]
  ((*pair, _),) = found(small, parts)
  assert pair == ["i3", "i0"]


def test_what_all_images_share_makes_no_copies():
  """The bright disc on black of fundus photographs is alike in all eyes."""
  rng = np.random.default_rng(5)
  rows, columns = np.indices((64, 64)) - 31.5
  disc = (rows**2 + columns**2 < 30**2) * 150.0
  texture = ndimage.zoom(rng.normal(size=(40, 16, 16)), (1, 4, 4), order=1)
  images = np.where(disc > 0, disc + 12 * texture, 0).astype(np.uint8)
  parts = np.array(["train"] * 30 + ["eval"] * 10)
  few = np.array(["train"] * 3 + ["eval"] * 37)  # nothing is subtracted
  assert len(found(images, few)) == 37 and found(images, parts) == []
  images[35] = np.clip(images[7] * 0.9 + 5, 0, 255)
  ((first, second, _),) = found(images, parts)
  assert (first, second) == ("i35", "i7")


def test_constant_images_are_no_copies():
  rng = np.random.default_rng(6)
  images = rng.integers(0, 255, (30, 32, 32)).astype(np.uint8)
  images[[3, 28]] = 90
  parts = np.array(["train"] * 25 + ["eval"] * 5)
  assert found(images, parts) == []
