"""Checkpoints and artifacts are restored bitwise or refused."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import children
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax.engine import checkpoint, manifest, parallel, state
from gcl_jax.engine.checkpoint import Checkpoints
from gcl_jax.errors import UserError

pytestmark = pytest.mark.compiles

OPTIMIZER = optax.chain(optax.clip(1.0), optax.adamw(0.1))


def init(key, width=3):
  params = {"layer": {"kernel": jax.random.normal(key, (4, width))}}
  extra = {"half": jnp.ones(2, jnp.bfloat16), "none": {}, "count": jnp.int32(7)}
  return state.create(params, OPTIMIZER, key, extra)


def make(devices=1, key=3, width=3):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  return parallel.init_replicated(
    lambda k: init(k, width), mesh, jax.random.key(key)
  )


def bits(tree):
  return {k: v["sha256"] for k, v in manifest.array_hashes(tree).items()}


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (1, 8)])
def test_another_number_of_devices(tmp_path, saved_on, restored_on):
  saved = make(saved_on)
  Checkpoints(tmp_path).save(5, saved)
  like = make(restored_on, key=4)
  found = Checkpoints(tmp_path).restore(like)
  assert bits(found) == bits(saved) != bits(like)
  assert jax.tree.structure(found) == jax.tree.structure(saved)
  assert found.key.dtype == saved.key.dtype
  assert len(found.params["layer"]["kernel"].devices()) == restored_on
  draw = jax.random.normal(found.key)
  assert float(draw) == float(jax.random.normal(saved.key))


def test_the_newest_are_kept_and_a_step_can_be_saved_again(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  assert checkpoints.latest() is None
  for step in (1, 2, 3):
    checkpoints.save(step, make(key=step))
  assert checkpoints.latest() == 3
  assert bits(checkpoints.restore(make(), step=2)) == bits(make(key=2))
  with pytest.raises(UserError, match=r"no checkpoint of step 1.*\[3, 2\]"):
    checkpoints.restore(make(), step=1)
  checkpoints.save(3, make(key=9), finished=True)
  assert bits(checkpoints.restore(make())) == bits(make(key=9))
  assert checkpoints.finished


def test_another_model_is_refused_by_name(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, make())
  message = r"params/layer/kernel is float32\[4, 3\] there and float32\[4, 5\]"
  with pytest.raises(UserError, match=message) as caught:
    checkpoints.restore(make(width=5))
  assert "\n" not in str(caught.value)
  other = make().replace(extra={"queue": jnp.zeros(3)})
  with pytest.raises(UserError, match=r"extra/queue is missing there"):
    checkpoints.restore(other)
  assert checkpoints.latest() == 1  # refused, not thrown away


def flip_largest_file(folder):
  files = [path for path in folder.rglob("*") if path.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def empty_all_files(folder):
  for path in folder.rglob("*"):
    if path.is_file() and path.name != "commit_success.txt":
      path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip_largest_file, empty_all_files])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, harm):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, make(key=1))
  checkpoints.save(2, make(key=2))
  checkpoints.close()
  harm(tmp_path / "2" / "state")
  checkpoints = Checkpoints(tmp_path)
  assert bits(checkpoints.restore(make())) == bits(make(key=1))
  checkpoints.save(2, make(key=3))
  assert bits(checkpoints.restore(make())) == bits(make(key=3))


def test_wrong_bytes_that_can_be_read_are_found_out(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  real = checkpoint.array_hashes
  wrong = real(make(key=1))
  wrong["params/layer/kernel"]["sha256"] = "0" * 64
  monkeypatch.setattr(checkpoint, "array_hashes", lambda tree: wrong)
  checkpoints.save(1, make(key=1))
  monkeypatch.setattr(checkpoint, "array_hashes", real)
  with pytest.raises(UserError, match="params/layer/kernel has changed"):
    checkpoints.restore(make(), step=1)
  with pytest.raises(UserError, match="all checkpoints .* damaged"):
    checkpoints.restore(make())


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint, "SCHEMA", 99)
  Checkpoints(tmp_path).save(1, make())
  monkeypatch.undo()
  with pytest.raises(UserError, match="format 99, this program reads up to 1"):
    Checkpoints(tmp_path).restore(make())


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write to .*choose another"):
    Checkpoints(tmp_path / "file" / "checkpoints")


SAVER = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, sys.argv[2])
import test_checkpoint
from gcl_jax.engine.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for number in range(1, 1000):
  current = test_checkpoint.make(key=number)
  print("saving", number, flush=True)
  checkpoints.save(number, current)
"""


def test_killed_inside_a_save(tmp_path):
  """At any instant the newest complete checkpoint is restored."""
  here = str(pathlib.Path(__file__).parent)
  command = [sys.executable, "-c", SAVER, str(tmp_path), here]
  for delay in (0.0, 0.03):
    begun = None
    child = subprocess.Popen(
      command,
      env=os.environ | children.quick(),  # the bytes are compared with ours
      stdout=subprocess.PIPE,
      text=True,
    )
    with child:
      for line in child.stdout:
        begun = int(line.split()[1])
        if begun == 3:
          time.sleep(delay)
          child.send_signal(signal.SIGKILL)
          break
      begun = max([begun, *(int(x.split()[1]) for x in child.stdout)])
    checkpoints = Checkpoints(tmp_path)
    newest = checkpoints.latest()
    assert begun - 1 <= newest <= begun
    assert bits(checkpoints.restore(make())) == bits(make(key=newest))
    checkpoints.save(begun, make(key=begun))
    assert bits(checkpoints.restore(make())) == bits(make(key=begun))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
      str(step) for step in checkpoints._manager.all_steps()
    )
    for step in checkpoints._manager.all_steps():
      checkpoints._manager.delete(step)


TREE = {
  "params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
  "score": np.array([0.5, np.nan], np.float64),
  "count": np.int64(5),
  "zero": np.array(3.5, np.float32),
  "empty": np.zeros((0, 4), np.float32),
  "half": np.asarray(jnp.ones(3, jnp.bfloat16)),
  "mask": np.array([True, False]),
  "image": np.arange(8, dtype=np.uint8),
  "id": np.array([["a", "bé"], ["", "long name"]]),
  "name": "edges",
  "bins": 7,
  "rate": 0.1,
  "flag": True,
  "nothing": {},
  "unknown": None,
}


def test_an_artifact_comes_back(tmp_path):
  checkpoint.save_artifact(tmp_path / "artifact", TREE)
  found = checkpoint.load_artifact(tmp_path / "artifact")
  assert set(found) == set(TREE)
  for name in ("name", "bins", "rate", "flag", "nothing", "unknown"):
    assert found[name] == TREE[name] and type(found[name]) is type(TREE[name])
  np.testing.assert_array_equal(found["id"], TREE["id"])
  for name in ("score", "count", "zero", "empty", "half", "mask", "image"):
    assert isinstance(found[name], np.ndarray)
    assert found[name].dtype == TREE[name].dtype
    np.testing.assert_array_equal(found[name], TREE[name])
  assert manifest.array_hashes(found) == manifest.array_hashes(TREE)
  checkpoint.save_artifact(tmp_path / "artifact", {"only": "text"})
  assert checkpoint.load_artifact(tmp_path / "artifact") == {"only": "text"}
  assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.parametrize(
  "tree",
  [{"a/b": 1}, {3: 1}, {"x": np.array([None, 1])}, {"x": [1, 2]}],
)
def test_what_an_artifact_cannot_hold(tmp_path, tree):
  with pytest.raises(TypeError, match="artifact"):
    checkpoint.save_artifact(tmp_path / "artifact", tree)
  assert not (tmp_path / "artifact").exists()


def test_a_missing_or_damaged_artifact_is_refused(tmp_path):
  with pytest.raises(UserError, match="cannot read .*run the stage again"):
    checkpoint.load_artifact(tmp_path / "artifact")
  checkpoint.save_artifact(tmp_path / "artifact", TREE)
  empty_all_files(tmp_path / "artifact" / "arrays")
  with pytest.raises(UserError, match="cannot read .*run the stage again"):
    checkpoint.load_artifact(tmp_path / "artifact")


def test_hashes_are_of_little_endian_bytes():
  values = np.array([1.5, -2.0], np.float32)
  expected = hashlib.sha256(bytes.fromhex("0000c03f000000c0")).hexdigest()
  tree = {
    "a": {"b": values},
    "big": values.astype(">f4"),
    "jax": jnp.array(values),
  }
  found = manifest.array_hashes(tree)
  assert found["a/b"] == {"shape": [2], "dtype": "float32", "sha256": expected}
  assert found["big"] == found["jax"] == found["a/b"]
  columns = np.asfortranarray(np.arange(6).reshape(2, 3))
  assert manifest.array_hashes({"x": columns}) == manifest.array_hashes(
    {"x": np.arange(6).reshape(2, 3)}
  )


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "x.json"
  manifest.write_json(path, {"a": 1})

  def crash(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", crash)
  with pytest.raises(KeyboardInterrupt):
    manifest.write_json(path, {"a": 2})
  assert json.loads(path.read_text()) == {"a": 1}
