"""Data unlike the phantom, and settings other than the defaults."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from gcl_jax import data, main
from gcl_jax.engine import parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.severity import data as reading
from gcl_jax.methods.severity import grade
from gcl_jax.methods.severity.config import get_config
from gcl_jax.pipeline import judge, prepared, sources

pytestmark = pytest.mark.compiles

BEFORE_PROBE = ("data", "gradcon", "score", "grade", "bin", "supcon")


def tiny(**changes):
  config = get_config("tiny")
  config.arms = ()
  config.update_from_flattened_dict(changes)
  return config


def devices():
  return parallel.make_mesh(jax.devices()[:2])


def scan(seed, lesion):
  draw = np.random.default_rng(seed)
  rows = np.abs(np.arange(40)[:, None] - 20) / 12
  image = np.exp(-(rows**2)) + draw.uniform(0, 0.3, (40, 64))
  image[18:22, 20:30] *= 0.2 if lesion else 1
  return (image / image.max() * 255).astype(np.uint8)


def store(path, image, kind):
  if kind == 0:
    image = np.stack([image] * 3, -1)
  if kind == 1:
    image = image.astype(np.uint16) * 200
  Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
  """24 patients; RGB, 16 and 8 bits; blanks in every column but the patient;
  names of columns that are ours or hold a slash; a split for some rows."""
  root = tmp_path_factory.mktemp("scans")
  names = ["id", "path", "group", "healthy", "DRT/ME", "one", "severity"]
  rows = []
  for patient in range(24):
    lesion = patient % 2
    for visit in range(2):
      path = f"{patient}_{visit}.png"
      store(root / path, scan(2 * patient + visit, lesion), patient % 3)
      known = "" if patient in (4, 9) else 1 - lesion
      label, truth = (lesion, "") if visit else ("", lesion + patient / 100)
      split = "eval" if patient < 4 else "train" if patient < 6 else ""
      row = (f"s{path}", path, patient, known, label, 1, truth, f"x{visit}")
      rows.append((*row, split))
  with open(root / "table.csv", "w", newline="") as file:
    csv.writer(file).writerows([(*names, "part", "split"), *rows])
  return root


def of_folder(root, **changes):
  config = tiny(
    **{
      "data.name": "folder",
      "data.path": str(root),
      "data.table": str(root / "table.csv"),
      "data.healthy_column": "healthy",
      "data.label_columns": ("DRT/ME", "one"),
      "data.meta_columns": ("severity", "part"),
      "data.split": "split",
    }
  )
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope="module")
def run(scans, tmp_path_factory):
  """Finished run on the folder."""
  workdir = tmp_path_factory.mktemp("run")
  main.run(of_folder(scans), workdir, devices())
  return workdir


def linked(run, tmp_path, stages):
  for stage in stages:
    (tmp_path / stage).symlink_to(run / stage)
  return tmp_path


def test_a_folder_with_gaps_runs_to_its_report(run):
  metrics = json.loads((run / "report.json").read_text())["metrics"]
  for name in (
    "severity/spearman",
    "severity/auroc",
    "baseline/pca_auroc",
    "baseline/pca_layers_auroc",
    "severity/sensitivity_at_90_specificity",
    "severity/auroc_over_pca",
    "severity/auroc_over_pca_layers",
    "severity/spearman_over_edge",
    "baseline/edge_auroc",
    "baseline/brightness_auroc",
    "probe/DRT/ME/auroc",
    "probe/macro_auroc",
    "probe/macro_f1",
  ):
    assert set(metrics[name]) >= {"value", "low", "high", "n"}, name
    # The evaluation part has too few patients for a mean over labels.
    assert (metrics[name]["value"] is None) == ("/macro" in name), name
  assert metrics["probe/one/auroc"]["value"] is None
  page = (run / "report.html").read_text()
  assert "severity score over PCA error, pooled by layers" in page
  assert "No AUROC without texture of severity score" in page
  table = load_artifact(run / "data" / "artifact")["table"]
  held_out = table["part"] == "eval"
  assert metrics["probe/DRT/ME/auroc"]["n"] == held_out.sum() // 2
  assert metrics["severity/spearman"]["n"] == held_out.sum() // 2
  assert set(table["part_in_table"]) == {"x0", "x1"}


def test_a_split_column_with_blanks_is_followed_where_it_speaks(scans):
  dataset = data.load(of_folder(scans).data)
  part = sources.parts(dataset, tiny().data)
  patient = dataset.groups.astype(int)
  assert set(part[patient < 4]) == {"eval"}
  assert set(part[(patient >= 4) & (patient < 6)]) == {"train"}
  assert set(part[patient >= 6]) == {"train", "eval"}
  for number in range(24):
    assert len(set(part[patient == number])) == 1


def test_a_blank_row_follows_its_patient():
  class Some:
    read_mask = None
    groups = np.array(["a", "a", "b", "b", "c"])
    table = {"split": np.array(["eval", "", "train", "", ""])}

    def __len__(self):
      return 5

  part = sources.parts(Some(), tiny().data)
  assert part.tolist() == ["eval", "eval", "train", "train", "train"]


def test_copies_of_evaluation_scans_are_refused_or_left_out(scans, tmp_path):
  """Two training scans of one bright patient are evaluation scans again."""
  folder = tmp_path / "scans"
  shutil.copytree(scans, folder)
  for visit in range(2):
    shutil.copy(folder / f"0_{visit}.png", folder / f"5_{visit}.png")
  with pytest.raises(DataError, match="2 images .*: s0_0.png = s5_0.png"):
    main.run(of_folder(folder), tmp_path / "refuse", devices(), "data")
  left_out = of_folder(folder, **{"data.duplicates": "drop"})
  main.run(left_out, tmp_path / "drop", devices(), "data")
  found = load_artifact(tmp_path / "drop" / "data" / "artifact")
  ids = found["table"]["id"].tolist()
  assert len(ids) == 46 and "s0_0.png" in ids and "s5_0.png" not in ids
  reason = "same pixels as s0_0.png, kept for testing"
  assert ["s5_0.png", reason] in found["quarantine"].tolist()
  pixels = np.load(tmp_path / "drop" / "data" / "images.npy")
  assert len(pixels) == len(found["texture"]) == 46
  raw = np.array(Image.open(folder / "6_0.png"))
  wanted = reading.prepared(raw, left_out.preprocess)
  np.testing.assert_array_equal(pixels[ids.index("s6_0.png"), ..., 0], wanted)
  for number, row in enumerate(found["sample_rows"]):
    again = reading.prepared(
      found["raw_samples"][str(number)], left_out.preprocess
    )
    np.testing.assert_array_equal(pixels[row, ..., 0], again)


def test_without_labels_there_is_a_report_and_no_probe(
  scans, run, tmp_path, monkeypatch
):
  made = prepared.Prepared.__init__

  def without_labels(self, context):
    made(self, context)
    self.labels = ()

  monkeypatch.setattr(prepared.Prepared, "__init__", without_labels)
  linked(run, tmp_path, BEFORE_PROBE)
  main.run(of_folder(scans), tmp_path, devices())
  report = json.loads((tmp_path / "report.json").read_text())
  assert not any(name.startswith("probe/") for name in report["metrics"])
  assert any("no label column" in note for note in report["warnings"])
  assert "no label column" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
  ("changes", "stage", "message"),
  [
    ({"supcon.labels": ("severity.foo",)}, "bin", "left no score"),
    ({"score.beta_scale": "sd"}, "score", "score.beta_scale"),
    ({"score.engine": "ghosts"}, "score", "score.engine"),
    ({"report.embedding": "umap"}, "report", "report.embedding"),
    (
      {"score.source": "msp", "classifier.label": "part"},
      "score",
      "not a label column",
    ),
  ],
)
def test_bad_words_are_named(scans, run, tmp_path, changes, stage, message):
  order = (*BEFORE_PROBE, "probe", "report")
  linked(run, tmp_path, order[: order.index(stage)])
  with pytest.raises(ConfigError, match=message):
    main.run(of_folder(scans, **changes), tmp_path, devices(), only=stage)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"protocol": "transductiv"}, "protocol 'transductiv'"),
    ({"preprocess.size": (32, 64, 28)}, "rows, columns"),
  ],
)
def test_bad_settings_stop_before_anything_is_read(tmp_path, changes, message):
  with pytest.raises(ConfigError, match=message):
    main.run(tiny(**changes), tmp_path, devices(), only="data")


def test_healthy_data_must_say_who_is_healthy(scans, tmp_path):
  config = of_folder(scans)
  config.healthy_data.update(config.data)
  config.healthy_data.healthy_column = ""
  with pytest.raises(DataError, match="healthy_data.healthy_column"):
    main.run(config, tmp_path, devices(), only="data")


def test_kermany_columns_do_not_collide_with_ours(tmp_path):
  for part, first in (("train", 0), ("test", 50)):
    for number, name in enumerate(("NORMAL", "CNV")):
      folder = tmp_path / "OCT" / part / name
      folder.mkdir(parents=True)
      for k in range(4):
        patient = first + 10 * number + k
        image = scan(patient, number)
        Image.fromarray(image).save(folder / f"{name}-{patient}-1.jpeg")
  config = tiny(**{"data.name": "kermany", "data.path": str(tmp_path / "OCT")})
  main.run(config, tmp_path / "run", devices(), only="data")
  table = load_artifact(tmp_path / "run" / "data" / "artifact")["table"]
  assert len(table["part"]) == len(table["id"]) == 16
  assert set(table["part_in_table"]) == {"train", "test"}
  held_out = table["part"] == "eval"
  np.testing.assert_array_equal(held_out, table["part_in_table"] == "test")
  # As a second data set it gives no scan of its published test part.
  config = tiny(**{"healthy_data.name": "kermany"})
  config.healthy_data.path = str(tmp_path / "OCT")
  main.run(config, tmp_path / "both", devices(), only="data")
  table = load_artifact(tmp_path / "both" / "data" / "artifact")["table"]
  assert sorted(table["part_in_table"][~table["pool"]]) == ["train"] * 4


def test_one_class_in_training_is_undefined_for_every_encoder():
  targets = np.array([[0.0, 1], [1, 1], [1, np.nan]])
  fold = np.array([0, 1, 2])
  found = judge.settled(targets, np.full((3, 2), 0.5), fold, True)
  assert found[1] is None and found[0].folds == 0
  chosen = judge.chosen_of(found)["threshold"]
  np.testing.assert_allclose(chosen, [2 / 3, np.nan])


def test_words_and_gaps_in_the_truth_are_no_spearman():
  class Some:
    table = {"severity": np.array(["mild", ""])}

  assert grade.truth_of(Some()) is None
  Some.table = {"severity": np.array([1.0, np.nan])}
  assert np.isnan(grade.truth_of(Some())).tolist() == [False, True]
