"""Effect of GCL pre-training and of its parts: every arm, over draws and seeds.

  python benchmarks/gcl_grid.py --out=runs/gcl_grid --seeds=0,1,2 --jobs=2 \\
      data.path=$GCL_DATA/mr_hippocampus.npz

For each seed s the run `few` pre-trains every arm (--arms chooses) and
fine-tunes it with 2 and with 1 labelled patients, draws s, s + 3 and s + 6 of
them: three seeds make nine draws. `more` and `all` reuse the encoders of some
arms and fine-tune those with 4 and 8 and with all. The seed is that of
pre-training and of fine-tuning, so three draws share an encoder; test patients
stay the same. --own=ARM gives the method's own arm, which always runs, the
settings of that arm and its name:

  python benchmarks/gcl_grid.py --out=runs/two --runs=few --arms=scratch \\
      --own=shared_mean "segment.labelled=(2,)" data.path=...

Prints tables of Dice and of paired differences from the finished runs, with
intervals over draws and test patients
(`gcl_jax.evaluation.over_draws.mean_over_fits`); --jobs=0 does only that. A
stopped grid can be resumed. --kept=FILE adds the scores of every test volume to
a file, one fine-tune per line, and makes the tables from the whole file:

  python benchmarks/gcl_grid.py --jobs=0 --out= \\
      --kept=benchmarks/gcl_hippocampus.jsonl
"""

import argparse
import collections
import functools
import itertools
import json
import pathlib
import re
import sys

import launching
import numpy as np

from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.engine.results import interval
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation.comparisons import family, verdict
from gcl_jax.evaluation.over_draws import mean_over_fits
from gcl_jax.methods.gcl import arms as gcl_arms
from gcl_jax.methods.gcl.config import get_config
from gcl_jax.pipeline.label_draws import draw_names

ARMS = (
  "scratch",
  "scratch_long",
  "simclr",
  "permuted",
  "position",
  "shared_mean",
  "heads_mean",
  "self_paced",
  "heads_cone",
  "features_pcgrad",
  "features_cagrad",
  "pixel_F0",
  "pixel_F1",
  "pixel_random",
)
FEW = ("scratch", "shared_mean", "heads_mean")  # and gcl, in `more` and `all`
RUNS = {
  "few": {"arms": ARMS, "segment.labelled": (2, 1)},
  "more": {"arms": FEW, "segment.labelled": (4, 8)},
  "all": {"arms": FEW, "segment.labelled": (0,)},
}
# Of the tables of differences; the Mitigator must beat heads_mean, the filter
# F0 and random.
BASELINES = (
  "scratch",
  "scratch_long",
  "simclr",
  "heads_mean",
  "pixel_F0",
  "pixel_random",
)
PARTS = {"eval": "test volumes", "ood": "out of distribution"}
_FIT = re.compile(r"(\w+)-m(\d+)-d(\d+)-s(\d+)")


def main() -> int:
  """Runs what is missing, then prints the tables."""
  arguments = parse()
  if arguments.jobs:
    run_all(arguments, pathlib.Path(arguments.out))
  groups, fits = {}, []
  if arguments.out:
    groups, fits = finished(arguments.out, arguments.own)
  if arguments.kept:
    groups, fits = keep(pathlib.Path(arguments.kept), groups, fits)
  tables(groups, fits)
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/gcl.py:hippocampus")
  parser.add_argument("--out", default="runs/gcl_grid")
  parser.add_argument("--kept", default="", help="a file of scores")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--runs", default=",".join(RUNS))
  parser.add_argument("--arms", default=",".join(ARMS), help="of run few")
  parser.add_argument("--own", default="gcl", help="what the own arm is")
  parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
  parser.add_argument(
    "overrides", nargs="*", help="further settings, name=value"
  )
  return parser.parse_args()


def run_all(arguments: argparse.Namespace, out: pathlib.Path) -> None:
  """Executes every run of every seed, `few` before those that reuse it."""
  further = dict(item.split("=", 1) for item in arguments.overrides)
  further = as_own(arguments) | further
  few = {"arms": tuple(arguments.arms.split(","))}

  def work(task: tuple[str, int], cores: list[int]) -> None:
    name, seed = task
    settings = {"seed": seed, "segment.seeds": (seed,)} | RUNS[name]
    draws = (seed, seed + 3, seed + 6) if name != "all" else (seed,)
    settings |= {"segment.draws": draws} | (few if name == "few" else {})
    folder = out / f"seed{seed}" / name
    launching.share(folder, ("data", *FEW, "gcl"))
    launching.run(arguments.config, folder, settings | further, cores=cores)

  wanted, seeds = arguments.runs.split(","), arguments.seeds.split(",")
  for names in (["few"], [name for name in wanted if name != "few"]):
    tasks = [(n, int(s)) for n in names if n in wanted for s in seeds]
    launching.side_by_side(work, tasks, arguments.jobs)


def as_own(arguments: argparse.Namespace) -> dict:
  """Settings that make the method's own arm the one that --own names."""
  if arguments.own == gcl_arms.OWN:
    return {}
  preset = arguments.config.rpartition(":")[2]
  changes = gcl_arms.ARMS[arguments.own](get_config(preset).pretrain)
  return {f"pretrain.{name}": value for name, value in changes.items()}


def finished(out: str, own: str) -> tuple[dict[str, list[str]], list[dict]]:
  """Patients of every part's volumes, and every finished fine-tune: arm (the
  method's own by the name `own`), M, draw, seed, and per part the scores of the
  volumes by metric and class."""
  fits, groups = [], {}
  for path in sorted(pathlib.Path(out).glob("seed*/*/segment/done/*.json")):
    arm, *numbers = _FIT.fullmatch(path.stem).groups()
    arm = own if arm == gcl_arms.OWN else arm
    labelled, draw, seed = map(int, numbers)
    fit = {"arm": arm, "labelled": labelled, "draw": draw, "seed": seed}
    found = json.loads(path.read_text())
    groups = groups or groups_of(path.parents[2])
    for part in groups:
      fit[part] = {
        name: [None if x != x else round(x, 3) for x in values]
        for name, values in found[part].items()
        if not name.endswith("mean")
      }
    fits.append(fit)
  return groups, fits


def groups_of(run: pathlib.Path) -> dict[str, list[str]]:
  """Patients of the labelled volumes of each part, in the volumes' order."""
  table = unpack(load_artifact(run / "data" / "artifact")["table"])
  groups = {}
  for part in PARTS:
    rows = np.flatnonzero((table["part"] == part) & (table["labelled"] > 0))
    pairs = zip(table["volume"][rows], table["group"][rows], strict=True)
    groups[part] = [str(group) for group in dict(pairs).values()]
  return groups


def keep(
  path: pathlib.Path, groups: dict[str, list[str]], fits: list[dict]
) -> tuple[dict[str, list[str]], list[dict]]:
  """Merges the fits with those in the file, whose first line are the patients;
  writes and returns all of them."""
  lines = path.read_text().splitlines() if path.exists() else []
  before, *kept = map(json.loads, lines or ["{}"])
  if before and groups and before != groups:
    sys.exit(f"{path} holds scores of other test patients")
  merged = {key(fit): fit for fit in [*kept, *fits]}
  groups, fits = before or groups, [merged[name] for name in sorted(merged)]
  lines = map(json.dumps, [groups, *fits])
  path.write_text("".join(f"{line}\n" for line in lines))
  return groups, fits


def key(fit: dict) -> tuple:
  """Identity of a fine-tune."""
  return fit["seed"], fit["labelled"], fit["draw"], fit["arm"]


def tables(groups: dict[str, list[str]], fits: list[dict]) -> None:
  """Prints figures of every arm and paired differences (markdown); those of
  one number of labelled patients are a family for Holm's correction."""
  found = collections.defaultdict(dict)
  for fit in fits:
    found[fit["arm"], fit["labelled"]][fit["draw"], fit["seed"]] = fit
  counts = sorted({m for _, m in found}, key=lambda m: m or 10**6)
  arms = [arm for arm in (*ARMS, "gcl") if any(a == arm for a, _ in found)]
  for part, metric in itertools.product(PARTS, ("dice", "hd95")):
    figure = functools.partial(mean_of, found, np.array(groups[part]), part)
    title = f"{metric}, {PARTS[part]}"
    columns = [{a: figure(metric, m, (a,)) for a in arms} for m in counts]
    show(title, counts, arms, columns)
    for other in BASELINES:
      columns = [
        {a: figure(metric, m, (a, other)) for a in arms if a != other}
        for m in counts
      ]
      columns = [family({a: f for a, f in c.items() if f}) for c in columns]
      show(f"{title}: difference from {other}", counts, arms, columns)


def mean_of(found, groups, part, metric, labelled, pair) -> dict | None:
  """Mean of an arm, or of the paired difference of two, over the fine-tunes
  that are finished; None without any."""
  fits = [found.get((name, labelled), {}) for name in pair]
  keys = sorted(set.intersection(*map(set, fits)))
  if not keys:
    return None
  ours, *theirs = (
    np.stack([scores(f[key][part], metric) for key in keys], 1) for f in fits
  )
  return mean_over_fits(
    ours - theirs[0] if theirs else ours,
    groups,
    draws=draw_names(labelled, *zip(*keys, strict=True)),
    paired=bool(theirs),
  )


def text(entry: dict | None) -> str:
  """One cell: the figure, draws and fine-tunes, and what it is called."""
  if entry is None:
    return "-"
  words = f"{interval(entry)} ({entry['draws']}/{entry['fits']})"
  if entry.get("p_holm") is not None:
    words += f" {verdict(entry)}, p {entry['p_holm']:.3f}"
  return words


def scores(of_part: dict, metric: str) -> np.ndarray:
  """Scores float64[K, V] of the classes of a metric."""
  rows = [v for name, v in of_part.items() if name.startswith(f"{metric}/")]
  return np.array(rows, np.float64)


def show(title, counts, arms, columns) -> None:
  """Prints one table, unless it is empty; (9/9) after a figure are its draws
  and fine-tunes, and p is Holm's."""
  rows = {arm: [text(column.get(arm)) for column in columns] for arm in arms}
  rows = {arm: row for arm, row in rows.items() if set(row) != {"-"}}
  if rows:
    print(f"\n{title}\n")
    print("| arm |", " | ".join(f"M = {m or 'all'}" for m in counts), "|")
    print("|" + " --- |" * (len(counts) + 1))
  for arm, row in rows.items():
    print(f"| {arm} |", " | ".join(row), "|")


if __name__ == "__main__":
  sys.exit(main())
