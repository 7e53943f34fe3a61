"""What is looked at after a pre-training of UOPSL, and who meets whom in it."""

import types

import numpy as np
import pytest

from gcl_jax.data.readers import eye_fundus
from gcl_jax.errors import DataError
from gcl_jax.methods.uopsl import arms, captions, draws, pretrain, sites_seen
from gcl_jax.methods.uopsl.config import get_config
from gcl_jax.pipeline import sampling

CLASSES = ("dots", "sheet")
TEXTS = {"dots": ("dots here",), "sheet": ("a sheet there",)}
LOOKS = {"dots": ("dots",), "sheet": ("a sheet",)}


class Images:
  """As much of prepared images as pools and looks need."""

  def __init__(self, classes, part, masks=None, **columns):
    count = len(classes)
    self.pixels = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    self.table = {"class": np.array(classes)}
    self.table |= {name: np.array(v) for name, v in columns.items()}
    self.groups = np.array([f"p{k}" for k in range(count)])
    self.train = np.array(part) == "train"
    self.evaluation = np.array(part) == "eval"
    self.masks, self.folder = masks, types.SimpleNamespace(name="data")

  def __len__(self):
    return len(self.groups)

  def pool(self, protocol):
    return self.train | (protocol == "transductive")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  """A permutation an epoch: grain needs milliseconds for each of few rows."""

  def shuffled(rows, size, seed):
    def rows_at(step):
      epoch, k = divmod(step, len(rows) // size)
      order = np.random.default_rng((seed, epoch)).permutation(rows)
      return order[k * size : (k + 1) * size]

    return rows_at

  monkeypatch.setattr(sampling, "shuffled", shuffled)


def sources(seed=0):
  rng = np.random.default_rng(seed)
  names = np.array([*CLASSES, ""])
  fundus = names[rng.integers(0, 3, 40)]
  fundus[:2] = CLASSES
  part = np.where(np.arange(40) < 30, "train", "eval")
  fundus = Images(fundus, part, eye=rng.integers(0, 9, 40).astype(float))
  scans = names[rng.integers(0, 3, 50)]
  scans = Images(
    scans,
    np.where(np.arange(50) < 45, "train", "eval"),
    eye=rng.integers(0, 9, 50).astype(float),
  )
  return draws.Sources(fundus, scans, captions.build(TEXTS, LOOKS))


def pools(arm=arms.OWN, count=4, found=None, **changes):
  config = get_config("tiny")
  config.fundus.pair_columns = ("eye",)
  config.update_from_flattened_dict(changes)
  settings = arms.settings_of(config, arm)
  found = found or sources()
  return found, *pretrain.pools_of(config, settings, found, count)


def drawn(rows_at, steps=40):
  """{pool: all rows of some steps}."""
  found = [rows_at(step) for step in range(steps)]
  return {name: np.concatenate([f[name] for f in found]) for name in found[0]}


def test_labels_are_in_one_pool_and_no_class_in_the_other():
  found, columns, rows_at = pools()
  labelled = draws.labelled(found.fundus, 4, 0)
  rows = {name: set(each.tolist()) for name, each in drawn(rows_at).items()}
  mine, rest, scans = (rows[name] for name in ("labelled", "rest", "oct"))
  assert mine == set(np.flatnonzero(labelled).tolist()) and len(mine) == 4
  described = found.fundus.train & (found.fundus.table["class"] != "")
  assert rest == set(np.flatnonzero(described & ~labelled).tolist())
  assert (columns["rest"]["class"] == -1).all()
  # A text without a place, the same one whatever is known.
  looks = found.captions.of_classes(False)
  assert set(columns["rest"]["caption"][sorted(rest)]) <= set(looks)
  places = found.captions.of_classes(True)
  assert set(columns["labelled"]["caption"][sorted(mine)]) <= set(places)
  assert scans == set(np.flatnonzero(draws.known(found.oct)).tolist())


def test_no_image_that_is_kept_for_evaluation_is_drawn():
  for arm in (arms.OWN, "concepts", "paired", "text"):
    found, _, rows_at = pools(arm)
    for name, rows in drawn(rows_at, 20).items():
      images = found.oct if name == "oct" else found.fundus
      assert images.train[rows].all(), (arm, name)


def test_two_shuffles_are_not_one():
  _, _, rows_at = pools(**{"pretrain.batch.rest": 8, "pretrain.batch.oct": 8})
  pairs = [(rows_at(k)["rest"] == rows_at(k)["oct"]).mean() for k in range(40)]
  assert np.mean(pairs) < 0.3


@pytest.mark.parametrize("arm", [arms.OWN, "text", "concepts", "paired"])
def test_every_pool_has_a_seed_of_its_own(arm, monkeypatch):
  seeds = []
  monkeypatch.setattr(
    sampling, "shuffled", lambda rows, size, seed: seeds.append(seed)
  )
  for seed in (0, 1):
    pools(arm, seed=seed)
  assert len(seeds) == len({*seeds}) >= 4


@pytest.mark.parametrize(
  ("arm", "pool", "column"),
  [("concepts", "labelled", "class"), ("paired", "rest", "eye")],
)
def test_a_scan_is_of_the_class_or_the_eye_of_its_photograph(arm, pool, column):
  found, _, rows_at = pools(arm)
  for step in range(20):
    rows = rows_at(step)
    np.testing.assert_array_equal(
      found.fundus.table[column][rows[pool]],
      found.oct.table[column][rows["oct"]],
    )
  again = pools(arm, found=found)[2]
  np.testing.assert_array_equal(again(3)["oct"], rows_at(3)["oct"])


def test_every_scan_of_a_batch_is_drawn_by_itself():
  """Where more scans are in a batch than photographs, none is repeated."""
  size = {"pretrain.batch.labelled": 2, "pretrain.batch.oct": 8}
  found, _, rows_at = pools("concepts", **size)
  repeated = []
  for step in range(20):
    rows = rows_at(step)
    wanted = found.fundus.table["class"][np.resize(rows["labelled"], 8)]
    np.testing.assert_array_equal(found.oct.table["class"][rows["oct"]], wanted)
    repeated.append((rows["oct"][:2] == rows["oct"][2:4]).mean())
  assert np.mean(repeated) < 0.3


def test_images_whose_eye_is_not_known_have_no_partner():
  found = sources()
  for images in (found.fundus, found.oct):
    images.table["eye"][::2] = np.nan
  _, columns, rows_at = pools("paired", found=found)
  rows = drawn(rows_at, 20)
  for name, images in (("rest", found.fundus), ("oct", found.oct)):
    blank = np.isnan(images.table["eye"])
    np.testing.assert_array_equal(columns[name]["pair"] == -1, blank)
    assert not blank[rows[name]].any()
  images.table["side"] = np.array(["OD", ""] * 25)
  values = pretrain.paired_values(images, ("eye", "side"))
  assert (values[::2] == "").all() and (values[1::2] == "").all()


def test_every_fit_has_the_pools_of_its_number_of_labels(monkeypatch):
  """All patients labelled: none are left for the rest."""
  found, fits = sources(), []
  for images, channels in ((found.fundus, 3), (found.oct, 1)):
    images.pixels = np.zeros((len(images), 16, 16, channels), np.uint8)
    statistics = (0.5, 0.2) if channels == 1 else ((0.5,) * 3, (0.2,) * 3)
    images.pixel_statistics = lambda given=statistics: given
    images.ids = np.arange(len(images)).astype(str)
  config = get_config("tiny")

  class Context(types.SimpleNamespace):
    def fit(self, training, batches, **more):
      fits.append((sorted(next(batches(0))), sorted(training.batch)))

  monkeypatch.setattr(draws, "sources_of", lambda context: found)
  monkeypatch.setattr(pretrain, "artifact_of", lambda made, state: {})
  for counts in ((4, 0), (0, 4)):
    config.fundus.labelled, config.fundus.headline = counts, 4
    context = Context(config=config, checkpoints=lambda name: None)
    assert [*pretrain.run(context, arms.OWN)] == [
      draws.name_of(count) for count in counts
    ]
    for count, (held, told) in zip(counts, fits[-2:], strict=True):
      assert held == told == ["labelled", "oct", *["rest"][:count]]
  config.fundus.labelled = (4, 99)
  with pytest.raises(DataError, match="labelled 99: .* patients"):
    pretrain.run(context, arms.OWN)
  assert len(fits) == 4  # refused before the first one


def test_shuffled_classes_keep_their_numbers_and_lose_their_scans():
  found, columns, _ = pools("shuffled")
  _, own, _ = pools()
  rows = draws.known(found.oct)
  for name in ("class", "caption"):
    mixed, true = columns["oct"][name], own["oct"][name]
    assert sorted(mixed.tolist()) == sorted(true.tolist())
    assert (mixed[rows] != true[rows]).mean() > 0.2
    np.testing.assert_array_equal(mixed[~rows], true[~rows])


def test_an_unknown_column_of_pairs_is_refused():
  with pytest.raises(DataError, match="no column 'place' in data"):
    pools("paired", **{"fundus.pair_columns": ("place",)})


class Seen:
  """A context that notes which rows are looked at."""

  def __init__(self, values=None):
    self.config, self.values, self.rows = get_config("tiny"), values, []

  def map(self, function, tree, arrays, **more):
    self.rows.append(arrays["image"].rows)
    return {} if self.values is None else self.values[self.rows[-1]]


def looked_at():
  found = sources()
  for images in (found.fundus, found.oct):
    images.pixel_statistics = lambda: (0.5, 0.2)
    images.part = lambda name, own=images: own.train == (name == "train")
  return found


def test_frozen_means_are_of_training_scans_of_each_class():
  found, values = looked_at(), np.random.default_rng(2).normal(size=(50, 3))
  found = found._replace(
    captions=captions.build(
      TEXTS | {"unscanned": ("x",)}, LOOKS | {"unscanned": ("x",)}
    )
  )
  own = {"fundus": {"batch_stats": {"sites": None}}, "oct": None}
  matrix = pretrain.frozen_sites(Seen(values), "means", found, None, own)
  classes, rows = found.oct.table["class"], draws.known(found.oct)
  wanted = [values[rows & (classes == name)].mean(0) for name in CLASSES]
  np.testing.assert_allclose(matrix, [*wanted, values[rows].mean(0)])


def test_sites_are_looked_at_in_training_scans_and_tested_photographs():
  found, context = looked_at(), Seen()
  made = types.SimpleNamespace(sites=None, oct=None, fundus=None)
  made.fundus = types.SimpleNamespace(feature_dim=3)
  stored = {"oct": {}, "fundus": {}}
  scans = sites_seen._oct(context, found, made, stored)["rows"]
  photographs = sites_seen._fundus(context, found, made, stored)["rows"]
  for rows, images, part in (
    (scans, found.oct, found.oct.train),
    (photographs, found.fundus, found.fundus.evaluation),
  ):
    wanted = np.flatnonzero(part & (images.table["class"] != ""))
    np.testing.assert_array_equal(rows, wanted)
  for rows, looked in zip((scans, photographs), context.rows, strict=True):
    np.testing.assert_array_equal(rows, looked)


def test_a_profile_is_what_a_class_reads_less_the_mean_of_classes():
  found = sources()
  rows = np.array([0, 1, 2, 3])
  classes = np.array(["dots", "dots", "sheet", "sheet"])
  found.oct.table["class"] = np.concatenate([classes, [""] * 46])
  alpha = np.array([[1.0, 0], [0.5, 0.5], [0, 1], [0.2, 0.8]])
  found = sites_seen.profile_of(found, {"rows": rows, "alpha": alpha})
  np.testing.assert_allclose(found, [[0.325, -0.325], [-0.325, 0.325]])


def test_attention_is_that_of_the_sites_of_the_own_class():
  rng = np.random.default_rng(0)
  shares, profile = rng.dirichlet(np.ones(3), (4, 5)), rng.normal(size=(2, 3))
  number = np.array([1, 0, 0, 1])
  found = sites_seen.attention_maps(shares.swapaxes(1, 2), profile, number)
  for r in range(4):
    for k in range(5):
      expected = shares[r, k] @ profile[number[r]]
      np.testing.assert_allclose(found[r, k], expected)


def test_zones_are_those_of_the_phantom_or_of_lesions():
  dataset = eye_fundus.eye_fundus_phantom(60, (32, 32))
  config = get_config("tiny")
  rows = np.flatnonzero(dataset.table["zone"] == "disc")[:5]
  fundus = Images([""] * 60, ["eval"] * 60)
  fundus.table |= dataset.table
  found = draws.Sources(fundus, None, None)
  kept, inside = sites_seen.zones(found, config, rows, np.array([4, 4]))
  assert kept.tolist() == rows.tolist() and inside.shape == (5, 16)
  for row, cells in zip(kept, inside, strict=True):
    table = {name: values[row] for name, values in dataset.table.items()}
    y, x = (int(table[f"disc_{axis}"] // 8) for axis in "yx")
    assert cells.reshape(4, 4)[y, x]
    density = eye_fundus.zone_map(table, "disc", 32).reshape(4, 8, 4, 8)
    density = density.mean((1, 3)).ravel()
    np.testing.assert_array_equal(cells, density >= density.max() / 2)
  # The same eyes, photographed and prepared at other sizes.
  for size, grid in ((32, (5, 5)), (48, (6, 6))):
    config.preprocess.size = (size, size)
    of_size = eye_fundus.eye_fundus_phantom(60, (size, size)).table
    cases = ((32, dataset.table), (size, of_size))
    maps = []
    for stored, table in cases:
      config.data.eyes.size = (stored, stored)
      fundus.table |= table
      maps.append(sites_seen.zones(found, config, rows, np.array(grid))[1])
    np.testing.assert_array_equal(*maps)
    y, x = (of_size[f"disc_{axis}"][rows] * grid[0] // size for axis in "yx")
    flat = (y * grid[0] + x).astype(int)
    assert maps[0][range(len(rows)), flat].all()
  # Cropped to the disc, a zone is no longer where the table has it.
  config.preprocess.disc = True
  fundus.masks = np.zeros((60, 8, 8), np.uint8)
  fundus.masks[:, 7, 0] = 1
  _, inside = sites_seen.zones(found, config, rows, np.array([2, 2]))
  assert inside.tolist() == [[False, False, True, False]] * len(rows)
  masks = np.zeros((3, 8, 8), np.uint8)
  masks[0, 0, 7] = 2
  other = draws.Sources(Images(["a"] * 3, ["eval"] * 3, masks), None, None)
  kept, inside = sites_seen.zones(other, config, np.arange(3), np.array([2, 2]))
  assert kept.tolist() == [0] and inside.tolist() == [
    [False, True, False, False]
  ]
