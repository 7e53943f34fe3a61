"""Command-line mistakes end with one clear line and exit code 2."""

import pathlib
import subprocess
import sys

import pytest

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
