"""The loop: exact resumes, signals, bad losses, one compile."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import children
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax.collectives import pmean
from gcl_jax.engine import dispatch, feed, parallel, state, train
from gcl_jax.engine.checkpoint import Checkpoints
from gcl_jax.engine.telemetry import Telemetry, read_metrics
from gcl_jax.errors import (
  ConfigError,
  DataError,
  NonFiniteError,
  Preempted,
  UserError,
)

pytestmark = pytest.mark.compiles

OPTIMIZER = optax.adam(0.1)
TARGETS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def init(key):
  return state.create(
    {"center": jnp.zeros(3)}, OPTIMIZER, key, {"best": jnp.zeros(3)}
  )


def step(current, batch, *, axis_name):
  key = jax.random.fold_in(current.key, current.step)
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["index"])
  # The key's own bits: half the compile time of a proper draw.
  noise = jax.random.key_data(keys)[:, :1].astype(jnp.float32) * 2.0**-32

  def loss_of(params):
    distance = params["center"] - batch["target"] + 0.1 * noise
    return jnp.mean(jnp.einsum("bi,bi->b", distance, distance))

  loss, gradients = jax.value_and_grad(loss_of)(current.params)
  loss, gradients = pmean((loss, gradients), axis_name)
  return state.update(current, gradients, OPTIMIZER), {"loss": loss}


def stream(start, steps=40, targets=TARGETS):
  arrays = {"target": targets}
  return feed.batches(arrays, 8, seed=5, start=start, steps=steps)


def fit(steps=7, devices=1, batches=stream, step=step, **settings):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  current = parallel.init_replicated(init, mesh, jax.random.key(1))
  return train.fit(step, current, batches, steps=steps, mesh=mesh, **settings)


def bits(tree):
  """Every leaf's bytes: equal means equal to the last bit."""

  def raw(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

  return jax.tree.map(raw, tree)


class Stopping:
  """Batches that send a signal to this process when number `at` is read."""

  def __init__(self, at, signals=(signal.SIGTERM,)):
    self.at, self.signals = at, signals

  def __call__(self, start):
    for number, batch in enumerate(stream(start), start):
      if number == self.at:
        for each in self.signals:
          os.kill(os.getpid(), each)
          time.sleep(0.05)
      yield batch


@pytest.mark.parametrize("mode", parallel.MODES)
def test_every_mode_trains_to_the_same_parameters(mode):
  expected = fit(devices=1)
  found = fit(devices=2, mode=mode)
  np.testing.assert_allclose(
    found.params["center"], expected.params["center"], atol=1e-6
  )
  assert int(found.step) == 7


def test_resume_is_exact(tmp_path):
  whole = fit(steps=9)
  first = Checkpoints(tmp_path)
  fit(steps=4, checkpoints=first)
  first.close()
  again = Checkpoints(tmp_path)
  assert bits(fit(steps=9, checkpoints=again)) == bits(whole)


def test_a_stop_by_signal_is_resumed_exactly(tmp_path):
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(Preempted, match="SIGTERM.*saved: run the same command"):
    fit(batches=Stopping(at=4), checkpoints=checkpoints, save_every=2)
  assert 0 < checkpoints.latest() < 7
  assert before == (
    signal.getsignal(signal.SIGTERM),
    signal.getsignal(signal.SIGINT),
  )
  assert bits(fit(checkpoints=checkpoints)) == bits(fit())


def test_one_interrupt_saves_and_two_leave_at_once(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(Preempted, match="SIGINT"):
    fit(
      batches=Stopping(at=4, signals=[signal.SIGINT]), checkpoints=checkpoints
    )
  with pytest.raises(KeyboardInterrupt):
    fit(steps=40, batches=Stopping(at=30, signals=[signal.SIGINT] * 2))
  with pytest.raises(Preempted, match="nothing was saved"):
    fit(steps=40, batches=Stopping(at=30))


def test_an_early_stop_stays_stopped(tmp_path):
  calls = []

  def validate(current):
    calls.append(int(current.step))
    extra = {"best": current.params["center"]}  # shares the array: no donation
    return current.replace(extra=extra), {"error": 1.0}, len(calls) == 2

  settings = {"every": 2, "on_every": validate, "steps": 20}
  checkpoints = Checkpoints(tmp_path)
  stopped = fit(checkpoints=checkpoints, **settings)
  assert int(stopped.step) == 4 and calls == [2, 4]
  np.testing.assert_array_equal(stopped.extra["best"], stopped.params["center"])
  again = fit(checkpoints=checkpoints, **settings)
  assert bits(again) == bits(stopped) and calls == [2, 4]


def test_a_finished_fit_reads_no_data(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  done = fit(checkpoints=checkpoints)

  def forbidden(start):
    raise AssertionError("no batch is needed")

  assert bits(fit(checkpoints=checkpoints, batches=forbidden)) == bits(done)


def poisoned(*bad):
  """Batches of which those with these numbers, from 1, are not finite."""

  def batches(start):
    for number, batch in enumerate(stream(start), start + 1):
      if number in bad:
        batch["target"] = batch["target"] * np.nan
      yield batch

  return batches


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("together", [1, 3])
def test_a_bad_batch_is_skipped_counted_and_named(tmp_path, mode, together):
  telemetry = Telemetry(tmp_path, "demo")
  names = np.array([f"scan {row}" for row in range(len(TARGETS))])
  settings = dict(devices=2, mode=mode, steps_per_dispatch=together)
  seen = []

  def before_and_after(current):
    seen.append(bits(current.replace(step=jnp.int32(0))))
    return current, {}, False

  found = fit(
    batches=poisoned(4),
    telemetry=telemetry,
    ids=names,
    every=1,
    on_every=before_and_after,
    **settings,
  )
  telemetry.close()
  if together == 1:
    assert seen[3] == seen[2]  # nothing but the number of the step
  assert int(found.step) == 7 and np.isfinite(found.params["center"]).all()
  assert telemetry.throughput["train"]["skipped"] == 1
  (line,) = (tmp_path / "skipped.jsonl").read_text().splitlines()
  record = json.loads(line)
  assert record["name"] == "train" and record["step"] == 4
  batch = next(stream(3))
  assert sorted(record["images"]) == sorted(names[batch["index"]])


@pytest.mark.parametrize("log_every", [1, 20])
def test_bad_losses_in_a_row_end_the_run(tmp_path, log_every):
  checkpoints = Checkpoints(tmp_path)
  settings = dict(log_every=log_every, save_every=3, max_skipped=2)
  fit(batches=poisoned(2, 4, 6), checkpoints=checkpoints, **settings)
  with pytest.raises(
    NonFiniteError, match="2 steps in a row.*step 12; step 9 is saved"
  ):
    fit(
      steps=20,
      batches=poisoned(11, 12, 13),
      checkpoints=checkpoints,
      **settings,
    )
  assert checkpoints.latest() == 9
  kept = checkpoints.restore(fit(steps=1))
  assert np.isfinite(kept.params["center"]).all()


def test_a_run_of_bad_steps_alone_is_no_success():
  with pytest.raises(NonFiniteError, match="3 steps in a row"):
    fit(steps=3, batches=poisoned(1, 2, 3))


@pytest.mark.parametrize("bad", [None, "loss", "parameter"])
def test_accelerators_choose_as_a_cpu_does(bad):
  """A CPU takes a branch and never runs the choice by element."""
  before = init(jax.random.key(0))
  after = jax.tree.map(
    lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x + 1,
    before,
  )
  fine = jnp.bool_(bad is None)
  if bad == "parameter":
    after = after.replace(params=jax.tree.map(lambda x: x / 0, after.params))
  branch = jax.jit(dispatch._by_branch)(fine, after, before)
  element = jax.jit(dispatch._by_element)(fine, after, before)
  assert bits(branch) == bits(element) == bits(before if bad else after)


def test_only_a_cpu_takes_a_branch():
  def step(state, batch, *, axis_name):
    return state.replace(step=state.step + 1), {"loss": batch["x"].sum()}

  program = functools.partial(dispatch.several(step), axis_name=None)
  traced = jax.jit(program).trace(
    init(jax.random.key(0)), ({"x": jnp.ones(2)},)
  )
  for platform in ("cpu", "cuda", "tpu"):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.select" in text) == (platform != "cpu"), platform


def test_bad_parameters_under_a_finite_loss_are_skipped():
  def wrong(current, batch, *, axis_name):
    following, metrics = step(current, batch, axis_name=axis_name)
    bad = jnp.where(current.step == 3, jnp.nan, 0)
    params = {"center": following.params["center"] + bad}
    return following.replace(params=params), metrics

  telemetry = Telemetry()
  found = fit(step=wrong, telemetry=telemetry)
  assert telemetry.throughput["train"]["skipped"] == 1
  assert np.isfinite(found.params["center"]).all()


def test_compiled_once_whatever_the_number_of_steps():
  events = []

  def listen(name, seconds, **details):
    if name.endswith("backend_compile_duration"):
      events.append(name)

  counts = []
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    for steps in (3, 3, 30):
      events.clear()
      fit(steps=steps, log_every=2, devices=2)
      counts.append(len(events))
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert counts[1] == counts[2] <= counts[0]


def test_the_step_is_traced_once():
  traces = []

  def counted(current, batch, *, axis_name):
    traces.append(axis_name)
    return step(current, batch, axis_name=axis_name)

  fit(step=counted, devices=2)
  assert traces == [parallel.AXIS]


def test_nothing_is_read_from_the_device_between_log_points(monkeypatch):
  """Reads outside of `read` (the log points) do not grow with the steps."""
  reads, inside = [], []
  kind = type(jnp.zeros(()))
  value, read = kind._value.fget, train._Run.read

  def counted(array):
    if not inside and threading.current_thread() is threading.main_thread():
      reads.append(array.shape)
    return value(array)

  def at_log_point(run):
    inside.append(True)
    read(run)
    inside.pop()

  monkeypatch.setattr(kind, "_value", property(counted))
  monkeypatch.setattr(train._Run, "read", at_log_point)
  counts = []
  for steps in (10, 30):
    reads.clear()
    fit(steps=steps, log_every=5, devices=2)
    counts.append(len(reads))
  assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("mode", parallel.MODES)
def test_several_steps_in_one_program(mode, tmp_path):
  telemetry = Telemetry(tmp_path / "logs", "demo")
  seen = []

  def look(current):
    seen.append(int(current.step))
    return current, {}, False

  settings = dict(
    steps=7, devices=2, mode=mode, telemetry=telemetry, log_every=2, every=3
  )
  together = fit(**settings, on_every=look, steps_per_dispatch=3)
  telemetry.close()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    together.params,
    fit(devices=2, mode=mode).params,
  )
  assert seen == [3, 6]
  records = read_metrics(tmp_path / "logs")
  assert {record["step"] for record in records if "loss" in record} == {3, 6, 7}
  record = telemetry.throughput["train"]
  assert record["steps"] == 7
  assert record["images_per_s"] * record["seconds"] == pytest.approx(56)


def test_several_steps_in_one_program_stop_save_and_go_on(tmp_path):
  """Asked to stop inside a program: its end is saved."""
  checkpoints = Checkpoints(tmp_path)
  settings = dict(checkpoints=checkpoints, steps_per_dispatch=3, save_every=2)
  with pytest.raises(Preempted, match="after step"):
    fit(steps=30, batches=Stopping(12), **settings)
  stopped = checkpoints.latest()
  assert stopped % 3 == 0 and 0 < stopped < 30
  resumed = fit(steps=30, **settings)
  assert bits(resumed) == bits(fit(steps=30, steps_per_dispatch=3))


def test_no_step_in_a_program_is_refused():
  with pytest.raises(ConfigError, match="steps_per_dispatch must be 1"):
    fit(steps_per_dispatch=0)


def test_the_state_given_stays_alive():
  mesh = parallel.make_mesh(jax.devices()[:2])
  current = parallel.init_replicated(init, mesh, jax.random.key(1))
  train.fit(step, current, stream, steps=2, mesh=mesh)
  np.testing.assert_array_equal(current.params["center"], np.zeros(3))


def test_metrics_and_throughput(tmp_path):
  telemetry = Telemetry(tmp_path, "demo")
  fit(steps=7, telemetry=telemetry, log_every=3, name="toy", devices=2)
  telemetry.close()
  records = read_metrics(tmp_path)
  assert [record["step"] for record in records] == [3, 6, 7]
  assert {record["name"] for record in records} == {"toy"}
  fit(steps=3, telemetry=(each := Telemetry(tmp_path / "each")), log_every=1)
  each.close()
  losses = [record["loss"] for record in read_metrics(tmp_path / "each")]
  assert len(losses) == 3 and len(set(losses)) == 3
  assert records[0]["loss"] == pytest.approx(losses[2], rel=1e-5)
  record = telemetry.throughput["toy"]
  assert record["steps"] == 7
  assert record["images_per_s"] * record["seconds"] == pytest.approx(56)
  assert 0 <= record["data_wait"] <= 1 and record["compile_s"] > 0
  assert record["mfu"] is None and record["flops_per_step"] > 0
  json.dumps(record)


def test_a_slow_source_shows_as_waiting_for_data():
  def slow(start):
    for batch in stream(start):
      time.sleep(0.03)
      yield batch

  telemetry = Telemetry()
  fit(batches=slow, telemetry=telemetry)
  assert telemetry.throughput["train"]["data_wait"] > 0.5


def test_logs_that_cannot_be_written_do_not_stop_training(tmp_path):
  blocked = tmp_path / "file"
  blocked.write_text("")
  telemetry = Telemetry(blocked / "logs", "demo")
  assert int(fit(telemetry=telemetry, log_every=1).step) == 7


def test_a_disk_that_refuses_is_tolerated_for_a_while(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save, refusals = checkpoints.save, []

  def refuse(number, current, **settings):
    if number in (1, 2, 4):
      refusals.append(number)
      raise OSError("No space left on device")
    save(number, current, **settings)

  checkpoints.save = refuse
  fit(steps=5, checkpoints=checkpoints, save_every=1)
  assert refusals == [1, 2, 4] and checkpoints.latest() == 5

  def always(number, current, **settings):
    raise OSError("No space left on device")

  checkpoints.save = always
  with pytest.raises(UserError, match="step 8 could not be saved: No space"):
    fit(steps=20, checkpoints=checkpoints, save_every=1)


def test_short_or_broken_data_are_named():
  with pytest.raises(UserError, match="data ended after step 3 of 7"):
    fit(batches=lambda start: stream(start, steps=3))
  with pytest.raises(DataError, match="20 rows.*batch of 21"):
    fit(batches=lambda s: feed.batches({"x": TARGETS}, 21, seed=0, steps=1))


def test_a_step_that_does_not_count_is_named():
  def still(current, batch, *, axis_name):
    return current, {"loss": jnp.zeros(())}

  with pytest.raises(ValueError, match="add 1 to state.step: it is 0"):
    fit(step=still)


def test_no_handlers_outside_the_main_thread():
  before, results = signal.getsignal(signal.SIGTERM), []
  thread = threading.Thread(target=lambda: results.append(fit(steps=2)))
  thread.start()
  thread.join()
  assert int(results[0].step) == 2
  assert signal.getsignal(signal.SIGTERM) is before


CHILD = """
import os, sys, time
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, sys.argv[2])
import jax
jax.config.update("jax_num_cpu_devices", 8)
import test_train
from gcl_jax.engine.checkpoint import Checkpoints
from gcl_jax.errors import Preempted

def slow(start):
  for number, batch in enumerate(test_train.stream(start), start):
    print("batch", number, flush=True)
    time.sleep(0.05)
    yield batch

try:
  test_train.fit(steps=40, batches=slow, checkpoints=Checkpoints(sys.argv[1]),
                 save_every=1)
except Preempted as error:
  print(error)
  sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
  ("sent", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_child_that_is_killed_is_resumed_exactly(tmp_path, sent, code):
  here = str(pathlib.Path(__file__).parent)
  command = [sys.executable, "-c", CHILD, str(tmp_path), here]
  child = subprocess.Popen(
    command,
    env=os.environ | children.quick(),  # the bytes are compared with ours
    stdout=subprocess.PIPE,
    text=True,
  )
  with child:
    for line in child.stdout:
      if line.startswith("batch 6"):
        child.send_signal(sent)
        break
    rest = child.stdout.read()
    assert child.wait(60) == code
  if sent == signal.SIGTERM:
    assert "run the same command again" in rest
  checkpoints = Checkpoints(tmp_path)
  assert 0 < checkpoints.latest() < 39
  found = fit(steps=40, checkpoints=checkpoints)
  assert bits(found) == bits(fit(steps=40))
  assert not list(tmp_path.glob("*tmp*"))
