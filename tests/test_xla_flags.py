"""The installed jaxlib knows every flag of launch/xla_flags.py."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[1] / "launch"
SCRIPT = LAUNCH / "xla_flags.py"
SPEC = importlib.util.spec_from_file_location("xla_flags", SCRIPT)
xla_flags = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(xla_flags)


def make_an_array(flags: str) -> subprocess.CompletedProcess:
  """XLA reads XLA_FLAGS when the first array is made, not before."""
  return subprocess.run(
    [
      sys.executable,
      "-c",
      "import jax.numpy as n; print(float(n.ones(()) + 1))",
    ],
    env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
    capture_output=True,
    text=True,
  )


def test_every_gpu_flag_is_known():
  done = make_an_array(xla_flags.arguments("gpu-repeatable"))
  assert done.returncode == 0, done.stderr
  assert done.stdout == "2.0\n"


@pytest.mark.parametrize("flag", ["--xla_gpu_made_up=1", "tpu"])
def test_an_unknown_flag_stops_the_program(flag):
  flag = xla_flags.arguments("tpu") if flag == "tpu" else flag
  done = make_an_array(flag)
  assert done.returncode != 0
  assert "Unknown flag" in done.stderr


def load_libtpu(flags: str) -> subprocess.CompletedProcess:
  """libtpu reads LIBTPU_INIT_ARGS when it is loaded; that needs no TPU."""
  pytest.importorskip("libtpu", reason="no libtpu here: install the extra tpu")
  code = (
    "from gcl_jax.engine.compile_ahead import tpu_mesh;"
    " print(tpu_mesh('v5e:2x4').size)"
  )
  return subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": flags},
    capture_output=True,
    text=True,
  )


def test_every_tpu_flag_is_known():
  done = load_libtpu(xla_flags.arguments("tpu"))
  assert done.returncode == 0 and done.stdout == "8\n", done.stderr


def test_an_unknown_tpu_flag_stops_the_program():
  done = load_libtpu("--xla_tpu_made_up=true")
  assert done.returncode != 0 and "Unknown command line flag" in done.stderr


def test_each_flag_has_its_variable_and_a_reason():
  for platform, (variable, flags) in xla_flags.PLATFORMS.items():
    tpu = platform == "tpu"
    assert variable == ("LIBTPU_INIT_ARGS" if tpu else "XLA_FLAGS")
    assert len({flag.name for flag in flags}) == len(flags) > 0
    for flag in flags:
      assert flag.name.startswith("xla_tpu_" if tpu else "xla_gpu_")
      assert len(flag.reason) > 20


@pytest.mark.parametrize("line", ['eval "$({})"', "eval $({})"])
def test_a_shell_takes_the_line_and_keeps_its_own_flags_last(line):
  command = line.format(f"{sys.executable} {SCRIPT} gpu")
  done = subprocess.run(
    ["bash", "-c", f'{command}; printf "%s" "$XLA_FLAGS"'],
    env={"XLA_FLAGS": "--xla_mine=1", "PATH": os.environ["PATH"]},
    capture_output=True,
    text=True,
  )
  assert done.stdout == f"{xla_flags.arguments('gpu')} --xla_mine=1"


def test_another_platform_is_refused():
  done = subprocess.run(
    [sys.executable, SCRIPT, "abacus"], capture_output=True, text=True
  )
  assert done.returncode == 2 and done.stdout == ""
  assert "usage: " in done.stderr and "gpu|gpu-repeatable|tpu" in done.stderr
