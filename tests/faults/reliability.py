"""Writes docs/reliability.md from a run of the fault tests.

  python tests/faults/reliability.py docs/reliability.md

A test covers the rows in its name (test_row06_row07_...) or in the id of its
parameters. Rows without a test are shown as not covered.
"""

import collections
import datetime
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

HERE = pathlib.Path(__file__).parent
# Row: (what happens, what this program then does).
ROWS = {
  1: ("killed inside a save", "resumes from the newest whole checkpoint"),
  2: ("killed while a folder is replaced", "the old one or the new, or redone"),
  3: ("unsynced data lost with the power", "damage found, the one before used"),
  4: ("disk full", "warns, goes on, saves later; ends after 3 refusals"),
  5: ("output folder cannot be written", "refused before the first step"),
  6: ("a byte of a checkpoint flipped", "found by hash, the one before used"),
  7: ("checkpoint cut, empty, without its list", "the one before used"),
  8: ("checkpoint of another architecture", "refused with paths and shapes"),
  9: ("checkpoint of a newer format", "refused with both versions"),
  10: ("pickles where data are expected", "refused, nothing is unpickled"),
  11: ("headers that promise huge arrays", "refused before allocation"),
  12: ("SIGTERM; SIGINT once and twice", "saves, exits 75; leaves at once"),
  13: ("resumed against uninterrupted", "equal bit for bit"),
  14: ("other numbers of processes or devices", "same batches, same result"),
  15: ("resumed twice at once", "the second is refused, a dead one replaced"),
  16: ("a process dies or hangs", "the others say who and exit 4"),
  17: ("processes with other settings or code", "all refuse, saying who"),
  18: ("one loss that is not finite", "step skipped, counted, images listed"),
  19: ("such losses in a row", "stops, the last finite state is kept"),
  20: ("overflow in half precision", "none at temperatures 0.01 to 1"),
  21: ("no images, or fewer than a batch", "refused with both numbers"),
  22: ("images cut short", "quarantined, never half an image"),
  23: ("empty files, FIFOs, loops, folders as images", "quarantined, no hang"),
  24: ("decompression bombs", "refused by size before decoding"),
  25: ("16 bit, CMYK, palettes, alpha, floats", "right values or refused"),
  26: ("damaged DICOM", "refused, or an array of the right size"),
  27: ("NaN, constant or empty pixels", "flagged; nothing divided by zero"),
  28: ("archives with members outside", "no archive is ever extracted"),
  29: ("mixed shapes and channels", "refused with the first file"),
  30: ("tables with gaps, copies, odd ids", "refused with the row"),
  31: ("a patient in two parts", "refused, or written into the report"),
  32: ("the same image in two parts", "refused or left out, listed"),
  33: ("no patient id", "refused unless told what to do"),
  34: ("all scores equal", "refused"),
  35: ("ties, NaN scores, more bins than images", "refused or reported"),
  36: ("one label, or all different", "the loss stays finite"),
  37: ("one class to evaluate on", "undefined, never 0.5"),
  38: ("dead layers, no reference", "cosine 0, the score finite"),
  39: ("padded and reordered batches", "scores belong to their images"),
  40: ("other batch sizes and devices", "the same scores to 1e-6"),
  41: ("odd paths and locales", "work"),
  42: ("unknown or impossible settings", "refused, the nearest named"),
  43: ("no GPU, or out of its memory", "said; no silent fall to the CPU"),
  44: ("data edited between runs", "noticed by fingerprint"),
  45: ("a worker process is killed", "the run ends with the reason"),
  46: ("a file system that stalls", "waits and goes on"),
  47: ("logs deleted or unwritable", "training goes on"),
  48: ("two runs in one folder", "the second is refused"),
  49: ("a prepared data set that names code", "refused, nothing is imported"),
  50: ("damaged files with patient data", "no value of theirs in any message"),
  51: (
    "one name in two forms of its letters",
    "one patient, one file, said; twins refused",
  ),
  52: (
    "chips in the order of a torus, several slices",
    "every row keeps its result; the run starts",
  ),
  53: (
    "a user's folder or file under a name of the run",
    "refused, left as it was",
  ),
}
HEAD = """# Reliability

What can go wrong, what this program then does, and the test that shows it.
Written by `python tests/faults/reliability.py docs/reliability.md` from a run
of those tests on {date}: {passed} passed, {failed} failed, {skipped} skipped.

| row | fault | expected | tests | result |
| --- | --- | --- | --- | --- |
"""


def main(target: str) -> int:
  """Runs the tests and writes the page; the exit code is pytest's."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "results.xml"
    command = [sys.executable, "-m", "pytest", str(HERE), f"--junitxml={path}"]
    code = subprocess.run(command, check=False).returncode
    cases = list(ElementTree.parse(path).iter("testcase"))
  pathlib.Path(target).write_text(page(cases), encoding="utf-8")
  return code


def page(cases: list) -> str:
  """The page of pytest's test cases."""
  tests = collections.defaultdict(dict)
  totals = collections.Counter(result(case) for case in cases)
  for case in cases:
    name = case.get("name").partition("[")[0]
    for row in map(int, re.findall(r"row(\d+)", case.get("name"))):
      results = tests[row].setdefault((case.get("classname"), name), [])
      results.append(result(case))
  lines = [line(row, tests.get(row, {})) for row in ROWS]
  date = datetime.date.today().strftime("%d %B %Y")
  return HEAD.format(date=date, **totals_of(totals)) + "".join(lines)


def totals_of(totals: collections.Counter) -> dict[str, int]:
  """How many passed, failed and were skipped."""
  return {name: totals[name] for name in ("passed", "failed", "skipped")}


def result(case: ElementTree.Element) -> str:
  """passed, failed or skipped."""
  kinds = {child.tag for child in case}
  if kinds & {"failure", "error"}:
    return "failed"
  return "skipped" if "skipped" in kinds else "passed"


def line(row: int, tests: dict) -> str:
  """One row of the table."""
  fault, expected = ROWS[row]
  if not tests:
    return f"| {row} | {fault} | {expected} | | **not covered** |\n"
  names = ", ".join(f"`{name}`" for _, name in tests)
  every = [found for results in tests.values() for found in results]
  worst = next(
    kind for kind in ("failed", "skipped", "passed") if kind in every
  )
  return (
    f"| {row} | {fault} | {expected} | {names} | {worst} ({len(every)}) |\n"
  )


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit("usage: python tests/faults/reliability.py FILE.md")
  sys.exit(main(sys.argv[1]))
