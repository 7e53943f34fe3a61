"""Command-line mistakes end with one clear line and exit code 2."""

import pathlib
import subprocess
import sys

import jax
import pytest

from gcl_jax import main
from gcl_jax.engine import parallel
from gcl_jax.engine import settings as engine_settings
from gcl_jax.engine.context import Stage
from gcl_jax.errors import ConfigError, UserError
from gcl_jax.methods.severity.config import get_config
from gcl_jax.pipeline import settings

pytestmark = pytest.mark.compiles

ROOT = pathlib.Path(__file__).resolve().parents[1]


def gcl(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "gcl_jax.main", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )


TINY = "--config=configs/severity.py:tiny"


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "--config and --workdir"),
    (("--config=configs/severity.py:dmeo",), "did you mean 'demo'"),
    ((TINY, "--config.supcon.temprature=0.1"), "temperature"),
    ((TINY, "--config.supcon.batch_size=3.5"), "batch_size"),
    ((TINY, "--config.gradcon.steps=3"), "has no field 'gradcon'"),
    ((TINY, "--config.data.name=phantm"), "did you mean 'phantom'"),
    (
      (TINY, "--config.data.name=folder", "--config.data.path=nowhere"),
      "nowhere",
    ),
    ((TINY, "--stage=scores"), "score"),
    ((TINY, "--config.method=../x"), "no method '../x'"),
    ((TINY, "--config.arms=('simcrl',)"), "simclr"),
    (("--config=configs/nothing.py",), "nothing.py"),
  ],
)
def test_one_line_and_exit_code_2(arguments, words, tmp_path):
  workdir = (f"--workdir={tmp_path}",) if arguments else ()
  done = gcl(*arguments, *workdir)
  assert done.returncode == 2, done.stderr
  lines = done.stderr.strip().splitlines()
  assert lines[-1].startswith("gcl_jax: ") and words in lines[-1]
  assert "Traceback" not in done.stderr


def test_every_data_section_is_opened_and_in_the_fingerprint(
  tmp_path, monkeypatch
):
  """Two streams without a section `data`, and one that is not used."""
  seen = []

  def look(context):
    seen.append(context)
    return {"done": 1}

  class Toy:
    @staticmethod
    def stages(config):
      return (Stage("look", look, (), ("oct_data",)),)

  monkeypatch.setattr(main, "method_stages", lambda config: Toy)
  config = settings.run("toy")
  for name, seed in (("oct_data", 0), ("fundus_data", 1), ("other_data", 2)):
    config[name] = settings.image_data()
    config[name].phantom.update(patients=2, visits=1, scans=1, seed=seed)
    config[name].name = "" if name == "other_data" else "phantom"
  mesh = parallel.make_mesh(jax.devices()[:1])
  main.run(config, tmp_path, mesh)
  (context,) = seen
  assert set(context.datasets) == {"oct_data", "fundus_data"}
  assert context.data["count"] == sum(map(len, context.datasets.values()))
  for dataset in context.datasets.values():
    assert dataset.fingerprint() in context.data["fingerprint"]
  # Other images of either stream are other data.
  config.fundus_data.phantom.seed = 3
  with pytest.raises(UserError, match="was finished with other settings"):
    main.run(config, tmp_path, mesh)


@pytest.mark.parametrize("name", ["boxes.path", "oct_data.boxes_path"])
def test_another_file_of_boxes_is_other_data(tmp_path, monkeypatch, name):
  class Toy:
    @staticmethod
    def stages(config):
      return (Stage("look", lambda context: {"done": 1}, (), ("boxes",)),)

  monkeypatch.setattr(main, "method_stages", lambda config: Toy)
  config = settings.run("toy")
  config.oct_data, file = settings.image_data(), tmp_path / "boxes.csv"
  config.oct_data.phantom.update(patients=2, visits=1, scans=1)
  config.boxes = {"path": ""}
  section, field = name.split(".")
  config[section][field] = str(file)
  config.oct_data.name, mesh = "phantom", parallel.make_mesh(jax.devices()[:1])
  file.write_text("image,x,y,w,h\na,1,2,3,4\n")
  for _ in range(2):
    main.run(config, tmp_path / "run", mesh)
  file.write_text("image,x,y,w,h\na,1,2,3,5\n")
  with pytest.raises(UserError, match="was finished with other settings"):
    main.run(config, tmp_path / "run", mesh)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("def change(config:", "was never closed"),
    ("def other(config): pass", "has no function change"),
    ("def change(config): config.supcon.widht = 3", "widht"),
    ("def change(config): config.update(depth=3)", "depth"),
  ],
)
def test_mistakes_in_a_preset_file_are_named(
  tmp_path, monkeypatch, text, words
):
  (tmp_path / "severity").mkdir()
  (tmp_path / "severity" / "mine.py").write_text(text)
  monkeypatch.setattr(engine_settings, "CONFIGS", tmp_path)
  with pytest.raises(ConfigError, match=words):
    get_config("mine")
