"""The same run split over processes and devices: are the bytes the same?

  python benchmarks/layouts.py --config=configs/severity.py:demo --out=runs/l

Runs the configuration in each layout PROCESSESxDEVICES (devices a process) on
virtual CPU devices and compares with the first: every stage's arrays by
SHA-256 where the number of devices is the same, the first 20 losses of every
fit where it is not. One JSON object a line.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOSSES = 20


def main() -> int:
  """Runs and compares; 1 where something differs that must not."""
  arguments = parse()
  first, bad = None, False
  for layout in arguments.layouts.split(","):
    workdir = pathlib.Path(arguments.out) / layout
    seconds, code = run(layout, workdir, arguments)
    record = {"bench": "layouts", "layout": layout, "seconds": seconds}
    if code:
      record, bad = record | {"exit_code": code}, True
    elif first is None:
      first = layout, workdir
    else:
      record |= {"against": first[0]} | compare(first, (layout, workdir))
      bad |= bool(record.get("differing")) or record.get("loss_gap", 0) > 1e-5
    print(json.dumps(record), flush=True)
  return int(bad)


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/severity.py:tiny")
  parser.add_argument("--layouts", default="1x4,2x2,4x1,1x1,1x8")
  parser.add_argument("--out", required=True, help="a folder for the runs")
  parser.add_argument("more", nargs="*", help="after --: flags of the run")
  return parser.parse_args()


def run(layout: str, workdir: pathlib.Path, arguments) -> tuple[float, int]:
  """Runs one layout (what is finished is skipped); seconds and exit code."""
  processes, devices = layout.split("x")
  begin = time.perf_counter()
  done = subprocess.run(
    [
      *(sys.executable, str(ROOT / "launch/local.py")),
      *(f"--processes={processes}", f"--devices_per_process={devices}", "--"),
      *(f"--config={arguments.config}", f"--workdir={workdir.resolve()}"),
      "--config.log_every=1",
      *arguments.more,
    ],
    cwd=ROOT,
    check=False,
    stdout=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    print(done.stdout[-2000:], file=sys.stderr)
  return round(time.perf_counter() - begin, 1), done.returncode


def compare(first: tuple, second: tuple) -> dict:
  """What differs between two runs."""
  (layout, here), (other, there) = first, second
  if devices_of(layout) != devices_of(other):
    return {"loss_gap": loss_gap(here, there)}
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


def devices_of(layout: str) -> int:
  """Devices in all."""
  processes, devices = map(int, layout.split("x"))
  return processes * devices


def loss_gap(here: pathlib.Path, there: pathlib.Path) -> float:
  """Largest relative difference of the losses logged in the first steps."""
  gap = 0.0
  for path in sorted(here.glob("*/metrics.jsonl")):
    one, two = losses(path), losses(there / path.parent.name / path.name)
    if one.keys() != two.keys():
      return float("inf")
    for key, value in one.items():
      gap = max(gap, abs(two[key] - value) / max(abs(value), 1e-12))
  return gap


def losses(path: pathlib.Path) -> dict:
  """{(fit, step): loss} of the first steps."""
  records = map(json.loads, path.read_text().splitlines())
  return {
    (record["name"], record["step"]): record["loss"]
    for record in records
    if "loss" in record and record["step"] <= LOSSES
  }


if __name__ == "__main__":
  sys.exit(main())
