"""Box files of detectors, and boxes of connected components."""

import json

import numpy as np
import pytest
from scipy import ndimage

from gcl_jax.data import box_files
from gcl_jax.data.components import boxes_of
from gcl_jax.errors import DataError

NIH = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def written(tmp_path, text, name="boxes.csv"):
  path = tmp_path / name
  path.write_text(text)
  return path


@pytest.mark.parametrize(
  ("header", "cells"),
  [
    ("image,top,left,bottom,right", "a.png,2,3,12,23"),
    ("image,x1,y1,x2,y2", "a.png,3,2,23,12"),
    ("file_name,x,y,w,h,class", "a.png,3,2,20,10,Mass"),
    (NIH.strip(), "a.png,Mass,3,2,20,10,,,"),
    ("Image Index,Finding Label,Bbox [x,y,w,h]", "a.png,Mass,3,2,20,10"),
  ],
)
def test_every_header_gives_the_same_box(tmp_path, header, cells):
  boxes = box_files.read(written(tmp_path, f"{header}\n{cells}\n"))
  assert list(boxes) == ["a"]
  np.testing.assert_array_equal(boxes["a"], [[2, 3, 12, 23, 1]])
  assert boxes["a"].dtype == np.float32


@pytest.mark.parametrize("column", ["confidence", "Score"])
def test_confidence_and_images_without_boxes(tmp_path, column):
  text = (
    f"image,top,left,bottom,right,{column}\n"
    "a.png,0,0,1,2,0.25\nb.png,,,,,\na.png,4,4,6,6,\n"
  )
  boxes = box_files.read(written(tmp_path, text))
  np.testing.assert_array_equal(
    boxes["a"], [[0, 0, 1, 2, 0.25], [4, 4, 6, 6, 1]]
  )
  assert boxes["b"].shape == (0, 5)


def test_coco_detections_and_annotations(tmp_path):
  box = {"bbox": [3, 2, 20, 10], "score": 0.5, "category_id": 1}
  plain = written(
    tmp_path, json.dumps([{"image_id": "a.png", **box}]), "a.json"
  )
  full = {
    "images": [{"id": i, "file_name": n} for i, n in ((7, "a.png"), (8, "b"))],
    "annotations": [{"image_id": 7, **box}],
  }  # fmt: skip
  full = written(tmp_path, json.dumps(full), "b.json")
  for path in (plain, full):
    np.testing.assert_array_equal(
      box_files.read(path)["a"], [[2, 3, 12, 23, 0.5]]
    )
  assert box_files.read(full)["b"].shape == (0, 5)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("image,x1,y1,x2,y2\na,0,0,nan,4\n", "row 2: a number of the box"),
    ("image,x1,y1,x2,y2\na,0,0,inf,4\n", "row 2, column 'x2': 'inf'"),
    ("image,x1,y1,x2,y2\na,0,0,,4\n", "row 2: a number of the box"),
    ("image,x,y,w,h\na,0,0,3,3\na,0,0,-3,3\n", "row 3: a box of 3 rows and -3"),
    ("image,x,y,w,h\na,0,0,3,0\n", "row 2: a box of 0 rows and 3"),
    ("image,x1,y1,x2,y2,score\na,0,0,4,4,1.5\n", "row 2: confidence 1.5"),
    ("image,x1,y1,width,height\na,0,0,4,4\n", "expected a column 'image'"),
    ("name,x,y,w,h\na,0,0,4,4\n", "expected a column 'image'"),
    ("image,x,y,w,h,x1,y1,x2,y2\na,0,0,4,4,0,0,4,4\n", "one way to give"),
    ("image,x,y,w,h\na.png,0,0,4,4\na.jpg,0,0,4,4\n", "row 3: 'a.jpg' and"),
    ("image,x,y,w,h\n,0,0,4,4\n", "is blank"),
  ],
)  # fmt: skip
def test_bad_tables_are_refused_in_one_line(tmp_path, text, message):
  with pytest.raises(DataError, match="boxes.csv") as error:
    box_files.read(written(tmp_path, text))
  assert message in str(error.value)
  assert "\n" not in str(error.value)


BOX = {"image_id": 1, "bbox": [0, 0, 4, 4]}
IMAGES = [{"id": 1, "file_name": "a.png"}]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ([{**BOX, "bbox": [0, 0, float("nan"), 4]}], "entry 0: a number of"),
    ([BOX, {**BOX, "bbox": [0, 0, 4, -4]}], "entry 1: a box of -4 rows"),
    ([{**BOX, "bbox": [0, 0, 4]}], "entry 0: 'bbox' is not"),
    ([{**BOX, "bbox": [0, 0, 4, "4"]}], "entry 0: 'bbox' or 'score'"),
    ([{**BOX, "score": None}], "entry 0: 'bbox' or 'score'"),
    ([{**BOX, "score": 2}], "entry 0: confidence 2"),
    ([{"bbox": [0, 0, 4, 4]}], "entry 0: has no 'image_id'"),
    ([{"image_id": [1], "bbox": [0, 0, 4, 4]}], "entry 0: has no 'image_id'"),
    ([{"image_id": 1}], "entry 0: has no 'bbox'"),
    ({"images": IMAGES}, "expected a list of detections"),
    ({"images": [{"id": 1}], "annotations": []}, "has no 'file_name'"),
    (
      {"images": IMAGES, "annotations": [{**BOX, "image_id": 2}]},
      "no image has the id 2",
    ),
    ([1], "expected a list of detections"),
    ("text", "expected a list of detections"),
  ],
)
def test_bad_json_is_refused_in_one_line(tmp_path, content, message):
  path = written(tmp_path, json.dumps(content), "boxes.json")
  with pytest.raises(DataError, match="boxes.json") as error:
    box_files.read(path)
  assert message in str(error.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_json_that_does_not_parse(tmp_path, text):
  with pytest.raises(DataError, match="is not readable JSON"):
    box_files.read(written(tmp_path, text, "boxes.json"))


def test_images_are_found_with_and_without_suffix_and_folder(tmp_path):
  text = "image,x,y,w,h\na.png,0,0,1,1\np\\b,0,0,2,2\nc,0,0,3,3\nd,0,0,4,4\n"
  path = written(tmp_path, text)
  names = ["a", "p/b.jpg", "deep/c.png", "none"]
  boxes, unknown = box_files.for_images(path, names)
  assert [int(b[0, 2]) if len(b) else 0 for b in boxes] == [1, 2, 3, 0]
  assert unknown == ["d"]


def test_boxes_of_nobody_are_refused(tmp_path):
  path = written(tmp_path, "image,x,y,w,h\na,0,0,1,1\n")
  with pytest.raises(DataError, match="boxes of 1 images, such as 'a'"):
    box_files.for_images(path, ["b", "c"])


def test_a_name_that_fits_two_images_is_refused(tmp_path):
  path = written(tmp_path, "image,x,y,w,h\na,0,0,1,1\n")
  with pytest.raises(DataError, match="'a' fit 'p/a' and 'q/a'"):
    box_files.for_images(path, ["p/a", "q/a"])


def slow_boxes(mask, probability, smallest):
  """Flood fill pixel by pixel."""
  left = {(r, c) for r, c in zip(*np.nonzero(mask), strict=True)}
  found = []
  while left:
    start = left.pop()
    component, todo = [start], [start]
    while todo:
      r, c = todo.pop()
      for near in [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
        if near in left and mask[near] == mask[start]:
          left.remove(near)
          component.append(near)
          todo.append(near)
    if len(component) >= smallest:
      rows, columns = zip(*component, strict=True)
      score = max(probability[pixel] for pixel in component)
      found.append(
        (min(rows), min(columns), max(rows) + 1, max(columns) + 1, score)
      )
  return sorted(found)


@pytest.mark.parametrize("smallest", [1, 3])
def test_components_agree_with_a_flood_fill(smallest):
  draw = np.random.default_rng(0)
  mask = draw.integers(0, 3, (25, 30)) * (draw.random((25, 30)) < 0.4)
  probability = draw.random(mask.shape)
  boxes = boxes_of(mask, probability, smallest=smallest)
  wanted = np.array(slow_boxes(mask, probability, smallest), np.float32)
  assert len(wanted) > 10
  np.testing.assert_array_equal(sorted(map(tuple, boxes)), wanted)
  assert boxes.dtype == np.float32


def test_components_without_probability_or_pixels():
  mask = ndimage.binary_dilation(np.pad([[True]], 4))
  np.testing.assert_array_equal(boxes_of(mask), [[3, 3, 6, 6, 1]])
  assert boxes_of(np.zeros((4, 5), np.uint8)).shape == (0, 5)
  with pytest.raises(DataError, match="probabilities of shape"):
    boxes_of(mask, np.ones((2, 2)))
  with pytest.raises(DataError, match="expected"):
    boxes_of(np.zeros((4, 5, 3)))
