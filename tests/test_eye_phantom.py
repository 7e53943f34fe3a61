"""The eye phantom: two sets of different patients with one anatomy."""

import inspect
import pickle
import types

import numpy as np
import pytest
from scipy import ndimage

from gcl_jax import data
from gcl_jax.data.phantoms import eye_diseases, eye_photograph, eye_scan
from gcl_jax.data.phantoms import eye_spots as spots
from gcl_jax.data.phantoms import eye_zones as zones
from gcl_jax.data.readers import eye_fundus, eye_oct
from gcl_jax.data.readers.eye_fundus import eye_fundus_phantom
from gcl_jax.data.readers.eye_oct import eye_oct_phantom
from gcl_jax.errors import DataError

BOTH = pytest.mark.parametrize("make", [eye_fundus_phantom, eye_oct_phantom])
LOOKS = dict(zip(eye_diseases.LOOKS, range(3), strict=True))


@pytest.fixture(scope="module")
def fundus():
  return eye_fundus_phantom(patients=400, seed=1)


@pytest.fixture(scope="module")
def oct_scans():
  return eye_oct_phantom(patients=400, seed=1)


def rows_of(dataset, name: str) -> list[int]:
  return np.flatnonzero(dataset.table["disease"] == name).tolist()


def test_a_patient_is_one_eye_of_one_modality(fundus, oct_scans):
  for dataset, letter in ((fundus, "f"), (oct_scans, "o")):
    table = dataset.table
    assert dataset.groups.tolist() == [f"{letter}{k:04d}" for k in range(400)]
    joined = zip(dataset.groups, table["eye"], strict=True)
    assert dataset.ids.tolist() == [f"{group}_{eye}" for group, eye in joined]
    assert 0.4 < (table["eye"] == "OD").mean() < 0.6
    assert dataset.classes == eye_diseases.LOOKS
    assert set(dataset.meta) <= set(table) and dataset.labels == ()
    np.testing.assert_array_equal(
      table["healthy"] == 1, table["disease"] == "healthy"
    )
  assert not set(fundus.ids) & set(oct_scans.ids)
  assert not set(fundus.groups) & set(oct_scans.groups)


@BOTH
def test_images_depend_on_seed_and_row_alone(make):
  few, many = make(patients=9, seed=4), make(patients=40, seed=4)
  copy = pickle.loads(pickle.dumps(few.read))
  seen = {row: few.read(row) for row in (8, 0, 5)}
  for row, image in reversed(list(seen.items())):
    assert image.dtype == np.uint8 and image.shape[:2] == (64, 64)
    np.testing.assert_array_equal(many.read(row), image)
    np.testing.assert_array_equal(copy(row), image)
    np.testing.assert_array_equal(many.read_mask(row), few.read_mask(row))
  for name, values in few.table.items():
    np.testing.assert_array_equal(many.table[name][:9], values)
  assert (make(patients=9, seed=5).read(8) != seen[8]).mean() > 0.5


def test_modalities_of_one_seed_are_unrelated(fundus, oct_scans):
  ours, theirs = fundus.table, oct_scans.table
  both = (ours["healthy"] == 0) & (theirs["healthy"] == 0)
  # By chance about one in eight.
  assert (ours["disease"] == theirs["disease"])[both].mean() < 0.25
  assert 0.4 < (ours["eye"] == theirs["eye"]).mean() < 0.6


def test_they_are_found_by_their_names():
  made = types.SimpleNamespace(name="eye_fundus", eyes={"patients": 3})
  assert data.load(made).ids.tolist() == eye_fundus_phantom(3).ids.tolist()
  made = types.SimpleNamespace(
    name="eye_oct",
    eyes={"patients": 3, "size": (32, 96), "informative": "uniform"},
  )
  assert data.load(made).read(0).shape == (32, 96)
  for reader in (eye_fundus, eye_oct):
    assert list(inspect.signature(reader.read).parameters) == ["eyes"]


def test_diseases_are_as_frequent_as_their_modality_has_them():
  for make, name in ((eye_fundus_phantom, "fundus"), (eye_oct_phantom, "oct")):
    disease = make(patients=1500, healthy_fraction=0.2).table["disease"]
    assert (disease == "healthy").mean() == pytest.approx(0.2, abs=0.04)
    for one in eye_diseases.DISEASES:
      share = (disease == one.name).sum() / (disease != "healthy").sum()
      assert share == pytest.approx(getattr(one, name), abs=0.035)
  shares = np.array([(d.fundus, d.oct) for d in eye_diseases.DISEASES])
  np.testing.assert_allclose(shares.sum(axis=0), 1)
  assert abs(shares[:, 0] - shares[:, 1]).min() > 0.035


def test_held_out_classes_are_where_they_may_be(fundus, oct_scans):
  kinds = {d.name: d.held_out for d in eye_diseases.DISEASES}
  assert sorted(kinds.values()) == ["both", *2 * ["fundus"], *5 * ["none"]]
  for dataset in (fundus, oct_scans):
    wanted = [kinds.get(d, "none") for d in dataset.table["disease"]]
    assert dataset.table["held_out"].tolist() == wanted
  held_out = fundus.table["held_out"] != "none"
  np.testing.assert_array_equal(fundus.table["split"] == "eval", held_out)
  assert (fundus.table["split"][~held_out] == "").all()
  for name, kind in kinds.items():
    assert rows_of(fundus, name)
    assert bool(rows_of(oct_scans, name)) == (kind != "both")
  assert {kinds[name] for pair in eye_diseases.PAIRS for name in pair} == {
    "none"
  }


def test_two_pairs_share_the_look_and_no_two_diseases_the_zone_as_well():
  by_name = {d.name: d for d in eye_diseases.DISEASES}
  assert len(by_name) == 8 and len(eye_diseases.PAIRS) == 2
  for one, other in eye_diseases.PAIRS:
    assert by_name[one].look == by_name[other].look
  assert len({(d.look, d.zone) for d in eye_diseases.DISEASES}) == 8
  # A held-out disease has look and zone from diseases that are not.
  known = [d for d in eye_diseases.DISEASES if d.held_out == "none"]
  assert {d.look for d in known} == set(eye_diseases.LOOKS)
  assert {d.zone for d in known} == set(zones.ZONES)


def on_site(dataset, reader, names) -> list[bool]:
  """Whether each lesion lies in the zone of its disease."""
  found = []
  for row in range(len(dataset)):
    zone = dataset.table[names][row]
    if zone in zones.ZONES:
      place = reader.lesion_places(dataset, row)
      u, v = place.T if place.ndim == 2 else (place, 0 * place)
      found.extend(zones.weight(zone, u, v) > 0)
  return found


def test_three_in_four_lesions_lie_in_the_zone(fundus, oct_scans):
  assert 0.7 < np.mean(on_site(fundus, eye_fundus, "zone")) < 0.8
  assert 0.7 < np.mean(on_site(oct_scans, eye_oct, "zone")) < 0.8


def test_zone_maps_are_probabilities_of_where_lesions_lie(fundus, oct_scans):
  for dataset, reader in ((fundus, eye_fundus), (oct_scans, eye_oct)):
    density, of_other_eye = [], []
    rows = rows_of(dataset, "deposits_disc") + rows_of(
      dataset, "cysts_temporal"
    )
    for row in rows[:40]:
      one = {name: values[row] for name, values in dataset.table.items()}
      mask = dataset.read_mask(row) > 0
      other = {"OD": "OS", "OS": "OD"}[one["eye"]]
      for eye, found in ((one["eye"], density), (other, of_other_eye)):
        chances = reader.zone_map({**one, "eye": eye}, one["zone"], 64)
        assert chances.sum() == pytest.approx(1) and chances.min() == 0
        seen = mask if chances.ndim == 2 else mask.any(axis=0)
        found.append(chances[seen].mean() * chances.size)
    assert np.mean(density) > 2 * np.mean(of_other_eye)
    assert np.mean(density) > 2


@pytest.mark.parametrize("informative", ["shuffled", "uniform"])
def test_places_in_oct_say_what_the_knob_allows(oct_scans, informative):
  made = eye_oct_phantom(patients=400, seed=1, informative=informative)
  table = made.table
  for name in set(oct_scans.table) - {"drawn_zone"}:
    np.testing.assert_array_equal(table[name], oct_scans.table[name])
  ill = np.flatnonzero(table["healthy"] == 0)
  assert (table["drawn_zone"] != table["zone"])[ill].all()
  for row in np.flatnonzero(table["healthy"] == 1)[:3]:
    np.testing.assert_array_equal(made.read(row), oct_scans.read(row))
  changed = [(made.read(r) != oct_scans.read(r)).any() for r in ill[:20]]
  assert np.mean(changed) > 0.9
  assert np.mean(on_site(made, eye_oct, "zone")) < 0.45
  if informative == "shuffled":
    assert 0.7 < np.mean(on_site(made, eye_oct, "drawn_zone")) < 0.8
  else:
    assert set(table["drawn_zone"][ill]) == {"anywhere"}


def test_shuffled_zones_are_permuted_between_classes():
  own = eye_diseases.zones_of("true", np.random.default_rng(0))
  kinds = set()
  for seed in range(20):
    rng = np.random.default_rng(seed)
    drawn = eye_diseases.zones_of("shuffled", rng)
    assert sorted(drawn.values()) == sorted(own.values())
    assert all(drawn[name] != zone for name, zone in own.items())
    looks = {d.name: d.look for d in eye_diseases.DISEASES}
    assert len({(looks[n], zone) for n, zone in drawn.items()}) == len(own)
    kinds.add(tuple(drawn.values()))
  assert len(kinds) > 1


def test_left_eyes_are_mirrored(fundus, oct_scans):
  for dataset in (fundus, oct_scans):
    right = dataset.table["eye"] == "OD"
    nasal = dataset.table["disc_x"] > dataset.table["fovea_x"]
    np.testing.assert_array_equal(nasal, right)
  for draw, places in (
    (eye_photograph.draw_eye, lambda eye: eye_photograph.places(eye, 64)[0]),
    (eye_scan.draw_eye, lambda eye: eye_scan.places(eye, 64)),
  ):
    streams = [[np.random.default_rng(k) for k in (1, 2)] for _ in range(2)]
    one, other = (draw(*streams[side], side) for side in (0, 1))
    assert one.nasal == 1 and other.nasal == -1
    np.testing.assert_allclose(
      places(one).ravel(), places(other).ravel()[::-1], atol=2e-6
    )


def test_photographs_show_a_dark_fovea_and_a_bright_disc(fundus):
  table = fundus.table
  for row in range(40):
    green = ndimage.gaussian_filter(fundus.read(row)[..., 1] * 1.0, 1.5)
    y, x = (np.arange(64) + 0.5 for _ in range(2))
    light = {}
    for name in ("fovea", "disc"):
      down, right = y - table[f"{name}_y"][row], x - table[f"{name}_x"][row]
      light[name] = np.hypot(down[:, None], right)
    ring = (light["fovea"] > 9) & (light["fovea"] < 14) & (light["disc"] > 6)
    assert green[light["fovea"] < 2].mean() < green[ring].mean() - 10
    assert green[light["disc"] < 2].mean() > green[ring].mean() + 10


def test_scans_show_a_pit_and_a_disc_where_layers_end(oct_scans):
  cohort = oct_scans.read.__self__
  for row in range(40):
    view = eye_scan.draw_view(*(np.random.default_rng(k) for k in (row, 7)))
    shown = eye_scan.picture(
      cohort._eye(row),
      view,
      eye_scan.none(),
      (64, 64),
      np.random.default_rng(row),
    )[0]
    top = (shown > 0.25).argmax(axis=0)
    fovea, disc = (
      int(oct_scans.table[name][row]) for name in ("fovea_x", "disc_x")
    )
    side = np.sign(disc - fovea)
    flat = [fovea - 12 * side, fovea + 12 * side]
    assert top[fovea] > top[flat].mean() + 4
    # The brightest layer ends.
    assert shown[:, disc].max() < 0.8 * shown[:, flat].max(axis=0).min()


def mean_contrasts(dataset, count: int) -> dict[str, list[np.ndarray]]:
  """Mean contrast of the lesions of an image over its noise, by look."""
  cohort, found = dataset.read.__self__, {}
  y, x = np.mgrid[:64, :64]
  field = np.hypot(y - 31.5, x - 31.5) < 26
  for row in np.flatnonzero(dataset.table["healthy"] == 0)[:count]:
    shown = cohort.lesions(row)
    without = cohort.photograph(row, ()).astype(float)
    added = cohort.photograph(row, (shown,)) - without
    fine = without - ndimage.gaussian_filter(without, (3, 3, 0))
    ratio = added[dataset.read_mask(row) > 0].mean(0) / fine[field].std(0)
    found.setdefault(dataset.table["look"][row], []).append(ratio)
  return found


def test_lesions_of_the_fundus_are_as_strong_as_the_noise(fundus):
  found = mean_contrasts(fundus, 45)
  assert set(found) == set(eye_diseases.LOOKS)
  for look, ratios in found.items():
    ratio = np.mean(ratios, axis=0)
    assert 0.85 < abs(ratio).mean() < 1.15 and abs(ratio).max() < 1.6
    colour = spots.COLOURS[LOOKS[look]]
    np.testing.assert_array_equal(np.sign(ratio), np.sign(colour))


def test_look_alikes_do_not_depend_on_the_disease():
  well = eye_fundus_phantom(patients=5, healthy_fraction=1.0)
  ill = eye_fundus_phantom(patients=5, healthy_fraction=0.0).read.__self__
  for row in range(5):
    alike = spots.draw_alike(ill._rng(eye_fundus._ALIKE, row))
    np.testing.assert_array_equal(well.read(row), ill.photograph(row, (alike,)))


def test_look_alikes_are_alike_and_anywhere():
  drawn = [spots.draw_alike(np.random.default_rng(k)) for k in range(1500)]
  places = np.concatenate([some.place for some in drawn])
  assert zones.inside(*places.T).all()
  # In the field and off the disc, every area has its share of them.
  grid = zones.FIELD_RADIUS * np.random.default_rng(0).uniform(-1, 1, (9999, 2))
  grid = grid + (zones.FIELD_CENTRE, 0)
  grid = grid[zones.inside(*grid.T)]
  for zone in zones.ZONES:
    shares = [(zones.weight(zone, *p.T) > 0).mean() for p in (places, grid)]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
  looks = np.bincount(np.concatenate([some.look for some in drawn]))
  assert looks.min() > 0.28 * looks.sum()
  for look, number in LOOKS.items():
    rngs = [np.random.default_rng([1, k]) for k in range(60)]
    real = [spots.draw_lesions(rng, look, "fovea") for rng in rngs]
    for name in ("radius", "stretch", "contrast"):
      ours = np.concatenate([getattr(some, name) for some in real])
      other = np.concatenate(
        [getattr(some, name)[some.look == number] for some in drawn]
      )
      assert ours.mean() == pytest.approx(other.mean(), rel=0.03)


def test_each_look_has_its_depth_in_oct(oct_scans):
  eye = oct_scans.read.__self__._eye(0)
  view = eye_scan.draw_view(*(np.random.default_rng(k) for k in (0, 1)))

  def scan(lesions):
    rng = np.random.default_rng(2)
    return eye_scan.picture(eye, view, lesions, (64, 64), rng)

  healthy = scan(eye_scan.none())[0]
  rows = []
  for look in range(3):
    one = eye_scan.Lesions(*map(np.array, ([look], [-0.8], [0.7], [1.0])))
    shown, mask = scan(one)
    assert set(np.unique(mask)) == {0, look + 1}
    y, x = np.nonzero(mask)
    assert abs(eye_scan.places(eye, 64)[x] + 0.8).max() < 0.2
    change = (shown - healthy)[mask > 0].mean()
    # A deposit is darker than the layer that it lifts.
    assert change > 0.5 if look == eye_scan.MEMBRANE else change < -0.1
    rows.append(y.mean())
  surface = (healthy[:, int(x.mean())] > 0.25).argmax()
  deposits, cysts, membrane = rows
  assert membrane < surface < cysts < deposits


def test_size_samples_the_same_anatomy():
  small, large = (eye_fundus_phantom(3, size=(n, n)) for n in (64, 128))
  halved = large.read(1).reshape(64, 2, 64, 2, 3).mean((1, 3))
  smooth = [
    ndimage.gaussian_filter(i * 1.0, (2, 2, 0)) for i in (small.read(1), halved)
  ]
  assert np.corrcoef(*(i.ravel() for i in smooth))[0, 1] > 0.98
  np.testing.assert_allclose(2 * small.table["fovea_y"], large.table["fovea_y"])
  small, large = (eye_oct_phantom(3, size=s) for s in ((64, 64), (64, 128)))
  halved = large.read(1).reshape(64, 64, 2).mean(2)
  smooth = [
    ndimage.gaussian_filter(i * 1.0, 1) for i in (small.read(1), halved)
  ]
  assert np.corrcoef(*(i.ravel() for i in smooth))[0, 1] > 0.97


@BOTH
@pytest.mark.parametrize(
  "wrong",
  [
    {"patients": 0},
    {"size": (16, 16)},
    {"size": (64, 64, 3)},
    {"healthy_fraction": 1.5},
    {"healthy_fraction": float("nan")},
    {"seed": -1},
  ],
)
def test_settings_out_of_range_are_named(make, wrong):
  (name,) = wrong
  with pytest.raises(DataError, match=name) as caught:
    make(**wrong)
  assert "\n" not in str(caught.value)


def test_settings_of_one_modality_are_checked():
  with pytest.raises(DataError, match=r"equal .*\(64, 96\)"):
    eye_fundus_phantom(size=(64, 96))
  with pytest.raises(DataError, match="no informative 'ture', one of true"):
    eye_oct_phantom(informative="ture")
