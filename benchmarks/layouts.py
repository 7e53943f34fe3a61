"""Comparison of one run in several layouts of processes and devices.

  python benchmarks/layouts.py --config=configs/severity.py:demo --out=runs/l

Runs the configuration in each layout PROCESSESxDEVICES (devices per process) on
virtual CPU devices and compares with the first. For the same number of devices
it compares every stage's arrays by SHA-256; otherwise each of --stages, given
the input stages of the first layout (after many steps rounding leads to other
scores and bins): `loss_gap` of the first 20 losses of its fits, absolute below
1 and relative above, and `array_gap` of the arrays of a stage without fits. One
JSON object per line.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

from gcl_jax.engine.checkpoint import load_artifact

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOSSES = 20


def main() -> int:
  """Runs and compares; returns 1 after an unexpected difference."""
  arguments = parse()
  first, bad = None, False
  for layout in arguments.layouts.split(","):
    workdir = pathlib.Path(arguments.out) / layout
    record = {"bench": "layouts", "layout": layout}
    if first is None or devices_of(layout) == devices_of(first.name):
      seconds, code = run(layout, workdir, arguments, arguments.more)
      record |= {"seconds": seconds, "exit_code": code}
      if first is not None and not code:
        record |= {"against": first.name} | differing(first, workdir)
      first, bad = first or workdir, bad or bool(code)
      bad |= bool(record.get("differing"))
    else:
      record["against"] = first.name
      for stage in arguments.stages.split(","):
        record[stage] = gap(first, layout, stage, arguments)
        bad |= max(record[stage].values()) > 1e-5
    print(json.dumps(record), flush=True)
  return int(bad)


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/severity.py:tiny")
  parser.add_argument("--layouts", default="1x4,2x2,4x1,1x1,1x8")
  parser.add_argument("--out", required=True, help="a folder for the runs")
  parser.add_argument("--stages", default="gradcon,score,supcon")
  parser.add_argument("more", nargs="*", help="after --: flags of the run")
  return parser.parse_args()


def run(
  layout: str, workdir: pathlib.Path, arguments, more: list[str]
) -> tuple[float, int]:
  """Runs the unfinished stages of one layout; returns seconds and exit code."""
  processes, devices = layout.split("x")
  begin = time.perf_counter()
  done = subprocess.run(
    [
      *(sys.executable, str(ROOT / "launch/local.py")),
      *(f"--processes={processes}", f"--devices_per_process={devices}", "--"),
      *(f"--config={arguments.config}", f"--workdir={workdir.resolve()}"),
      "--config.log_every=1",
      *more,
    ],
    cwd=ROOT,
    check=False,
    stdout=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    print(done.stdout[-2000:], file=sys.stderr)
  return round(time.perf_counter() - begin, 1), done.returncode


def differing(here: pathlib.Path, there: pathlib.Path) -> dict:
  """Arrays of two runs whose bytes differ."""
  differ, count = [], 0
  for path in sorted(here.glob("*/manifest.json")):
    one = json.loads(path.read_text())["arrays"]
    two = json.loads((there / path.parent.name / path.name).read_text())
    count += len(one)
    differ += [
      f"{path.parent.name}/{name}"
      for name in one
      if one[name] != two["arrays"].get(name)
    ]
  return {"arrays": count, "differing": len(differ), "first": differ[:5]}


def gap(first: pathlib.Path, layout: str, stage: str, arguments) -> dict:
  """Difference of a stage with the same inputs in another layout."""
  workdir = pathlib.Path(arguments.out) / f"{layout}-{stage}"
  if workdir.exists() and not (workdir / "config.json").exists():
    raise SystemExit(f"{workdir} is not a run of this script: move it away")
  shutil.rmtree(workdir, ignore_errors=True)
  for name in inputs_of(first, stage):
    shutil.copytree(first / name, workdir / name)
  more = [*arguments.more, f"--stage={stage}"]
  _, code = run(layout, workdir, arguments, more)
  if code:
    return {"exit_code": code}
  if (workdir / stage / "metrics.jsonl").exists():
    return {"loss_gap": loss_gap(first / stage, workdir / stage)}
  one, two = (
    load_artifact(folder / stage / "artifact") for folder in (first, workdir)
  )
  return {"array_gap": array_gap(one, two)}


def inputs_of(run_folder: pathlib.Path, stage: str) -> set[str]:
  """Direct and indirect input stages of a stage."""
  manifest = json.loads((run_folder / stage / "manifest.json").read_text())
  found = set(manifest["inputs"])
  return found.union(*(inputs_of(run_folder, name) for name in found))


def array_gap(one: dict, two: dict) -> float:
  """Largest difference of the floats of two artifacts."""
  return max(
    float(np.abs(values - two[name]).max())
    for name, values in one.items()
    if isinstance(values, np.ndarray) and values.dtype.kind == "f"
  )


def devices_of(layout: str) -> int:
  """Total number of devices."""
  processes, devices = map(int, layout.split("x"))
  return processes * devices


def loss_gap(here: pathlib.Path, there: pathlib.Path) -> float:
  """Largest difference of the logged losses of the first steps."""
  one, two = (losses(folder / "metrics.jsonl") for folder in (here, there))
  if one.keys() != two.keys():
    return float("inf")
  return max(
    abs(two[key] - value) / max(abs(value), 1.0) for key, value in one.items()
  )


def losses(path: pathlib.Path) -> dict:
  """Losses of the first steps, {(fit, step): loss}."""
  records = map(json.loads, path.read_text().splitlines())
  return {
    (record["name"], record["step"]): record["loss"]
    for record in records
    if "loss" in record and record["step"] <= LOSSES
  }


if __name__ == "__main__":
  sys.exit(main())
