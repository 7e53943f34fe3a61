"""Faults while a run saves, stops or resumes, in one process."""

import errno
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import toy
from test_processes import Run, finished

from gcl_jax import disk
from gcl_jax.engine import (
  checkpoint,
  feed,
  manifest,
  parallel,
  preemption,
  stages,
  train,
)
from gcl_jax.engine.checkpoint import Checkpoints
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.lock import lock
from gcl_jax.engine.telemetry import Telemetry
from gcl_jax.errors import NonFiniteError, Preempted, UserError

pytestmark = pytest.mark.compiles

KILLS = int(os.environ.get("GCL_KILLS", 3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run."""
  return finished(tmp_path_factory.mktemp("whole"), 1, 1)


def fit(steps, checkpoints=None, poison=(), **settings):
  """The toy run in this process."""
  mesh = parallel.make_mesh(jax.devices()[:1])

  def batches(start):
    stream = feed.batches({"x": toy.DATA}, 8, seed=1, start=start, steps=steps)
    for number, batch in enumerate(stream, start + 1):
      yield batch | ({"x": batch["x"] * np.nan} if number in poison else {})

  state = parallel.init_replicated(toy.init, mesh, jax.random.key(3))
  return train.fit(
    toy.step,
    state,
    batches,
    steps=steps,
    mesh=mesh,
    checkpoints=checkpoints,
    **settings,
  )


def test_row01_row02_killed_at_random_instants_of_saving(tmp_path):
  """Saves after every step: most instants lie inside a save."""
  arguments = (f"--steps={20 + 30 * KILLS}", "--save_every=1")
  whole = finished(tmp_path / "whole", 1, 1, *arguments)
  instants, reached = random.Random(0), []
  for _ in range(KILLS):
    run = Run(tmp_path / "killed", 1, 1, *arguments)
    end = time.monotonic() + 60
    while len(run.batches()) < 9:  # some steps done: six are read ahead
      assert time.monotonic() < end, run.words()
      time.sleep(0.01)
    time.sleep(instants.uniform(0, 0.3))
    run.children[0].kill()
    assert run.codes() == [-signal.SIGKILL]
    reached.append(min(run.batches()))
  again = finished(tmp_path / "killed", 1, 1, *arguments)
  assert again.result() == whole.result()
  assert reached == sorted(reached) and reached[-1] > 0  # never back
  left = [p.name for p in (tmp_path / "killed/checkpoints").iterdir()]
  assert not [name for name in left if "tmp" in name], left


def test_row02_killed_between_the_two_halves_of_replacing(tmp_path):
  """An artifact whose folder is gone and whose new one is not there yet."""
  folder = tmp_path / "artifact"
  checkpoint.save_artifact(folder, {"a": np.arange(3)})
  folder.rename(tmp_path / "artifact.tmp")
  with pytest.raises(UserError, match="cannot read .*artifact"):
    checkpoint.load_artifact(folder)
  checkpoint.save_artifact(folder, {"a": np.arange(4)})
  assert checkpoint.load_artifact(folder)["a"].tolist() == [0, 1, 2, 3]


def _arrays(folder):
  files = [p for p in folder.rglob("*") if p.is_file() and "state" in p.parts]
  return sorted(files, key=lambda p: p.stat().st_size)


def _empty(folder):
  _arrays(folder)[-1].write_bytes(b"")


def _half(folder):
  path = _arrays(folder)[-1]
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(folder):
  path = _arrays(folder)[-1]
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 255
  path.write_bytes(bytes(data))


def _no_meta(folder):
  shutil.rmtree(folder / "meta")


@pytest.mark.parametrize("harm", [_empty, _half, _flip, _no_meta])
def test_row03_row06_row07_a_damaged_checkpoint_gives_way(tmp_path, harm):
  first = Checkpoints(tmp_path)
  fit(8, first, save_every=4)
  first.close()
  harm(tmp_path / "8")
  strict = Checkpoints(tmp_path, strict=True)
  with pytest.raises(UserError, match="8 is damaged: .*there are: .8, 4."):
    strict.restore(fit(1))
  strict.close()
  second = Checkpoints(tmp_path)
  found = second.restore(fit(1))
  assert int(found.step) == 4 and second.latest() == 4
  hashes = [manifest.array_hashes(state) for state in (fit(8, second), fit(8))]
  assert hashes[0] == hashes[1]


class Power:
  """Simulated power loss: only synced bytes survive."""

  def __init__(self, monkeypatch):
    self.synced, self.order, sync = {}, [], disk.sync

    def note(path):
      sync(path)
      found = os.stat(path)
      self.synced[found.st_ino] = found.st_size, found.st_mtime_ns
      self.order.append(os.path.basename(path))

    monkeypatch.setattr(disk, "sync", note)

  def fails(self, folder):
    """Empties what was not synced since it was last written; their names."""
    lost = []
    for path in folder.rglob("*"):
      found = path.stat()
      kept = self.synced.get(found.st_ino)
      if path.is_file() and kept != (found.st_size, found.st_mtime_ns):
        path.write_bytes(b"")
        lost.append(path.name)
    return lost


def test_row03_a_saved_checkpoint_survives_a_power_loss(tmp_path, monkeypatch):
  power = Power(monkeypatch)
  checkpoints = Checkpoints(tmp_path)
  state = fit(8, checkpoints, save_every=4)
  (tmp_path / "8" / "late").write_text("never synced")
  assert power.fails(tmp_path) == ["late"]
  again = Checkpoints(tmp_path, strict=True).restore(fit(1))
  assert manifest.array_hashes(again) == manifest.array_hashes(state)


def test_row03_a_finished_stage_survives_a_power_loss(tmp_path, monkeypatch):
  """Nothing but TensorBoard's log; the manifest is the last to be synced."""
  power = Power(monkeypatch)

  def run(context):
    fit(3, context.checkpoints("toy"), telemetry=context.telemetry)
    (context.folder / "images.npy").write_bytes(b"made outside the artifact")
    return {"a": np.arange(5), "names": np.array(["x", "y"])}

  config = ml_collections.ConfigDict(dict(method="toy", seed=0))
  mesh = parallel.make_mesh(jax.devices()[:1])
  context = Context(config, tmp_path, mesh, "shard_map", data={})
  planned = (Stage("one", run, (), ()),)
  stages.run_stages(planned, context)
  assert power.order[-2].startswith(".manifest.json")  # then its folder
  lost = power.fails(tmp_path / "one")
  assert not [name for name in lost if "tfevents" not in name]
  found = checkpoint.load_artifact(tmp_path / "one/artifact")
  assert found["a"].tolist() == [0, 1, 2, 3, 4]


def test_row04_a_full_disk_is_waited_for(tmp_path):
  """A limit on file sizes simulates a full disk for a while."""
  said, limits = [], resource.getrlimit(resource.RLIMIT_FSIZE)
  telemetry = Telemetry()
  telemetry.say = said.append

  def fill(state):
    full = 3 <= int(state.step) < 6
    soft = 64 if full else limits[0]
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, limits[1]))
    return state, {}, False

  checkpoints = Checkpoints(tmp_path)
  try:
    fit(
      8,
      checkpoints,
      save_every=2,
      every=1,
      on_every=fill,
      telemetry=telemetry,
    )
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  (line,) = [line for line in said if "could not be saved" in line]
  assert line.startswith("train: step 4 could not be saved")
  assert line.endswith("going on") and checkpoints.latest() == 8
  found = Checkpoints(tmp_path).restore(fit(1))
  assert int(found.step) == 8


def test_row04_a_disk_that_stays_full_ends_the_run(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  fit(2, checkpoints)

  def full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(disk, "sync", full)
    with pytest.raises(UserError, match="could not be saved: .*No space left"):
      fit(20, checkpoints, save_every=1)
  assert int(Checkpoints(tmp_path).restore(fit(1)).step) >= 2


def test_row05_a_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write to .*choose another"):
    Checkpoints(tmp_path / "file" / "checkpoints")


def test_row08_another_architecture_is_refused_by_name(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  state = fit(2, checkpoints)
  other = state.replace(params={"map": jnp.zeros((6, 5))})
  with pytest.raises(
    UserError, match=r"params/map is float32\[6, 3\] there.*\[6, 5\] here"
  ):
    checkpoints.restore(other)


def test_row09_a_newer_format_is_refused(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  monkeypatch.setattr(checkpoint, "SCHEMA", manifest.SCHEMA + 1)
  state = fit(2, checkpoints)
  monkeypatch.setattr(checkpoint, "SCHEMA", manifest.SCHEMA)
  with pytest.raises(UserError, match="has format 2, this program reads up to"):
    checkpoints.restore(state)


def test_row12_row13_asked_to_stop_and_resumed_bit_for_bit(whole, tmp_path):
  for number, asked in ((5, signal.SIGTERM), (15, signal.SIGINT)):
    run = Run(tmp_path, 1, 1, "--pause=0.05", "--save_every=0")
    run.until(f"batch {number} ")
    run.children[0].send_signal(asked)
    begin = time.monotonic()
    assert run.codes() == [75], run.words()
    assert time.monotonic() - begin < 10
    assert asked.name in run.words() and "Traceback" not in run.words()
  assert finished(tmp_path, 1, 1).result() == whole.result()


def test_row12_a_second_interrupt_leaves_at_once(whole, tmp_path):
  run = Run(tmp_path, 1, 1, "--pause=0.05", "--save_every=2")
  run.until("batch 8 ")
  run.children[0].send_signal(signal.SIGINT)
  run.children[0].send_signal(signal.SIGINT)
  assert run.codes(20)[0] != 0
  assert finished(tmp_path, 1, 1).result() == whole.result()


def test_row15_row48_two_runs_in_one_folder(tmp_path):
  holder = (
    "import sys, time\n"
    "from gcl_jax.engine.lock import lock\n"
    f"with lock({str(tmp_path)!r}):\n"
    "  print('held', flush=True)\n"
    "  time.sleep(60)\n"
  )
  with subprocess.Popen(
    [sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True
  ) as child:
    assert child.stdout.readline() == "held\n"
    with (
      pytest.raises(UserError, match=f"in use by process {child.pid} on"),
      lock(tmp_path),
    ):
      pass
    child.kill()
  with lock(tmp_path):  # its owner is dead
    pass


def test_row15_on_a_file_system_without_locks(tmp_path, monkeypatch):
  """The process named in the file decides: alive, dead, or on another host."""

  def refuse(*args):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, "flock", refuse)
  host = socket.gethostname()

  def left(pid, host=host):
    (tmp_path / ".lock").write_text(json.dumps({"host": host, "pid": pid}))

  with subprocess.Popen([sys.executable, "-c", ""]) as dead:
    dead.wait()
  left(dead.pid)
  with lock(tmp_path):
    pass
  for pid, where in ((os.getppid(), host), (dead.pid, "elsewhere")):
    left(pid, where)
    with (
      pytest.raises(UserError, match=f"process {pid} on {where}: wait"),
      lock(tmp_path),
    ):
      pass


def test_row18_row19_losses_that_are_not_finite(tmp_path):
  checkpoints, telemetry = Checkpoints(tmp_path), Telemetry()
  fit(6, checkpoints, poison=(3,), telemetry=telemetry)
  assert telemetry.throughput["train"]["skipped"] == 1
  with pytest.raises(
    NonFiniteError, match="3 steps in a row.*step 6 is saved and finite"
  ):
    fit(20, checkpoints, poison=(8, 9, 10), max_skipped=3)
  assert np.isfinite(checkpoints.restore(fit(1)).params["map"]).all()


def test_row19_skipped_steps_that_are_not_in_a_row_go_on():
  telemetry = Telemetry()
  fit(12, poison=(2, 3, 5, 6, 8), max_skipped=3, telemetry=telemetry)
  assert telemetry.throughput["train"]["skipped"] == 5


def test_row12_asked_to_stop_where_nothing_is_to_be_saved():
  """During a host stage, or while a program compiles."""
  before = signal.getsignal(signal.SIGTERM)
  with preemption.between_checkpoints():
    with pytest.raises(Preempted, match="SIGTERM between two checkpoints"):
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(5)
    with preemption.watch() as asked_by:  # a fit saves first, then raises
      os.kill(os.getpid(), signal.SIGTERM)
      assert asked_by() == "SIGTERM"
  assert signal.getsignal(signal.SIGTERM) == before


def test_row47_logs_that_vanish_do_not_stop_training(tmp_path):
  telemetry = Telemetry(tmp_path / "logs", "toy")

  def vanish(state):
    shutil.rmtree(tmp_path / "logs", ignore_errors=True)
    (tmp_path / "logs").write_text("")  # nor can they be made again
    return state, {}, False

  state = fit(6, every=2, on_every=vanish, telemetry=telemetry, log_every=1)
  assert int(state.step) == 6
  telemetry.close()


def test_row44_data_edited_between_two_runs_are_noticed(tmp_path):
  def context(fingerprint):
    return Context(
      {"method": "toy", "seed": 0},
      tmp_path,
      parallel.make_mesh(jax.devices()[:1]),
      data={"fingerprint": fingerprint, "count": 2},
    )

  one = Stage("one", lambda context: {"a": np.arange(2)})
  stages.run_stages([one], context("as it was"))
  with pytest.raises(UserError, match="data.fingerprint as it was -> edited"):
    stages.run_stages([one], context("edited"))


def test_row45_a_killed_worker_ends_the_run_with_its_reason():
  rows = feed.mapped(_die, 100, workers=1)
  begin = time.monotonic()
  with pytest.raises(Exception, match="(?i)worker|process|exit"):
    list(rows)
  assert time.monotonic() - begin < 30


def _die(row):
  if row == 40:
    os.kill(os.getpid(), signal.SIGKILL)
  return re.sub("x", "y", f"x{row}")


def test_row46_a_file_system_that_stalls_is_waited_for(tmp_path, monkeypatch):
  sync, said = disk.sync, []

  def stalls(path):
    time.sleep(0.3)
    sync(path)

  monkeypatch.setattr(train, "SLOW_SAVE_S", 0.25)
  checkpoints, telemetry = Checkpoints(tmp_path), Telemetry()
  telemetry.say = said.append
  monkeypatch.setattr(disk, "sync", stalls)
  fit(2, checkpoints, telemetry=telemetry)
  assert any("saving step 2 took" in line for line in said)
  assert checkpoints.latest() == 2
