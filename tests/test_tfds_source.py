"""Data sets that others wrote with tensorflow-datasets."""

import io
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gcl_jax import data
from gcl_jax.data.readers.tfds import read as tfds_source
from gcl_jax.errors import DataError


def encoded(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  file.seek(0)
  return file


class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Two splits, a class label, a patient number and a grade."""

  VERSION = tfds.core.Version("2.1.0")

  def _info(self):
    features = dict(
      image=tfds.features.Image(shape=(None, None, 1)),
      name=tfds.features.Text(),
      patient=np.int64,
      label=tfds.features.ClassLabel(names=["normal", "cnv", "dme"]),
      sick=tfds.features.ClassLabel(names=["no", "yes"]),
      grade=np.float32,
      patch=tfds.features.Tensor(shape=(2,), dtype=np.float32),
    )
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {
      "train": self._generate_examples(0, 6),
      "test": self._generate_examples(6, 10),
    }

  def _generate_examples(self, start, stop):
    for i in range(start, stop):
      yield (
        i,
        dict(
          image=encoded(np.full((4, 5), 20 * i, np.uint8)),
          name=f"n{i}",
          patient=i // 2,
          label=i % 3,
          sick=int(i % 3 > 0),
          grade=i / 4,
          patch=np.zeros(2, np.float32),
        ),
      )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  tfds.disable_progress_bar()
  root = tmp_path_factory.mktemp("tfds")
  Foreign(data_dir=root, file_format="array_record").download_and_prepare()
  return root


def number(name):
  return int(name[1:])


def test_features_become_columns(root):
  found = tfds_source(
    root, id_column="name", group_column="patient",
    label_columns=("label", "sick"), meta_columns=("grade", "name"),
  )  # fmt: skip
  assert len(found) == 10
  assert found.labels == ("normal", "cnv", "dme", "sick")
  for row, name in enumerate(found.ids.tolist()):
    i = number(name)
    assert found.groups[row] == str(i // 2)
    assert found.column("split")[row] == ("train" if i < 6 else "eval")
    assert found.column("grade")[row] == i / 4
    one_hot = [found.column(c)[row] for c in found.labels]
    assert one_hot == [i % 3 == 0, i % 3 == 1, i % 3 == 2, i % 3 > 0]
    np.testing.assert_array_equal(found.read(row), np.full((4, 5), 20 * i))
  assert found.read(0).dtype == np.uint8
  assert "tensorflow" not in sys.modules


def test_named_builder_and_missing_ids(root):
  found = tfds_source(root, "foreign:2.1.0", group_column="patient")
  assert set(found.ids) == {f"train/{i}" for i in range(6)} | {
    f"test/{i}" for i in range(4)
  }
  with pytest.raises(DataError, match="no data set 'absent'"):
    tfds_source(root, "absent")


def test_patients_must_be_named(root, caplog):
  with pytest.raises(DataError, match="10 rows without a patient"):
    tfds_source(root, id_column="name")
  alone = tfds_source(root, id_column="name", group_unknown="image")
  assert (alone.groups == alone.ids).all()
  assert "10 rows without a patient: each image is taken" in caplog.text
  with pytest.raises(DataError, match="'grades'.*features: "):
    tfds_source(root, group_column="patient", meta_columns=("grades",))
  with pytest.raises(DataError, match="'grade' is not 0 or 1"):
    tfds_source(root, group_column="patient", label_columns=("grade",))
  with pytest.raises(DataError, match="'patch'"):
    tfds_source(root, group_column="patient", meta_columns=("patch",))


def test_other_places_and_formats_are_refused(root, tmp_path):
  with pytest.raises(DataError, match="no prepared data set"):
    tfds_source(tmp_path)
  Foreign(data_dir=tmp_path, file_format="parquet").download_and_prepare()
  with pytest.raises(DataError, match="parquet"):
    tfds_source(tmp_path, group_column="patient")


def test_a_missing_shard_is_refused(root, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(root, folder)
  for shard in folder.rglob("*array_record*"):
    shard.unlink()
  with pytest.raises(DataError, match="not a readable data set"):
    tfds_source(folder, "foreign:2.1.0")


def test_load_names_it(root):
  import argparse

  config = argparse.Namespace(
    name="tfds", path=str(root), id_column="name", group_column="patient",
    label_columns=("sick",), table="",
  )  # fmt: skip
  assert data.load(config).labels == ("sick",)
