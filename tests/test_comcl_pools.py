"""Pools of windows: who is in them, where windows lie, what is refused."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from gcl_jax.data.readers import fundus_phantom
from gcl_jax.errors import DataError
from gcl_jax.methods.comcl import patch_pools, pools, windows

pytestmark = pytest.mark.compiles

SIZE, SIDE, IMAGES = 96, 24, 120


def settings(**changes):
  patches = dict(
    size=SIDE, healthy="matched", per_image=4, shuffle_quality=False
  )
  rules = dict(confidence=0.5, margin=2)
  sections = rules, patches
  for name, value in changes.items():
    section = rules if name in rules else patches
    section[name] = value
  return tuple(ConfigDict(section) for section in sections)


@pytest.fixture(scope="module")
def case():
  """Half of the images diseased, a third low; lesions in the upper part."""
  random = np.random.default_rng(0)
  place = np.arange(IMAGES)
  diseased = np.where(place % 2, 1.0, 0.0)
  diseased[:6] = np.nan
  low, eligible = place % 3 == 0, place < 100
  rows = random.integers(0, IMAGES, 400)
  sides = random.uniform(2, 12, (400, 2))
  centre = np.stack(
    [random.normal(30, 8, 400), random.normal(48, 16, 400)], axis=1
  )
  centre = np.clip(centre, 9, SIZE - 9)
  boxes = np.concatenate(
    [centre - sides / 2, centre + sides / 2, random.random((400, 1))], axis=1
  )
  boxes[:20, 2] = boxes[:20, 0] + 40  # too high for a window
  boxes[20:40, 1:4:2] = np.float32([1, 7])  # too near to the frame
  boxes[40:44, 2] = boxes[40:44, 0]  # empty
  boxes[44, 0] = np.nan
  y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
  inside = (y**2 + x**2 < (SIZE / 2) ** 2)[None, :, :, None]
  images = np.where(inside, 90, 0).repeat(IMAGES, 0).repeat(3, 3)
  return dict(
    boxes=np.float32(boxes),
    boxes_row=rows,
    diseased=diseased,
    low=low,
    eligible=eligible,
  ), np.uint8(images)


def build(case, seed=0, **changes):
  rules, patches = settings(**changes)
  return pools.build(
    **case[0], size=SIZE, rules=rules, patches=patches, seed=seed
  )


def kept(case, row, box):
  """Whether a box makes a lesion window, one comparison at a time."""
  data, (top, left, bottom, right, confidence) = case[0], box
  inside = min(top, left, SIZE - bottom, SIZE - right) >= 2
  small = 0 < bottom - top <= SIDE and 0 < right - left <= SIDE
  known = data["eligible"][row] and data["diseased"][row] == 1
  return bool(known and confidence > 0.5 and small and inside)


def test_lesion_windows_are_the_boxes_that_keep_the_rules(case):
  found, facts = build(case)
  data = case[0]
  expected = {"high": [], "low": []}
  for row, box in zip(data["boxes_row"], data["boxes"], strict=True):
    if kept(case, row, box):
      quality = "low" if data["low"][row] else "high"
      expected[quality].append([row, *box[:4]])
  assert tuple(found) == pools.LEVELS
  for quality, rows in expected.items():
    pool = found[f"lesion_{quality}"]
    both = np.column_stack([pool.rows, pool.boxes])
    np.testing.assert_array_equal(both, np.array(rows, np.float32))
    assert facts[f"windows/lesion_{quality}"] == len(rows) > 10
    assert facts[f"images/lesion_{quality}"] == len({row[0] for row in rows})
  reasons = ("part", "not_diseased", "confidence", "size", "margin")
  left_out = sum(facts[f"boxes/{reason}"] for reason in reasons)
  windows_ = facts["windows/lesion_high"] + facts["windows/lesion_low"]
  assert left_out + windows_ == facts["boxes"] == 400
  assert all(facts[f"boxes/{reason}"] > 0 for reason in reasons)


@pytest.mark.parametrize("healthy", ["matched", "uniform", "false_boxes"])
def test_healthy_windows_lie_on_healthy_images_of_the_part(case, healthy):
  found, facts = build(case, healthy=healthy)
  data = case[0]
  for quality, low in (("high", False), ("low", True)):
    pool = found[f"healthy_{quality}"]
    wanted = data["eligible"] & (data["diseased"] == 0) & (data["low"] == low)
    np.testing.assert_array_equal(np.unique(pool.rows), np.flatnonzero(wanted))
    sides = pool.boxes[:, 2:] - pool.boxes[:, :2]
    assert np.all((sides > 0) & (sides <= SIDE))
    assert pool.boxes.min() >= 2 and pool.boxes.max() <= SIZE - 2
    lesions = found[f"lesion_{quality}"].boxes
    own = {tuple(box) for box in lesions}
    shared = np.array([tuple(box) in own for box in pool.boxes])
    if healthy == "matched":
      assert shared.all() and np.all(
        np.unique(pool.rows, return_counts=True)[1] == 4
      )
      # Every box is taken equally often.
      times = [np.sum((pool.boxes == box).all(1)) for box in lesions.tolist()]
      assert max(times) - min(times) <= 1
    elif healthy == "uniform":
      assert not shared.any() and np.ptp(pool.boxes[:, 0]) > 60
  if healthy != "false_boxes":
    assert facts["boxes/false"] == 0
    return
  false = {
    (row, *box[:4])
    for row, box in zip(data["boxes_row"], data["boxes"], strict=True)
    if data["diseased"][row] == 0
    and data["eligible"][row]
    and kept((data | {"diseased": 1 - data["diseased"]}, 0), row, box)
  }
  assert facts["boxes/false"] == len(false) > 20
  drawn = [
    (row, *box)
    for level in ("healthy_high", "healthy_low")
    for row, box in zip(*found[level], strict=True)
  ]
  assert false <= set(drawn)
  with_boxes = {row for row, *_ in false}
  # An image with boxes of its own gets no others.
  assert sum(row in with_boxes for row, *_ in drawn) == len(false)


def test_lesion_free_windows_touch_no_box_and_keep_the_part(case):
  found, _ = build(case, healthy="lesion_free")
  data = case[0]
  for quality, low in (("high", False), ("low", True)):
    pool = found[f"healthy_{quality}"]
    wanted = data["eligible"] & (data["diseased"] == 1) & (data["low"] == low)
    assert len(pool.rows) > 40 and wanted[pool.rows].all()
    assert np.bincount(pool.rows).max() <= 4
    for row, (top, left, bottom, right) in zip(*pool, strict=True):
      assert (bottom - top, right - left) == (SIDE, SIDE)
      assert 0 <= min(top, left) and max(bottom, right) <= SIZE
      # Of any confidence or size.
      for box in data["boxes"][data["boxes_row"] == row]:
        over = min(bottom, box[2]) - max(top, box[0])
        across = min(right, box[3]) - max(left, box[1])
        assert not (over > 0 and across > 0)


def test_pools_depend_on_the_seed_alone(case):
  first, again, other = (build(case, seed)[0] for seed in (3, 3, 4))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  high = "healthy_high"
  assert np.any(first[high].boxes != other[high].boxes)
  np.testing.assert_array_equal(first[high].rows, other[high].rows)


def test_shuffled_quality_keeps_the_sizes_and_moves_the_images(case):
  true, facts = build(case)
  found, _ = build(case, shuffle_quality=True)
  for kind in ("lesion", "healthy"):
    names = [f"{kind}_high", f"{kind}_low"]
    of_true, of_found = (
      [set(p[name].rows.tolist()) for name in names] for p in (true, found)
    )
    assert of_true[0] | of_true[1] == of_found[0] | of_found[1]
    assert of_true[1] & of_found[0] and of_true[0] & of_found[1]
    assert not of_found[0] & of_found[1]
  for seed in range(5):
    _, shuffled = build(case, seed, shuffle_quality=True)
    assert shuffled["images/healthy_low"] == facts["images/healthy_low"]


def test_groups_and_an_empty_pool_in_one_line(case):
  found, facts = build(case)
  merged = pools.grouped(found, "lesions", facts)
  assert len(merged["lesion"].rows) == sum(
    facts[f"windows/{level}"] for level in pools.LEVELS[:2]
  )
  (every,) = pools.grouped(found, "simclr", facts).values()
  assert len(every.boxes) == sum(len(pool.rows) for pool in found.values())
  with pytest.raises(DataError, match=r"boxes/confidence \d\d") as error:
    none, why = build(case, confidence=1.0)
    pools.grouped(none, "levels", why)
  assert "\n" not in str(error.value)


def test_windows_hold_the_box_and_their_law_is_uniform(case):
  boxes = np.float32([[10.5, 3, 14, 20], [0, 76, 24, 96], [30, 30, 31, 31]])
  keys = jax.random.split(jax.random.key(0), (3, 4000))
  draw = jax.jit(lambda k, b: windows.corners(k, b, SIDE, SIZE))
  for of_box, box in zip(keys, boxes, strict=True):
    corners = np.asarray(draw(of_box, np.tile(box, (4000, 1))))
    assert np.all(corners <= box[:2]) and np.all(corners + SIDE >= box[2:])
    assert corners.min() >= 0 and corners.max() <= SIZE - SIDE
    for axis in range(2):
      low = max(0, int(np.ceil(box[2 + axis])) - SIDE)
      high = min(int(box[axis]), SIZE - SIDE)
      counts = np.bincount(corners[:, axis], minlength=high + 1)
      assert not counts[:low].any() and len(counts) == high + 1
      share = 4000 / (high - low + 1)
      assert np.abs(counts[low:] - share).max() < 5 * np.sqrt(share)


def test_regions_hold_every_window_of_their_boxes(case):
  found, _ = build(case)
  images = np.random.default_rng(1).integers(
    0, 255, case[1].shape, dtype=np.uint8
  )
  pool = found["lesion_high"]
  arrays = pools.arrays(pool, images, SIDE, fewest=200)
  assert len(arrays["image"]) == len(arrays["box"]) == max(200, len(pool.rows))
  place = np.arange(200) % len(pool.rows)
  rows, boxes = pool.rows[place], pool.boxes[place]
  keys = jax.random.split(jax.random.key(1), 200)
  regions = arrays["image"][:200]
  side = windows.region_side(SIDE, SIZE)
  assert regions.shape == (200, side, side, 3) and side == 2 * SIDE
  corners = windows.corners(keys, arrays["box"][:200], SIDE, side)
  cut = np.asarray(windows.cut(regions, corners, SIDE))
  whole = np.asarray(corners) + np.int64(arrays["corner"][:200])
  for row, box, (top, left), patch in zip(rows, boxes, whole, cut, strict=True):
    part = images[row, top : top + SIDE, left : left + SIDE]
    np.testing.assert_array_equal(patch, part)
    assert top <= box[0] and left <= box[1]
    assert top + SIDE >= box[2] and left + SIDE >= box[3]
  # The region cuts no window off that the whole image would allow.
  free = np.stack([np.maximum(0, np.ceil(boxes[:, 2:]) - SIDE), boxes[:, :2]])
  free[1] = np.minimum(np.floor(free[1]), SIZE - SIDE)
  first = np.int64(arrays["corner"][:200])
  assert np.all(free[0] >= first) and np.all(free[1] + SIDE <= first + side)


def test_the_place_of_matched_windows_tells_nothing(case):
  auroc = {
    healthy: patch_pools.position_auroc(
      build(case, healthy=healthy)[0], case[1], SIDE
    )
    for healthy in ("matched", "uniform")
  }
  assert auroc["matched"] <= 0.55
  assert auroc["uniform"] > 0.6
  nobody = {
    level: pools.Pool(np.zeros(0, int), np.zeros((0, 4)))
    for level in pools.LEVELS
  }
  assert patch_pools.position_auroc(nobody, case[1], SIDE) is None


def test_the_place_tells_nothing_on_the_phantom_either():
  data = fundus_phantom.fundus_phantom(patients=80, size=64)
  rows = range(len(data))
  each = [data.read_boxes(row) for row in rows]
  images = np.stack([data.read(row) for row in rows])
  found = {}
  for healthy in ("matched", "uniform"):
    rules, patches = settings(healthy=healthy, size=16, margin=1)
    made, _ = pools.build(
      np.concatenate(each),
      np.repeat(rows, [len(boxes) for boxes in each]),
      diseased=1 - data.table["healthy"],
      low=np.arange(len(data)) % 3 == 0,
      eligible=np.ones(len(data), bool),
      size=64,
      rules=rules,
      patches=patches,
      seed=0,
    )
    found[healthy] = patch_pools.position_auroc(made, images, 16)
  assert found["matched"] <= 0.55
  assert found["uniform"] > 0.6


def test_black_border_alone_is_noticed(case):
  """Windows at the same places, on images with and without a frame."""
  found, _ = build(case)
  images = np.array(case[1])
  healthy = np.concatenate(
    [found[f"healthy_{q}"].rows for q in ("high", "low")]
  )
  images[healthy, :, :40] = 0
  assert patch_pools.position_auroc(found, images, SIDE) > 0.8


def test_the_host_draws_windows_by_the_law_of_the_device():
  boxes = np.float32([[3.2, 40, 9.5, 47], [0, 0, 16, 16], [50, 20.5, 64, 24]])
  random = np.random.default_rng(0)
  host = np.stack([pools.corners_of(random, boxes, 16, 64) for _ in range(400)])
  keys = jax.random.split(jax.random.key(0), (400, 3))
  draw = jax.vmap(lambda k: windows.corners(k, boxes, 16, 64))
  device = np.asarray(draw(keys))
  for side in (host, device):
    assert (side <= np.floor(boxes[:, :2])).all() and side.min() >= 0
    assert (side + 16 >= np.ceil(boxes[:, 2:])).all() and side.max() <= 48
  for k in range(3):
    for axis in (0, 1):
      ours, theirs = (set(x[:, k, axis].tolist()) for x in (host, device))
      assert ours == theirs


def test_the_rules_of_boxes_at_their_bounds():
  boxes = np.float32(
    [
      (8, 8, 16, 16, 0.5),
      (8, 8, 16, 16, 0.51),
      (8, 8, 17, 16, 1),
      (8, 8, 16, 17, 1),
      (4, 8, 12, 16, 1),
      (8, 52, 16, 60, 1),
      (np.nan, 8, 12, 16, 1),
      (5, 8, 13, 16, 1),
      (6, 8, 14, 16, 1),
    ]
  )
  rules = ConfigDict(dict(confidence=0.5, margin=5))
  found = pools.broken_rules(boxes, 64, rules, 8)
  assert np.flatnonzero(found["confidence"]).tolist() == [0]
  assert np.flatnonzero(found["size"]).tolist() == [2, 3, 6]
  assert np.flatnonzero(found["margin"]).tolist() == [4, 5, 6, 7]
