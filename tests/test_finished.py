"""Finished runs on new images: every source of scores, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

import gcl_jax
from gcl_jax import data, main
from gcl_jax.engine import parallel
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.errors import DataError, UserError
from gcl_jax.methods.severity.config import get_config

pytestmark = pytest.mark.compiles


def tiny(**changes):
  config = get_config("tiny")
  config.arms = ()
  config.update_from_flattened_dict(changes)
  return config


def run(config, workdir, *stages):
  for stage in stages:
    main.run(config, workdir, parallel.make_mesh(jax.devices()[:2]), stage)
  return workdir


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
  """A run up to its scores, and scans with their ids."""
  workdir = tmp_path_factory.mktemp("scored")
  run(tiny(), workdir, "data", "gradcon", "score")
  dataset = data.load(tiny().data)
  table = load_artifact(workdir / "data" / "artifact")["table"]
  held_out = table["id"][table["part"] == "eval"][:3].tolist()
  rows = [dataset.ids.tolist().index(name) for name in held_out]
  return workdir, held_out, [dataset.read(row) for row in rows]


def expected(workdir, ids):
  found = load_artifact(workdir / "score" / "artifact")
  at = [found["ids"].tolist().index(name) for name in ids]
  return found["score"][at]


def test_scores_of_new_scans_are_those_of_the_run(scored):
  workdir, ids, scans = scored
  found = gcl_jax.load(workdir).severity(scans)
  np.testing.assert_allclose(found, expected(workdir, ids), atol=1e-5)
  with pytest.raises(DataError, match="no images were given"):
    gcl_jax.load(workdir).severity([])


@pytest.mark.parametrize("source", ["msp", "odin", "mahalanobis"])
def test_scores_of_a_classifier(scored, tmp_path, source):
  first, ids, scans = scored
  (tmp_path / "data").symlink_to(first / "data")
  config = tiny(**{"score.source": source, "classifier.label": "fluid"})
  run(config, tmp_path, "score")
  found = gcl_jax.load(tmp_path).severity(scans)
  assert found.shape == (3,)
  np.testing.assert_allclose(found, expected(tmp_path, ids), atol=1e-5)


def test_random_scores_belong_to_no_new_image(scored, tmp_path):
  first, _, scans = scored
  (tmp_path / "data").symlink_to(first / "data")
  run(tiny(**{"score.source": "random"}), tmp_path, "score")
  with pytest.raises(UserError, match="no score of an image"):
    gcl_jax.load(tmp_path).severity(scans)


def test_models_are_in_the_order_of_their_folds():
  """Of eleven, as texts 10 comes before 2."""
  from gcl_jax.methods.severity.gradcon import models_of

  artifact = {"models": {str(k): k for k in range(11)}}
  assert models_of(artifact) == list(range(11))


def test_settings_of_a_later_command_are_refused_and_not_believed(
  scored, tmp_path
):
  """config.json is that of the last command."""
  first, ids, scans = scored
  for name in ("data", "gradcon", "score"):
    (tmp_path / name).symlink_to(first / name)
  shutil.copy(first / "config.json", tmp_path)
  other = tiny(**{"score.mode": "recon", "preprocess.flatten": False})
  with pytest.raises(UserError, match="other settings"):
    run(other, tmp_path, "bin")
  assert (tmp_path / "config.json").read_bytes() == (
    first / "config.json"
  ).read_bytes()
  record = json.loads((tmp_path / "config.json").read_text())
  record["config"]["score"]["mode"] = "recon"
  record["config"]["preprocess"]["flatten"] = False
  (tmp_path / "config.json").write_text(json.dumps(record))
  found = gcl_jax.load(tmp_path).severity(scans)
  np.testing.assert_allclose(found, expected(first, ids), atol=1e-5)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, "holds no run of gcl_jax"),
    ("{", "is damaged"),
    ("{}", "is damaged"),
    ('{"config": {"method": "severty"}}', "did you mean 'severity'"),
    ('{"config": {"method": "../x"}}', "no method '../x'"),
    ('{"config": {"method": "severity"}}', "stage data is not finished"),
  ],
)
def test_folders_that_hold_no_run_are_refused_in_a_line(
  tmp_path, text, message
):
  if text is not None:
    (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match=message):
    gcl_jax.load(tmp_path)
