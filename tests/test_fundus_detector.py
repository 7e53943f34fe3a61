"""The noisy detector of the fundus phantom."""

import numpy as np
from fundus_cases import round_spots

from gcl_jax.data.phantoms import fundus_detector, fundus_spots
from gcl_jax.data.readers import fundus_phantom as reader


def overlap(box, others):
  """Intersection over union of one box with others, by a slow loop."""
  values = []
  for other in others:
    height = min(box[2], other[2]) - max(box[0], other[0])
    width = min(box[3], other[3]) - max(box[1], other[1])
    both = max(height, 0) * max(width, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    values.append(both / (sum(areas) - both))
  return max(values, default=0)


def test_the_detector_has_the_recall_and_the_false_boxes_asked_for():
  many = reader.fundus_phantom(patients=100, size=64, seed=1)
  cohort = many.read.__self__
  lesions = 0
  sure = {True: [], False: []}
  for row in range(len(many)):
    boxes = many.read_boxes(row)
    assert boxes.dtype == np.float32 and boxes.shape[1:] == (5,)
    assert (np.diff(boxes[:, 4]) <= 0).all()
    assert (boxes[:, :2] < boxes[:, 2:4]).all()
    assert boxes[:, :4].min(initial=0) >= 0 and boxes.max(initial=0) <= 64
    true = 64 * fundus_spots.boxes(cohort._lesions(row))
    artefacts = 64 * fundus_spots.boxes(cohort._artefacts(row))
    for box in boxes:
      hit, miss = (overlap(box[:4], near) for near in (true, artefacts))
      sure[hit > miss].append(box[4])
      assert max(hit, miss) > 0.2
    lesions += len(true)
  found, false = len(sure[True]), len(sure[False])
  # Within four standard deviations.
  assert abs(found - 0.7 * lesions) < 4 * np.sqrt(0.21 * lesions)
  assert abs(false - 0.5 * 200) < 4 * np.sqrt(0.5 * 200)
  assert (np.array(sure[True]) > 0.5).mean() > 0.88
  assert 0.3 < (np.array(sure[False]) > 0.5).mean() < 0.7
  assert min(sure[True]) < max(sure[False])


def test_a_perfect_detector_and_a_blind_one():
  settings = dict(patients=10, size=128, healthy_fraction=0)
  perfect = reader.fundus_phantom(**settings, recall=1, false_boxes=0)
  blind = reader.fundus_phantom(**settings, recall=0, false_boxes=0)
  for row in range(20):
    count = perfect.read.__self__._lesions(row).kind.size
    assert len(perfect.read_boxes(row)) == count > 0
    assert blind.read_boxes(row).shape == (0, 5)


def test_false_boxes_spare_artefacts_that_touch_a_lesion():
  lesion = round_spots([fundus_spots.DARK], [0.3], [0.3], 0.04)
  artefacts = round_spots(
    [fundus_spots.DUST] * 2, [0.32, 0.7], [0.32, 0.7], 0.04
  )
  boxes = fundus_detector.detect(
    np.random.default_rng(0), lesion, artefacts, 100, 0.0, 5.0
  )
  assert len(boxes) > 1
  assert (np.abs(boxes[:, :4] - (66, 66, 74, 74)) < 2.5).all()
  assert len(np.unique(boxes[:, 0])) == len(boxes)
  covered = artefacts.where(np.array([0]))
  assert not len(
    fundus_detector.detect(
      np.random.default_rng(0), lesion, covered, 100, 0.0, 5.0
    )
  )
