"""The heart phantom: structure, three meta labels, masks, two scanners."""

import pickle

import numpy as np
import pytest
from scipy import ndimage, stats

from gcl_jax.data.phantoms import heart_scanner, heart_shapes
from gcl_jax.data.readers.heart import heart_phantom
from gcl_jax.errors import DataError

PATIENTS, SLICES = 24, 8
SETTINGS = dict(patients=PATIENTS, seed=4)


@pytest.fixture(scope="module")
def phantom():
  return heart_phantom(**SETTINGS)


@pytest.fixture(scope="module")
def masks(phantom):
  return all_masks(phantom)


def all_images(dataset) -> np.ndarray:
  return np.stack([dataset.read(row) for row in range(len(dataset))]) * 1.0


def all_masks(dataset) -> np.ndarray:
  return np.stack([dataset.read_mask(row) for row in range(len(dataset))])


def areas(masks: np.ndarray, patients: int = PATIENTS) -> np.ndarray:
  """Pixels of LV, myocardium and RV: [patient, phase, slice, class]."""
  found = np.stack([(masks == k).sum((1, 2)) for k in (1, 2, 3)], axis=-1)
  return found.reshape(patients, -1, SLICES, 3)


def test_rows_are_patients_times_phases_and_slices(phantom):
  wanted = [
    (f"p{patient:04d}_{phase}_s{number}", f"p{patient:04d}", phase, number)
    for patient in range(PATIENTS)
    for phase in ("ED", "ES")
    for number in range(SLICES)
  ]
  columns = (phantom.table[k] for k in ("id", "group", "phase", "slice"))
  assert list(zip(*columns, strict=True)) == wanted
  table = phantom.table
  np.testing.assert_array_equal(table["patient"], table["group"])
  np.testing.assert_array_equal(table["position"], (table["slice"] + 1) / 8)
  pairs = zip(table["volume"], table["slice"], strict=True)
  assert [f"{volume}_s{number}" for volume, number in pairs] == list(
    phantom.ids
  )
  assert table["slice"].dtype.kind == "i"
  assert table["position"].dtype.kind == "f"
  assert phantom.name == "heart_phantom" and phantom.labels == ()
  assert phantom.classes == ("LV", "myocardium", "RV")
  assert set(phantom.meta) == set(table) - {"id", "group"}


def test_spacing_follows_size_slices_and_domain():
  def spacing(**settings):
    table = heart_phantom(patients=1, **settings).table
    return [table[f"spacing_{axis}"][-1] for axis in "zyx"]

  assert spacing() == [10, 1.6, 1.6]
  assert spacing(slices=10, size=(128, 32)) == [8, 0.8, 3.2]
  assert spacing(domain="other") == [8, 1.25, 1.25]


def test_one_phase_is_the_end_of_diastole():
  both = heart_phantom(patients=2, slices=3)
  single = heart_phantom(patients=2, slices=3, phases=1)
  assert set(single.table["phase"]) == {"ED"}
  row = list(both.ids).index(single.ids[4])
  np.testing.assert_array_equal(single.read_mask(4), both.read_mask(row))


def test_images_do_not_depend_on_order_copy_or_process(phantom):
  rows = (200, 3, 77)
  seen = [(phantom.read(row), phantom.read_mask(row)) for row in rows]
  again = heart_phantom(**SETTINGS)
  assert again.fingerprint() == phantom.fingerprint()
  copy = pickle.loads(pickle.dumps(again.read))
  for row, (image, mask) in reversed(list(zip(rows, seen, strict=True))):
    assert image.dtype == mask.dtype == np.uint8
    assert image.shape == mask.shape == (64, 64)
    np.testing.assert_array_equal(again.read(row), image)
    np.testing.assert_array_equal(copy(row), image)
    np.testing.assert_array_equal(again.read_mask(row), mask)
  changed = heart_phantom(**{**SETTINGS, "seed": 5})
  assert (changed.read(3) != seen[1][0]).mean() > 0.5
  assert (changed.read_mask(3) != seen[1][1]).mean() > 0.02


def test_a_patient_does_not_depend_on_how_many_follow(phantom):
  few = heart_phantom(**{**SETTINGS, "patients": 2})
  for row in range(0, len(few), 5):
    np.testing.assert_array_equal(few.read(row), phantom.read(row))


def test_noise_is_new_in_every_image():
  dataset = heart_phantom(patients=1, slices=40)
  images, masks = all_images(dataset), all_masks(dataset)
  # Two neighbours among 40 slices differ by hardly more than their noise.
  steps = [images[row + 1] - images[row] for row in (2, 4, 6)]
  inside = (masks[2:8] == 1).all(axis=0)
  inside = ndimage.binary_erosion(inside, iterations=3)
  noise = np.array([step[inside] for step in steps])
  assert noise.std() > 3
  correlations = np.corrcoef(noise)[np.triu_indices(3, 1)]
  assert np.abs(correlations).max() < 0.25


@pytest.mark.parametrize("domain", ["source", "other"])
def test_masks_match_the_image(domain):
  dataset = heart_phantom(**SETTINGS, domain=domain)
  images, masks = all_images(dataset), all_masks(dataset)
  for image, mask in zip(images, masks, strict=True):
    lv, wall, rv = (image[mask == k] for k in (1, 2, 3))
    assert lv.mean() > wall.mean()
    assert not rv.size or rv.mean() > wall.mean()


def test_edges_of_the_masks_are_edges_of_the_picture():
  dataset = heart_phantom(patients=3, conflict=0.0, size=(128, 128))
  for row in range(0, len(dataset), 3):
    image, mask = dataset.read(row) * 1.0, dataset.read_mask(row)
    inside = mask == 1
    lv = ndimage.distance_transform_edt(inside)
    lv -= ndimage.distance_transform_edt(~inside)
    profile = [image[np.round(lv) == d].mean() for d in (-3, -2, -1, 1, 2, 3)]
    middle = (profile[0] + profile[-1]) / 2
    assert profile[2] < middle < profile[3]
    assert profile[1] < 0.8 * middle and profile[4] > 1.2 * middle


def test_papillary_muscles_darken_the_cavity_of_middle_slices_only():
  dataset = heart_phantom(patients=12, phases=1, conflict=0.0)
  images, masks = all_images(dataset), all_masks(dataset)
  shares = []
  for image, mask in zip(images, masks, strict=True):
    smooth = ndimage.gaussian_filter(image, 0.7)
    cavity = ndimage.binary_erosion(mask == 1, iterations=2)
    dark = smooth[cavity] < 0.65 * np.median(image[mask == 1])
    shares.append(dark.mean() if cavity.sum() > 30 else np.nan)
  shares = np.array(shares).reshape(12, SLICES)
  assert (shares[:, :2] == 0).all()
  assert (shares[:, 3:5] > 0.02).all() and shares[:, 3:5].max() < 0.15


def test_position_decides_what_is_visible(masks):
  visible = areas(masks) > 0
  assert visible[..., :2].all()
  assert visible[:, :, :5, 2].all() and not visible[:, :, -1, 2].any()
  # It ends for good, and not in all patients at the same slice.
  assert (np.diff(visible[..., 2].astype(int), axis=-1) <= 0).all()
  assert 0 < visible[:, :, -2, 2].mean() < 1


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (32, 96)])
def test_phase_changes_sizes_and_no_presence(size):
  dataset = heart_phantom(patients=80, size=size, seed=1)
  diastole, systole = np.moveaxis(areas(all_masks(dataset), 80), 1, 0)
  np.testing.assert_array_equal(diastole > 0, systole > 0)
  lv, wall, rv = np.moveaxis(systole / np.maximum(diastole, 1), -1, 0)
  assert (lv < 0.8).all() and (wall > 0.85).all() and (rv < 1).all()
  np.testing.assert_allclose(lv[:, 0], 0.72**2, rtol=0.08)


def test_the_wall_is_thicker_at_the_end_of_systole(masks):
  def thickness(mask):
    # Mean width of a ring between two circles of the same areas.
    inner, outer = (mask == 1).sum(), np.isin(mask, (1, 2)).sum()
    return (np.sqrt(outer) - np.sqrt(inner)) / np.sqrt(np.pi)

  widths = np.array([thickness(mask) for mask in masks])
  diastole, systole = np.moveaxis(widths.reshape(PATIENTS, 2, SLICES), 1, 0)
  # Large hearts are cut off by the picture's edge in the first slices.
  assert (systole > 1.1 * diastole).all()
  np.testing.assert_allclose(systole[:, 4:] / diastole[:, 4:], 1.35, rtol=0.1)


def test_the_cavity_narrows_from_base_to_apex(phantom, masks):
  lv = areas(masks)[..., 0]
  assert (np.diff(lv, axis=-1) < 0).all()
  law = np.mean(np.sqrt(lv / lv[..., :1]), axis=(0, 1))
  position = phantom.table["position"][:SLICES]
  wanted = (1 - 0.75 * position**2.2) / (1 - 0.75 * position[0] ** 2.2)
  np.testing.assert_allclose(law, wanted, atol=0.05)


def test_position_can_be_learned_from_the_classes(phantom, masks):
  lv = areas(masks)[..., 0].ravel()
  assert np.corrcoef(lv, phantom.table["position"])[0, 1] < -0.6
  counts = areas(masks).reshape(-1, 3) / 4096
  design = np.column_stack([np.sqrt(counts), counts, np.ones(len(counts))])
  train = np.arange(len(counts)) < len(counts) // 2
  weights = np.linalg.lstsq(
    design[train], phantom.table["position"][train], rcond=None
  )[0]
  guess = design[~train] @ weights
  assert np.corrcoef(guess, phantom.table["position"][~train])[0, 1] > 0.9


def test_hearts_are_neither_too_small_nor_too_large():
  masks = all_masks(heart_phantom())
  share = 100 * np.bincount(masks.ravel()) / masks.size
  np.testing.assert_allclose(share, (68, 10, 15, 6), atol=1.5)
  background = (masks == 0).mean((1, 2))
  assert 0.15 < background.min() and background.max() < 0.98


def test_the_right_ventricle_hugs_the_septum_in_one_piece(masks):
  for mask in masks:
    ring, rv = mask == 2, mask == 3
    if rv.sum() > 30:
      touched = ndimage.binary_dilation(rv) & ring
      assert touched.sum() > 0.15 * np.sqrt(ring.sum())
      assert ndimage.label(rv, np.ones((3, 3)))[1] == 1
      # Seen from the left ventricle it lies to the patient's right.
      columns = [np.nonzero(m)[1].mean() for m in (rv, ring)]
      assert columns[0] < columns[1]


def signature_correlations(conflict, domain="source"):
  """Background correlation (within a patient, between patients).

  Averaged over pairs of slices at other positions.
  """
  dataset = heart_phantom(8, 4, conflict=conflict, domain=domain, seed=2)
  images, masks = all_images(dataset), all_masks(dataset)
  smooth = ndimage.gaussian_filter(images, (0, 1, 1))
  far = ndimage.minimum_filter(masks == 0, (1, 9, 9))
  values = {True: [], False: []}
  for i in range(len(dataset)):
    for j in range(i + 1, len(dataset)):
      if dataset.table["slice"][i] != dataset.table["slice"][j]:
        both = far[i] & far[j]
        same = dataset.groups[i] == dataset.groups[j]
        pair = np.corrcoef(smooth[i][both], smooth[j][both])[0, 1]
        values[bool(same)].append(pair)
  return np.mean(values[True]), np.mean(values[False])


@pytest.mark.parametrize("domain", ["source", "other"])
def test_conflict_sets_how_well_the_background_tells_the_patient(domain):
  found = [signature_correlations(c, domain) for c in (0.0, 1.0, 2.0)]
  gaps = [within - between for within, between in found]
  assert found[0][1] > 0.6 and gaps[0] < 0.2
  assert gaps[0] < gaps[1] < gaps[2]
  assert found[2][0] > 0.75 and gaps[2] > 0.25


def test_conflict_sets_the_spread_of_brightness():
  def spread(conflict):
    dataset = heart_phantom(30, 2, 1, conflict=conflict)
    blood = [dataset.read(r)[dataset.read_mask(r) == 1] for r in range(60)]
    level = np.array([np.median(values) for values in blood]).reshape(30, 2)
    between = level.mean(axis=1).std() / level.mean()
    return between, np.abs(np.diff(level)).mean() / level.mean()

  (none, _), (some, within), (much, _) = map(spread, (0.0, 1.0, 2.0))
  assert none < 0.02 and 0.15 < some < much
  # Gain and offset belong to the patient, not to the slice.
  assert within < some / 4


def test_conflict_scales_every_part_of_the_signature():
  scanner = heart_scanner.SCANNERS["source"]
  none, one, two = (
    heart_scanner.draw_signature(np.random.default_rng(0), scanner, conflict)
    for conflict in (0.0, 1.0, 2.0)
  )
  assert none.gain == 1 and none.offset == 0
  assert not none.slope.any() and not none.texture.any()
  assert np.log(two.gain) == pytest.approx(2 * np.log(one.gain))
  assert two.offset == pytest.approx(2 * one.offset) != 0
  np.testing.assert_allclose(two.slope, 2 * one.slope)
  np.testing.assert_allclose(two.texture, 2 * one.texture)
  assert one.slope.all() and one.texture.std() == pytest.approx(0.13, rel=0.3)


def test_a_breath_hold_moves_the_heart_alike_in_both_phases(masks):
  centres = np.array([np.mean(np.nonzero(mask == 1), axis=1) for mask in masks])
  centres = centres.reshape(PATIENTS, 2, SLICES, 2)[:, :, :6]
  steps = np.diff(centres, axis=2)
  assert 0.3 < steps.std() < 1
  assert np.corrcoef(steps[:, 0].ravel(), steps[:, 1].ravel())[0, 1] > 0.9


def test_masks_depend_neither_on_conflict_nor_on_domain(masks):
  for settings in ({"conflict": 3.0}, {"domain": "other"}):
    other = heart_phantom(**SETTINGS, **settings)
    np.testing.assert_array_equal(all_masks(other), masks)


def test_the_other_domain_has_another_intensity_law():
  def contrast_and_noise(domain):
    dataset = heart_phantom(patients=6, conflict=0.0, domain=domain)
    ratios, noises = [], []
    for row in range(0, len(dataset), 8):
      image, mask = dataset.read(row) * 1.0, dataset.read_mask(row)
      lv = image[ndimage.binary_erosion(mask == 1, iterations=3)]
      ratios.append(lv.mean() / image[mask == 2].mean())
      noises.append(lv.std() / lv.mean())
    return np.mean(ratios), np.mean(noises)

  source, other = map(contrast_and_noise, ("source", "other"))
  assert other[0] < 0.9 * source[0] and other[1] > 1.4 * source[1]
  assert heart_scanner.SCANNERS["source"].noise == 0.06
  assert source[1] == pytest.approx(0.06 / 0.86, rel=0.15)


def test_the_other_domain_has_a_finer_texture_and_other_signatures():
  drawn = {}
  for name, scanner in heart_scanner.SCANNERS.items():
    rng = np.random.default_rng(0)
    drawn[name] = heart_scanner.draw_signature(rng, scanner, 1.0)
  assert len(drawn["other"].texture) > 1.5 * len(drawn["source"].texture)
  levels = []
  for domain in ("source", "other"):
    dataset = heart_phantom(40, 1, 1, domain=domain)
    levels.append([np.median(dataset.read(row)) for row in range(40)])
  assert abs(stats.spearmanr(*levels).statistic) < 0.4


@pytest.mark.parametrize(
  ("domain", "noise", "gamma"), [("source", 0.06, 1.0), ("other", 0.09, 1.3)]
)
def test_contrast_is_a_power_and_noise_is_rician(domain, noise, gamma):
  scanner = heart_scanner.SCANNERS[domain]
  flat = heart_scanner.Signature(1.0, 0.0, np.zeros(2), np.zeros((7, 7)))
  rng = np.random.default_rng(0)
  for signal in (0.0, 0.1, 0.5):
    picture = np.full((256, 256), signal)
    stored = heart_scanner.expose(picture, flat, scanner, 0.0, rng)
    values = stored / 255 * 1.1
    rice = stats.rice(signal**gamma / noise, scale=noise)
    assert values.mean() == pytest.approx(rice.mean(), abs=1e-3)
    assert values.std() == pytest.approx(rice.std(), rel=0.02)


def test_the_bias_field_is_linear_and_gain_and_offset_come_last():
  scanner = heart_scanner.SCANNERS["source"]._replace(noise=0.0)
  slope = np.array([0.2, -0.1])
  look = heart_scanner.Signature(1.2, 0.1, slope, np.zeros((7, 7)))
  rng = np.random.default_rng(0)
  picture = np.full((64, 96), 0.5)
  stored = heart_scanner.expose(picture, look, scanner, 1.0, rng)
  low, high = -0.25, 1.2 * 1.35 + 0.25
  values = stored / 255 * (high - low) + low
  y, x = (2 * np.arange(64) + 1) / 64 - 1, (2 * np.arange(96) + 1) / 96 - 1
  wanted = 1.2 * 0.5 * (1 + 0.2 * y[:, None] - 0.1 * x) + 0.1
  np.testing.assert_allclose(values, wanted, atol=0.006)


def test_stored_values_do_not_saturate():
  for conflict in (0.0, 1.0, 3.0):
    for domain in ("source", "other"):
      images = all_images(heart_phantom(20, 2, 1, (64, 64), conflict, domain))
      assert (images == 255).mean() < 0.004
      assert (images == 0).mean() < 0.002


def test_size_scales_the_same_anatomy():
  small = heart_phantom(patients=2, size=(48, 64))
  large = heart_phantom(patients=2, size=(96, 128))
  for row in (1, 12, 23):
    image, mask = large.read(row) * 1.0, large.read_mask(row)
    assert image.shape == mask.shape == (96, 128)
    halved = image.reshape(48, 2, 64, 2).mean((1, 3))
    pair = [
      ndimage.gaussian_filter(i * 1.0, 1) for i in (small.read(row), halved)
    ]
    assert np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1] > 0.98
    assert (mask[::2, ::2] == small.read_mask(row)).mean() > 0.95


def test_the_cavity_is_an_ellipse_of_the_stated_size():
  anatomy = heart_shapes.draw_anatomy(np.random.default_rng(0))
  anatomy = anatomy._replace(scale=1.1, elongation=1.1, axis=0.0)
  section = heart_shapes.cut(anatomy, 0.4, "ED", np.zeros(2))
  contours = heart_shapes.distances(anatomy, section, (400, 400))
  mask = heart_shapes.class_mask(contours)
  y, x = np.nonzero(mask == 1)
  area = np.pi * section.cavity**2 / 4 * mask.size
  assert len(y) == pytest.approx(area, rel=0.01)
  assert x.std() / y.std() == pytest.approx(1.1, abs=0.02)
  middle = (section.centre + 1) / 2 * 400 - 0.5
  np.testing.assert_allclose((y.mean(), x.mean()), middle, atol=1.5)


@pytest.mark.parametrize("angle", [np.pi, np.pi + 0.6, np.pi / 2])
def test_the_right_ventricle_lies_where_its_angle_says(angle):
  anatomy = heart_shapes.draw_anatomy(np.random.default_rng(0))
  anatomy = anatomy._replace(scale=0.8, rv_angle=angle)
  section = heart_shapes.cut(anatomy, 0.5, "ES", np.zeros(2))
  contours = heart_shapes.distances(anatomy, section, (200, 200))
  mask = heart_shapes.class_mask(contours)
  (y0, x0), (y, x) = (np.mean(np.nonzero(mask == k), axis=1) for k in (1, 3))
  off = np.arctan2(y - y0, x - x0) - angle
  assert np.abs((off + np.pi) % (2 * np.pi) - np.pi) < 0.1
  # Across the septum it is as wide as stated.
  steps = np.linspace(0, 100, 2001)
  line = mask[
    np.round(y0 + steps * np.sin(angle)).astype(int).clip(0, 199),
    np.round(x0 + steps * np.cos(angle)).astype(int).clip(0, 199),
  ]
  assert (line == 3).mean() == pytest.approx(section.rv_width, abs=0.04)


@pytest.mark.parametrize(
  "wrong",
  [
    {"patients": 0},
    {"slices": 0},
    {"phases": 0},
    {"phases": 3},
    {"size": (16, 64)},
    {"size": (64, 64, 3)},
    {"conflict": -0.1},
    {"conflict": 3.5},
    {"conflict": float("nan")},
    {"domain": "sauce"},
    {"seed": -1},
  ],
)
def test_settings_out_of_range_are_named(wrong):
  (name,) = wrong
  with pytest.raises(DataError, match=name) as caught:
    heart_phantom(**wrong)
  assert "\n" not in str(caught.value)
