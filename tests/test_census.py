"""Numbers of patients and positives against loops over the table."""

import numpy as np
import pytest

from gcl_jax.pipeline.census import census
from gcl_jax.pipeline.prepared import Prepared

ANSWERS = {"positives": 1, "negatives": 0, "missing": None}


def prepared(table, *, labels=(), classes=(), masks=None, **artifact):
  """Prepared images without files."""
  found = Prepared.__new__(Prepared)
  found.table, found.labels, found.classes = table, labels, classes
  found.masks = masks
  lists = ("quarantine", "overlapping_groups", "near_copies")
  found.artifact = {name: np.zeros((0, 2), str) for name in lists} | artifact
  found.pixels = np.zeros((len(table["id"]), 1, 1, 1), np.uint8)
  return found


def column(rng, values, n):
  return np.array([values[i] for i in rng.integers(len(values), size=n)])


@pytest.fixture
def images():
  rng, n = np.random.default_rng(0), 60
  table = {
    "id": np.array([f"i{k}" for k in range(n)]),
    "group": column(rng, [f"g{k}" for k in range(9)], n),
    "part": column(rng, ["train", "eval", "ood"], n),
    "pool": rng.random(n) < 0.7,
    "fluid": column(rng, [0.0, 1.0, np.nan], n),
    "drusen": column(rng, [0.0, np.nan], n),
    "healthy": column(rng, [0.0, 1.0, np.nan], n),
  }
  table["pool"][table["part"] != "train"] = True
  table["group"][7] = table["id"][7]
  return prepared(
    table,
    labels=("fluid", "drusen"),
    quarantine=np.array([["a", "b"]] * 3),
    overlapping_groups=np.array(["g1", "g2"]),
    near_copies=np.array([["a", "b", "0.9"]]),
  )


def looped(rows, answer_of, kind):
  """Units and groups of every answer; rows are (unit, group) by answer."""
  found = {}
  for answer, value in ANSWERS.items():
    units, groups = set(), set()
    for unit, group in rows:
      if answer_of(unit) == value:
        units.add(unit)
        groups.add(group)
    found[answer] = {kind: len(units), "groups": len(groups)}
  return found


def part_of(table, row):
  if table["part"][row] == "train" and not table["pool"][row]:
    return "outside_pool"
  return str(table["part"][row])


def test_images_by_part_and_label(images):
  found, table = census(images), images.table
  assert set(found["parts"]) == {"train", "eval", "ood", "outside_pool"}
  for part, entry in found["parts"].items():
    rows = [r for r in range(60) if part_of(table, r) == part]
    assert entry["images"] == len(rows)
    assert entry["groups"] == len({table["group"][r] for r in rows})
    assert set(entry) == {"images", "groups", "labels"}
    assert set(entry["labels"]) == {"fluid", "drusen", "healthy"}
    for label, counted in entry["labels"].items():

      def answer_of(row, values=table[label]):
        return None if np.isnan(values[row]) else int(values[row])

      pairs = [(r, table["group"][r]) for r in rows]
      assert counted == looped(pairs, answer_of, "images"), (part, label)


def test_what_was_left_out_and_what_crosses(images):
  found = census(images)
  assert found["quarantine"] == 3 and found["overlapping_groups"] == 2
  assert found["near_copies"] == 1 and found["own_group"] == 1


def test_volumes_by_part_and_class():
  rng, volumes, depth = np.random.default_rng(1), 20, 3
  names = np.repeat([f"v{k:02}" for k in range(volumes)], depth)
  order = rng.permutation(len(names))  # slices of a volume need not be together
  by_volume = {
    "group": column(rng, [f"g0{k}" for k in range(6)], volumes),
    "part": column(rng, ["train", "eval"], volumes),
    "labelled": (rng.random(volumes) < 0.7).astype(float),
  }
  by_volume["group"][4] = "v04"
  table = {n: np.repeat(v, depth)[order] for n, v in by_volume.items()}
  table |= {"volume": names[order], "pool": np.ones(len(names), bool)}
  table["id"] = np.array([f"{n}_{k}" for k, n in enumerate(table["volume"])])
  masks = rng.integers(0, 4, (len(names), 1, 2)).astype(np.uint8)
  masks[masks == 2] = 0  # a class that never occurs
  masks[table["labelled"] == 0] = 0
  found = census(prepared(table, classes=("one", "two", "three"), masks=masks))
  assert found["own_group"] == 1
  assert set(found["parts"]) == {"train", "eval"}
  group_of = dict(zip(table["volume"], table["group"], strict=True))
  for part, entry in found["parts"].items():
    rows = [r for r in range(len(names)) if table["part"][r] == part]
    pairs = {(table["volume"][r], table["group"][r]) for r in rows}
    assert entry["slices"] == len(rows) and entry["volumes"] == len(pairs)
    assert entry["groups"] == len({group_of[v] for v, _ in pairs})
    for code, name in enumerate(("one", "two", "three"), 1):

      def answer_of(volume, code=code):
        mine = np.flatnonzero(table["volume"] == volume)
        if not table["labelled"][mine].any():
          return None
        return int(any((masks[r] == code).any() for r in mine))

      assert entry["labels"][name] == looped(pairs, answer_of, "volumes")
  assert found["parts"]["train"]["labels"]["two"]["positives"]["volumes"] == 0
