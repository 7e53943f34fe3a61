"""A torso in Hounsfield units as volumes of a few made-up patients.

One real scan, cut across the body; the labels are a network's output. It shows
that reading and preparation work, and says nothing about accuracy.
"""

import os
import pathlib

import jax
import numpy as np
import pytest

from gcl_jax import main
from gcl_jax.engine import parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.tables import unpack
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.gcl.config import get_config
from gcl_jax.methods.pixel_global.config import check
from gcl_jax.methods.pixel_global.config import get_config as own_config
from gcl_jax.pipeline import label_draws
from gcl_jax.pipeline.prepared import Prepared

TORSO = pathlib.Path(os.environ.get("GCL_DATA", "data"), "ct_torso_3mm.npz")
# Stored values of the machine-made labels: muscles along spine and hip.
CLASSES = {"left": (86, 88), "right": (87, 89), "bone": (77, 78)}
PATIENTS, SLICES = 5, 22
SIZE = (112, 128)  # rows, columns; a slice has 101 and 122


@pytest.fixture(scope="module")
def torso(tmp_path_factory):
  """(folder with volumes.csv, hu, labels 0..3), [R, A, S] as stored."""
  if not TORSO.exists():
    pytest.skip(f"no {TORSO}: set GCL_DATA to the folder with the torso CT")
  folder = tmp_path_factory.mktemp("torso")
  with np.load(TORSO) as arrays:
    hu, codes = arrays["ct_hu"], arrays["pseudo_labels"]
    affine = arrays["affine"]
  labels = np.zeros(codes.shape, np.uint8)
  for value, stored in enumerate(CLASSES.values(), 1):
    labels[np.isin(codes, stored)] = value
  rows = ["id,image,label,patient,modality"]
  for k in range(PATIENTS):
    cut = np.s_[:, :, k * SLICES : (k + 1) * SLICES]
    np.savez(
      folder / f"v{k}.npz",
      image=hu[cut],
      label=labels[cut],
      affine=affine,
      spacing=(3.0, 3.0, 3.0),
    )
    rows.append(f"v{k},v{k}.npz,v{k}.npz,p{k},ct")
  (folder / "volumes.csv").write_text("\n".join(rows))
  return folder, hu, labels


def settings(folder, **changes):
  """The data section of preset ct in the tiny settings."""
  config, preset = get_config("tiny"), own_config("ct")
  shared = {k: preset.data[k] for k in config.data if k in preset.data}
  config.data.update(shared)
  config.data.update(path=str(folder), table=str(folder / "volumes.csv"))
  config.data.classes = tuple(CLASSES)
  config.ood_data.name = ""
  config.preprocess.size = SIZE
  config.update_from_flattened_dict(changes)
  return config


def prepared(config, workdir):
  mesh = parallel.make_mesh(jax.devices()[:2])
  main.run(config, workdir, mesh, "data")
  stage = Stage("segment", None, ("data",))
  return Prepared(Context(config, workdir, mesh, stage=stage))


def slow_grey(hu, low, high):
  """One voxel after the other."""
  found = np.zeros(hu.shape, np.uint8)
  for place in np.ndindex(hu.shape):
    share = (float(hu[place]) - low) / (high - low)
    found[place] = int(255 * min(max(share, 0.0), 1.0) + 0.5)
  return found


def axial(volume):
  """[R, A, S] -> slices from foot to head, anterior row and right column
  first."""
  return np.stack(
    [
      [
        [volume[x, y, z] for x in range(volume.shape[0] - 1, -1, -1)]
        for y in range(volume.shape[1] - 1, -1, -1)
      ]
      for z in range(volume.shape[2])
    ]
  )


@pytest.mark.parametrize("window", [None, (-1000.0, 400.0)])
def test_slices_of_a_ct_are_grey_levels_of_its_window(torso, tmp_path, window):
  folder, hu, labels = torso
  config = settings(folder)
  low, high = config.data.ct_window
  assert (low, high) == (-160.0, 240.0)
  if window:
    low, high = config.data.ct_window = window
  images = prepared(config, tmp_path)
  assert len(images) == PATIENTS * SLICES and images.classes == tuple(CLASSES)
  assert images.pixels.dtype == np.uint8
  assert set(images.table["modality"]) == {"ct"}
  at = {name: k for k, name in enumerate(images.ids.tolist())}
  inside = np.s_[5:106, 3:125]  # 101 x 122 in the middle of the size
  for k, z in ((0, 0), (2, 5), (4, 21)):
    row, level = at[f"v{k}_s{z:03d}"], k * SLICES + z
    cut = np.s_[:, :, level : level + 1]
    expected = slow_grey(axial(hu[cut]), low, high)[0]
    found = np.array(images.pixels[row, ..., 0])
    np.testing.assert_array_equal(found[inside], expected)
    assert len(np.unique(expected)) > 100  # not black and white alone
    np.testing.assert_array_equal(
      images.masks[row][inside], axial(labels[cut])[0]
    )
    found[inside] = expected.min()
    assert (found == expected.min()).all()  # what is added at the border


def test_made_up_patients_stay_on_one_side_and_keep_their_grid(torso, tmp_path):
  folder, _, labels = torso
  images = prepared(settings(folder), tmp_path)
  sides = {
    part: set(images.groups[images.part(part)].tolist())
    for part in ("train", "eval")
  }
  assert not sides["train"] & sides["eval"]
  assert len(sides["train"] | sides["eval"]) == PATIENTS
  tests = label_draws.tests_of(images)["eval"]
  assert set(tests.spacings) == {(3.0, 3.0, 3.0)}
  for name, truth in zip(tests.names, tests.truths, strict=True):
    start = int(name[1:]) * SLICES
    expected = axial(labels[:, :, start : start + SLICES])
    np.testing.assert_array_equal(truth, expected)
  table = unpack(load_artifact(tmp_path / "data" / "artifact")["table"])
  assert not table["cropped_voxels"].any()


def test_a_ct_that_is_called_mr_has_other_values(torso, tmp_path):
  """The column decides: its own z-score in place of the window."""
  folder, hu, _ = torso
  text = (folder / "volumes.csv").read_text()
  other = folder / "as_mr.csv"
  other.write_text(text.replace(",ct", ",mr"))
  images = prepared(
    settings(folder, **{"data.table": str(other)}), tmp_path / "mr"
  )
  expected = slow_grey(axial(hu[:, :, :1]), -160.0, 240.0)[0]
  row = images.ids.tolist().index("v0_s000")
  assert (images.pixels[row, 5:106, 3:125, 0] != expected).mean() > 0.5
  other.write_text(text.replace(",ct", ",pet"))
  with pytest.raises(DataError, match="modality 'pet'; known: mr, ct"):
    prepared(settings(folder, **{"data.table": str(other)}), tmp_path / "pet")


def test_an_empty_window_is_refused(torso, tmp_path):
  folder, _, _ = torso
  changes = {"data.ct_window": (240.0, -160.0)}
  with pytest.raises(ConfigError, match="data.ct_window .* lower one first"):
    prepared(settings(folder, **changes), tmp_path)


def test_the_preset_can_run():
  config = own_config("ct")
  check(config)
  assert config.segment.tile == config.pretrain.views.size == (96, 96)
