"""Local launcher: start, stop and restart of all processes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

LOCAL = pathlib.Path(__file__).resolve().parents[1] / "launch/local.py"
# Stands for gcl_jax.main: notes what it was told and ends as planned.
STUB = """
import json, os, pathlib, sys, time
number = int(os.environ["GCL_PROCESS_ID"])
log = pathlib.Path("log%d" % number)
told = {k: v for k, v in os.environ.items() if k.startswith(("GCL_", "NPROC"))}
with log.open("a") as file:
  file.write(json.dumps([sys.argv[1:], told]) + "\\n")
plan = json.loads(pathlib.Path("plan").read_text())[number]
start = len(log.read_text().splitlines())
for peer in range(int(told["GCL_NUM_PROCESSES"])):  # none ends unheard
  path = pathlib.Path("log%d" % peer)
  while not path.exists() or len(path.read_text().splitlines()) < start:
    time.sleep(0.01)
code = plan[start - 1]
print("ends with", code, flush=True)
if code == "wait":
  time.sleep(60)
elif code == "killed":
  os.kill(os.getpid(), 9)
sys.exit(code)
"""


def run(folder, plan, *options):
  package = folder / "gcl_jax"
  package.mkdir(parents=True)
  (package / "__init__.py").write_text("")
  (package / "main.py").write_text(STUB)
  (folder / "plan").write_text(json.dumps(plan))
  return subprocess.run(
    [
      *(sys.executable, str(LOCAL), f"--processes={len(plan)}", *options),
      *("--", "--config=c.py:tiny", "--workdir=runs/x"),
    ],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": str(folder)},
    capture_output=True,
    text=True,
    timeout=60,
  )


def told(folder, number):
  lines = (folder / f"log{number}").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_every_process_knows_its_peers(tmp_path):
  done = run(tmp_path, [[0], [0], [0]], "--devices_per_process=2")
  assert done.returncode == 0, done.stderr
  coordinators = set()
  for number in range(3):
    ((arguments, environment),) = told(tmp_path, number)
    assert arguments == ["--config=c.py:tiny", "--workdir=runs/x"]
    assert environment["GCL_PROCESS_ID"] == str(number)
    assert environment["GCL_NUM_PROCESSES"] == "3"
    assert environment["GCL_CPU_DEVICES"] == "2"
    coordinators.add(environment["GCL_COORDINATOR"])
    assert f"[{number}] ends with 0" in done.stdout
  assert len(coordinators) == 1


def test_as_many_threads_however_the_devices_are_held(tmp_path):
  """More threads than any machine has cores, so that the devices decide."""
  threads = set()
  for processes in (1, 2):
    folder = tmp_path / str(processes)
    share = 4096 // processes
    run(folder, [[0]] * processes, f"--devices_per_process={share}")
    for number in range(processes):
      ((_, environment),) = told(folder, number)
      threads.add(environment["NPROC"])
  assert threads == {"4096"}


@pytest.mark.parametrize(
  ("plan", "expected", "starts"),
  [
    ([[75, 0], [75, 0]], 0, 2),
    ([["wait", 0], ["killed", 0]], 0, 2),
    ([["wait", 0], [4, 0]], 0, 2),
    ([["wait"], [2]], 2, 1),
    ([[3], ["wait"]], 3, 1),
    ([[75, 75], [75, 75]], 75, 2),
  ],
)
def test_what_can_go_on_starts_again(tmp_path, plan, expected, starts):
  done = run(tmp_path, plan, "--restarts=1")
  assert done.returncode == expected, done.stdout + done.stderr
  assert len(told(tmp_path, 0)) == starts


def test_a_preemption_reaches_one_process_once(tmp_path):
  plan = [["wait", 0], ["wait", 0]]
  done = run(tmp_path, plan, "--preempt=0.5:1", "--restarts=1")
  assert done.returncode == 143, done.stdout  # the stub does not save
  for bad in ("--preempt=1:7", "--processes=0", "--preempt=x"):
    refused = subprocess.run(
      [sys.executable, str(LOCAL), bad, "--"], capture_output=True, text=True
    )
    assert refused.returncode == 2 and "error:" in refused.stderr
