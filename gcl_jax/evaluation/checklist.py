"""Reporting checklist of a finished run, for the appendix of an article.

  python -m gcl_jax.evaluation.checklist RUN
  python -m gcl_jax.evaluation.checklist RUN --out=FILE.md

A table in markdown with what the files of the run say about the items of two
guidelines, and a blank for everything that only the authors know. Items are in
our own words; the numbers are those of

  CLAIM 2024: Tejani et al., Checklist for Artificial Intelligence in Medical
    Imaging (CLAIM): 2024 Update. Radiology: Artificial Intelligence 2024;
    6(4):e240300.
  TRIPOD+AI: Collins et al., TRIPOD+AI statement: updated guidance for reporting
    clinical prediction models. BMJ 2024;385:e078378.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from gcl_jax import disk
from gcl_jax.errors import DataError, UserError, command
from gcl_jax.evaluation.checklist_facts import BLANK, Run, at
from gcl_jax.evaluation.checklist_items import ITEMS, Item

_HEAD = """\
# Reporting checklist

Run: method {method}, preset {preset}, seed {seed}. {blanks} of {items} items \
have a blank for the authors ("{blank}").
Numbers: CLAIM 2024 (Tejani et al., Radiology: Artificial Intelligence 2024;\
6(4):e240300) and TRIPOD+AI (Collins et al., BMJ 2024;385:e078378). This table \
does not replace the guidelines.

| Item | CLAIM | TRIPOD+AI | What the run says | Where it stands |
| --- | --- | --- | --- | --- |
"""


def read(folder: str | pathlib.Path) -> Run:
  """The JSON files of a finished run.

  Raises:
    DataError: the folder holds no finished run, or one of its files is no JSON
      object.
  """
  folder = pathlib.Path(folder)
  for name in ("config.json", "report.json", "report/manifest.json"):
    if not (folder / name).is_file():
      raise DataError(
        f"{folder} is not the folder of a finished run, {name} is missing: give"
        " the --workdir of a run that has ended"
      )
  manifests = {
    path.parent.name: _object(path)
    for path in sorted(folder.glob("*/manifest.json"))
  }
  files = (folder / "config.json", folder / "report.json")
  names = frozenset(path.name for path in folder.iterdir() if path.is_file())
  return Run(*map(_object, files), manifests, names)


def table(run: Run) -> str:
  """The checklist of a run in markdown."""
  rows = [(item, *answer(item, run)) for item in ITEMS]
  head = _HEAD.format(
    **{
      name: at(run.report, name, BLANK) for name in ("method", "preset", "seed")
    },
    blanks=sum(BLANK in says for _, says, _ in rows),
    items=len(rows),
    blank=BLANK,
  )
  lines = [
    _line(
      item.text,
      ", ".join(map(str, item.claim)) or "-",
      ", ".join(item.tripod) or "-",
      says,
      where,
    )
    for item, says, where in rows
  ]
  return head + "".join(lines)


def answer(item: Item, run: Run) -> tuple[str, str]:
  """What a run says about an item, or `BLANK`, and where it stands."""
  lines, where = item.found(run) if item.found else ([], "")
  if not lines:
    return BLANK, "-"
  return "\n".join(lines), where


def _line(*cells: str) -> str:
  """A row of a table in markdown; a new line in a cell becomes <br>."""
  safe = [
    cell.strip().replace("|", "\\|").replace("<", "\\<") for cell in cells
  ]
  safe = ["<br>".join(cell.splitlines()) for cell in safe]
  return f"| {' | '.join(safe)} |\n"


def _object(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise DataError(
      f"{path} cannot be read ({error}): run the same command again to have it"
      " written anew"
    ) from None
  if not isinstance(value, dict):
    raise DataError(f"{path} holds no JSON object: it was not left by a run")
  return value


def main(arguments: Sequence[str] | None = None) -> str:
  """Parses the command line; returns the table, or writes it to --out.

  Raises:
    UserError: no finished run, or --out cannot be written.
  """
  parser = argparse.ArgumentParser(
    prog="python -m gcl_jax.evaluation.checklist",
    description=__doc__.split("\n\n")[0],
    allow_abbrev=False,
  )
  parser.add_argument("run", help="folder of a finished run")
  parser.add_argument("--out", default="", help="markdown file to write to")
  flags = parser.parse_args(arguments)
  text = table(read(flags.run))
  if not flags.out:
    return text.rstrip("\n")
  try:
    disk.write_text(flags.out, text)
  except OSError as error:
    raise UserError(f"cannot write --out={flags.out}: {error}") from None
  return f"wrote {flags.out}"


def entry() -> None:
  """Exit code 2 and one line for a mistake of the user."""
  command(main)


if __name__ == "__main__":
  entry()
