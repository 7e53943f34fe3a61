"""The data stage that methods share: colour, parts of the split, copies."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.data import preprocess
from gcl_jax.data.source import Dataset
from gcl_jax.engine import feed, parallel
from gcl_jax.engine.checkpoint import save_artifact
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.manifest import array_hashes, write_manifest
from gcl_jax.errors import DataError
from gcl_jax.pipeline import (
  contrast,
  prepare,
  report,
  sampling,
  settings,
  sources,
)
from gcl_jax.pipeline.prepared import Prepared

pytestmark = pytest.mark.compiles

SIZE = (8, 12)


def colour_set(count=24):
  """Photographs of one colour each with noise, two a patient."""
  draw = np.random.default_rng(0)
  base = draw.integers(30, 220, (count, 1, 1, 3))
  pixels = (base + draw.integers(-9, 9, (count, 16, 24, 3))).astype(np.uint8)
  table = {
    "id": np.array([f"i{k}" for k in range(count)]),
    "group": np.array([f"p{k // 2}" for k in range(count)]),
    "part": np.array(["a column of the user's own"] * count),
  }
  return Dataset("photographs", table, lambda row: pixels[row], (), ("part",))


def context_of(workdir, **changes):
  config = settings.run("toy")
  config.data, config.preprocess = settings.image_data(), ConfigDict()
  config.preprocess.size = SIZE
  config.data.update(changes)
  mesh = parallel.make_mesh(jax.devices()[:2])
  return Context(config, workdir, mesh, stage=Stage("data", None))


def read(dataset, row):
  image = preprocess.prepare(
    dataset.read(row),
    size=SIZE,
    flatten=False,
    normalise=False,
    crop=False,
    channels=3,
  )
  return prepare.Row(image)


def finished(context, dataset):
  """Runs the stage and opens what it left, as a later stage does."""
  source = sources.Source(dataset, sources.parts(dataset, context.config.data))
  artifact = prepare.run(context, [source], read, (*SIZE, 3), samples=3)
  save_artifact(context.folder / "artifact", artifact)
  manifest = {"schema": 1, "arrays": array_hashes(artifact)}
  write_manifest(context.folder, manifest)
  later = Stage("later", None, ("data",))
  return Context(context.config, context.workdir, context.mesh, stage=later)


def test_three_channels_go_all_the_way_to_a_contrastive_step(tmp_path):
  dataset = colour_set()
  context = finished(context_of(tmp_path), dataset)
  images = Prepared(context)
  assert images.pixels.shape == (24, *SIZE, 3)
  assert set(images.table["part"]) == {"train", "eval"}
  assert images.meta == ("part_in_table",)  # a user's column is not lost
  for row in range(0, 24, 7):
    expected = read(dataset, int(images.table["row"][row])).images
    np.testing.assert_array_equal(images.pixels[row], expected)
  mean, sd = images.pixel_statistics()
  train = images.pixels[images.train] / 255
  np.testing.assert_allclose(mean, train.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(sd, train.std((0, 1, 2)), rtol=1e-4)
  stored = images.artifact["preparation"]
  assert json.loads(str(stored["settings"])) == {"size": list(SIZE)}

  section = settings.contrast()
  section.update(arch="resnet10", width=4, stem="cifar", batch_size=8)
  section.update(head_hidden=8, head_out=8, epochs=2)
  plain = contrast.views_of(section, mean, sd)
  section.update(saturation=0.4, hue=0.1, grayscale=0.2, blur=0.5, noise=0.5)
  for name in ("saturation", "hue", "grayscale", "blur", "noise"):
    changed = plain | {name: contrast.views_of(section, mean, sd)[name]}
    keys = jax.random.split(jax.random.key(0), 24)
    views = [
      augment.crop(keys, images.pixels, blur_sigma=(0.1, 0.2), **options)
      for options in (plain, changed)
    ]
    assert not np.allclose(*views), name
  rows = np.flatnonzero(images.train)
  numbers = contrast.plan(section, len(rows), len(images))
  training = contrast.training(
    section, "supcon", (), images.pixels.shape[1:], numbers, (mean, sd)
  )
  state = context.fit(
    training,
    lambda start: feed.batches_from(
      {"image": images.pixels},
      sampling.shuffled(rows, 8, 0),
      start=start,
      steps=numbers.steps,
    ),
    steps=numbers.steps,
    name="toy",
    seed=0,
    ids=images.ids,
  )
  assert int(state.step) == numbers.steps > 1
  stem = state.params["encoder"]["stem"]["kernel"]
  assert stem.shape[2] == 3 and np.isfinite(stem).all()


def test_the_split_is_that_of_its_own_seed():
  """A new seed of the run is not a new split."""
  dataset, parts = colour_set(), []
  for seed in (0, 0, 1):
    config = settings.image_data()
    config.split_seed = seed
    parts.append(sources.parts(dataset, config).tolist())
  assert parts[0] == parts[1] != parts[2]


def test_a_split_that_is_neither_train_nor_eval_is_refused():
  dataset = colour_set()
  dataset.table["split"] = np.array(["test"] + ["train"] * 23)
  with pytest.raises(DataError, match="split 'test' is neither train nor eval"):
    sources.parts(dataset, settings.image_data())


@pytest.mark.parametrize("whole", ["id", "volume"])
def test_copies_by_a_double_loop(whole):
  """Wholes of other parts with the same images, against a slow reference."""
  draw = np.random.default_rng(0)
  count = 40
  table = {
    "id": np.array([f"i{k}" for k in range(count)]),
    "volume": np.array([f"v{k // 2}" for k in range(count)]),
    "part": np.repeat(draw.choice(["train", "eval", "ood"], 20), 2),
    "hash": draw.choice(list("abcdefghijkl" if whole == "id" else "ab"), count),
  }
  names = list(dict.fromkeys(table[whole].tolist()))
  content = {n: tuple(table["hash"][table[whole] == n].tolist()) for n in names}
  part = {n: table["part"][table[whole] == n][0] for n in names}
  out = set()
  for n in names:
    for other in names:
      if content[n] == content[other]:
        worse = {"train": ("eval", "ood"), "ood": ("eval",), "eval": ()}
        if part[other] in worse[part[n]]:
          out.add(n)
  left, reasons = prepare.copies_out(table, "drop", whole)
  assert {str(table[whole][row]) for row in left} == set(names) - out
  assert len(reasons) == count - len(left) > 0
  with pytest.raises(DataError, match="byte-identical"):
    prepare.copies_out(table, "refuse", whole)


def test_a_label_called_labelled_does_not_decide_the_split():
  """Only volumes have class maps that some lack."""
  dataset, config = colour_set(), settings.image_data()
  expected = sources.parts(dataset, config)
  dataset.table["labelled"] = np.arange(24) // 2 % 2  # of whole patients
  np.testing.assert_array_equal(sources.parts(dataset, config), expected)
  dataset.table["split"] = np.full(24, np.nan)  # blanks, read as numbers
  np.testing.assert_array_equal(sources.parts(dataset, config), expected)


def test_nobody_to_train_on_is_refused(tmp_path):
  context, dataset = context_of(tmp_path), colour_set()
  source = sources.Source(dataset, np.full(24, "eval"))
  with pytest.raises(
    DataError, match="no image of the pool is in the training"
  ):
    prepare.run(context, [source], read, (*SIZE, 3))


def test_lists_stay_with_their_images(tmp_path):
  """Any number of entries each, when one image cannot be read and one is a
  copy of an evaluation image."""
  dataset = colour_set(8)
  pixels = [dataset.read(row) for row in range(8)]
  pixels[6] = pixels[0]  # in the evaluation part

  def read_listed(dataset, row):
    if row == 3:
      raise DataError("damaged")
    entries = np.full((row % 3, 2), row, np.float32)
    return prepare.Row(pixels[row][:8, :12], lists={"boxes": entries})

  context = context_of(tmp_path, duplicates="drop")
  part = np.array(["train"] * 6 + ["eval"] * 2)
  source = sources.Source(dataset, part)
  found = prepare.run(context, [source], read_listed, (*SIZE, 3))
  left = found["table"]["row"].tolist()
  assert left == [1, 2, 4, 5, 6, 7]  # 0 is a copy of 6, 3 damaged
  expected = [(row, place) for place, row in enumerate(left)]
  expected = [pair for pair in expected for _ in range(pair[0] % 3)]
  assert found["boxes"].shape == (len(expected), 2)
  pairs = zip(found["boxes"][:, 0], found["boxes_row"], strict=True)
  assert [(int(a), int(b)) for a, b in pairs] == expected


def test_lists_of_images_without_any_entry_are_empty(tmp_path):
  def read_empty(dataset, row):
    image = dataset.read(row)[:8, :12]
    return prepare.Row(image, lists={"boxes": np.zeros((0, 5), np.float32)})

  source = sources.Source(colour_set(4), np.array(["train"] * 4))
  found = prepare.run(context_of(tmp_path), [source], read_empty, (*SIZE, 3))
  assert found["boxes"].shape == (0, 5) and found["boxes_row"].shape == (0,)


def test_the_subtitle_of_reports_counts_each_part(tmp_path):
  context = context_of(tmp_path, name="photographs", eval_fraction=0.25)
  later = finished(context, colour_set(24))
  found = report.subtitle(later, Prepared(later))
  said = "18 images to train on and 6 kept for evaluation, from 12 groups"
  assert found.startswith(f"photographs: {said}")
