"""The method of docs/add_a_method.md keeps the contract as it stands there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.compiles

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)


def files_of_the_page() -> dict[str, str]:
  page = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
  return dict(BLOCK.findall(page))


@pytest.fixture
def copy(tmp_path):
  """A copy of the package, its tests and the page's method beside them."""
  ignored = shutil.ignore_patterns("__pycache__", "configs")
  shutil.copytree(ROOT / "gcl_jax", tmp_path / "gcl_jax", ignore=ignored)
  for name in ("configs", "benchmarks", "launch", "tests"):
    shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
  (tmp_path / "gcl_jax" / "configs").symlink_to(tmp_path / "configs")
  shutil.copy(ROOT / "pyproject.toml", tmp_path)
  for name, text in files_of_the_page().items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
  return tmp_path


def test_the_page_is_a_whole_method_that_keeps_the_contract(copy):
  folder = copy / "gcl_jax" / "methods" / "orientation"
  assert {path.stem for path in folder.glob("*.py")} == {
    *("config", "stages", "data", "steps", "pretrain", "report", "finished")
  }
  (folder / "__init__.py").touch()
  done = subprocess.run(
    [
      *(sys.executable, "-m", "pytest", "-q", "-k", "orientation"),
      *("-p", "no:cacheprovider", "tests/test_every_method.py"),
    ],
    cwd=copy,
    env=os.environ | {"PYTHONPATH": str(copy)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
  assert done.stdout.startswith(9 * ".")  # every test that takes a method


def test_the_page_is_formatted_as_the_project_is(copy):
  paths = [str(copy / name) for name in files_of_the_page()]
  for command in (["check"], ["format", "--check"]):
    done = subprocess.run(
      [sys.executable, "-m", "ruff", *command, *paths],
      cwd=copy,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
