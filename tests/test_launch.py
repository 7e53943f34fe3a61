"""The launcher starts a preempted run again and passes other codes on."""

import os
import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "launch/one_machine.sh"


@pytest.mark.parametrize(
  ("codes", "expected", "starts"),
  [("75 75 0", 0, 3), ("2", 2, 1), ("75 3", 3, 2), ("75 75 75 75 75", 75, 4)],
)
def test_restarts_on_75_only(tmp_path, codes, expected, starts):
  python = tmp_path / "python"
  python.write_text(
    "#!/usr/bin/env bash\n"
    f'echo "$@" >> {tmp_path}/log\n'
    f"codes=({codes})\n"
    f"exit ${{codes[$(( $(wc -l < {tmp_path}/log) - 1 ))]}}\n"
  )
  python.chmod(0o755)
  done = subprocess.run(
    ["bash", str(SCRIPT), "c.py:tiny", "runs/x", "--config.seed=1"],
    env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "GCL_RESTARTS": "4"},
    capture_output=True,
  )
  assert done.returncode == expected
  calls = (tmp_path / "log").read_text().splitlines()
  assert len(calls) == starts
  assert calls[0] == (
    "-u -m gcl_jax.main --config=c.py:tiny --workdir=runs/x --config.seed=1"
  )
