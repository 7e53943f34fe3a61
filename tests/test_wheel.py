"""The built wheel holds the configurations and runs them from any folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.compiles

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
  """The wheel of this checkout, unpacked; built from a copy."""
  folder = tmp_path_factory.mktemp("wheel")
  for name in ("gcl_jax", "configs"):
    shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True)
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, folder / "source")
  done = subprocess.run(
    [
      *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"),
      *("--no-build-isolation", "--wheel-dir", folder, folder / "source"),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  (wheel,) = folder.glob("*.whl")
  with zipfile.ZipFile(wheel) as file:
    file.extractall(folder / "site")
  return folder / "site"


def run(unpacked, folder, *arguments):
  return subprocess.run(
    [sys.executable, "-m", "gcl_jax.main", "--workdir=run", *arguments],
    cwd=folder,
    env=os.environ | {"PYTHONPATH": str(unpacked), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )


def test_every_configuration_ships(unpacked):
  shipped, ours = (
    {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
    for root in (unpacked / "gcl_jax" / "configs", ROOT / "configs")
  )
  assert shipped == ours and "severity/octdl.py" in shipped


def test_descriptions_ship(unpacked):
  for name in ("data/phantoms/eye_words", "methods/uopsl/retina_words"):
    words = pathlib.Path(f"gcl_jax/{name}.yaml")
    assert (unpacked / words).read_bytes() == (ROOT / words).read_bytes()


def test_a_preset_of_real_data_is_found_from_any_folder(unpacked, tmp_path):
  done = run(unpacked, tmp_path, "--config=severity:octdl", "--stage=data")
  assert done.returncode == 2
  assert "octdl" in done.stderr and "data.path" in done.stderr, done.stderr


def test_words_that_are_no_configuration_are_named(unpacked, tmp_path):
  for value, hint in (
    ("severty:octdl", "did you mean 'severity'"),
    ("severity:octld", "did you mean 'octdl'"),
    ("configs/severity.py:demo", "severity:demo works anywhere"),
    ("nowhere.py:demo", "no file nowhere.py"),
  ):
    done = run(unpacked, tmp_path, f"--config={value}")
    assert done.returncode == 2 and hint in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_run_begins(unpacked, tmp_path):
  done = run(unpacked, tmp_path, "--config=severity:tiny", "--stage=data")
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "run" / "data" / "images.npy").exists()
