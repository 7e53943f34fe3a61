"""Presets of Pixel-global for real data, and what their headers say."""

import os
import pathlib

import numpy as np
import pytest

from gcl_jax import data
from gcl_jax.data import slice_geometry
from gcl_jax.engine.settings import preset_names
from gcl_jax.methods.pixel_global.config import PRESETS, check, get_config
from gcl_jax.pipeline import gains, sources

DATA = pathlib.Path(os.environ.get("GCL_DATA", "data"))


@pytest.mark.parametrize("preset", preset_names("pixel_global", PRESETS))
def test_presets_can_run(preset):
  config = get_config(preset)
  check(config)
  assert config.preset == preset


def opened(preset, file, table=""):
  """(config, data set, part of every slice) of a preset."""
  if not (DATA / file).exists():
    pytest.skip(f"no {DATA / file}: set GCL_DATA to the folder with it")
  config = get_config(preset)
  config.data.path = str(DATA / file)
  config.data.table = str(DATA / file / table) if table else ""
  dataset = data.load(config.data)
  return config, dataset, sources.parts(dataset, config.data)


def patients(dataset, part, name):
  return len(set(dataset.groups[part == name].tolist()))


def cut_away(config, dataset, part, name):
  """Number of labelled voxels of a part outside the prepared slices."""
  target, size = tuple(config.preprocess.spacing), config.preprocess.size
  lost = 0
  for row in np.flatnonzero(part == name).tolist():
    truth = dataset.read_mask(row) > 0
    spacing = slice_geometry.spacing_of(dataset.table, row)
    steps = np.divide(target or spacing, spacing)
    # Off the middle, in prepared pixels.
    away = (np.argwhere(truth) - (np.array(truth.shape) - 1) / 2) / steps
    lost += int((np.abs(away) > np.array(size) / 2).any(axis=1).sum())
  return lost


def test_acdc_keeps_the_labels_of_its_test_patients():
  config, dataset, part = opened("acdc", "mr_acdc", "volumes.csv")
  assert dataset.classes == ("RV", "myocardium", "LV")
  assert patients(dataset, part, "train") == 58
  assert patients(dataset, part, "eval") == 22
  assert config.segment.labelled == (round(0.1 * 58),)
  assert cut_away(config, dataset, part, "eval") == 0
  config.preprocess.spacing = (1.5, 1.5)
  assert cut_away(config, dataset, part, "eval") > 1000
  # Nominal spacing: the same in every volume, so no distance is in mm.
  for axis, mm in zip("zyx", (10.0, 1.5, 1.5), strict=True):
    assert set(dataset.table[f"spacing_{axis}"]) == {mm}
  assert gains.titles(config.segment)["hd95"] == "HD95 in voxels"
  assert "surface_dice" not in gains.titles(config.segment)


def test_hippocampus_has_the_classes_that_look_alike():
  config, dataset, part = opened("hippocampus", "mr_hippocampus.npz")
  assert set(config.segment.alike) <= set(dataset.classes)
  assert [
    patients(dataset, part, name) for name in ("train", "eval", "ood")
  ] == [*(78, 34, 31)]
  assert config.segment.labelled == (round(0.1 * 78),)
  assert cut_away(config, dataset, part, "eval") == 0
  config.preprocess.size = (32, 24)
  assert cut_away(config, dataset, part, "eval") > 100
