"""Faults of runs of several processes, with real processes on this machine."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import children
import pytest

from gcl_jax.engine import alive

pytestmark = pytest.mark.compiles
TOY = pathlib.Path(__file__).with_name("toy.py")
ORDERS = pathlib.Path(__file__).with_name("orders.py")
POOLS = pathlib.Path(__file__).parents[1] / "pool_cases.py"
WAIT_S = 90


class Run:
  """Processes of one toy run, with their output in files."""

  program = TOY

  def __init__(self, workdir, processes=1, devices=1, *arguments):
    workdir.mkdir(parents=True, exist_ok=True)
    with socket.socket() as found:
      found.bind(("127.0.0.1", 0))
      port = found.getsockname()[1]
    alone = processes == 1 and devices <= 2  # else as launch/local.py does
    self.files, self.children = [], []
    for number in range(processes):
      cpu = {"GCL_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
      told = cpu | {
        "GCL_COORDINATOR": f"127.0.0.1:{port}",
        "GCL_NUM_PROCESSES": str(processes),
        "GCL_PROCESS_ID": str(number),
        "GCL_HEARTBEAT_S": "5",
      }
      path = workdir / f"words{number}-{time.monotonic_ns()}.txt"
      own = [a[number] if isinstance(a, list) else a for a in arguments]
      with open(path, "w") as file:
        child = subprocess.Popen(
          [sys.executable, "-u", str(self.program), str(workdir), *own],
          env=os.environ | children.shared() | (cpu if alone else told),
          stdout=file,
          stderr=subprocess.STDOUT,
        )
      self.files.append(path)
      self.children.append(child)

  def words(self, number=0):
    """Output of a process so far."""
    return self.files[number].read_text()

  def until(self, text, number=0):
    """Waits until the output of a process contains a text."""
    end = time.monotonic() + WAIT_S
    while text not in self.words(number):
      assert time.monotonic() < end, self.words(number)
      assert self.children[number].poll() is None, self.words(number)
      time.sleep(0.02)

  def codes(self, seconds=WAIT_S):
    """Exit codes of all, once they have ended."""
    end = time.monotonic() + seconds
    try:
      for child in self.children:
        child.wait(max(0.1, end - time.monotonic()))
    finally:
      for child in self.children:
        if child.poll() is None:
          child.kill()
          child.wait()
    return [child.returncode for child in self.children]

  def result(self):
    """The hash of the state at the end."""
    (found,) = re.findall(r"done (\w+)", self.words())
    return found

  def batches(self):
    """{number: rows of the whole batch}, the shares of all processes joined."""
    rows = {}
    for number in range(len(self.children)):
      for step, share in re.findall(
        r"batch (\d+) (\[.*\])", self.words(number)
      ):
        rows.setdefault(int(step), []).extend(json.loads(share))
    return rows


def finished(workdir, processes, devices, *arguments):
  """Run that must succeed."""
  found = Run(workdir, processes, devices, *arguments)
  assert set(found.codes()) == {0}, found.words()
  return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run of two devices in one process."""
  return finished(tmp_path_factory.mktemp("whole"), 1, 2)


def test_row14_the_same_bits_however_processes_hold_the_devices(
  whole, tmp_path
):
  split = finished(tmp_path, 2, 1)
  assert split.result() == whole.result()
  assert split.batches() == whole.batches() and len(whole.batches()) == 30


def test_row14_four_devices_sum_alike_in_1_2_and_4_processes(tmp_path):
  """A sum of four depends on its order, unlike a sum of two."""
  layouts = {
    (count, 4 // count): finished(tmp_path / str(count), count, 4 // count)
    for count in (1, 2, 4)
  }
  assert len({run.result() for run in layouts.values()}) == 1
  batches = [run.batches() for run in layouts.values()]
  assert batches[0] == batches[1] == batches[2]


def test_row14_a_checkpoint_of_one_layout_restores_on_another(whole, tmp_path):
  first = finished(tmp_path, 2, 1, "--steps=15")
  again = finished(tmp_path, 1, 2)
  assert min(again.batches()) == 15
  assert again.result() == whole.result() != first.result()


def test_row12_row13_sigterm_to_one_of_two_saves_the_same_step_in_both(
  whole, tmp_path
):
  run = Run(tmp_path, 2, 1, "--pause=0.1")
  run.until("batch 9 ")
  run.children[1].send_signal(signal.SIGTERM)
  assert run.codes() == [75, 75], run.words(0) + run.words(1)
  steps = {
    re.search(r"by SIGTERM after step (\d+)", run.words(n)).group(1)
    for n in (0, 1)
  }
  assert len(steps) == 1 and 0 < int(*steps) < 30
  assert (tmp_path / "checkpoints" / steps.pop()).is_dir()
  again = finished(tmp_path, 2, 1)
  assert again.result() == whole.result()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_row16_a_dead_or_hung_process_stops_the_others(whole, tmp_path, how):
  run = Run(tmp_path, 2, 1, "--pause=0.1")
  run.until("batch 12 ")
  run.children[1].send_signal(how)
  begin = time.monotonic()
  assert run.children[0].wait(60) == 4, run.words()
  assert time.monotonic() - begin < 30
  run.children[1].kill()
  run.children[1].wait()
  assert "gcl_jax: another process was lost" in run.words()
  if how == signal.SIGSTOP:
    assert f"process 1 (pid {run.children[1].pid} on" in run.words()
  again = finished(tmp_path, 2, 1)
  assert min(again.batches()) >= 5  # not from the beginning
  assert again.result() == whole.result()


def test_row16_a_thread_that_hangs_stops_all(whole, tmp_path, monkeypatch):
  """Both heartbeats continue, but the second process never gets a batch."""
  monkeypatch.setenv("GCL_STALL_S", "4")
  run = Run(tmp_path, 2, 1, "--stuck=12")
  codes = run.codes()
  assert codes == [4, 4], run.words(0) + run.words(1)
  for number in (0, 1):
    assert re.search(
      r"was lost \(no progress for 4 s, moves so far: process 0: \d+, process",
      run.words(number),
    ), run.words(number)
  monkeypatch.delenv("GCL_STALL_S")
  assert finished(tmp_path, 2, 1).result() == whole.result()


def test_row16_who_ends_is_heard_and_a_former_run_is_not(tmp_path):
  alive._Pulse(tmp_path, 1, 2).leave("of yesterday")
  first = alive._Pulse(tmp_path, 0, 2)
  assert first.left() == []
  second = alive._Pulse(tmp_path, 1, 2)
  second.beat()
  assert first.left() == []
  second.leave("the disk is full")
  assert first.left() == ["the disk is full"]
  begin = time.monotonic()
  first.leave("the disk is full")
  assert time.monotonic() - begin < first.pause  # nobody is left to wait for


def test_row16_process_0_waits_for_the_others_and_not_for_ever(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("GCL_HEARTBEAT_S", "1")
  first = alive._Pulse(tmp_path, 0, 2)
  begin = time.monotonic()
  first.leave("lost")
  assert 3 * first.pause <= time.monotonic() - begin < 30
  third = alive._Pulse(tmp_path / "other", 1, 2)
  (tmp_path / "other").mkdir()
  begin = time.monotonic()
  third.leave("lost")  # process 1 waits for nobody
  assert time.monotonic() - begin < first.pause


@pytest.mark.parametrize(
  "trouble",
  [
    "os.close(2)",  # nobody reads the log
    "sys.stderr.write = None",
    "alive._pulse = Stuck()",  # a file system that hangs
  ],
)
def test_row16_a_lost_process_ends_whatever_its_log_does(trouble):
  program = f"""
import os, sys, time
from gcl_jax.engine import alive

class Stuck:
  pause = 0.1
  def left(self): time.sleep(60)

{trouble}
alive.lost("a peer is gone")
"""
  begin = time.monotonic()
  done = subprocess.run([sys.executable, "-c", program], timeout=WAIT_S)
  assert done.returncode == 4
  assert time.monotonic() - begin < 40


def test_row17_processes_that_disagree_are_refused(tmp_path):
  run = Run(tmp_path, 2, 1, ["--config=a", "--config=b"])
  assert run.codes() == [2, 2]
  for number in (0, 1):
    last = run.words(number).splitlines()
    assert any("process 1 was started with another" in line for line in last)
    assert "Traceback" not in run.words(number)


def test_row17_an_error_in_process_0_ends_all_with_its_code(tmp_path):
  run = Run(tmp_path, 2, 1, "--fail=1")
  assert run.codes() == [2, 2]
  assert "gcl_jax: the table is empty" in run.words(0)
  assert "gcl_jax: process 0 stopped" in run.words(1)


class Orders(Run):
  """Two processes whose devices come in the order of a torus."""

  program = ORDERS


def test_row52_rows_keep_their_results_in_any_order_of_devices(tmp_path):
  run = Orders(tmp_path, 2, 2)
  assert run.codes() == [0, 0], run.words(0) + run.words(1)
  told = [json.loads(run.words(n).split("found ")[1]) for n in (0, 1)]
  assert told[0] == told[1]
  found = told[0]
  assert found.pop("torus") == [0, 1, 1, 0]
  assert found.pop("owners") == [0, 0, 1, 1]
  refused = found.pop("by hand pmap")
  assert "pmap needs the devices in the order of their processes" in refused
  assert len(found) == 5
  weight = found["made shard_map"][1]
  for name, (rows, fitted) in found.items():
    assert rows == [float(n) for n in range(1, 42)], name
    assert fitted == pytest.approx(weight, rel=1e-6), name


class Pools(Run):
  """A fit whose batches have two pools."""

  program = POOLS


def test_row14_pools_are_the_same_however_processes_hold_the_devices(tmp_path):
  whole, split = (
    Pools(tmp_path / str(count), count, 2 // count) for count in (1, 2)
  )
  for run in (whole, split):
    assert set(run.codes()) == {0}, run.words()
  assert split.result() == whole.result()
  assert split.batches() == whole.batches()
  # Four batches of eight anchors and of twelve negatives, half in each.
  assert [len(rows) for rows in whole.batches().values()] == [8, 12] * 4
  for run in (whole, split):
    (line,) = (run.files[0].parent / "skipped.jsonl").read_text().splitlines()
    anchors, negatives = (whole.batches()[number] for number in (4, 5))
    images = {"anchor": anchors, "negative": negatives}
    assert json.loads(line)["images"] == images
  shares = re.findall(r"batch \d+ \[(.*)\]", split.words(1))
  assert [share.count(",") + 1 for share in shares] == [4, 6] * 4
