"""The OCT phantom: structure, known severity, subtle but findable disease."""

import dataclasses
import inspect
import pickle

import numpy as np
import pytest
from scipy import ndimage, stats

from gcl_jax.data.phantoms import oct_layers, oct_lesions
from gcl_jax.data.readers import phantom as oct
from gcl_jax.errors import DataError

SETTINGS = dict(patients=12, visits=3, scans=4, seed=4)


@pytest.fixture(scope="module")
def phantom():
  return oct.oct_phantom(**SETTINGS)


def images(dataset, rows) -> np.ndarray:
  return np.stack([dataset.read(int(row)) for row in rows]).astype(float)


def test_rows_are_patients_times_eyes_visits_and_slices(phantom):
  table = phantom.table
  assert len(phantom) == 12 * 2 * 3 * 4
  assert len(set(phantom.ids)) == len(phantom)
  columns = (table[k] for k in ("group", "eye", "visit", "slice"))
  keys = list(zip(*columns, strict=True))
  wanted = [
    (f"p{patient:04d}", eye, visit, number)
    for patient in range(12)
    for eye in ("OD", "OS")
    for visit in range(3)
    for number in range(4)
  ]
  assert keys == wanted
  assert phantom.labels == ("fluid", "drusen", "foci", "vitreous")
  assert phantom.meta == ("severity", "eye", "visit", "slice")


def test_images_do_not_depend_on_order_copy_or_process(phantom):
  rows = (200, 3, 77)
  seen = [phantom.read(row) for row in rows]
  again = oct.oct_phantom(**SETTINGS)
  assert again.fingerprint() == phantom.fingerprint()
  other = pickle.loads(pickle.dumps(again.read))
  for row, image in reversed(list(zip(rows, seen, strict=True))):
    assert image.dtype == np.uint8 and image.shape == (64, 128)
    np.testing.assert_array_equal(again.read(row), image)
    np.testing.assert_array_equal(other(row), image)
    np.testing.assert_array_equal(
      phantom.select(np.array([row])).read(0), image
    )
  changed = oct.oct_phantom(**{**SETTINGS, "seed": 5})
  assert (changed.read(3) != seen[1]).mean() > 0.5


def test_healthy_patients_have_no_lesion_but_may_show_the_vitreous(phantom):
  table = phantom.table
  healthy = table["healthy"] == 1
  assert len(set(phantom.groups[healthy])) == round(0.4 * 12)
  assert not set(phantom.groups[healthy]) & set(phantom.groups[~healthy])
  for name in ("severity", "fluid", "drusen", "foci"):
    assert not table[name][healthy].any()
  assert not any(
    oct.lesion_mask(int(row), **SETTINGS).any()
    for row in np.flatnonzero(healthy)[::7]
  )
  assert (table["severity"][~healthy] > 0).mean() > 0.6


def test_vitreous_face_is_as_frequent_in_health_as_in_disease():
  table = oct.oct_phantom(patients=300, visits=1, scans=1).table
  healthy = table["healthy"] == 1
  rates = [table["vitreous"][w].mean() for w in (healthy, ~healthy)]
  assert abs(rates[0] - rates[1]) < 0.12 and 0.35 < min(rates)


def test_severity_is_zero_exactly_without_lesions(phantom):
  table = phantom.table
  any_lesion = table["fluid"] + table["drusen"] + table["foci"] > 0
  np.testing.assert_array_equal(table["severity"] > 0, any_lesion)
  assert np.unique(table["severity"][any_lesion]).size == any_lesion.sum()


def test_severity_is_the_weighted_area_of_the_lesions():
  zero = np.zeros(3)
  found = oct_lesions.Lesions(
    kind=np.array([1, 2, 3]),
    x=zero + 0.5,
    z=zero,
    depth=zero + 0.5,
    across=np.array([0.03, 0.04, 0.01]),
    tall=np.array([0.05, 0.06, 0.02]),
    thick=zero + 0.5,
    onset=zero,
  )
  wanted = 100 * np.pi * (0.03 * 0.05 + 2 * 0.04 * 0.06 / 2 + 2 * 0.01 * 0.02)
  assert oct_lesions.severity(found) == pytest.approx(wanted)


def test_a_slice_cuts_the_ellipsoid_of_a_lesion():
  one = np.ones(1)
  lesion = oct_lesions.Lesions(
    one.astype(int), one / 2, 0 * one, one, one, one, one, onset=0 * one
  )
  cut = oct_lesions.cut(lesion, z=0.3, visit=1)
  grown = 1 - 0.4**2
  np.testing.assert_allclose(cut.across, np.sqrt(grown**2 - 0.3**2))
  assert not oct_lesions.cut(lesion, z=0.9, visit=1).x.size
  before = oct_lesions.cut(lesion._replace(onset=2 * one), z=0, visit=1)
  assert not before.x.size and oct_lesions.severity(before) == 0


def test_lesions_lie_in_their_layers():
  rows = dict(
    zip("NFL GCL IPL INL OPL ONL EZ".split(), range(10, 80, 10), strict=True)
  )
  boundaries = np.arange(10.0, 120.0, 10.0)[:, None] + np.zeros(60)
  wanted = (
    (oct_lesions.FLUID, 0.2, rows["INL"] + 5),
    (oct_lesions.FLUID, 0.8, rows["ONL"] + 5),
    (oct_lesions.FOCI, 0.25, rows["NFL"] + (rows["EZ"] - rows["NFL"]) / 4),
  )
  for kind, depth, row in wanted:
    values = (kind, 0.5, 0.0, depth, 0.05, 0.04, 0.5, 0.0)
    one = oct_lesions.Lesions(*(np.array([value]) for value in values))
    cover = oct_lesions.cover(one, boundaries, 128)[kind]
    centre = ndimage.center_of_mass(cover)
    np.testing.assert_allclose(centre, (row - 0.5, 29.5), atol=0.2)
    area = np.pi * 0.05 * 60 * 0.04 * 128
    assert cover.sum() == pytest.approx(area, rel=0.05)


def test_disease_progresses_from_visit_to_visit(phantom):
  severity = phantom.table["severity"].reshape(12 * 2, 3, 4)
  steps = np.diff(severity, axis=1)
  assert (steps >= 0).all()
  ill = severity[:, -1] > 0
  assert (steps[:, -1][ill] > 0).all()
  mean = severity.mean(axis=(0, 2))
  assert mean[1] > 1.2 * mean[0] and mean[2] > mean[1]


def test_masks_cover_a_few_per_cent_and_agree_with_severity(phantom):
  table = phantom.table
  rows = np.flatnonzero(table["severity"] > 0)
  masks = np.stack([oct.lesion_mask(int(r), **SETTINGS) for r in rows])
  share = np.stack([100 * (masks == k).mean((1, 2)) for k in (1, 2, 3)])
  covered = share.sum(axis=0)
  assert 0.5 < covered.mean() < 4
  assert covered.max() < 12
  loads = np.array([1, 2, 2]) @ share
  severity = table["severity"][rows]
  assert stats.spearmanr(loads, severity).statistic > 0.97
  assert 0.75 < loads.sum() / severity.sum() < 1.05
  for label, part in zip(("fluid", "drusen", "foci"), share, strict=True):
    assert not part[table[label][rows] == 0].any()
    assert (part[table[label][rows] == 1] > 0).mean() > 0.9


def test_fluid_is_dark_and_foci_are_bright_against_their_surroundings(phantom):
  severity = phantom.table["severity"]
  contrast = {1: [], 3: []}
  for row in np.flatnonzero(severity > 1)[:40]:
    mask = oct.lesion_mask(int(row), **SETTINGS)
    image = phantom.read(int(row)).astype(float)
    for kind, values in contrast.items():
      ring = ndimage.binary_dilation(mask == kind, iterations=3) & (mask == 0)
      if (mask == kind).sum() > 8:
        values.append(image[mask == kind].mean() / image[ring].mean())
  assert np.mean(contrast[1]) < 0.6
  assert np.mean(contrast[3]) > 1.4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_brightness_variance_and_edges_hardly_follow_severity(seed):
  dataset = oct.oct_phantom(patients=40, seed=seed)
  rows = np.random.default_rng(0).permutation(len(dataset))[:320]
  scans = images(dataset, rows)
  edges = ndimage.sobel(scans, 1) ** 2 + ndimage.sobel(scans, 2) ** 2
  severity = dataset.table["severity"][rows]
  for feature in (scans.mean((1, 2)), scans.var((1, 2)), edges.mean((1, 2))):
    assert abs(stats.spearmanr(feature, severity).statistic) <= 0.3


def test_a_model_of_healthy_scans_finds_the_severity_of_unseen_patients():
  dataset = oct.oct_phantom(patients=90, visits=1, size=(48, 96))
  scans = np.stack([_flatten(scan) for scan in images(dataset, range(720))])
  scans = scans.reshape(720, -1)
  unseen = np.arange(720) >= 60 * 8
  healthy = ~unseen & (dataset.table["healthy"] == 1)
  mean = scans[healthy].mean(axis=0)
  components = np.linalg.svd(scans[healthy] - mean, full_matrices=False)[2][:40]
  residual = scans - mean
  residual = residual - residual @ components.T @ components
  severity = dataset.table["severity"]
  score = (residual**2).mean(axis=1)
  assert stats.spearmanr(score[unseen], severity[unseen]).statistic > 0.7


def _flatten(scan: np.ndarray) -> np.ndarray:
  """Straightens the retina along a parabola and normalises its brightness."""
  height, width = scan.shape
  weight = ndimage.gaussian_filter(scan, 1)
  weight = np.clip(weight - np.median(weight), 0, None) ** 2
  rows, x = np.arange(height)[:, None], np.arange(width)
  centre = (weight * rows).sum(axis=0) / weight.sum(axis=0)
  line = np.polyval(np.polyfit(x, centre, 2), x)
  at = np.broadcast_arrays(rows + line - height / 2, x[None])
  low, high = np.percentile(scan, (20, 99.5))
  flat = ndimage.map_coordinates(scan, at, order=1, cval=low)
  return np.clip((flat - low) / (high - low), 0, 1)[8:-8]


def test_both_eyes_are_alike_and_mirrored():
  def nasal_minus_temporal(side):
    values = []
    for patient in range(20):
      eye = oct_layers.draw_eye(
        np.random.default_rng(patient), np.random.default_rng([side, 9]), side
      )
      view = oct_layers.View(0.0, 0.6, 0.0, 0.0, 1.0, 0.0, 0.05)
      nerve = oct_layers.thicknesses(eye, view, 64)[0]
      values.append(nerve[-10:].mean() - nerve[:10].mean())
    return np.array(values)

  right, left = nasal_minus_temporal(0), nasal_minus_temporal(1)
  assert (right > 0).all() and (left < 0).all()
  assert stats.pearsonr(right, -left).statistic > 0.5


def test_size_scales_the_same_anatomy():
  small = oct.oct_phantom(patients=3, size=(48, 96)).read(5)
  large = oct.oct_phantom(patients=3, size=(96, 192)).read(5)
  assert large.shape == (96, 192)
  halved = large.reshape(48, 2, 96, 2).mean((1, 3))
  smooth = [
    ndimage.gaussian_filter(i.astype(float), 1) for i in (small, halved)
  ]
  assert np.corrcoef(smooth[0].ravel(), smooth[1].ravel())[0, 1] > 0.98


def test_mask_and_data_set_share_their_defaults():
  defaults = {
    name: parameter.default
    for name, parameter in inspect.signature(oct.oct_phantom).parameters.items()
  }
  fields = dataclasses.fields(oct._Cohort)
  assert defaults == {field.name: field.default for field in fields}


@pytest.mark.parametrize(
  "wrong",
  [
    {"patients": 0},
    {"visits": 0},
    {"scans": 0},
    {"seed": -1},
    {"size": (16, 128)},
    {"size": (64, 128, 3)},
    {"healthy_fraction": 1.5},
  ],
)
def test_settings_out_of_range_are_named(wrong):
  (name,) = wrong
  with pytest.raises(DataError, match=name):
    oct.oct_phantom(**wrong)
