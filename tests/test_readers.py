"""Readers are files found by their names, and nothing else is imported."""

import inspect
import pathlib
import sys
import types

import chex
import numpy as np
import pytest
from PIL import Image

from gcl_jax import data
from gcl_jax.data import formats, readers
from gcl_jax.data.source import Dataset
from gcl_jax.errors import ConfigError, DataError

MINE = """
import numpy as np
from gcl_jax.data.source import Dataset

def read(path, *, split="both", label_columns=("a",), scale=1):
  ids = np.array([f"{path}:{split}:{scale}:{','.join(label_columns)}"])
  return Dataset("mine", {"id": ids, "group": ids}, lambda row: ids)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A second folder of readers, forgotten again after the test."""
  monkeypatch.setattr(
    readers, "__path__", [*readers.__path__, str(tmp_path / "more")]
  )
  (tmp_path / "more").mkdir()
  before = set(sys.modules)
  yield tmp_path / "more"
  prefix = f"{readers.__name__}."
  for name in [n for n in set(sys.modules) - before if n.startswith(prefix)]:
    del sys.modules[name]
    vars(readers).pop(name.removeprefix(prefix), None)


def settings(name, **fields):
  return types.SimpleNamespace(name=name, **fields)


def test_the_names_are_those_of_the_files():
  (home,) = readers.__path__
  files = {f.stem for f in pathlib.Path(home).glob("*.py")} - {"__init__"}
  assert data.reader_names() == tuple(sorted(files))
  assert {"phantom", "heart", "folder", "volumes", "tfds"} <= files


@pytest.mark.parametrize("name", data.reader_names())
def test_every_reader_keeps_the_convention(name):
  read = __import__(f"{readers.__name__}.{name}", fromlist=["x"]).read
  signature = inspect.signature(read)
  assert signature.return_annotation is Dataset
  kinds = {parameter.kind for parameter in signature.parameters.values()}
  assert not kinds & {
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
  }
  for argument, parameter in signature.parameters.items():
    assert argument in inspect.getdoc(read), argument
    if argument != "path":
      assert parameter.default is not inspect.Parameter.empty, argument
  in_memory = ("phantom", "fundus_phantom", "heart", "organs")
  in_memory += ("eye_fundus", "eye_oct")
  assert ("path" in signature.parameters) == (name not in in_memory)


def test_a_new_file_is_a_new_reader(folder, tmp_path):
  assert "mine" not in data.reader_names()
  with pytest.raises(ConfigError, match="no data set 'mine'"):
    data.load(settings("mine", path=str(tmp_path)))
  (folder / "mine.py").write_text(MINE)
  assert "mine" in data.reader_names()
  with pytest.raises(ConfigError, match="did you mean 'mine'. .known: acdc,"):
    data.load(settings("mines", path=str(tmp_path)))
  blank = settings("mine", path=str(tmp_path), split="", label_columns=())
  assert data.load(blank).ids.tolist() == [f"{tmp_path}:both:1:a"]
  given = settings(
    "mine", path=str(tmp_path), split="2", label_columns=("x", "y"), seed=3
  )
  assert data.load(given).ids.tolist() == [f"{tmp_path}:2:1:x,y"]
  with pytest.raises(DataError, match="'mine' needs a path: --config.data"):
    data.load(settings("mine"))
  with pytest.raises(DataError, match="gone: No such file"):
    data.load(settings("mine", path=str(tmp_path / "gone")))


@pytest.mark.parametrize(
  "name",
  [
    "pack.inner", "pack/inner", ".pack", "pack.", "../more/pack", "_private",
    "__init__", "acdc.read", "..acdc", "os", "", "loose", None, ["acdc"],
  ],
)  # fmt: skip
def test_no_other_name_is_ever_imported(folder, tmp_path, name):
  bomb = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
  (folder / "pack").mkdir()
  for file in ("pack/__init__.py", "pack/inner.py", "_private.py", "loose.txt"):
    (folder / file).write_text(bomb)
  before = set(sys.modules)
  with pytest.raises(ConfigError, match="no data set .*known: acdc, "):
    data.load(settings(name, path=str(tmp_path)))
  assert not (tmp_path / "ran").exists()
  assert set(sys.modules) == before


def test_a_phantom_needs_no_path():
  small = {"patients": 1, "slices": 2, "phases": 1}
  missing = settings("heart", path="/no/such/file", heart=small)
  made = data.load(missing)
  assert len(made) == 2
  again = data.load(settings("heart", heart=small))
  np.testing.assert_array_equal(made.read(1), again.read(1))
  assert len(data.load(settings("heart"))) == 60 * 2 * 8


# Colour


def fundus(seed=0, size=(12, 16)):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*size, 3), np.uint8)


def test_a_folder_of_colour_photographs_keeps_its_channels(tmp_path):
  images = [fundus(seed) for seed in range(3)]
  for i, suffix in enumerate(("png", "tif", "bmp")):
    Image.fromarray(images[i]).save(tmp_path / f"p{i}.{suffix}")
  smooth = Image.fromarray(fundus(9, (2, 2))).resize((16, 12))
  smooth.save(tmp_path / "p3.jpg", quality=95)
  palette = smooth.quantize(16)
  palette.save(tmp_path / "p4.png")
  Image.fromarray(images[0][..., 0]).save(tmp_path / "p5.png")
  found = data.load(
    settings("folder", path=str(tmp_path), group_unknown="image")
  )
  assert found.ids.tolist() == [
    "p0.png", "p1.tif", "p2.bmp", "p3.jpg", "p4.png", "p5.png",
  ]  # fmt: skip
  for row, image in enumerate(images):
    chex.assert_trees_all_equal(found.read(row), image)
  jpeg = np.asarray(Image.open(tmp_path / "p3.jpg"))
  chex.assert_trees_all_equal(found.read(3), jpeg)
  chex.assert_trees_all_equal(found.read(4), np.asarray(palette.convert("RGB")))
  chex.assert_shape(found.read(5), (12, 16))  # grey stays grey


def test_medmnist_keeps_colour(tmp_path):
  images = np.stack([fundus(seed) for seed in range(4)])
  labels = np.array([[0], [1], [1], [0]])
  np.savez(tmp_path / "m.npz", train_images=images, train_labels=labels)
  found = data.load(settings("medmnist", path=str(tmp_path / "m.npz")))
  chex.assert_trees_all_equal(
    np.stack([found.read(row) for row in range(4)]), images
  )


def test_colour_stays_colour_in_8_bits():
  image = fundus().astype(np.float32) / 7 - 3
  low, high = np.percentile(image, (0.5, 99.5))  # of all channels together
  expected = np.floor(
    255 * np.clip((image.astype(float) - low) / (high - low), 0, 1) + 0.5
  )
  got = formats.to_uint8(image)
  chex.assert_shape(got, image.shape)
  chex.assert_trees_all_close(got.astype(float), expected, atol=1)
  chex.assert_trees_all_equal(formats.to_uint8(fundus()), fundus())
