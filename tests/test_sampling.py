"""Samplers: which rows make a batch, by seed and step alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcl_jax.errors import ConfigError, DataError
from gcl_jax.pipeline import sampling


def batch(labels, step=0, seed=0, batch_size=16, images_per_bin=4):
  rows = np.arange(len(labels))
  return sampling.by_label(rows, labels, batch_size, images_per_bin, seed)(step)


def test_batches_hold_whole_bins_and_depend_on_seed_and_step():
  labels = np.repeat(np.arange(20), 50)
  rows = batch(labels)
  assert len(set(rows.tolist())) == 16
  assert (np.unique(labels[rows], return_counts=True)[1] % 4 == 0).all()
  assert (batch(labels) == rows).all()
  assert (np.sort(batch(labels, step=1)) != np.sort(rows)).any()
  assert (np.sort(batch(labels, seed=1)) != np.sort(rows)).any()


def test_every_image_is_seen_equally_often():
  labels = np.repeat([0, 1, 2], [8, 40, 152])
  seen = np.zeros(200)
  for step in range(3000):
    seen[batch(labels, step, batch_size=8)] += 1
  rate = [seen[labels == b].mean() / 3000 for b in range(3)]
  assert rate == pytest.approx([8 / 200] * 3, rel=0.1)


def test_small_bins_are_filled_from_their_neighbours():
  labels = np.repeat([0, 1, 2, 9], [1, 2, 1, 2])
  for step in range(20):
    assert sorted(batch(labels, step, batch_size=6, images_per_bin=6)) == [
      0, 1, 2, 3, 4, 5,
    ]  # fmt: skip
  labels = np.repeat([0, 1, 20], [4, 1, 400])
  for step in range(3000):
    rows = batch(labels, step, batch_size=4)
    if 1 in labels[rows]:
      assert sorted(labels[rows]) in ([0, 0, 0, 1],)
      return
  raise AssertionError("the small bin was never drawn")


def test_impossible_batches_are_refused():
  with pytest.raises(ConfigError):
    batch(np.zeros(99, int), images_per_bin=5)
  with pytest.raises(DataError):
    batch(np.zeros(9, int))


@given(
  st.lists(st.integers(0, 6), min_size=16, max_size=60),
  st.sampled_from([1, 2, 4, 8]),
  st.integers(0, 1000),
  st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_every_sampled_batch_is_whole_different_and_repeatable(
  labels, images_per_bin, step, seed
):
  labels = np.array(labels, np.int32)

  def draw(step):
    return batch(labels, step, seed, 16, images_per_bin)

  rows = draw(step)
  assert len(rows) == 16 and len(set(rows.tolist())) == 16
  assert rows.min() >= 0 and rows.max() < len(labels)
  np.testing.assert_array_equal(rows, draw(step))
  counts = np.bincount(labels)
  if counts[counts > 0].min() >= 16:  # no bin runs short: whole groups of K
    drawn = np.bincount(labels[rows], minlength=len(counts))
    assert not np.any(drawn % images_per_bin)


def test_pools_are_drawn_side_by_side():
  """Each as its own sampler draws it, whatever was asked before."""

  def samplers():
    return {
      "oct": sampling.shuffled(np.arange(10), 4, seed=1),
      "fundus": sampling.by_label(np.arange(30), np.arange(30) % 3, 6, 2, 2),
    }

  rows_at = sampling.side_by_side(**samplers())
  for step in (7, 0, 7, 3):
    found, alone = rows_at(step), samplers()
    assert list(found) == ["oct", "fundus"]
    for name, rows in found.items():
      np.testing.assert_array_equal(rows, alone[name](step))
  assert (rows_at(3)["oct"] != rows_at(7)["oct"]).any()
