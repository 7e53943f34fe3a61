"""The fundus phantom: structure, grades by count, look-alikes, its detector."""

import inspect
import pickle

import numpy as np
import pytest
from scipy import ndimage, stats

from gcl_jax.data.phantoms import fundus_detector, fundus_eye, fundus_spots
from gcl_jax.data.phantoms import fundus_vessels as vessels
from gcl_jax.data.readers import fundus_phantom as reader
from gcl_jax.errors import DataError

SETTINGS = dict(patients=30, size=64, seed=3)
# Lesions of grades 0 to 4, fewest and most.
COUNTS = ((0, 0), (1, 2), (3, 5), (6, 10), (11, 20))


@pytest.fixture(scope="module")
def phantom():
  return reader.fundus_phantom(**SETTINGS)


@pytest.fixture(scope="module")
def many():
  """A hundred patients: 200 images."""
  return reader.fundus_phantom(patients=100, size=64, seed=1)


def spots(kind, y, x, radius, strength=0.8) -> fundus_spots.Spots:
  """Round spots with sharp edges."""
  count = len(kind)
  return fundus_spots.Spots(
    np.array(kind),
    np.array(y),
    np.array(x),
    np.full(count, radius),
    stretch=np.ones(count),
    angle=np.zeros(count),
    softness=np.full(count, 0.1),
    strength=np.full(count, strength),
  )


def test_rows_are_both_eyes_of_every_patient(phantom):
  keys = list(zip(phantom.groups, phantom.table["eye"], strict=True))
  assert keys == [
    (f"p{patient:04d}", eye) for patient in range(30) for eye in ("OD", "OS")
  ]
  assert len(set(phantom.ids)) == 60
  assert phantom.labels == ("dark", "bright", "lesions")
  assert phantom.meta == ("grade", "eye")
  assert phantom.classes == ("dark", "bright")


def test_images_depend_on_seed_and_row_alone(phantom):
  rows = (41, 3, 17)
  again = reader.fundus_phantom(**SETTINGS)
  assert again.fingerprint() == phantom.fingerprint()
  other = pickle.loads(pickle.dumps(again.read))
  seen = {row: phantom.read(row) for row in rows}
  for row in reversed(rows):
    image = seen[row]
    assert image.dtype == np.uint8 and image.shape == (64, 64, 3)
    np.testing.assert_array_equal(other(row), image)
    np.testing.assert_array_equal(again.read_mask(row), phantom.read_mask(row))
    np.testing.assert_array_equal(
      again.read_boxes(row), phantom.read_boxes(row)
    )
  # A longer cohort starts with the same patients, a detector changes nothing.
  changes = dict(patients=33, healthy_fraction=0, recall=0.2, false_boxes=3.0)
  ill = phantom.table["healthy"] == 0
  longer = reader.fundus_phantom(**{**SETTINGS, **changes})
  for row in np.flatnonzero(ill)[:3]:
    np.testing.assert_array_equal(longer.read(int(row)), phantom.read(int(row)))
  changed = reader.fundus_phantom(**{**SETTINGS, "seed": 4})
  assert (changed.read(3) != seen[3]).mean() > 0.5


@pytest.mark.parametrize("size", [64, 128, 256])
def test_grade_counts_the_components_of_the_mask(size):
  dataset = reader.fundus_phantom(patients=30, size=size, seed=5)
  for row, grade in enumerate(dataset.table["grade"]):
    mask = dataset.read_mask(row)
    assert mask.dtype == np.uint8 and mask.shape == (size, size)
    least, most = COUNTS[int(grade)]
    count = ndimage.label(mask, np.ones((3, 3)))[1]
    assert least <= count <= most
    for kind, label in enumerate(("dark", "bright"), 1):
      assert (mask == kind).any() == dataset.table[label][row]
    assert mask.any() == dataset.table["lesions"][row]


def test_grades_are_all_frequent_and_alike_in_both_eyes():
  grade = reader.fundus_phantom(patients=400, seed=2).table["grade"]
  share = np.bincount(grade.astype(int), minlength=5) / grade.size
  assert share[0] == pytest.approx(0.4)
  assert share[1:].min() > 0.08 and share[1:].max() < 0.25
  right, left = grade.reshape(400, 2).T
  assert ((right == 0) == (left == 0)).all()
  ill = right > 0
  assert stats.spearmanr(right[ill], left[ill]).statistic > 0.7


def test_healthy_is_grade_zero_and_a_whole_patient(phantom):
  healthy = phantom.table["healthy"] == 1
  np.testing.assert_array_equal(healthy, phantom.table["grade"] == 0)
  assert len(set(phantom.groups[healthy])) == round(0.4 * 30)
  assert not set(phantom.groups[healthy]) & set(phantom.groups[~healthy])


@pytest.mark.parametrize("size", [64, 256])
def test_masks_lie_inside_the_field_of_view(size):
  dataset = reader.fundus_phantom(patients=20, size=size, healthy_fraction=0)
  for row in range(len(dataset)):
    y, x = np.nonzero(dataset.read_mask(row))
    away = np.hypot((y + 0.5) / size - 0.5, (x + 0.5) / size - 0.5)
    assert away.max() < 0.465  # the smallest radius of a field
    corner = dataset.read(row)[: size // 10, : size // 10]
    assert not corner.any()


def test_lesions_spare_the_nerve_and_gather_round_the_fovea(many):
  cohort = many.read.__self__
  away, uniform = [], []
  for row in range(len(many)):
    eye, found = cohort._eye(row), cohort._lesions(row)
    centre = np.stack([found.y, found.x], axis=1)
    nerve = np.hypot(*((centre - eye.nerve) / eye.nerve_axes).T)
    assert (nerve > 1).all()
    away.extend(np.hypot(*(centre - eye.fovea).T))
    artefacts = cohort._artefacts(row)
    uniform.extend(np.hypot(artefacts.y - 0.5, artefacts.x - 0.5))
  assert np.mean(away) < 0.25
  assert np.mean(uniform) == pytest.approx(0.455 * 2 / 3, rel=0.05)
  assert max(uniform) < 0.455


def test_artefacts_do_not_depend_on_the_grade(many):
  cohort = many.read.__self__
  ill = reader.fundus_phantom(
    patients=100, size=64, seed=1, healthy_fraction=0.0
  ).read.__self__
  grade = many.table["grade"]
  counts = []
  for row in range(len(many)):
    artefacts = cohort._artefacts(row)
    for ours, theirs in zip(artefacts, ill._artefacts(row), strict=True):
      np.testing.assert_array_equal(ours, theirs)
    assert artefacts.kind.size >= 2
    counts.append(artefacts.kind.size)
  assert np.mean(counts) == pytest.approx(6, abs=0.5)
  assert stats.spearmanr(counts, grade).pvalue > 0.01


def test_lesions_and_artefacts_have_the_same_law_of_sizes():
  """Medians of an image, which neither number nor kind changes."""
  medians = {}
  eye = fundus_eye.draw_eye(*map(np.random.default_rng, (0, 1)), 0)
  for name, draw in (
    ("lesions", lambda rng: fundus_spots.draw_lesions(rng, 6, eye)),
    ("artefacts", fundus_spots.draw_artefacts),
  ):
    generators = (np.random.default_rng([7, i]) for i in range(400))
    radii = [draw(rng).radius for rng in generators]
    low, high = fundus_spots.RADII
    assert min(r.min() for r in radii) >= low
    assert max(r.max() for r in radii) <= high
    medians[name] = [np.median(r) for r in radii]
    spread = np.std(np.log(np.concatenate(radii)))
    within = np.mean([np.std(np.log(r)) for r in radii])
    assert within < 0.6 * spread  # those of an image are alike
  # Seeds are shared; the draws before the sizes differ.
  assert stats.ks_2samp(*medians.values()).pvalue > 0.01


def test_colours_tell_a_lesion_from_its_look_alike():
  kinds = [fundus_spots.DARK, fundus_spots.BRIGHT]
  kinds += [fundus_spots.DUST, fundus_spots.REFLECTION]
  retina = np.array([0.7, 0.33, 0.13], np.float32)
  picture = np.broadcast_to(retina, (64, 64, 3)).copy()
  centres = np.array([0.25, 0.75])
  y, x = (g.ravel() for g in np.meshgrid(centres, centres, indexing="ij"))
  fundus_spots.paint(picture, spots(kinds, y, x, 0.04))
  dark, bright, dust, white = picture[[16, 16, 48, 48], [16, 48, 16, 48]]
  # Blood absorbs green most; dust absorbs all colours alike.
  assert dark[1] / retina[1] < 0.6 and dark[0] / retina[0] > 0.8
  np.testing.assert_allclose(dust / retina, np.full(3, 0.2), rtol=1e-4)
  # A bright lesion is yellow, a reflection adds the same to all colours.
  assert (bright > retina).all() and bright[2] < 0.5 * bright[1]
  np.testing.assert_allclose(white - retina, np.full(3, 0.8), rtol=1e-4)
  np.testing.assert_array_equal(picture[32, 32], retina)


def test_a_mask_covers_the_area_of_an_ellipse_and_keeps_a_tiny_lesion():
  one = spots([fundus_spots.BRIGHT], [0.4], [0.6], 0.1)
  one = one._replace(stretch=np.array([1.25]), angle=np.array([np.pi / 2]))
  mask = fundus_spots.mask(one, 200)
  assert mask.sum() / 2 == pytest.approx(np.pi * 20**2, rel=0.02)
  y, x = np.nonzero(mask)
  assert (y.mean(), x.mean()) == pytest.approx((79.5, 119.5), abs=0.3)
  assert np.ptp(y) + 1 == pytest.approx(2 * 25, abs=1)
  assert np.ptp(x) + 1 == pytest.approx(2 * 16, abs=1)
  tiny = fundus_spots.mask(spots([1], [0.5], [0.5], 0.001), 64)
  assert tiny.any() and tiny.sum() <= 4


def test_the_nerve_is_bright_and_the_left_eye_the_mirror_image(phantom):
  for row, eye in enumerate(phantom.table["eye"]):
    drawn = phantom.read.__self__._eye(row)
    assert (drawn.nerve[1] > 0.7) == (eye == "OD")
    assert (drawn.nerve[1] < 0.3) == (eye == "OS")
  patient, own = (np.random.default_rng(i) for i in (4, 5))
  right = fundus_eye.draw_eye(patient, own, 0)
  patient, own = (np.random.default_rng(i) for i in (4, 5))
  left = fundus_eye.draw_eye(patient, own, 1)
  np.testing.assert_allclose(left.nerve[0], right.nerve[0])
  offsets = right.nerve[1] - right.fovea[1], left.nerve[1] - left.fovea[1]
  assert offsets[0] == pytest.approx(0.325, abs=0.06)
  assert offsets[1] == pytest.approx(-0.325, abs=0.06)
  curves = [
    vessels.draw_vessels(np.random.default_rng(6), eye.nerve, eye.nasal)
    for eye in (right, left._replace(nerve=right.nerve * (1, -1) + (0, 1)))
  ]
  painted = [
    fundus_eye.retina(eye, curve, 96)
    for eye, curve in zip((right, left), curves, strict=True)
  ]
  nerve = (96 * right.nerve).astype(int)
  assert painted[0][tuple(nerve)].sum() > 1.3 * np.median(painted[0].sum(-1))
  np.testing.assert_allclose(
    vessels.absorbance(curves[0], 96),
    vessels.absorbance(curves[1], 96)[:, ::-1],
    atol=1e-5,
  )


def test_a_vessel_is_as_wide_and_as_dark_as_drawn():
  line = np.array([[[0.5, 0.2, 0.02, 0.9], [0.5, 0.8, 0.02, 0.9]]])
  field = vessels.absorbance(line, 200)
  # 8 pixels wide with 0.9; the stamps' round ends add half a pixel at most.
  np.testing.assert_allclose(field[:, 100].sum(), 8 * 0.9, rtol=0.05)
  assert field.max() == pytest.approx(0.9)
  assert not field[:, :30].any() and not field[:, 170:].any()
  thin = vessels.absorbance(line * (1, 1, 0.05, 1), 200)
  assert 0.1 < thin[:, 100].sum() / (0.4 * 0.9) < 1.1
  outside = line * (1, 1, 1, 1) + np.array([1.0, 0, 0, 0])
  assert not vessels.absorbance(outside, 64).any()


def test_size_scales_the_same_anatomy():
  small, large = (
    reader.fundus_phantom(patients=3, size=size).read(5).astype(float)
    for size in (96, 192)
  )
  assert large.shape == (192, 192, 3)
  halved = large.reshape(96, 2, 96, 2, 3).mean((1, 3))
  smooth = [ndimage.gaussian_filter(i, (1, 1, 0)) for i in (small, halved)]
  assert np.corrcoef(smooth[0].ravel(), smooth[1].ravel())[0, 1] > 0.995
  # Also where the shape of the field does not help.
  inside = [i[24:72, 24:72].ravel() for i in smooth]
  assert np.corrcoef(*inside)[0, 1] > 0.98


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


def test_the_detector_has_the_recall_and_the_false_boxes_asked_for(many):
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
  lesion = spots([fundus_spots.DARK], [0.3], [0.3], 0.04)
  artefacts = spots([fundus_spots.DUST] * 2, [0.32, 0.7], [0.32, 0.7], 0.04)
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


def test_settings_of_the_configuration_reach_the_phantom():
  assert len(reader.read()) == 2 * 160
  assert len(reader.read(fundus=dict(patients=3, size=64))) == 6
  assert list(inspect.signature(reader.read).parameters) == ["fundus"]


@pytest.mark.parametrize(
  "wrong",
  [
    {"patients": 0},
    {"size": 63},
    {"healthy_fraction": 1.5},
    {"healthy_fraction": float("nan")},
    {"recall": -0.1},
    {"recall": 1.1},
    {"false_boxes": -1},
    {"false_boxes": float("inf")},
    {"seed": -1},
  ],
)
def test_settings_out_of_range_are_named(wrong):
  (name,) = wrong
  with pytest.raises(DataError, match=name):
    reader.fundus_phantom(**wrong)
