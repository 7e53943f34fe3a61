"""Two unpaired sets of UOPSL: parts, classes and texts of their images."""

import types

import numpy as np
import pytest

from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError
from gcl_jax.methods.uopsl import data
from gcl_jax.methods.uopsl.config import get_config


def images(groups, **columns):
  names = [f"{group}_{k}" for k, group in enumerate(groups)]
  table = {"id": names, "group": groups} | columns
  return Dataset("set", {k: np.array(v) for k, v in table.items()}, None)


def sections(**changes):
  config = get_config("tiny")
  config.more_oct_data.update(name="folder", class_column="disease")
  config.update_from_flattened_dict(changes)
  return config


def context(config, **datasets):
  said = []
  telemetry = types.SimpleNamespace(say=said.append)
  return types.SimpleNamespace(
    config=config, datasets=datasets, telemetry=telemetry, said=said
  )


def test_scans_of_patients_kept_for_evaluation_are_kept_too():
  groups = [f"p{k // 2}" for k in range(20)]
  every = ["healthy"] * 20
  scans = images(groups, disease=every, split=["train"] * 20)
  fundus = types.SimpleNamespace(
    groups=np.array(["p1", "p2", "p3", "x"]),
    evaluation=np.array([True, False, True, True]),
  )
  config = sections()
  for number, section in enumerate(data.OCT_SECTIONS):
    run = context(config, **{section: scans})
    found = data._source_of_oct(run, section, fundus, number)
    back = np.isin(scans.groups, ["p1", "p3"])
    assert (found.part[back] == "eval").all()
    assert (found.part[~back] == "train").all()
    assert "scans of 2 patients" in run.said[0]
    prefix = f"{section}:" if number else ""
    assert found.dataset.groups.tolist() == [prefix + g for g in groups]


def test_the_classes_of_every_set_are_described():
  config = sections()
  run = context(
    config,
    data=images("ab", disease=["healthy", "cysts_fovea"]),
    oct_data=images("cd", disease=["healthy", ""]),
    more_oct_data=images("ef", disease=["membrane_parafovea", "healthy"]),
  )
  found = data._described(run)
  names = ["cysts_fovea", "healthy", "membrane_parafovea"]
  assert sorted(found["with_place"]) == sorted(found["without_place"]) == names
  del run.datasets["more_oct_data"]
  assert sorted(data._described(run)["with_place"]) == names[:2]


def test_numbers_keep_all_their_digits():
  """Two patients whose numbers are long are two."""
  numbers = [1234567.0, 1234568.0, 0.1, 3, "007", float("nan")]
  wanted = ["1234567", "1234568", "0.1", "3", "007", ""]
  assert list(map(data.as_name, numbers)) == wanted


def test_a_row_that_is_blank_in_all_columns_has_no_class():
  config = sections(**{"data.class_column": "dr+dme"}).data
  found = images("abc", dr=["NPDR", "", ""], dme=[1.0, np.nan, 0.0])
  classes = data.with_class(found, config).table["class"]
  assert classes.tolist() == ["NPDR+1", "", "+0"]
  config.class_names = ("+0=dry", "NPDR+1=wet")
  classes = data.with_class(found, config).table["class"]
  assert classes.tolist() == ["wet", "", "dry"]


class Stored:
  """As much of prepared images as attributes need."""

  def __init__(self, **columns):
    self.table = {k: np.array(v) for k, v in columns.items()}

  def __len__(self):
    return len(next(iter(self.table.values())))


def test_attributes_are_those_of_both_sets_and_unknown_ones_are_refused():
  both = Stored(eye=["OD", "OS"], age=[61.0, np.nan]), Stored(eye=["OD", ""])
  config = sections(**{"text.attributes": ("eye", "age")}).text
  found = data.all_attributes(both, config)
  assert found == ["", "OD", "OD 61", "OS "]
  config.attributes = ("eyes",)
  with pytest.raises(DataError, match="neither set .* column 'eyes'"):
    data.all_attributes(both, config)
