"""Every folder under methods/ keeps the contract, found by itself."""

import importlib
import json
import pathlib
import subprocess
import sys

import compiles
import jax
import numpy as np
import pytest

import gcl_jax.methods
from gcl_jax import main
from gcl_jax.engine import parallel, programs
from gcl_jax.engine.checkpoint import Checkpoints

pytestmark = pytest.mark.compiles

METHODS = sorted(
  path.parent.name
  for path in pathlib.Path(gcl_jax.methods.__path__[0]).glob("*/stages.py")
)
# Names of report.json that others read.
PROMISED = {
  "gcl": {
    "segment/gain_over_scratch",
    "segment/ood/dice/mean",
    "segment/dice/mean",
    "segment/dice/LV",
    "segment/hd95/mean",
    "gcl/conflict_rate",
  }
}


class Killed(BaseException):
  """Stands for SIGKILL: nothing in the program catches it."""


def tiny(method, **changes):
  module = importlib.import_module(f"gcl_jax.methods.{method}.config")
  config = module.get_config("tiny")
  config.update_from_flattened_dict(changes)
  return config


def stages_of(method):
  return importlib.import_module(f"gcl_jax.methods.{method}.stages")


def run(config, workdir):
  return main.run(config, workdir, parallel.make_mesh(jax.devices()[:2]))


@pytest.fixture(scope="module", params=METHODS)
def whole(request, tmp_path_factory, counters):
  """(method, workdir, manifests) of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp(request.param)
  counters[request.param] = counter = compiles.Counter()
  programs._kept.clear()  # of other tests
  with counter.by_stage():
    return request.param, workdir, run(tiny(request.param), workdir)


@pytest.fixture(scope="module")
def counters():
  """method -> what its uninterrupted run compiled."""
  return {}


def test_there_is_a_method():
  assert {"severity", "gcl"} <= set(METHODS)


def test_a_run_leaves_its_report(whole):
  method, workdir, manifests = whole
  config = tiny(method)
  report = json.loads((workdir / "report.json").read_text())
  assert report["method"] == method
  assert report["preset"] == "tiny" and report["seed"] == config.seed
  for name, metric in report["metrics"].items():
    assert set(metric) == {"value", "low", "high", "n"}, name
  assert stages_of(method).HEADLINE in report["metrics"]
  assert PROMISED.get(method, set()) <= set(report["metrics"])
  for facts in report["throughput"].values():
    assert {"images_per_s", "data_wait", "mfu", "peak_bytes", "compile_s"} <= {
      *facts
    }
  page = (workdir / "report.html").read_text()
  assert "<html" in page and 'src="http' not in page
  assert set(manifests) == {
    p.parent.name for p in workdir.glob("*/manifest.json")
  }


def test_a_stage_compiles_few_programs(whole, counters):
  """Host code that calls jax.numpy compiles one for every shape it meets."""
  counter = counters[whole[0]]
  found = {stage: len(counter.found[stage]) for stage in counter.wall_s}
  assert max(found.values()) > 1
  assert {s: n for s, n in found.items() if n > 14} == {}, found
  assert sum(found.values()) <= 40


def test_a_finished_run_does_nothing_again(whole):
  method, workdir, _ = whole
  before = {p: p.stat().st_mtime_ns for p in workdir.glob("*/manifest.json")}
  run(tiny(method), workdir)
  assert before == {
    p: p.stat().st_mtime_ns for p in workdir.glob("*/manifest.json")
  }


def test_killed_in_every_fit_and_resumed_equals_uninterrupted(
  whole, tmp_path, monkeypatch
):
  method, _, expected = whole
  killed = set()
  save = Checkpoints.save

  def save_then_die(self, step, state, **options):
    save(self, step, state, **options)
    if self.directory not in killed and not options.get("finished"):
      killed.add(self.directory)
      raise Killed

  monkeypatch.setattr(Checkpoints, "save", save_then_die)
  for _ in range(40):
    try:
      found = run(tiny(method), tmp_path)
      break
    except Killed:
      continue
  assert len(killed) >= 3
  for stage, manifest in expected.items():
    if stage != "report":
      assert manifest["arrays"] == found[stage]["arrays"], stage


def test_pmap_gives_the_same(whole, tmp_path):
  method, workdir, _ = whole
  config, left_out = tiny(method, parallel="pmap"), set()
  if "arms" in config:  # simclr's step is that of supcon
    left_out = {*config.arms} - {"supervised"}
    config.arms = ("supervised",)
  run(config, tmp_path)
  reports = [
    json.loads((folder / "report.json").read_text())["metrics"]
    for folder in (workdir, tmp_path)
  ]
  expected = {n for n in reports[0] if not any(r in n for r in left_out)}
  assert reports[1].keys() == expected
  smooth = ("severity", "baseline", "segment")  # nothing that ranks a few
  names = [n for n in reports[1] if n.startswith(smooth) and "hd95" not in n]
  assert names
  for name in names:
    ours, theirs = (r[name]["value"] for r in reports)
    np.testing.assert_allclose(ours, theirs, atol=5e-3, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_leave_the_same_bytes(method, tmp_path):
  """Two devices in one process, then one in each of two, by the simulator."""
  root, config = pathlib.Path(__file__).resolve().parents[1], tiny(method)
  done = subprocess.run(
    [
      *(sys.executable, "benchmarks/layouts.py", f"--out={tmp_path}"),
      *(f"--config=configs/{method}.py:tiny", "--layouts=1x2,2x1"),
      *(["--", "--config.arms=()"] if "arms" in config else []),
    ],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  record = json.loads(done.stdout.splitlines()[-1])
  assert record["against"] == "1x2" and record["differing"] == 0
  assert record["arrays"] > (100 if method == "severity" else 50)
  begun = json.loads((tmp_path / "2x1" / "config.json").read_text())
  assert begun["mesh"]["processes"] == 2
