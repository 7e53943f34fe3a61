"""Effect of CoMCL on the fall of kappa, and of its parts: arms, over seeds.

  python benchmarks/comcl_grid.py --config=configs/comcl.py:demo \\
      --out=runs/comcl_grid --seeds=0,1,2,3,4 --jobs=2 \\
      --arms=supervised,supervised_degraded,simclr data.fundus.patients=400

For each seed one run pre-trains and fine-tunes every arm. The seed is that of
all trainings; images, patients kept for evaluation and degradations stay the
same. Further arms come as another part of the same grid (--part=more), which
takes over what the parts before it have in common with it; the tables are of
all parts. A stopped grid can be started again.

Prints, from the probability of every evaluation image that stage `diagnosis`
leaves, tables of kappa at every share of low quality, of its fall, and of
paired differences, with intervals over seeds and patients
(`gcl_jax.evaluation.fits`). --jobs=0 prints the tables of finished runs alone.
--picture=FILE.svg draws kappa over the share.
"""

import argparse
import collections
import json
import pathlib
import sys
from typing import NamedTuple

import launching
import markdown
import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.context import read_stage
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import comparisons, fits, robustness
from gcl_jax.evaluation.intervals import Support
from gcl_jax.methods.comcl.arms import OWN
from gcl_jax.pipeline import report_comparisons
from gcl_jax.report import charts

SHARED = ("data", "lesions", "detect", "quality", OWN)
OPPONENTS = ("supervised_degraded", "supervised", "simclr_degraded")


class Figures(NamedTuple):
  """Kappa of one arm in one run, float64[C, 1 + G], and what it rests on."""

  kappa: np.ndarray
  shares: tuple[float, ...]
  support: Support


def main() -> int:
  """Runs what is missing, then prints the tables."""
  arguments = parse()
  out = pathlib.Path(arguments.out)
  if arguments.jobs:
    run_all(arguments, out)
  if not (found := gathered(out)):
    raise SystemExit(f"{out}: no finished run, see --jobs")
  tables(found)
  if arguments.picture:
    draw(found, pathlib.Path(arguments.picture))
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/comcl.py:demo")
  parser.add_argument("--out", default="runs/comcl_grid")
  parser.add_argument("--seeds", default="0,1,2,3,4")
  parser.add_argument("--arms", required=True, help="names, split by commas")
  parser.add_argument("--part", default="first", help="name of these arms")
  parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
  parser.add_argument("--picture", default="", help="an SVG of the curves")
  parser.add_argument(
    "overrides", nargs="*", help="further settings, name=value"
  )
  return parser.parse_args()


def run_all(arguments: argparse.Namespace, out: pathlib.Path) -> None:
  """Executes the run of every seed, each on its share of the cores."""
  further = dict(item.split("=", 1) for item in arguments.overrides)
  settings = {"arms": tuple(arguments.arms.split(",")), **further}

  def work(seed: int, cores: list[int]) -> None:
    folder = out / f"seed{seed}" / arguments.part
    launching.share(folder, SHARED)
    launching.run(
      arguments.config, folder, {"seed": seed} | settings, cores=cores
    )

  seeds = map(int, arguments.seeds.split(","))
  launching.side_by_side(work, seeds, arguments.jobs)


def gathered(out: pathlib.Path) -> dict[str, dict[str, Figures]]:
  """Arm -> its figures of every finished seed; an arm that several parts have
  is taken from the first of them.

  Raises:
    SystemExit: seeds were not tested on the same patients.
  """
  found: dict[str, dict[str, Figures]] = collections.defaultdict(dict)
  for folder in sorted(out.glob("seed*/*")):
    if (folder / "diagnosis" / "manifest.json").exists():
      for arm, figures in read(folder).items():
        by_seed = found[arm]
        first = next(iter(by_seed.values()), figures)
        if first.support != figures.support or first.shares != figures.shares:
          raise SystemExit(
            f"{folder}: tested on other patients or shares than the others"
          )
        by_seed.setdefault(folder.parent.name, figures)
  return dict(found)


def read(folder: pathlib.Path) -> dict[str, Figures]:
  """Kappas of every arm of one run."""
  data, quality, found = (
    read_stage(folder, stage) for stage in ("data", "quality", "diagnosis")
  )
  table, rows = unpack(data["table"]), found["rows"]
  config = json.loads((folder / "config.json").read_text())["config"]
  truth = np.asarray(table[config["diagnosis"]["grade"]], float)[rows]
  truth = np.where(np.isnan(truth), -1, truth).astype(int)
  shares, made = tuple(config["quality"]["shares"]), {}
  for arm, versions in found["probabilities"].items():
    of_shares = []
    for share in shares:
      low = (quality["order"][rows] < share)[:, None]
      values = np.where(low, versions["low"], versions["clean"])
      of_shares.append(robustness.table(truth, values, table["group"][rows]))
    made[arm] = Figures(
      np.stack([t.values["kappa"] for t in of_shares]),
      shares,
      of_shares[0].supports["kappa"],
    )
  return made


def entry_of(values: np.ndarray, support: Support, paired=False) -> dict:
  """Mean over the runs, float64[F, 1 + G], with its interval."""
  scale = "plain" if paired else "fisher"
  return fits.over_fits(values, support, scale, paired)


def tables(found: dict[str, dict[str, Figures]]) -> None:
  """Prints kappas and falls, then the families of differences."""
  first = next(iter(next(iter(found.values())).values()))
  percents = [robustness.percent(share) for share in first.shares]
  titles = ["arm", "runs", *(f"kappa at {p} %" for p in percents), "fall"]
  print("| " + " | ".join(titles) + " |\n" + "| --- " * len(titles) + "|")
  for arm, runs in found.items():
    kappa = np.stack([figures.kappa for figures in runs.values()])
    cells = [
      results.interval(entry_of(kappa[:, c], first.support))
      for c in range(len(percents))
    ]
    falls = np.stack([robustness.fall(each) for each in kappa])
    cells.append(results.interval(entry_of(falls, first.support, True)))
    print(f"| {arm} | {len(runs)} | " + " | ".join(cells) + " |")
  for other in (o for o in OPPONENTS if o in found):
    _print_family(found, other, first.support, f"gain of the fall over {other}")
  last = f"kappa at {percents[-1]} % over supervised_degraded"
  if OPPONENTS[0] in found:
    _print_family(found, OPPONENTS[0], first.support, last, at=-1)


def _print_family(found, other, support, title, at=None) -> None:
  """Paired differences of every arm from one of them, over common runs."""

  def value(figures):
    if at is None:
      return -robustness.fall(figures.kappa)
    return figures.kappa[at]

  entries = {}
  for arm in (OWN, *(a for a in found if a != OWN)):
    ours, theirs = found[arm], found[other]
    seeds = [seed for seed in ours if seed in theirs]
    if arm != other and seeds:
      values = [value(ours[seed]) - value(theirs[seed]) for seed in seeds]
      values = np.stack(values)
      entries[arm] = entry_of(values, support, paired=True)
  family = comparisons.family(entries)
  markdown.show(report_comparisons.table(family, title))


def draw(found: dict[str, dict[str, Figures]], path: pathlib.Path) -> None:
  """Writes kappa over the share of low quality as SVG."""
  lines = {}
  for arm, runs in found.items():
    figures = list(runs.values())
    kappa = np.stack([each.kappa[:, 0] for each in figures]).mean(0)
    lines[arm] = (np.asarray(figures[0].shares), kappa)
  path.write_bytes(charts.curves(lines, "quadratic kappa"))


if __name__ == "__main__":
  sys.exit(main())
