"""Stage `data` of GCL: two sets in one table, copies, tissue cut away."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from gcl_jax import data, main
from gcl_jax.engine import parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.engine.tables import joined, unpack
from gcl_jax.errors import DataError
from gcl_jax.methods.gcl.config import get_config
from gcl_jax.pipeline import report_volumes


def tiny(**changes):
  config = get_config("tiny")
  config.update_from_flattened_dict(changes)
  return config


def run(config, workdir):
  """What stage data leaves, its table unpacked."""
  main.run(config, workdir, parallel.make_mesh(jax.devices()[:2]), "data")
  found = load_artifact(workdir / "data" / "artifact")
  return {**found, "table": unpack(found["table"])}


def changed(monkeypatch, change):
  """`data.load` gives what `change(name of the domain, data set)` makes."""
  load = data.load

  def loaded(section):
    return change(section.heart.domain, load(section))

  monkeypatch.setattr(data, "load", loaded)


def with_columns(dataset, **columns):
  return dataclasses.replace(dataset, table={**dataset.table, **columns})


def test_a_column_of_one_set_is_blank_in_the_rows_of_the_other():
  one = {"id": np.array(["a", "b"]), "age": np.array([50, 60])}
  other = {"site": np.array(["north"]), "id": np.array(["c"])}
  found = joined([one, other])
  assert list(found) == ["id", "age", "site"]
  assert found["id"].tolist() == ["a", "b", "c"]
  np.testing.assert_array_equal(found["age"], [50, 60, np.nan])
  assert found["site"].tolist() == ["", "", "north"]


def test_slices_without_labels_stay_so_beside_a_set_without_the_column(
  tmp_path, monkeypatch
):
  """The other scanner's table says nothing of labels: all of it has some."""

  def change(domain, dataset):
    if domain == "other":
      return dataset
    labelled = (dataset.groups != "p0003").astype(float)
    return with_columns(dataset, labelled=labelled, age=np.arange(64.0))

  changed(monkeypatch, change)
  config = tiny()
  table = run(config, tmp_path)["table"]
  unlabelled = table["labelled"] == 0
  assert set(table["group"][unlabelled].tolist()) == {"p0003"}
  assert (table["labelled"][table["part"] == "ood"] == 1).all()
  assert table["age"][:64].tolist() == list(range(64))
  assert np.isnan(table["age"][64:]).all() and len(table["age"]) == 80
  masks = np.load(tmp_path / "data" / "masks.npy")
  assert not masks[unlabelled].any() and masks[~unlabelled].any((1, 2)).all()


TWINS = {  # (domain, volume) -> the volume that it is a copy of
  ("source", "p0000_ED"): ("source", "p0002_ED"),  # train: of evaluation
  ("source", "p0001_ED"): ("other", "p0001_ES"),  # train: of other data
  ("other", "p0000_ES"): ("source", "p0004_ES"),  # other data: of evaluation
  ("source", "p0005_ED"): ("source", "p0005_ES"),  # both in training
}


def with_copies(monkeypatch, twins):
  """Also slice 0 of a training volume is blank, and of an evaluation one."""
  sets = {}

  def change(domain, dataset):
    sets[domain] = dataset
    names = list(
      zip(
        dataset.table["volume"].tolist(),
        dataset.table["slice"].tolist(),
        strict=True,
      )
    )

    def read(row):
      volume, position = names[row]
      if position == 0 and volume in ("p0003_ED", "p0002_ES"):
        return np.zeros((32, 32), np.uint8)
      domain_, volume = twins.get((domain, volume), (domain, volume))
      found = sets[domain_].table
      same = (found["volume"] == volume) & (found["slice"] == position)
      return sets[domain_].read(int(np.flatnonzero(same)[0]))

    return dataclasses.replace(dataset, read=read)

  changed(monkeypatch, change)


@pytest.mark.parametrize("volume", list(TWINS)[:3])
def test_copies_in_two_parts_are_refused(tmp_path, monkeypatch, volume):
  with_copies(monkeypatch, {volume: TWINS[volume]})
  with pytest.raises(DataError, match="1 images are byte-identical") as caught:
    run(tiny(), tmp_path)
  for name in (volume[1], TWINS[volume][1]):
    assert name in str(caught.value)


def test_copies_of_test_volumes_are_left_out(tmp_path, monkeypatch):
  with_copies(monkeypatch, TWINS)
  found = run(tiny(**{"data.duplicates": "drop"}), tmp_path)
  table = found["table"]
  out = {"p0000_ED", "p0001_ED", "ood:p0000_ES"}
  assert len(table["id"]) == 80 - 4 * len(out)
  assert out.isdisjoint(table["volume"].tolist())
  assert {"p0005_ED", "p0005_ES", "p0003_ED"} < set(table["volume"].tolist())
  reasons = dict(found["quarantine"].tolist())
  assert len(reasons) == 12
  assert {text.split()[4] for text in reasons.values()} == {
    "p0002_ED,",
    "ood:p0001_ES,",
    "p0004_ES,",
  }
  # What is left keeps its own picture and class map.
  pixels, masks = (
    np.load(tmp_path / "data" / f"{name}.npy") for name in ("images", "masks")
  )
  assert len(pixels) == len(masks) == len(table["id"])
  source = data.load(tiny().data)
  for k in range(0, 56, 5):
    row = int(table["row"][k])
    np.testing.assert_array_equal(pixels[k, ..., 0], source.read(row))
    np.testing.assert_array_equal(masks[k], source.read_mask(row))


@pytest.mark.parametrize("spacing", [(), (4.0, 3.0)])
def test_tissue_that_is_cut_away_is_counted(tmp_path, monkeypatch, spacing):
  """One patient has labels in every pixel, one has no class maps at all."""

  def change(domain, dataset):
    if domain == "other":
      return dataset
    labelled = (dataset.groups != "p0003").astype(float)

    def read_mask(row):
      full = dataset.groups[row] == "p0002"
      return np.full((32, 32), full, np.uint8)

    changed_set = dataclasses.replace(dataset, read_mask=read_mask)
    return with_columns(changed_set, labelled=labelled)

  changed(monkeypatch, change)
  size = (24, 32)
  config = tiny(**{"preprocess.size": size, "preprocess.spacing": spacing})
  config.ood_data.name = ""
  table = run(config, tmp_path)["table"]
  full = table["group"] == "p0002"
  assert set(table["part"][full].tolist()) == {"eval"}
  assert not table["labelled_voxels"][~full].any()
  assert (table["labelled_voxels"][full] == 32 * 32).all()
  # Of 32 x 32 voxels of 3.2 mm, 24 rows of 4 mm and 32 columns of 3 mm reach
  # over 30 x 30.
  lost = 32 * 32 - (30 * 30 if spacing else 24 * 32)
  assert (table["cropped_voxels"][full] == lost).all()
  assert not table["cropped_voxels"][~full].any()
  found = types.SimpleNamespace(table=table, part=lambda n: table["part"] == n)
  (note,) = report_volumes.warnings(found, size, {}, "gcl")
  share = f"{100 * lost / 1024:.2g}"
  assert f"voxels: {8 * lost} of eval ({share} %, in 2 volumes). In" in note
  table["cropped_voxels"][:] = 0
  assert report_volumes.warnings(found, size, {}, "gcl") == []
