"""Files of a user in the folder of a run are never removed or replaced."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest

from gcl_jax.engine import alive, checkpoint, folders, parallel
from gcl_jax.engine.context import Context, Stage
from gcl_jax.engine.lock import lock
from gcl_jax.engine.stages import run_stages
from gcl_jax.errors import UserError


def work(context):
  for name in PAGES:
    (context.workdir / name).write_text("a page")
  return {"rate": np.full(2, context.config.data.rate)}


PAGES = ("report.html", "report.json")
STAGES = (
  Stage("data", lambda context: {"x": np.arange(3)}, sections=("data",)),
  Stage("report", work, ("data",), leaves=PAGES),
)


def context(workdir, rate=0.5):
  config = {"method": "toy", "seed": 0, "data": {"rate": rate}}
  mesh = parallel.make_mesh(jax.devices()[:1])
  return Context(ml_collections.ConfigDict(config), workdir, mesh)


def files(folder):
  """Bytes of every file except the program's own marks."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != ".lock"
  }


THEIRS = (
  "report/figure.txt",
  "report/.git/HEAD",
  "data/metrics.jsonl",
  "data/scan.npy",
  "data/manifest.json",  # of something else
  "config.json",
  "report.json",
  "report.html",
  "data",  # a file where a folder is needed
)


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("only", [None, "typo", "data"])
def test_row53_a_folder_of_the_user_is_left_alone(tmp_path, name, only):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True, parents=True)
  path.write_text('{"stage": "training", "start_url": "/"}')
  before = files(tmp_path)
  with pytest.raises(UserError) as caught:
    run_stages(STAGES, context(tmp_path), only=only)
  assert "\n" not in str(caught.value)
  assert only == "typo" or "choose another --workdir" in str(caught.value)
  assert files(tmp_path) == before


@pytest.mark.parametrize("held", [b"by another program", b"\xff\xfe\x00bin"])
def test_row53_a_lock_that_is_not_ours_is_left_alone(tmp_path, held):
  (tmp_path / ".lock").write_bytes(held)
  with pytest.raises(UserError, match=r"\.lock was not written by a run"):
    run_stages(STAGES, context(tmp_path))
  assert (tmp_path / ".lock").read_bytes() == held


def test_row53_other_files_beside_a_run_are_welcome(tmp_path):
  for name in ("notes.txt", "scans/1.png", "figures/manifest.json"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("theirs")
  (tmp_path / "data").mkdir()  # empty
  before = files(tmp_path)
  assert set(run_stages(STAGES, context(tmp_path))) == {"data", "report"}
  assert before.items() <= files(tmp_path).items()


HOLDER = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
from gcl_jax.engine.lock import lock
with lock(sys.argv[1]):
  print("held", flush=True)
  sys.stdin.read()
"""


def test_row53_a_second_start_changes_nothing_of_the_first(tmp_path):
  """Its report is begun and its page not yet written."""
  run_stages(STAGES, context(tmp_path))
  (tmp_path / "report.html").unlink()
  before = files(tmp_path)
  holder = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="is in use by process"):
      run_stages(STAGES, context(tmp_path, rate=0.25))
    assert files(tmp_path) == before
  finally:
    holder.communicate("")
  run_stages(STAGES, context(tmp_path))
  assert (tmp_path / "report.html").exists()


def test_row53_a_report_without_its_page_is_written_again(tmp_path):
  run_stages(STAGES, context(tmp_path))
  (tmp_path / "report.html").unlink()
  run_stages(STAGES, context(tmp_path), only="data")
  assert not (tmp_path / "report.html").exists()
  assert (tmp_path / "report" / "manifest.json").exists()
  (tmp_path / "report" / "notes.txt").write_text("theirs")
  run_stages(STAGES, context(tmp_path))
  assert (tmp_path / "report.html").exists()
  assert (tmp_path / "report" / "notes.txt").read_text() == "theirs"


@pytest.mark.parametrize("name", ["manifest.json", "begun.json"])
def test_row53_killed_while_a_report_is_opened_again(tmp_path, name):
  """What a kill leaves between the two marks, and after both."""
  run_stages(STAGES, context(tmp_path))
  (tmp_path / "report.html").unlink()
  folders.open_again(tmp_path / "report")
  if name == "begun.json":
    (tmp_path / "report" / "manifest.json").unlink()
  run_stages(STAGES, context(tmp_path))
  assert (tmp_path / "report.html").exists()
  assert (tmp_path / "report" / "manifest.json").exists()


def test_row53_half_an_artifact_of_a_stage_is_made_anew(tmp_path):
  run_stages(STAGES, context(tmp_path))
  (tmp_path / "data" / "manifest.json").unlink()
  (tmp_path / "data" / "artifact" / "values.json").unlink()
  run_stages(STAGES, context(tmp_path), only="data")
  assert (tmp_path / "data" / "artifact" / "values.json").exists()
  assert not list((tmp_path / "data").glob(".artifact*"))


def test_row53_logs_of_a_refused_stage_do_not_stop_the_next(tmp_path):
  run_stages(STAGES, context(tmp_path), only="data")
  (tmp_path / "report" / "tensorboard").mkdir(parents=True)
  (tmp_path / "report" / "metrics.jsonl").write_text("")
  (tmp_path / "report" / ".probe-17").write_text("")
  run_stages(STAGES, context(tmp_path))
  assert (tmp_path / "report.html").exists()


def test_row53_a_mark_cut_short_is_told(tmp_path):
  run_stages(STAGES, context(tmp_path), only="data")
  (tmp_path / "report").mkdir()
  (tmp_path / "report" / "begun.json").write_text("")
  with pytest.raises(UserError, match="begun.json is damaged .*: delete .*rep"):
    run_stages(STAGES, context(tmp_path))


def test_row53_a_refused_start_leaves_the_settings_of_the_run(tmp_path):
  """config.json says what the finished stages were made with."""
  run_stages(STAGES, context(tmp_path))
  before = files(tmp_path)
  with pytest.raises(UserError, match="finished with other settings"):
    run_stages(STAGES, context(tmp_path, rate=0.25))
  assert files(tmp_path) == before
  settings = json.loads((tmp_path / "config.json").read_text())["config"]
  assert settings["data"]["rate"] == 0.5


def test_row53_a_folder_is_known_by_its_marks_alone(tmp_path):
  for name, text in [
    ("begun.json", "[1]"),
    ("begun.json", '{"schema": 1, "stage": "score"}'),
    ("manifest.json", '{"stage": "data"}'),
    ("manifest.json", "{"),
  ]:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    with pytest.raises(UserError, match="holds no stage data"):
      folders.reopen(folder)
    (folder / name).unlink()
  (folder / "manifest.json").write_text('{"schema": 1, "stage": "data"}')
  folders.reopen(folder)
  assert os.listdir(folder) == ["begun.json"]


def test_row53_an_artifact_replaces_nothing_but_an_artifact(tmp_path):
  (tmp_path / "thesis").mkdir()
  (tmp_path / "thesis" / "chapter").write_text("years")
  with pytest.raises(UserError, match="thesis is no artifact"):
    checkpoint.save_artifact(tmp_path / "thesis", {"x": np.arange(3)})
  assert (tmp_path / "thesis" / "chapter").read_text() == "years"


def test_row53_the_lock_of_a_run_is_taken_again(tmp_path):
  for text in ("", '{"host": "el', '{"ho'):
    (tmp_path / ".lock").write_text(text)
    with lock(tmp_path):
      assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / ".lock").read_text() == ""


def test_row53_a_second_start_leaves_the_counts_of_the_first(tmp_path):
  first, count = alive._Pulse(tmp_path, 0, 2), tmp_path / "0"
  first.beat()
  ours = count.read_text()
  pid = f'"pid": {os.getpid()}'
  count.write_text(ours.replace(pid, '"pid": 1'))
  alive._Pulse(tmp_path, 0, 2).end()
  assert '"pid": 1,' in count.read_text()
  count.write_text(ours)
  first.end()
  first.end()
  assert not count.exists()


def test_row53_every_removal_of_the_package_is_known():
  """A new one must be reviewed for files that are not of a run."""
  package = pathlib.Path(folders.__file__).parents[1]
  words = ("rmtree(", ".unlink(", "os.remove(", ".rmdir(")
  found = {
    (path.relative_to(package).as_posix(), word)
    for path in package.rglob("*.py")
    for word in words
    if word in path.read_text()
  }
  assert found == {
    ("disk.py", "rmtree("),  # replace_folder, of an artifact
    ("disk.py", ".unlink("),  # its own probe and temporary file
    ("engine/alive.py", ".unlink("),  # this process's count
    ("engine/checkpoint.py", "rmtree("),  # .artifact.new of a killed save
    ("engine/folders.py", ".unlink("),  # the manifest of a stage
    ("methods/comcl/degrade_set.py", "rmtree("),  # .NAME.unfinished, its own
    ("pipeline/segment.py", "rmtree("),  # fits/ of its own stage
  }
