"""Patients and copies on both sides of the split: refused or reported."""

import csv
import types

import jax
import numpy as np
import pytest
from PIL import Image

from gcl_jax import main
from gcl_jax.engine import parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.errors import DataError
from gcl_jax.methods.severity.config import get_config
from gcl_jax.pipeline import report


def scan(seed):
  draw = np.random.default_rng(seed)
  rows = np.abs(np.arange(40)[:, None] - 20) / 12
  image = np.exp(-(rows**2)) + draw.uniform(0, 0.3, (40, 64))
  return image / image.max() * 255


@pytest.fixture
def crossing(tmp_path):
  """Scans of six patients. Patient 1 is in both parts; a training scan of
  patient 5 is an evaluation scan of patient 0, made darker."""
  rows = [("id", "path", "group", "healthy", "split")]
  for patient in range(6):
    for visit in range(2):
      name = f"{patient}_{visit}"
      image = scan(2 * patient + visit)
      if name == "5_1":
        image = scan(1) * 0.8 + 10
      Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{name}.png")
      part = "eval" if patient == 0 or name == "1_0" else "train"
      rows.append((name, f"{name}.png", patient, patient % 2, part))
  with open(tmp_path / "table.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
  config = get_config("tiny")
  config.data.update(
    name="folder",
    path=str(tmp_path),
    table=str(tmp_path / "table.csv"),
    healthy_column="healthy",
    split="split",
  )
  return config


def notes(config, workdir):
  mesh = parallel.make_mesh(jax.devices()[:1])
  main.run(config, workdir, mesh, "data")
  artifact = load_artifact(workdir / "data" / "artifact")
  context = types.SimpleNamespace(config=config)
  return report.data_warnings(context, types.SimpleNamespace(artifact=artifact))


def test_row31_row32_what_crosses_is_said_in_the_report(crossing, tmp_path):
  crossing.data.allow_group_overlap = True
  overlap, alike = notes(crossing, tmp_path / "run")
  assert overlap.startswith("1 groups are in both")
  assert alike.startswith("1 evaluation images look like a training image")
  assert ": 0_1 and 5_1 (" in alike
  crossing.data.near_copies = False
  assert notes(crossing, tmp_path / "silent") == [overlap]


def test_row31_without_being_asked_for_it_is_refused(crossing, tmp_path):
  with pytest.raises(DataError, match=r"1 groups \(patients\).*: 1;"):
    notes(crossing, tmp_path / "run")
