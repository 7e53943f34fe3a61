"""Long fault runs: 20 kills while saving, 1,000 damaged files per format.

  python benchmarks/faults.py

The tests contain shorter versions. The exit code is 0 if all pass.
"""

import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main() -> int:
  """Runs both; returns the first non-zero exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--files", type=int, default=1000)
  arguments = parser.parse_args()
  kills = [sys.executable, "-m", "pytest", "tests/faults/test_saving.py"]
  fuzz = [sys.executable, "benchmarks/fuzz_readers.py"]
  codes = [
    subprocess.run(
      [*kills, "-k", "row01"],
      cwd=ROOT,
      env=os.environ | {"GCL_KILLS": str(arguments.kills)},
      check=False,
    ).returncode,
    subprocess.run(
      [*fuzz, f"--files={arguments.files}"], cwd=ROOT, check=False
    ).returncode,
  ]
  return next((code for code in codes if code), 0)


if __name__ == "__main__":
  sys.exit(main())
