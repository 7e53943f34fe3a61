"""Stages: finished ones are skipped, other settings are refused."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest

from gcl_jax.engine import checkpoint, parallel
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.stages import run_stages
from gcl_jax.errors import NonFiniteError, UserError

RUNS = []


def train(context):
  RUNS.append("train")
  context.telemetry.throughput["fit"] = {"images_per_s": 5.0}
  rate = context.config.train.rate
  return {"weights": {"kernel": np.full((2, 2), rate, np.float32)}}


def score(context):
  RUNS.append("score")
  kernel = context.load("train")["weights"]["kernel"]
  return {"id": np.array(["p1", "p2"]), "score": kernel.sum(0), "beta": 0.5}


STAGES = (
  Stage("train", train, sections=("train",)),
  Stage("score", score, inputs=("train",), sections=("score",)),
)


@pytest.fixture(autouse=True)
def forget():
  RUNS.clear()


def make(workdir, **settings):
  config = ml_collections.ConfigDict(
    {
      "method": "toy",
      "seed": 3,
      "train": {"rate": 0.5, "widths": (4, 8)},
      "score": {"beta": 1.0},
      "other": {"size": 2},
    }
  )
  config.update_from_flattened_dict(settings)
  mesh = parallel.make_mesh(jax.devices()[:2])
  data = {"fingerprint": "f" * 64, "count": 10}
  return Context(config, workdir, mesh, data=data)


def test_runs_once_and_leaves_a_manifest(tmp_path):
  manifests = run_stages(STAGES, make(tmp_path))
  assert RUNS == ["train", "score"]
  run_stages(STAGES, make(tmp_path))
  assert RUNS == ["train", "score"]
  found = json.loads((tmp_path / "score" / "manifest.json").read_text())
  assert found == manifests["score"]
  data = (tmp_path / "train" / "manifest.json").read_bytes()
  assert found["inputs"] == {"train": hashlib.sha256(data).hexdigest()}
  assert found["config"] == {"score": {"beta": 1.0}, "seed": 3}
  assert found["method"] == "toy" and found["stage"] == "score"
  assert found["data"] == {"fingerprint": "f" * 64, "count": 10}
  assert found["mesh"]["devices"] == 2 and "jax" in found["versions"]
  assert found["schema"] == 1 and found["wall_s"] >= 0
  values = np.full(2, 1.0, "<f4")
  assert found["arrays"]["score"] == {
    "shape": [2],
    "dtype": "float32",
    "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
  }
  assert manifests["train"]["throughput"]["fit"]["images_per_s"] == 5.0
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["config"]["train"]["widths"] == [4, 8]
  assert config["versions"]["python"] and config["mesh"]["kind"]


def refused(stages, context, **settings):
  with pytest.raises(UserError) as caught:
    run_stages(stages, context, **settings)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_other_settings_are_refused_by_key(tmp_path):
  run_stages(STAGES, make(tmp_path))
  line = refused(STAGES, make(tmp_path, **{"train.rate": 0.25}))
  assert "stage train was finished with other settings" in line
  assert "train.rate 0.5 -> 0.25" in line and "widths" not in line
  assert "another --workdir" in line and f"delete {tmp_path}/train" in line
  assert "seed 3 -> 4" in refused(STAGES, make(tmp_path, seed=4))
  run_stages(STAGES, make(tmp_path, **{"other.size": 3}))  # nobody's section
  other = make(tmp_path)
  other.data = {"fingerprint": "e" * 64, "count": 11}
  line = refused(STAGES, other)
  assert "data.count 10 -> 11" in line
  assert "data.fingerprint ffffffffffff... -> eeeeeeeeeeee..." in line
  assert RUNS == ["train", "score"]


def test_checkpoints_of_other_settings_are_refused(tmp_path):
  """Resuming a stage that was only begun would mix two configurations."""

  def fail(context):
    raise NonFiniteError("loss")

  stages = (Stage("train", fail, sections=("train",)),)
  with pytest.raises(NonFiniteError):
    run_stages(stages, make(tmp_path))
  line = refused(stages, make(tmp_path, **{"train.rate": 0.25}))
  assert "stage train was begun with other settings: train.rate" in line
  run_stages(STAGES, make(tmp_path))
  assert RUNS == ["train", "score"]


def test_one_stage_needs_its_inputs(tmp_path):
  line = refused(STAGES, make(tmp_path), only="score")
  assert "stage train is not finished" in line and "--stage=train" in line
  assert set(run_stages(STAGES, make(tmp_path), only="train")) == {"train"}
  assert RUNS == ["train"]
  run_stages(STAGES, make(tmp_path), only="score")
  assert RUNS == ["train", "score"]
  line = refused(STAGES, make(tmp_path), only="scoer")
  assert "unknown stage 'scoer': did you mean score?" in line


def test_an_input_made_again_is_noticed(tmp_path):
  run_stages(STAGES, make(tmp_path))
  manifest = tmp_path / "train" / "manifest.json"
  manifest.write_text(manifest.read_text().replace('"wall_s": ', '"wall_s": 1'))
  line = refused(STAGES, make(tmp_path))
  assert "stage score was finished with other settings: inputs.train" in line
  manifest.unlink()
  line = refused(STAGES, make(tmp_path), only="score")
  assert "stage train is not finished" in line


def test_a_changed_artifact_is_refused(tmp_path):
  run_stages(STAGES, make(tmp_path), only="train")
  folder = tmp_path / "train" / "artifact"
  tree = checkpoint.load_artifact(folder)
  tree["weights"]["kernel"].view(np.uint8)[0, 0] ^= 1
  checkpoint.save_artifact(folder, tree)
  line = refused(STAGES, make(tmp_path))
  assert "was changed after stage train had finished: weights/kernel" in line
  assert RUNS == ["train"]


def test_a_changed_byte_on_disk_is_refused(tmp_path):
  run_stages(STAGES, make(tmp_path), only="train")
  folder = tmp_path / "train" / "artifact" / "arrays"
  files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]
  for path in files:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
  assert files
  line = refused(STAGES, make(tmp_path))
  assert "train" in line and "again" in line
  assert RUNS == ["train"]


def test_a_stage_loads_only_what_it_lists(tmp_path):
  stages = (STAGES[0], Stage("score", score))
  with pytest.raises(ValueError, match="does not list input train"):
    run_stages(stages, make(tmp_path))
  with pytest.raises(ValueError, match=r"stage score: not before \['train'\]"):
    run_stages(STAGES[::-1], make(tmp_path))


def test_a_damaged_or_newer_manifest_is_refused(tmp_path):
  run_stages(STAGES, make(tmp_path))
  path = tmp_path / "train" / "manifest.json"
  text = path.read_text()
  path.write_text(text.replace('"schema": 1', '"schema": 9'))
  assert "format 9, this program" in refused(STAGES, make(tmp_path))
  path.write_text(text[: len(text) // 2])
  assert "manifest.json is damaged" in refused(STAGES, make(tmp_path))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  assert "cannot write to" in refused(STAGES, make(tmp_path / "file" / "run"))


HOLDER = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
from gcl_jax.engine.lock import lock
with lock(sys.argv[1]):
  print("held", flush=True)
  sys.stdin.read()
"""


def test_a_second_run_is_refused_and_a_dead_one_replaced(tmp_path):
  command = [sys.executable, "-c", HOLDER, str(tmp_path)]
  pipe = subprocess.PIPE
  with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
    assert holder.stdout.readline() == "held\n"
    line = refused(STAGES, make(tmp_path))
    assert f"in use by process {holder.pid} on {socket.gethostname()}" in line
    holder.kill()
  assert json.loads((tmp_path / ".lock").read_text())["pid"] == holder.pid
  run_stages(STAGES, make(tmp_path))
  assert RUNS == ["train", "score"]
  assert (tmp_path / ".lock").read_text() == ""


def test_a_run_on_another_host_is_refused(tmp_path):
  owner = {"host": "elsewhere", "pid": os.getpid()}
  (tmp_path / ".lock").write_text(json.dumps(owner))
  assert "on elsewhere" in refused(STAGES, make(tmp_path))
  (tmp_path / ".lock").write_text('{"host": "else')  # cut off by a kill
  run_stages(STAGES, make(tmp_path))


def summary(context):
  return {"total": float(context.load("score")["score"].sum())}


def test_an_input_made_from_what_is_no_longer_there_is_refused(tmp_path):
  stages = (*STAGES, Stage("summary", summary, inputs=("score",)))
  run_stages(STAGES, make(tmp_path))
  shutil.rmtree(tmp_path / "train")
  run_stages(STAGES, make(tmp_path, **{"train.rate": 0.25}), only="train")
  line = refused(stages, make(tmp_path, **{"train.rate": 0.25}), only="summary")
  assert "stage score" in line and "another train" in line


def test_a_single_field_can_be_a_section(tmp_path):
  stages = (Stage("train", train, sections=("train.rate",)),)
  run_stages(stages, make(tmp_path))
  run_stages(stages, make(tmp_path, **{"train.widths": (2, 2)}))
  assert RUNS == ["train"]
  line = refused(stages, make(tmp_path, **{"train.rate": 0.25}))
  assert "train.rate 0.5 -> 0.25" in line


def test_a_stage_that_left_nothing_can_begin_again_with_other_settings(
  tmp_path,
):
  def picky(context):
    if context.config.train.rate > 0.3:
      raise UserError("too fast")
    return train(context)

  stages = (Stage("train", picky, sections=("train",)),)
  assert refused(stages, make(tmp_path)) == "too fast"
  run_stages(stages, make(tmp_path, **{"train.rate": 0.25}))
  assert RUNS == ["train"]
