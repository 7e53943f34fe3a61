"""The order of the data and the prefetch."""

import multiprocessing
import threading
import time

import jax
import numpy as np
import pytest

from gcl_jax.engine import feed
from gcl_jax.errors import DataError

pytestmark = pytest.mark.compiles

ARRAYS = {"image": np.arange(10) * 10, "label": np.arange(10) % 3}


def indices(**settings):
  settings = {"seed": 1, "steps": 9} | settings
  stream = feed.batches(ARRAYS, 4, **settings)
  return [batch["index"] for batch in stream]


def test_the_order_is_the_same_from_any_start():
  whole = indices()
  assert len(whole) == 9
  for start in range(10):
    rest = indices(start=start)
    np.testing.assert_array_equal(rest, whole[start:] or np.empty(0))


def test_an_epoch_has_every_row_once_and_is_reshuffled():
  whole = indices(steps=6, drop_last=False)
  assert [len(batch) for batch in whole] == [4, 4, 2, 4, 4, 2]
  epochs = np.concatenate(whole[:3]), np.concatenate(whole[3:])
  for epoch in epochs:
    assert sorted(epoch) == list(range(10))
  assert list(epochs[0]) != list(epochs[1])
  assert [len(batch) for batch in indices(steps=3)] == [4, 4, 4]


def test_another_seed_is_another_order():
  assert np.any(np.array(indices(seed=2)) != np.array(indices()))


def test_values_belong_to_the_index():
  for batch in feed.batches(ARRAYS, 4, seed=0, steps=4):
    np.testing.assert_array_equal(batch["image"], batch["index"] * 10)
    np.testing.assert_array_equal(batch["label"], batch["index"] % 3)
    assert batch["index"].dtype == np.int64


def test_only_the_given_rows_are_drawn():
  rows = np.array([1, 3, 5, 7, 9])
  batches = list(feed.batches(ARRAYS, 2, seed=0, steps=2, rows=rows))
  drawn = np.concatenate([batch["index"] for batch in batches])
  assert len(set(drawn)) == 4 and set(drawn) <= set(rows)
  np.testing.assert_array_equal(batches[0]["image"], batches[0]["index"] * 10)


def test_too_few_rows_name_both_numbers():
  with pytest.raises(DataError, match="10 rows.*one batch of 11"):
    feed.batches(ARRAYS, 11, seed=0, steps=1)
  with pytest.raises(DataError, match="3 rows.*one batch of 4"):
    feed.batches(ARRAYS, 4, seed=0, steps=1, rows=np.arange(3))
  with pytest.raises(DataError, match="0 rows"):
    feed.batches(ARRAYS, 4, seed=0, steps=1, rows=[], drop_last=False)
  with pytest.raises(DataError, match="'image': 10, 'label': 9"):
    feed.batches({"image": range(10), "label": range(9)}, 2, seed=0, steps=1)


def test_rows_chosen_by_a_function_from_any_start():
  def rows_at(step):
    return np.random.default_rng(step).integers(0, 10, 3)

  whole = list(feed.batches_from(ARRAYS, rows_at, steps=5))
  rest = list(feed.batches_from(ARRAYS, rows_at, start=3, steps=5))
  assert len(whole) == 5 and len(rest) == 2
  for number, batch in enumerate(whole):
    np.testing.assert_array_equal(batch["index"], rows_at(number))
    np.testing.assert_array_equal(batch["image"], rows_at(number) * 10)
  np.testing.assert_array_equal(rest[0]["index"], whole[3]["index"])


def test_a_memory_map_is_read_by_rows(tmp_path):
  images = np.arange(60, dtype=np.uint8).reshape(10, 2, 3, 1)
  path = tmp_path / "images.npy"
  np.save(path, images)
  arrays = {"image": np.load(path, mmap_mode="r")}
  for batch in feed.batches(arrays, 5, seed=0, steps=3):
    np.testing.assert_array_equal(batch["image"], images[batch["index"]])


def test_prefetch_overlaps_a_slow_source_with_a_slow_reader():
  def source():
    for number in range(8):
      time.sleep(0.05)
      yield number

  begin = time.perf_counter()
  with feed.prefetch(source(), lambda x: x + 1) as results:
    found = [time.sleep(0.05) or result for result in results]
  assert found == list(range(1, 9))
  # One after the other takes 0.8 s, side by side 0.45 s.
  assert time.perf_counter() - begin < 0.7


def test_prefetch_hands_over_errors_and_ends_its_thread():
  def source():
    yield 1
    raise DataError("file 2 is empty")

  with feed.prefetch(source(), lambda x: x) as results:
    assert next(results) == 1
    with pytest.raises(DataError, match="file 2 is empty"):
      next(results)
  closed = threading.Event()

  def endless():
    try:
      while True:
        yield 0
    finally:
      closed.set()

  with feed.prefetch(endless(), lambda x: x) as results:
    next(results)
  assert closed.is_set()
  assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_mapped_keeps_the_order_and_works_in_several_threads():
  seen = set()

  def slow(row):
    seen.add(threading.get_ident())
    time.sleep(0.01 if row % 3 else 0.03)
    return {"row": row}

  found = [item["row"] for item in feed.mapped(slow, 40)]
  assert found == list(range(40))
  assert len(seen) > 1 and threading.get_ident() not in seen


def prepare(row):
  """What a process is asked for: arrays, and an error as a value."""
  if row == 20:
    return DataError("row 20 is empty")
  return np.full((2, 2), row), f"row {row}"


def test_mapped_is_the_same_for_any_number_of_processes():
  expected = list(feed.mapped(prepare, 37))
  found = list(feed.mapped(prepare, 37, workers=2))
  assert len(found) == len(expected) == 37
  assert str(found.pop(20)) == str(expected.pop(20)) == "row 20 is empty"
  for (array, name), (same, again) in zip(found, expected, strict=True):
    np.testing.assert_array_equal(array, same)
    assert name == again


def test_mapped_ends_its_processes_when_left_early():
  rows = feed.mapped(prepare, 1000, workers=1)
  assert next(rows)[1] == "row 0"
  assert multiprocessing.active_children()
  rows.close()
  for _ in range(100):
    if not multiprocessing.active_children():
      break
    time.sleep(0.05)
  assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_for_any_number_of_workers(tmp_path, workers):
  """Memory maps travel by name; a resume in the middle goes on the same."""
  images = np.arange(120, dtype=np.uint8).reshape(10, 3, 4)
  np.save(tmp_path / "images.npy", images)
  arrays = ARRAYS | {"pixels": np.load(tmp_path / "images.npy", mmap_mode="r")}
  settings = {"seed": 1, "steps": 7, "start": 2}
  expected = list(feed.batches(arrays, 4, **settings))
  found = list(feed.batches(arrays, 4, **settings, workers=workers))
  assert len(found) == len(expected) == 5
  for batch, same in zip(found, expected, strict=True):
    assert batch.keys() == same.keys()
    for name in same:
      np.testing.assert_array_equal(batch[name], same[name])
      assert batch[name].dtype == same[name].dtype


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_batch(processes, monkeypatch):
  """Together they hold the batches of one process, in its order."""
  whole = indices(steps=6)
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  parts = []
  for number in range(processes):
    monkeypatch.setattr(jax, "process_index", lambda number=number: number)
    parts.append(indices(steps=6))
  for batch, shares in zip(whole, zip(*parts, strict=True), strict=True):
    np.testing.assert_array_equal(batch, np.concatenate(shares))


def test_mapped_ends_its_threads_when_left_early():
  before = threading.active_count()
  rows = feed.mapped(lambda row: row + 1, 1000)
  assert next(rows) == 1
  rows.close()
  for _ in range(100):
    if threading.active_count() <= before:
      break
    time.sleep(0.05)
  assert threading.active_count() <= before
