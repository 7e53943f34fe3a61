"""Every folder under methods/ keeps the contract, found by itself."""

import csv
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import chex
import compiles
import jax
import numpy as np
import pytest

import gcl_jax.methods
from gcl_jax import data, main
from gcl_jax.engine import parallel, programs, train
from gcl_jax.engine.checkpoint import Checkpoints, load_artifact
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import checklist

pytestmark = pytest.mark.compiles

METHODS = sorted(
  path.parent.name
  for path in pathlib.Path(gcl_jax.methods.__path__[0]).glob("*/stages.py")
)


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


@pytest.fixture(scope="module")
def calls():
  """method -> the settings of every fit of its uninterrupted run."""
  return {}


@pytest.fixture(scope="module", params=METHODS)
def whole(request, tmp_path_factory, counters, calls):
  """(method, workdir, manifests) of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp(request.param)
  counters[request.param] = counter = compiles.Counter()
  programs._kept.clear()  # of other tests
  fits = calls[request.param] = []

  def noting(*arguments, **settings):
    fits.append(settings)
    return fit(*arguments, **settings)

  fit = train.fit
  with pytest.MonkeyPatch.context() as patch, counter.by_stage():
    patch.setattr(train, "fit", noting)
    # What was tuned is no setting of a stage: others read the run without it.
    config = tiny(request.param, tuned=("a rate", "training: a length"))
    return request.param, workdir, run(config, workdir)


@pytest.fixture(scope="module")
def counters():
  """method -> what its uninterrupted run compiled."""
  return {}


def test_there_is_a_method():
  assert len(METHODS) > 1


def test_a_run_leaves_its_report(whole):
  method, workdir, manifests = whole
  config = tiny(method)
  report = json.loads((workdir / "report.json").read_text())
  assert report["method"] == method
  assert report["preset"] == "tiny" and report["seed"] == config.seed
  for name, metric in report["metrics"].items():
    assert set(metric) >= {"value", "low", "high", "n"}, name
  assert stages_of(method).HEADLINE in report["metrics"]
  assert set(stages_of(method).PROMISED) <= set(report["metrics"])
  _check_counts(report["data"], workdir)
  rows = checklist.table(checklist.read(workdir)).splitlines()
  patients = next(r for r in rows if r.startswith("| Patients and images"))
  for part, entry in report["data"]["parts"].items():
    assert f"{part}: {entry['groups']} groups" in patients
  for facts in report["throughput"].values():
    assert {"images_per_s", "data_wait", "mfu", "peak_bytes", "compile_s"} <= {
      *facts
    }
  page = (workdir / "report.html").read_text()
  tuned = [note for note in report["warnings"] if "Chosen on" in note]
  assert tuned == ["Chosen on evaluation data: a rate."] and tuned[0] in page
  assert "<html" in page and 'src="http' not in page
  for name in ("scores.csv", "predictions.csv", "features.npz"):
    assert (workdir / name).exists() and name in page
  assert set(manifests) == {
    p.parent.name for p in workdir.glob("*/manifest.json")
  }


def _check_counts(found, workdir):
  """The numbers in report.json against the table that stage data left."""
  table = load_artifact(workdir / "data" / "artifact")["table"]
  table = {name: values.tolist() for name, values in unpack(table).items()}
  rows = list(zip(table["part"], table["group"], strict=True))
  assert found["parts"].keys() == set(table["part"]) > {"train"}
  for part, entry in found["parts"].items():
    kind = "slices" if "slices" in entry else "images"
    assert entry[kind] == sum(name == part for name, _ in rows)
    assert entry["groups"] == len({g for name, g in rows if name == part})
    assert entry["labels"]


def test_a_stage_compiles_few_programs(whole, counters):
  """Host code that calls jax.numpy compiles one for every shape it meets."""
  counter = counters[whole[0]]
  found = {stage: len(counter.found[stage]) for stage in counter.wall_s}
  assert max(found.values()) > 1
  assert {s: n for s, n in found.items() if n > 16} == {}, found
  assert sum(found.values()) <= 40


def test_every_fit_is_told_what_the_run_decides(whole, calls):
  config = tiny(whole[0])
  assert len(calls[whole[0]]) >= 3
  for settings in calls[whole[0]]:
    for name in ("log_every", "max_skipped", "steps_per_dispatch"):
      assert settings[name] == config[name], settings["name"]
    ids = settings["ids"]
    for each in ids.values() if isinstance(ids, dict) else [ids]:
      assert each.dtype.kind == "U", settings["name"]
    assert settings["checkpoints"] is not None, settings["name"]


NEW_IMAGE = """
import sys, numpy as np, gcl_jax
run, image = gcl_jax.load(sys.argv[1]), [np.load(sys.argv[2])]
found = {"embed": run.embed(image)}
for name in ("severity", "segment"):
  if hasattr(run, name):
    found[name] = getattr(run, name)(image)
if hasattr(run, "predict"):
  found |= {f"predict {k}": v for k, v in run.predict(image).items()}
np.savez(sys.argv[3], **found)
"""


def test_a_fresh_process_treats_a_new_image_as_the_run_did(whole, tmp_path):
  """Given the folder alone, without the images in it."""
  method, workdir, _ = whole
  folder = tmp_path / "run"
  unwanted = shutil.ignore_patterns("*.npy", "*.bin", "checkpoints*")
  shutil.copytree(workdir, folder, ignore=unwanted)
  # Any evaluation image with a prediction, by its id.
  table = rows_of(workdir / "predictions.csv")
  row = next(row for row in table if row["part"] == "eval")
  dataset = data.load(tiny(method).data)
  image = dataset.read(dataset.ids.tolist().index(row["id"]))
  np.save(tmp_path / "image.npy", image)
  command = [sys.executable, "-c", NEW_IMAGE, folder, tmp_path / "image.npy"]
  done = subprocess.run(
    [*command, tmp_path / "found.npz"],
    capture_output=True,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )
  assert done.returncode == 0, done.stderr
  found, left = arrays_of(tmp_path / "found.npz"), workdir / "features.npz"
  left = arrays_of(left)
  at = left["ids"].tolist().index(row["id"])
  expected = {"embed": left["features"][at]}
  if "severity" in found:
    scores = rows_of(workdir / "scores.csv")
    expected["severity"] = next(
      float(r["score"]) for r in scores if r["id"] == row["id"]
    )
  for name in [n for n in found if n.startswith("predict ")]:
    column = f"{name.removeprefix('predict ')} by {run_name(method)}"
    expected[name] = float(row[column])
  if "segment" in found:
    kept = load_artifact(workdir / "segment" / "artifact")["networks"]
    network = kept[run_name(method)]
    k = network["rows"].tolist().index(at)
    expected["segment"] = network["maps"][k]
  assert found.keys() == expected.keys() and len(found) > 1
  for name, values in found.items():
    chex.assert_trees_all_close(
      values[0].astype(float), np.asarray(expected[name], float), atol=1e-5
    )


def rows_of(path):
  return list(csv.DictReader(path.read_text().splitlines()))


def arrays_of(path):
  with np.load(path) as file:
    return dict(file)


def run_name(method):
  """The name of a method's own encoder or arm in tables."""
  return stages_of(method).OWN


def test_a_relative_workdir_leaves_no_checkpoints_of_fine_tunes(
  whole, tmp_path, monkeypatch
):
  """They lay in runs/x/stage/runs/x/stage, where nothing removed them."""
  method, workdir, manifests = whole
  monkeypatch.chdir(tmp_path)
  *before, last = [name for name in manifests if name != "report"]
  for name in before:
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs" / name).symlink_to(workdir / name)
  main.run(
    tiny(method), "runs", parallel.make_mesh(jax.devices()[:2]), only=last
  )
  found, expected = (
    {p.relative_to(root).as_posix() for p in (root / last).glob("*/*")}
    for root in (tmp_path / "runs", workdir)
  )
  found, expected = (
    {name for name in names if "tensorboard" not in name}
    for names in (found, expected)
  )
  assert found == expected and found
  assert not list(tmp_path.glob("runs/**/runs"))


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
  config = tiny(method, parallel="pmap")
  fewer = config.arms[-1:]  # the others take steps of the same kinds
  left_out, config.arms = {*config.arms} - {*fewer}, fewer
  run(config, tmp_path)
  reports = [
    json.loads((folder / "report.json").read_text())["metrics"]
    for folder in (workdir, tmp_path)
  ]
  expected = {n for n in reports[0] if not any(r in n for r in left_out)}
  assert reports[1].keys() == expected
  smooth = stages_of(method).SMOOTH
  coarse = ("hd95", "surface", "failures")  # one voxel can change them
  names = [n for n in reports[1] if n.startswith(smooth)]
  names = [n for n in names if not any(word in n for word in coarse)]
  assert names
  for name in names:
    ours, theirs = (
      np.array(r[name]["value"], float) for r in reports
    )  # None is nan
    np.testing.assert_allclose(ours, theirs, atol=5e-3, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_leave_the_same_bytes(method, tmp_path):
  """Two devices in one process, then one in each of two, by the simulator."""
  root = pathlib.Path(__file__).resolve().parents[1]
  done = subprocess.run(
    [
      *(sys.executable, "benchmarks/layouts.py", f"--out={tmp_path}"),
      *(f"--config=configs/{method}.py:tiny", "--layouts=1x2,2x1"),
      *("--", "--config.arms=()"),
    ],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  record = json.loads(done.stdout.splitlines()[-1])
  assert record["against"] == "1x2" and record["differing"] == 0
  assert record["arrays"] > 50
  begun = json.loads((tmp_path / "2x1" / "config.json").read_text())
  assert begun["mesh"]["processes"] == 2
