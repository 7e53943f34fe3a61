"""Arrays made of other arrays, and what feeds and sweeps do with them."""

import numpy as np
import pytest

from gcl_jax.engine import feed
from gcl_jax.engine.arrays import Mixed, Regions, Rows


def pair(tmp_path):
  rng = np.random.default_rng(0)
  found = []
  for name in ("first", "second"):
    path = tmp_path / f"{name}.npy"
    np.save(path, rng.integers(0, 256, (6, 8, 8, 3), np.uint8))
    found.append(np.load(path, mmap_mode="r"))
  return found


def test_mixed_takes_each_row_of_the_chosen_array(tmp_path):
  first, second = pair(tmp_path)
  chosen = np.array([0, 1, 1, 0, 1, 0], bool)
  mixed = Mixed(first, second, chosen)
  expected = np.where(chosen[:, None, None, None], second, first)
  assert len(mixed) == 6 and mixed.shape == first.shape
  for index in (slice(1, 5), np.array([4, 0, 4, 3]), chosen, 2, slice(0, 0)):
    np.testing.assert_array_equal(mixed[index], expected[index])


def test_rows_keep_their_own_order(tmp_path):
  first, _ = pair(tmp_path)
  order = np.array([4, 0, 5])
  rows = Rows(first, order)
  assert len(rows) == 3 and rows.shape == (3, 8, 8, 3)
  assert rows.dtype == np.uint8
  for index in (slice(1, 3), np.array([2, 0]), 1, slice(0, 0)):
    np.testing.assert_array_equal(rows[index], first[order[index]])


def test_regions_are_cut_out_of_the_images(tmp_path):
  images, _ = pair(tmp_path)
  rows, corners = np.array([5, 0, 5]), np.array([[0, 4], [2, 3], [4, 0]])
  regions = Regions(images, rows, corners, 4)
  assert regions.shape == (3, 4, 4, 3)
  found = regions[np.array([2, 1])]
  np.testing.assert_array_equal(found[0], images[5, 4:8, 0:4])
  np.testing.assert_array_equal(found[1], images[0, 2:6, 3:7])
  wide = Regions(images, rows, corners, (2, 4))
  assert wide.shape == (3, 2, 4, 3)
  np.testing.assert_array_equal(wide[[2]][0], images[5, 4:6, 0:4])


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_regions_of_mixed_images(tmp_path, workers):
  """Memory maps inside travel to other processes by their files' names."""
  first, second = pair(tmp_path)
  chosen = np.array([0, 1, 1, 0, 1, 0], bool)
  regions = Regions(
    Mixed(first, second, chosen),
    np.arange(6),
    np.array([[k % 3, k % 2] for k in range(6)]),
    5,
  )
  order = np.array([3, 1, 4])
  batches = feed.batches_from(
    {"image": regions}, lambda step: order, steps=1, workers=workers
  )
  (batch,) = list(batches)
  np.testing.assert_array_equal(batch["image"], regions[order])
  np.testing.assert_array_equal(batch["index"], order)
