"""Effect of UOPSL on fundus alone, by what the places in OCT scans say.

  python benchmarks/uopsl_grid.py --config=configs/uopsl.py:demo \\
      --out=runs/uopsl_grid --seeds=0,1,2,3,4 --jobs=2 \\
      --informative=true,shuffled,uniform --arms=fundus_only,text_places \\
      pretrain.steps=300

For each `oct_data.eyes.informative` and seed one run pre-trains every arm and
tests it with each number of labelled patients. The seed is that of all
trainings and of the draw of labelled patients; images and patients kept for
evaluation stay the same. --informative= (empty) is for a data set other than
the eye phantom. Further arms come as another part of the same grid
(--part=more), which takes over what it has in common with the parts before; the
tables are of all parts. A stopped grid can be started again.

Prints tables of balanced accuracy, fine-tuned and of linear probes, of accuracy
within confounded pairs, of that of unseen classes by their descriptions alone
and of attention for the zone; of what the method gains over every other arm, a
family for each figure and number of labels; and of how the gain over
text_places follows `informative`. Intervals are over seeds and patients
(`gcl_jax.evaluation.fits`). --jobs=0 prints the tables of finished runs alone.
"""

import argparse
import collections
import pathlib
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import launching
import markdown
import numpy as np

from gcl_jax.data.phantoms.eye_diseases import INFORMATIVE
from gcl_jax.engine import results
from gcl_jax.evaluation import by_class, comparisons, fits, intervals
from gcl_jax.methods.uopsl import draws, sites_seen
from gcl_jax.methods.uopsl.arms import ARMS, OWN, TEXT
from gcl_jax.pipeline import report_comparisons
from gcl_jax.pipeline.finished import Finished
from gcl_jax.report.html import Table

FIGURES = {
  "accuracy": "Balanced accuracy",
  "pairs": "Accuracy within confounded pairs (0.5 by chance)",
  "probe": "Balanced accuracy of linear probes",
  "unseen": "Accuracy among unseen classes by their descriptions",
  "zone": "AUROC of attention for the zone",
}
SHARED = ("data", "oct", OWN, "sites", *ARMS)
PLAIN = "data"  # folder of a set to which `informative` does not apply
LEVELS = (*INFORMATIVE, PLAIN)


class Fit(NamedTuple):
  """A figure of one run, float64[1 + G], on all evaluation patients and without
  each of them, and what it rests on."""

  values: np.ndarray
  support: intervals.Support


Key = tuple[str, str, int]  # figure, arm, labelled patients (0: all)


class Run(NamedTuple):
  """A finished run: (id, class) of its evaluation images, and its figures."""

  tested: tuple[tuple[str, str], ...]
  fits: dict[Key, Fit]


Grid = dict[str, dict[Key, dict[int, Fit]]]  # level -> key -> seed -> Fit


def main() -> int:
  """Runs what is missing, then prints the tables."""
  arguments = parse()
  out = pathlib.Path(arguments.out)
  if arguments.jobs:
    run_all(arguments, out)
  if not (grid := gathered(out)):
    raise SystemExit(f"{out}: no finished run, see --jobs")
  figure_tables(grid)
  gain_tables(grid)
  following_tables(grid)
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/uopsl.py:demo")
  parser.add_argument("--out", default="runs/uopsl_grid")
  parser.add_argument("--seeds", default="0,1,2,3,4")
  parser.add_argument("--informative", default=",".join(INFORMATIVE))
  parser.add_argument("--arms", required=True, help="names, split by commas")
  parser.add_argument("--part", default="first", help="name of these arms")
  parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
  parser.add_argument(
    "overrides", nargs="*", help="further settings, name=value"
  )
  arguments = parser.parse_args()
  arguments.levels = [n or PLAIN for n in arguments.informative.split(",")]
  if odd := [name for name in arguments.levels if name not in LEVELS]:
    parser.error(f"--informative: {odd[0]} is none of {', '.join(INFORMATIVE)}")
  return arguments


def run_all(arguments: argparse.Namespace, out: pathlib.Path) -> None:
  """Executes the run of every level and seed on its share of the cores."""
  further = dict(item.split("=", 1) for item in arguments.overrides)
  common = {"arms": tuple(arguments.arms.split(","))} | further

  def work(task: tuple[str, int], cores: list[int]) -> None:
    level, seed = task
    folder = out / level / f"seed{seed}" / arguments.part
    own = {"seed": seed, "fundus.draw": seed}
    if level != PLAIN:
      own["oct_data.eyes.informative"] = level
    launching.share(folder, SHARED)
    launching.run(arguments.config, folder, own | common, cores=cores)

  seeds = map(int, arguments.seeds.split(","))
  tasks = [(level, seed) for seed in seeds for level in arguments.levels]
  launching.side_by_side(work, tasks, arguments.jobs)


def gathered(out: pathlib.Path) -> Grid:
  """Every finished fit; one that several parts have is of the first of them.

  Raises:
    SystemExit: runs were not tested on the same images.
  """
  grid: Grid = {level: collections.defaultdict(dict) for level in LEVELS}
  tested = None
  for folder in sorted(out.glob("*/seed*/*")):
    level, seed = folder.parts[-3], folder.parts[-2].removeprefix("seed")
    if level not in grid or not _has(folder, "fundus"):
      continue
    run = read(folder)
    tested = tested or run.tested
    if run.tested != tested:
      raise SystemExit(f"{folder}: tested on other patients than the others")
    for key, fit in run.fits.items():
      grid[level][key].setdefault(int(seed), fit)
  return {level: dict(found) for level, found in grid.items() if found}


def _has(folder: pathlib.Path, stage: str) -> bool:
  return (folder / stage / "manifest.json").exists()


def read(folder: pathlib.Path) -> Run:
  """The figures of one run, those that are defined."""
  run = Finished(folder)
  opened = types.SimpleNamespace(
    config=run.config, workdir=run.folder, load=run.artifact
  )
  found, left = draws.sources_of(opened), run.artifact("fundus")
  ids, classes, groups = (
    found.fundus.table[name][left["rows"]] for name in ("id", "class", "group")
  )
  every, pairs = found.captions.classes, run.config.fundus.pairs
  fits = figures_of(left, classes, groups, every, pairs)
  if _has(folder, "sites") and "profile" in run.artifact("sites"):
    seen = sites_seen.zone_auroc(run.config, found, run.artifact("sites"))
    fits["zone", OWN, run.config.fundus.headline] = Fit(*seen)
  fits = {k: fit for k, fit in fits.items() if np.isfinite(fit.values[0])}
  return Run(tuple(zip(ids.tolist(), classes.tolist(), strict=True)), fits)


def figures_of(
  left: dict,
  classes: np.ndarray,
  groups: np.ndarray,
  every: Sequence[str],
  pairs: Iterable[Sequence[str]],
) -> dict[Key, Fit]:
  """Figures of classifiers, of probes and of descriptions alone.

  Args:
    left: the artifact of stage `fundus`.
    classes, groups: str[R], of its rows.
    every: names of all classes, in the order of `zeroshot`.
    pairs: names of classes that look alike.
  """
  trained = [str(name) for name in left["names"]]
  unseen = [n for n in every if n in set(classes.tolist()) - set(trained)]
  asked = {
    "accuracy": ("probabilities", trained, trained, "accuracy"),
    "pairs": ("probabilities", trained, trained, by_class.PAIRS),
    "probe": ("probe", trained, trained, "accuracy"),
    "unseen": ("zeroshot", every, unseen, "accuracy"),
  }
  made = {}
  for figure, (kind, columns, names, name) in asked.items():
    number = {n: k for k, n in enumerate(names)}
    truth = np.array([number.get(c, -1) for c in classes.tolist()], int)
    alike = [[number[n] for n in p] for p in pairs if set(p) <= set(names)]
    kept = [columns.index(n) for n in names]
    for key, values in _by_arm(left[kind]) if len(names) > 1 else ():
      table = by_class.table(truth, values[:, kept], groups, alike)
      made[figure, *key] = Fit(table.values[name], table.supports[name])
  return made


def _by_arm(found: dict) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
  """(arm, labelled patients) and what is of them."""
  for arm, by_count in found.items():
    for name, values in by_count.items():
      yield (arm, 0 if name == "all" else int(name[1:])), values


def entry_of(each: Iterable[Fit], paired: bool = False) -> dict:
  """Mean over the fits of several seeds with its interval."""
  each = list(each)
  values = np.stack([fit.values for fit in each])
  return fits.over_fits(values, each[0].support, "logit", paired)


def counts_of(keys: Iterable[Key]) -> list[int]:
  """Numbers of labelled patients, fewest first, 0 (all) last."""
  return sorted({m for *_, m in keys}, key=lambda m: m or 10**6)


def arms_of(keys: Iterable[Key]) -> list[str]:
  """Arms, the method's own first."""
  there = {arm for _, arm, _ in keys}
  return [arm for arm in (OWN, *ARMS) if arm in there]


def figure_tables(grid: Grid) -> None:
  """Prints every figure of every arm and number of labels, by level."""
  for level, found in grid.items():
    for figure, title in FIGURES.items():
      keys = [key for key in found if key[0] == figure]
      counts = counts_of(keys)
      rows = [
        [arm, *(_cell(found.get((figure, arm, m))) for m in counts)]
        for arm in arms_of(keys)
      ]
      if rows:
        headers = ["arm", *(f"M = {m or 'all'}" for m in counts)]
        caption = f"{title}{_at(level)} (in brackets: seeds)"
        markdown.show(Table(headers, rows, caption))


def _cell(by_seed: dict[int, Fit] | None) -> str | None:
  if not by_seed:
    return None
  return f"{results.interval(entry_of(by_seed.values()))} ({len(by_seed)})"


def _at(level: str) -> str:
  return "" if level == PLAIN else f", informative {level}"


def less(ours: dict[int, Fit], theirs: dict[int, Fit]) -> dict[int, Fit]:
  """Seed -> the difference, of the seeds that both have."""
  return {
    seed: Fit(fit.values - theirs[seed].values, fit.support)
    for seed, fit in ours.items()
    if seed in theirs
  }


def gain(found: dict, figure: str, other: str, labelled: int) -> dict[int, Fit]:
  """Seed -> what the method gains over another arm."""
  ours, theirs = (
    found.get((figure, arm, labelled), {}) for arm in (OWN, other)
  )
  return less(ours, theirs)


def gain_tables(grid: Grid) -> None:
  """Prints the gain of the method over every arm, at every level; all of one
  figure and number of labels are a family."""
  keys = dict.fromkeys(key for found in grid.values() for key in found)
  for figure, title in FIGURES.items():
    for labelled in counts_of(keys):
      entries = {
        f"over {other}{_at(level)}": entry_of(each.values(), paired=True)
        for other in arms_of(keys)
        for level, found in grid.items()
        if other != OWN and (each := gain(found, figure, other, labelled))
      }
      of = f"{title}, {OWN} over the others, M = {labelled or 'all'}"
      _show_family(entries, of)


def following_tables(grid: Grid) -> None:
  """Prints how much larger the gain over text is where places in OCT are those
  of the disease than where they are not; a family for each figure."""
  keys = dict.fromkeys(key for found in grid.values() for key in found)
  first, *others = INFORMATIVE
  for figure, title in FIGURES.items():
    entries = {}
    for labelled in counts_of(keys):
      at = {n: gain(grid.get(n, {}), figure, TEXT, labelled) for n in LEVELS}
      for level in others:
        if each := less(at[first], at[level]):
          name = f"M = {labelled or 'all'}, more at {first} than at {level}"
          entries[name] = entry_of(each.values(), paired=True)
    _show_family(entries, f"{title}, gain over {TEXT} by informative")


def _show_family(entries: dict[str, dict], of: str) -> None:
  if entries:
    family = comparisons.family(entries)
    markdown.show(report_comparisons.table(family, of))


if __name__ == "__main__":
  sys.exit(main())
