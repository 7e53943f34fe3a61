"""Who is degraded: shares, the correlation with disease, the nested order."""

import numpy as np
import pytest

from gcl_jax.errors import DataError
from gcl_jax.methods.comcl import boxes, quality


def draws(count, seed=0):
  return np.random.default_rng(seed).uniform(size=count)


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.4])
def test_training_images_meet_share_and_correlation(correlation):
  diseased = np.repeat([0.0, 1.0], [600, 400])
  low = quality.chosen(draws(1000), diseased, 0.33, correlation)
  ill, well = low[diseased == 1].mean(), low[diseased == 0].mean()
  assert low.mean() == pytest.approx(0.33, abs=0.002)
  assert ill - well == pytest.approx(correlation, abs=0.004)


def test_unknown_images_are_degraded_by_the_share_alone():
  diseased = np.array([0.0] * 50 + [1.0] * 50 + [np.nan] * 100)
  low = quality.chosen(draws(200), diseased, 0.4, 0.3)
  assert low[100:].sum() == 40


def test_a_larger_share_keeps_the_chosen_ones():
  diseased = np.repeat([0.0, 1.0], 50)
  few, more = (
    quality.chosen(draws(100), diseased, share, 0.1) for share in (0.3, 0.7)
  )
  assert (more | ~few).all() and more.sum() > few.sum()


@pytest.mark.parametrize("share", [0.33, 0.7, 1.0])
def test_every_share_of_evaluation_images_is_met(share):
  native = np.zeros(97, bool)
  order = quality.place(draws(97), native)
  assert (order < share).sum() == pytest.approx(share * 97, abs=0.5)


def test_images_that_are_low_by_the_table_count_towards_the_share():
  native = np.arange(100) % 4 == 0
  order = quality.place(draws(100), native)
  assert (order[native] == -1).all()
  assert (order < 0.33).sum() == 33 and (order < 0.1).sum() == 25
  assert (order < 1).all()


def test_a_name_has_its_own_draw_and_code():
  names = [f"p{k}" for k in range(500)]
  found = [quality.uniform(name, 0) for name in names]
  assert len(set(found)) == 500 and 0.45 < np.mean(found) < 0.55
  assert found != [quality.uniform(name, 1) for name in names]
  assert len({quality.code_of(name) for name in names}) == 500


class Table:
  """Prepared images as far as `diseased_of` looks at them."""

  def __init__(self, labels=(), **table):
    self.labels, self.table = labels, table

  def __len__(self):
    return len(next(iter(self.table.values())))


def test_disease_by_grade_then_healthy_then_labels():
  nan = np.nan
  images = Table(
    ("a", "b"),
    grade=np.array([0, 3, nan, nan, nan, nan, nan]),
    healthy=np.array([0, 1, 1, 0, nan, nan, nan]),
    a=np.array([1, 0, 1, 0, 0, nan, 0]),
    b=np.array([1, 0, 1, 0, 0, 1, nan]),
  )
  found = boxes.diseased_of(images, "grade")
  np.testing.assert_array_equal(found, [0, 1, 0, 1, 0, 1, nan])


def test_disease_is_unknown_without_any_column():
  images = Table(id=np.array(["a", "b"]))
  assert np.isnan(boxes.diseased_of(images, "grade")).all()


def test_a_grade_of_minus_one_says_nothing():
  images = Table(
    ("a",),
    grade=np.array([-1, -1, -1, 0, 2]),
    healthy=np.array([1, np.nan, np.nan, np.nan, np.nan]),
    a=np.array([0, 1, np.nan, np.nan, np.nan]),
  )
  found = boxes.diseased_of(images, "grade")
  np.testing.assert_array_equal(found, [0, 1, np.nan, 0, 1])


def test_grades_in_words_are_refused_in_one_line():
  images = Table(grade=np.array(["mild", "none"]))
  with pytest.raises(DataError, match="diagnosis.grade 'grade' holds text"):
    boxes.diseased_of(images, "grade")


def test_a_column_that_is_asked_for_and_not_there_is_refused():
  images = Table(Quality=np.array([0, 1]), grade=np.array([0, 1]))
  for absent in ("", "quality"):
    assert not quality.native_of(images, absent).any()
  assert quality.native_of(images, "Quality").tolist() == [False, True]
  words = "quality.column 'qualty': no such column .columns: Quality, grade"
  with pytest.raises(DataError, match=words):
    quality.native_of(images, "qualty")
  with pytest.raises(DataError, match="diagnosis.grade 'Grade': no such"):
    boxes.grades_of(images, "Grade")
