"""Splits keep groups whole, nest, and refuse leaks."""

import hashlib

import chex
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcl_jax.data import splits
from gcl_jax.data.source import Dataset
from gcl_jax.errors import ConfigError, DataError


def cohort(seed=0, patients=60):
  """Groups of 1 to 9 rows in random order, and a class of each row."""
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, 10, patients)
  groups = np.repeat([f"p{i:03d}" for i in range(patients)], sizes)
  classes = np.repeat(rng.choice(["a", "b", "c"], patients), sizes)
  order = rng.permutation(len(groups))
  return groups[order], classes[order]


def sides(groups, mask):
  return set(groups[mask]), set(groups[~mask])


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.8])
def test_split_keeps_groups_whole_and_meets_the_fraction(fraction):
  groups, classes = cohort()
  mask = splits.split_by_group(groups, fraction, 1, stratify=classes)
  assert mask.dtype == bool and mask.shape == groups.shape
  held_out, trained = sides(groups, mask)
  assert not held_out & trained
  for name in "abc":
    share = mask[classes == name].mean()
    # No group is larger than 9 rows, so half of one is the largest error.
    assert abs(share - fraction) <= 4.5 / np.sum(classes == name) + 1e-9


def test_split_depends_on_seed_and_names_only():
  groups, _ = cohort()
  mask = splits.split_by_group(groups, 0.3, 5)
  order = np.random.default_rng(9).permutation(len(groups))
  moved = splits.split_by_group(groups[order], 0.3, 5)
  np.testing.assert_array_equal(moved, mask[order])
  assert (splits.split_by_group(groups, 0.3, 6) != mask).any()


def test_a_group_counts_for_its_majority_and_nan_is_a_class():
  groups = np.repeat(list("abcdefgh"), 3)
  values = np.repeat([0.0, 0, 1, 1, np.nan, np.nan, 0, 1], 3)
  values[0] = 1  # one row of group a; still a group of zeros
  mask = splits.split_by_group(groups, 0.4, 0, stratify=values)
  held_out, trained = sides(groups, mask)
  for members in ("abg", "cdh", "ef"):
    assert held_out & set(members) and trained & set(members)


@settings(max_examples=200, deadline=None)
@given(
  st.lists(st.integers(0, 6), min_size=2, max_size=30),
  st.floats(0.01, 0.99),
  st.integers(0, 99),
)
def test_no_side_is_ever_empty(groups, fraction, seed):
  groups = np.array([*groups, 0, 1])
  stratify = np.array(groups) % 3
  for classes in (None, stratify, groups):
    mask = splits.split_by_group(groups, fraction, seed, classes)
    assert mask.any() and not mask.all()
    held_out, trained = sides(groups, mask)
    assert not held_out & trained
  mask = splits.split_by_group(groups, fraction, seed, stratify)
  for name in range(3):  # both sides of a class that can be on both
    if len(set(groups[stratify == name].tolist())) > 1:
      assert len(set(mask[stratify == name].tolist())) == 2


def test_split_refuses_what_cannot_be_split():
  with pytest.raises(DataError, match="one group"):
    splits.split_by_group(np.array(["a", "a"]), 0.5, 0)
  for fraction in (0, 1, -0.1, 1.5, np.nan):
    with pytest.raises(DataError, match="fraction"):
      splits.split_by_group(np.array(["a", "b"]), fraction, 0)


def test_fractions_are_nested_whole_and_large_enough():
  groups, classes = cohort(3)
  fractions = (0.5, 0.05, 1.0, 0.25)
  masks = splits.nested_fractions(groups, fractions, 2, stratify=classes)
  assert tuple(masks) == fractions
  ordered = [masks[f] for f in sorted(fractions)]
  for small, large in zip(ordered, ordered[1:], strict=False):
    assert (large | ~small).all() and large.sum() > small.sum()
  assert ordered[-1].all()
  for fraction, mask in masks.items():
    held, rest = sides(groups, mask)
    assert not held & rest
    for name in "abc":
      total = np.sum(classes == name)
      chosen = mask[classes == name].sum()
      assert fraction * total - 1e-6 <= chosen < fraction * total + 9
  with pytest.raises(DataError, match="fraction"):
    splits.nested_fractions(groups, [0.0], 0)


def test_folds_are_whole_and_even():
  groups, _ = cohort(4)
  fold = splits.folds(groups, 5, 0)
  assert set(fold.tolist()) == set(range(5))
  for name in set(groups.tolist()):
    assert len(set(fold[groups == name].tolist())) == 1
  counts = np.bincount(fold)
  assert counts.max() - counts.min() <= 9
  assert (splits.folds(groups, 5, 1) != fold).any()
  for k in (1, 61):
    with pytest.raises(DataError, match="folds"):
      splits.folds(groups, k, 0)


def test_a_patient_on_both_sides_is_refused_by_name():
  groups = np.array(["p1", "p2", "p2", "p3", "p3"])
  parts = np.array(["train", "train", "eval", "eval", ""])
  with pytest.raises(DataError, match=r"1 groups .*: p2;"):
    splits.check_groups(groups, parts)
  assert splits.check_groups(groups, parts, allow=True) == ["p2"]
  parts[2] = "train"
  assert splits.check_groups(groups, parts) == []
  many = np.repeat([f"p{i:02d}" for i in range(12)], 2)
  with pytest.raises(DataError, match="p09 and 2 more"):
    splits.check_groups(many, np.tile([True, False], 12))


def test_identical_images_in_two_parts_are_refused_as_pairs():
  rng = np.random.default_rng(0)
  images = list(rng.integers(0, 9, (5, 4, 4)).astype(np.uint8))
  images[4] = images[1].copy()
  images[3] = images[0].copy()
  ids = np.array(list("abcde"))
  parts = np.array(["train", "train", "train", "train", "eval"])
  with pytest.raises(DataError, match=r"1 images .*: b = e;"):
    splits.check_duplicates(images, parts, ids)
  with pytest.raises(DataError, match="b = e"):
    hashes = np.array([splits.image_hash(image) for image in images])
    splits.check_duplicates(hashes, parts, ids)
  splits.check_duplicates(images, np.array(["train"] * 5), ids)
  parts[4] = ""
  splits.check_duplicates(images, parts, ids)


def test_the_hash_knows_shape_and_dtype():
  flat = np.zeros((2, 8), np.uint8)
  others = (flat.reshape(4, 4), flat.view(np.uint16), flat + np.uint8(1))
  for other in others:
    assert splits.image_hash(flat) != splits.image_hash(other)
  assert splits.image_hash(flat) == splits.image_hash(flat[:, ::-1])


def numbered(groups):
  ids = np.array([f"i{k}" for k in range(len(groups))])
  table = {"id": ids, "group": np.asarray(groups)}
  return Dataset("numbered", table, lambda row: np.full((2, 2), row, np.uint8))


def test_a_limit_takes_groups_by_the_hash_of_their_names():
  groups, _ = cohort(5, patients=12)
  dataset = numbered(groups)
  digest = {name: hashlib.sha256(name.encode()).digest() for name in groups}
  for count in (1, 5, 12):
    kept = splits.limited(dataset, count)
    wanted = []  # the groups that fewer than `count` others come before
    for name in sorted(digest):
      if sum(digest[n] < digest[name] for n in digest) < count:
        wanted.append(name)
    rows = [i for i, name in enumerate(groups) if name in wanted]
    assert kept.ids.tolist() == [f"i{i}" for i in rows]
    chex.assert_trees_all_equal(
      [kept.read(i) for i in range(len(kept))], [dataset.read(i) for i in rows]
    )
  names = sorted(digest, key=digest.get)
  assert names[:5] != sorted(digest)[:5]  # not the order of the names


def test_a_limit_depends_on_names_alone_and_nests():
  groups, _ = cohort(6, patients=20)
  order = np.random.default_rng(1).permutation(len(groups))
  kept = [set(splits.limited(numbered(groups), n).groups) for n in (3, 9)]
  moved = splits.limited(numbered(groups[order]), 9)
  assert set(moved.groups) == kept[1] > kept[0]
  assert len(kept[0]) == 3 and len(kept[1]) == 9
  numbers = splits.limited(numbered(np.arange(30) // 3), 4)  # not only text
  assert len(numbers) == 12


def test_a_limit_of_none_or_too_many_keeps_all():
  dataset = numbered(["a", "b", "b"])
  assert splits.limited(dataset, 0) is dataset
  assert splits.limited(dataset, 7).ids.tolist() == dataset.ids.tolist()
  with pytest.raises(DataError, match="limit -1: give a number of patients"):
    splits.limited(dataset, -1)


def test_rows_are_kept_where_all_conditions_hold():
  table = {
    "id": np.array(list("abcd")),
    "group": np.array(list("abcd")),
    "kind": np.array(["oct", "fundus", "fundus", "fundus"]),
    "graded": np.array([1.0, 1.0, np.nan, 0.0]),
  }
  dataset = Dataset("set", table, lambda row: row)
  found = splits.where(dataset, ("kind=fundus", "graded=1"))
  assert found.ids.tolist() == ["b"] and found.read(0) == 1
  assert splits.where(dataset, ("graded=",)).ids.tolist() == ["c"]
  assert splits.where(dataset, ()) is dataset
  with pytest.raises(ConfigError, match="write COLUMN=VALUE"):
    splits.where(dataset, ("kind",))
  with pytest.raises(DataError, match="no row with kind=ct"):
    splits.where(dataset, ("kind=ct",))
  with pytest.raises(DataError, match="did you mean 'graded'"):
    splits.where(dataset, ("grade=1",))
