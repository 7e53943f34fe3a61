"""Stage `data` of GCL: two sets in one table, copies, tissue cut away."""

import dataclasses

import jax
import numpy as np
import pytest

from gcl_jax import data, main
from gcl_jax.engine import parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.engine.tables import joined, unpack
from gcl_jax.methods.gcl.config import get_config


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
