"""Effect of Pixel-global on the organ phantom, by the strength of its gap.

  python benchmarks/pixel_grid.py --config=configs/pixel_global.py:demo \\
      --out=runs/pixel_grid --seeds=0,1,2,3,4 --gaps=0,0.5,1 --jobs=2 \\
      --arms=scratch,scratch_long,pixpro --labelled=20,200,0

For each gap and seed one run pre-trains every arm and fine-tunes it with each
number of labelled patients (0: all). The seed is that of pre-training, of the
draw of labelled patients and of fine-tuning; images and patients kept for
evaluation stay the same, and patients have the same organs at every gap.
Further arms come as another part of the same grid (--part=more), which takes
over what it has in common with the parts before; the tables are of all parts. A
stopped grid can be started again.

Prints tables of Dice, overall and of the pixels of look-alike organs, of what
the method gains over every other arm, by gap, and of how that grows from the
first gap to the last, with intervals over seeds and patients
(`gcl_jax.evaluation.fits`); last, what the uncertainty goes along with
(`gcl_jax.methods.pixel_global.measure`). --jobs=0 prints the tables of finished
runs alone.
"""

import argparse
import collections
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import NamedTuple

import launching
import markdown
import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.context import read_stage
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import comparisons, fits, intervals, over_draws
from gcl_jax.methods.pixel_global import measure, report
from gcl_jax.methods.pixel_global.arms import ARMS, OWN
from gcl_jax.pipeline import report_comparisons
from gcl_jax.report.html import Table

METRICS = {"mean": "Dice", "ambiguous": "Dice of ambiguous pixels"}
AMBIGUOUS = "dice/ambiguous"
SHARED = ("data", OWN, "uncertainty", *ARMS)


class Fit(NamedTuple):
  """Scores of one fit, metric of `METRICS` -> float64[1 + G]: on all test
  patients and without each of them; and what they rest on."""

  values: dict[str, np.ndarray]
  support: intervals.Support


# gap -> (arm, labelled patients) -> seed -> Fit
Grid = dict[float, dict[tuple[str, int], dict[int, Fit]]]


def main() -> int:
  """Runs what is missing, then prints the tables."""
  arguments = parse()
  out = pathlib.Path(arguments.out)
  if arguments.jobs:
    run_all(arguments, out)
  grid = gathered(out)
  if not grid:
    raise SystemExit(f"{out}: no finished run, see --jobs")
  dice_tables(grid)
  gain_tables(grid)
  rank_table(out)
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/pixel_global.py:demo")
  parser.add_argument("--out", default="runs/pixel_grid")
  parser.add_argument("--seeds", default="0,1,2,3,4")
  parser.add_argument("--gaps", default="0,0.5,1")
  parser.add_argument("--arms", required=True, help="names, split by commas")
  parser.add_argument("--labelled", default="10", help="patients; 0 is all")
  parser.add_argument("--part", default="first", help="name of these arms")
  parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
  parser.add_argument(
    "overrides", nargs="*", help="further settings, name=value"
  )
  return parser.parse_args()


def run_all(arguments: argparse.Namespace, out: pathlib.Path) -> None:
  """Executes the run of every gap and seed, each on its share of the cores."""
  further = dict(item.split("=", 1) for item in arguments.overrides)
  labelled = tuple(map(int, arguments.labelled.split(",")))
  common = {
    "arms": tuple(arguments.arms.split(",")),
    "segment.labelled": labelled,
  }

  def work(task: tuple[str, int], cores: list[int]) -> None:
    gap, seed = task
    folder = out / f"gap{gap}" / f"seed{seed}" / arguments.part
    own = {"seed": seed, "segment.draws": (seed,), "segment.seeds": (seed,)}
    settings = own | {"data.organs.gap": gap} | common | further
    launching.share(folder, SHARED)
    launching.run(arguments.config, folder, settings, cores=cores)

  seeds = map(int, arguments.seeds.split(","))
  tasks = [(gap, s) for s in seeds for gap in arguments.gaps.split(",")]
  launching.side_by_side(work, tasks, arguments.jobs)


def finished(out: pathlib.Path, stage: str) -> list[tuple]:
  """(gap, seed, folder) of every run that has finished a stage."""
  return [
    (
      float(folder.parts[-3].removeprefix("gap")),
      int(folder.parts[-2].removeprefix("seed")),
      folder,
    )
    for folder in sorted(out.glob("gap*/seed*/*"))
    if (folder / stage / "manifest.json").exists()
  ]


def gathered(out: pathlib.Path) -> Grid:
  """Every finished fit; one that several parts have is of the first of them.

  Raises:
    SystemExit: runs of one gap were not tested on the same patients.
  """
  grid: Grid = collections.defaultdict(lambda: collections.defaultdict(dict))
  for gap, seed, folder in finished(out, "segment"):
    for key, fit in read(folder).items():
      others = [f for by_seed in grid[gap].values() for f in by_seed.values()]
      if others and others[0].support != fit.support:
        raise SystemExit(f"{folder}: tested on other patients than the others")
      grid[gap][key].setdefault(seed, fit)
  return {gap: dict(grid[gap]) for gap in sorted(grid)}


def read(folder: pathlib.Path) -> dict[tuple[str, int], Fit]:
  """The fits of one run, by arm and number of labelled patients."""
  found, made = read_stage(folder, "segment"), {}
  groups = found["tests"]["eval"]["groups"]
  for name, parts in found["fits"].items():
    arm, labelled, *_ = name.rsplit("-", 3)
    made[arm, int(labelled[1:])] = fit_of(unpack(parts["eval"]), groups)
  return made


def fit_of(scores: dict[str, np.ndarray], groups: np.ndarray) -> Fit:
  """Mean over classes of the means over volumes, and without each patient.

  `scores`: "dice/<class>", "dice/mean", "dice/ambiguous" -> float64[V];
  `groups`: [V], the patients.
  """
  classes = [
    values
    for name, values in scores.items()
    if name.startswith("dice/") and name not in ("dice/mean", AMBIGUOUS)
  ]
  kinds = {"mean": np.stack(classes)}
  if AMBIGUOUS in scores:
    kinds["ambiguous"] = scores[AMBIGUOUS][None]

  def means(weights):
    one = np.ones((len(weights), 1))
    return {
      name: over_draws.weighted_mean(values[:, None], one, weights)
      for name, values in kinds.items()
    }

  values = intervals.leave_one_out(means, len(groups), groups)
  return Fit(values, intervals.support_of(groups))


def entry_of(values: list[np.ndarray], support, paired=False) -> dict:
  """Mean over the fits of several seeds with its interval."""
  return fits.over_fits(np.stack(values), support, "plain", paired)


def counts_of(keys: Iterable[tuple[str, int]]) -> list[int]:
  """Numbers of labelled patients, fewest first, 0 (all) last."""
  return sorted({m for _, m in keys}, key=lambda m: m or 10**6)


def dice_tables(grid: Grid) -> None:
  """Prints Dice of every arm and number of labels, a table for each gap."""
  for gap, found in grid.items():
    for metric, title in METRICS.items():
      counts = counts_of(found)
      rows = []
      for arm in dict.fromkeys(arm for arm, _ in found):
        cells = [_cell(found.get((arm, m), {}), metric) for m in counts]
        if any(cells):
          rows.append([arm, *cells])
      if rows:
        headers = ["arm", *(f"M = {m or 'all'}" for m in counts)]
        caption = f"{title}, gap {gap:g} (in brackets: seeds)"
        markdown.show(Table(headers, rows, caption))


def _cell(by_seed: dict[int, Fit], metric: str) -> str | None:
  known = [fit for fit in by_seed.values() if metric in fit.values]
  if not known:
    return None
  entry = entry_of([fit.values[metric] for fit in known], known[0].support)
  return f"{results.interval(entry)} ({len(known)})"


def gains(found: dict, metric: str, labelled: int, other: str) -> dict:
  """Seed -> `Fit` of what the method gains over another arm in one metric."""
  ours, theirs = (found.get((arm, labelled), {}) for arm in (OWN, other))
  return {
    seed: Fit(
      {metric: fit.values[metric] - theirs[seed].values[metric]}, fit.support
    )
    for seed, fit in ours.items()
    if seed in theirs and metric in fit.values
  }


def gain_tables(grid: Grid) -> None:
  """Prints the gain of the method over every arm, at every gap, and how it
  grows from the first gap to the last; all of one metric and M are a family."""
  keys = dict.fromkeys(key for found in grid.values() for key in found)
  others = dict.fromkeys(arm for arm, _ in keys if arm != OWN)
  for labelled in counts_of(keys):
    for metric, title in METRICS.items():
      entries = {}
      for other in others:
        of_gap = {g: gains(grid[g], metric, labelled, other) for g in grid}
        entries |= by_gap(of_gap, metric, f"over {other}")
      if entries:
        of = f"{title}, {OWN} over the others, M = {labelled or 'all'}"
        family = comparisons.family(entries)
        markdown.show(report_comparisons.table(family, of))


def by_gap(of_gap: dict, metric: str, words: str) -> dict[str, dict]:
  """Entries of the gains over one arm: at each gap, and their growth.

  `of_gap`: gap -> what `gains` returns; `words`: what is compared with.
  """
  entries, every = {}, [(gap, found) for gap, found in of_gap.items() if found]
  for gap, found in every:
    entries[f"{words}, gap {gap:g}"] = _paired(list(found.values()), metric)
  if len(every) < 2:
    return entries
  (low, first), (high, last) = every[0], every[-1]
  growth = [
    Fit({metric: fit.values[metric] - first[seed].values[metric]}, fit.support)
    for seed, fit in last.items()
    if seed in first and first[seed].support == fit.support
  ]
  if growth:
    name = f"{words}, more at gap {high:g} than at {low:g}"
    entries[name] = _paired(growth, metric)
  return entries


def _paired(each: list[Fit], metric: str) -> dict:
  values = [fit.values[metric] for fit in each]
  return entry_of(values, each[0].support, paired=True)


def ranks(folder: pathlib.Path) -> dict[str, measure.Figure]:
  """The figures of stage uncertainty of one run."""
  config = json.loads((folder / "config.json").read_text())["config"]
  classes = tuple(map(str, read_stage(folder, "data")["classes"]))
  alike = report.codes(classes, tuple(config["segment"]["alike"]))
  return measure.figures(read_stage(folder, "uncertainty"), alike)


def rank_table(out: pathlib.Path) -> None:
  """Prints what the uncertainty goes along with, by gap, over seeds."""
  found: dict = collections.defaultdict(dict)
  for gap, seed, folder in finished(out, "uncertainty"):
    if seed not in found[gap]:
      found[gap][seed] = ranks(folder)
  rows = []
  for gap, by_seed in sorted(found.items()):
    for name in measure.NAMES:
      each = [made[name] for made in by_seed.values() if name in made]
      if each:
        values = np.stack([figure.values for figure in each])
        # Views differ by seed, and with them the patients of either side.
        support = min((f.support for f in each), key=lambda s: s.fewest)
        entry = fits.over_fits(values, support, each[0].scale)
        rows.append([f"{gap:g}", name, results.interval(entry), f"{len(each)}"])
  if rows:
    headers = ["gap", "figure", "value", "seeds"]
    markdown.show(Table(headers, rows, "Uncertainty"))


if __name__ == "__main__":
  sys.exit(main())
