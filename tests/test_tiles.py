"""Tiles of slices: cut to train, and averaged to predict."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gcl_jax
from gcl_jax import data, main
from gcl_jax.engine import feed, parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.engine.context import Context, Stage
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.gcl import stages as gcl_stages
from gcl_jax.methods.gcl.config import check, get_config
from gcl_jax.models.unet import unet
from gcl_jax.pipeline import segmentation, tiles

pytestmark = pytest.mark.compiles


def tiny(**changes):
  config = get_config("tiny")
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize(
  ("shape", "tile"),
  [
    ((20, 20), (8, 8)),
    ((20, 17), (8, 12)),
    ((9, 30), (9, 4)),
    ((5, 5), (1, 5)),
    ((6, 7), (6, 7)),
    ((7, 9), (3, 5)),
  ],
)
def test_tiles_lie_on_a_grid_of_half_a_tile_and_cover_all(shape, tile):
  corners = tiles.corners_of(shape, tile)
  seen = np.zeros(shape, int)
  for top, left in corners:
    assert 0 <= top <= shape[0] - tile[0] and 0 <= left <= shape[1] - tile[1]
    seen[top : top + tile[0], left : left + tile[1]] += 1
  assert seen.min() >= 1
  assert len({tuple(corner) for corner in corners.tolist()}) == len(corners)
  for axis in (0, 1):
    starts = np.unique(corners[:, axis])
    assert len(corners) % len(starts) == 0
    steps = np.diff(starts)
    half = max(1, tile[axis] // 2)
    assert (steps[:-1] == half).all() and (steps <= half).all()


def test_a_tile_larger_than_the_image_is_refused():
  for tile in ((9, 4), (4, 9), (0, 4)):
    with pytest.raises(DataError, match="do not fit into images of"):
      tiles.corners_of((8, 8), tile)


@pytest.mark.parametrize("tile", [(8, 8), (12, 6), (20, 16)])
def test_tiles_cover_every_pixel_of_their_images(tile):
  pixels = np.arange(3 * 20 * 16).reshape(3, 20, 16, 1)
  rows = np.array([0, 2])
  names = np.array(["a", "b", "c"])
  found = tiles.tiles_of(pixels, pixels[..., 0], rows, names, tile)
  assert found.pixels.shape[1:] == (*tile, 1)
  assert found.masks.shape[1:] == tile
  cut = found.pixels[:]
  np.testing.assert_array_equal(np.unique(cut), np.unique(pixels[rows]))
  np.testing.assert_array_equal(cut[..., 0], found.masks[:])
  assert len(set(found.ids)) == len(found.pixels)
  for name, one in zip(found.ids.tolist(), cut, strict=True):
    image, corner = name.split("@")
    top, left = map(int, corner.split(","))
    whole = pixels["abc".index(image)]
    np.testing.assert_array_equal(
      one, whole[top : top + tile[0], left : left + tile[1]]
    )
  assert {name[0] for name in found.ids} == {"a", "c"}


@functools.cache
def network():
  """A small U-Net of stride 2, three classes, and its variables."""
  net = unet((4, 6), 3)
  variables = net.init(jax.random.key(0), (8, 8, 1))
  noise = jax.random.normal(jax.random.key(1), (100,))
  variables["batch_stats"] = jax.tree.map(
    lambda x: jnp.abs(x + 0.1 * noise[: x.size].reshape(x.shape)),
    variables["batch_stats"],
  )
  return net, variables


def images_of(shape, count=2):
  draw = np.random.default_rng(3)
  return draw.integers(0, 256, (count, *shape, 1)).astype(np.uint8)


def slow_probabilities(images, tile):
  """Every tile by itself, cut and added in numpy."""
  net, variables = network()
  apply = jax.jit(net.segment)
  height, width = images.shape[1:3]
  tops, lefts = (
    sorted({*range(0, n - t, max(1, t // 2)), n - t})
    for n, t in ((height, tile[0]), (width, tile[1]))
  )
  total, count = np.zeros((*images.shape[:3], 3)), np.zeros((height, width))
  for i, image in enumerate(images):
    for top in tops:
      for left in lefts:
        cut = image[top : top + tile[0], left : left + tile[1]]
        logits = np.asarray(apply(variables, cut[None])[0][0], float)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        found = odds / odds.sum(-1, keepdims=True)
        for r in range(tile[0]):
          for c in range(tile[1]):
            total[i, top + r, left + c] += found[r, c]
            count[top + r, left + c] += i == 0
  return total / count[..., None]


@pytest.mark.parametrize(
  ("shape", "tile"),
  [((12, 12), (8, 8)), ((13, 17), (8, 4)), ((8, 11), (8, 6)), ((8, 8), (8, 8))],
)
def test_probabilities_are_averaged_over_tiles_as_by_hand(shape, tile):
  """Slices of any size at least the tile, also no multiple of the stride."""
  net, variables = network()
  images = images_of(shape).astype(np.float32) / 255
  found = jax.jit(lambda x: tiles.probabilities(net, variables, x, tile))(
    images
  )
  expected = slow_probabilities(images, tile)
  np.testing.assert_allclose(found, expected, atol=2e-6)
  np.testing.assert_allclose(np.sum(found, -1), 1, atol=1e-5)
  # A test that cannot fail shows nothing: neighbours do change what is found.
  if tile == shape:
    whole, _ = net.segment(variables, images)
    np.testing.assert_allclose(found, jax.nn.softmax(whole), atol=1e-6)
  elif shape == (12, 12):
    whole, _ = net.segment(variables, images)
    assert np.abs(found - jax.nn.softmax(whole)).max() > 1e-3


def test_the_predicted_class_is_that_of_the_averages():
  net, variables = network()
  images = images_of((12, 14), 4)
  function = tiles.predictor(net, 0.5, 0.25, (8, 8))
  found = np.asarray(function(variables, {"image": images}))
  expected = slow_probabilities((images / 255 - 0.5) / 0.25, (8, 8))
  assert found.dtype == np.uint8
  order = np.sort(expected, -1)
  clear = order[..., -1] - order[..., -2] > 1e-4
  assert clear.mean() > 0.9 and len(set(found[clear].tolist())) == 3
  np.testing.assert_array_equal(found[clear], expected.argmax(-1)[clear])
  whole = tiles.predictor(net, 0.5, 0.25)(variables, {"image": images})
  logits, _ = net.segment(variables, (images / 255 - 0.5) / 0.25)
  np.testing.assert_array_equal(whole, np.argmax(logits, -1))
  assert (np.asarray(whole) != found).any()


class Slices:
  """Prepared slices, as `Segmenter.fit` wants them."""

  def __init__(self, count=6, size=(16, 20)):
    draw = np.random.default_rng(0)
    self.masks = np.zeros((count, *size), np.uint8)
    self.masks[:, 2:9, 3:12] = 1
    noise = draw.integers(0, 60, self.masks.shape)
    self.pixels = (150 * self.masks + noise).astype(np.uint8)[..., None]
    self.ids = np.array([f"s{k}" for k in range(count)])


def segmenter(tile, **changes):
  config = tiny(**changes)
  views = segmentation.views_of(config.segment.views, 0.4, 0.25)
  return segmentation.Segmenter(config.segment, config.unet, 2, views, tile)


def test_a_fit_sees_tiles_of_the_labelled_slices(tmp_path, monkeypatch):
  """Every labelled pixel is in one, and no pixel of another slice."""
  arrays, drawn = [], []
  batches = feed.batches

  def noting(values, size, *, rows, **more):
    arrays.append(values)
    drawn.append(rows)
    return batches(values, size, rows=rows, **more)

  monkeypatch.setattr(feed, "batches", noting)
  context = Context(
    tiny(),
    tmp_path,
    parallel.make_mesh(jax.devices()[:2]),
    stage=Stage("segment", None),
  )
  context.folder.mkdir()
  slices, tile = Slices(), (8, 10)
  changes = {"segment.steps": 100, "segment.learning_rate": 0.02}
  made = segmenter(tile, **changes)
  state = made.fit(context, slices, np.array([0, 4]), name="fit", seed=0)
  (found,), (rows,) = arrays, drawn
  assert found["image"].shape == (18, *tile, 1)  # 3 x 3 tiles of two slices
  assert set(rows.tolist()) == set(range(18))
  for name, whole in (("image", slices.pixels), ("mask", slices.masks)):
    seen = found[name][:]
    for k, row in enumerate((0, 0, 4, 4)):
      top, left = ((0, 0), (8, 10))[k % 2]
      at = 9 * (k // 2) + (0, 8)[k % 2]
      np.testing.assert_array_equal(
        seen[at], whole[row, top : top + 8, left : left + 10]
      )
  variables = {
    "params": state.params,
    "batch_stats": state.extra["batch_stats"],
  }
  predicted = made.predict(context, variables, slices.pixels, name="predict")
  truth = slices.masks[1]
  assert predicted.shape == slices.masks.shape
  both = ((predicted[1] == 1) & (truth == 1)).sum()
  assert 2 * both / ((predicted[1] == 1).sum() + truth.sum()) > 0.8


def test_programs_are_those_of_tiles():
  config = tiny(**{"segment.tile": (16, 8)})
  found = {program.name: program for program in gcl_stages.programs(config)}
  assert found["segment"].batch["image"].shape[1:] == (16, 8, 1)
  assert found["segment"].batch["mask"].shape[1:] == (16, 8)
  assert found["predict"].batch["image"].shape[1:] == (32, 32, 1)


@pytest.mark.parametrize(
  "tile", [(15, 16), (16, 34), (34, 16), (16,), (0, 16), (16, 16, 16), (8.0, 8)]
)
def test_tiles_that_cannot_be_cut_are_refused(tile):
  message = r"segment.tile .* multiples of 2, the stride .*size \(32, 32\)"
  config = tiny()
  with config.ignore_type():
    config.segment.tile = tile
  with pytest.raises(ConfigError, match=message):
    check(config)


@pytest.mark.parametrize("tile", [(), (16, 8), (32, 32)])
def test_tiles_that_fit_are_taken(tile):
  config = tiny(**{"segment.tile": tile})
  check(config)
  found = {program.name: program for program in gcl_stages.programs(config)}
  seen = found["segment"].batch["image"].shape[1:3]
  assert seen == (tile or tuple(config.preprocess.size))


def test_a_finished_run_predicts_by_tiles_too(tmp_path):
  """New slices get the classes that the run gave them itself; and settings of
  the scores reach the report."""
  config = tiny(**{"segment.tile": (16, 8), "ood_data.name": ""})
  config.arms = ()
  config.segment.update(unit="voxels", tolerance=0.0)
  with config.unlocked():
    config.segment.alike = ("LV", "RV")
  config.pretrain.update(steps=1, pixel="")
  config.segment.steps = 12
  main.run(config, tmp_path, parallel.make_mesh(jax.devices()[:2]))
  metrics = json.loads((tmp_path / "report.json").read_text())["metrics"]
  assert 0 <= metrics["segment/dice/ambiguous"]["value"] <= 1
  assert metrics["segment/dice/ambiguous"]["n"] == 4
  assert not [name for name in metrics if "surface_dice" in name]
  assert 0 < metrics["segment/hd95/LV"]["value"] < 32 * 2**0.5 + 4
  page = (tmp_path / "report.html").read_text()
  assert "HD95 in voxels" in page and "HD95 in mm" not in page
  assert "Dice on LV and RV alone" in page
  own = load_artifact(tmp_path / "segment" / "artifact")["networks"]["gcl"]
  table = load_artifact(tmp_path / "data" / "artifact")["table"]
  dataset = data.load(config.data)
  ids = dataset.ids.tolist()
  stored = [dataset.read(ids.index(table["id"][row])) for row in own["rows"]]
  found = gcl_jax.load(tmp_path).segment(stored)
  np.testing.assert_array_equal(found, own["maps"])
  assert len(np.unique(own["maps"])) > 1
  whole = tiles.predictor(
    segmentation.make_unet(config.unet, 4),
    *gcl_jax.load(tmp_path).statistics,
  )(own["variables"], {"image": np.stack(stored)[..., None]})
  assert (np.asarray(whole) != own["maps"]).any()
