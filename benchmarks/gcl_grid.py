"""Does GCL pre-training help, and which of its parts? Every arm, over seeds.

  python benchmarks/gcl_grid.py --out=runs/gcl_grid --seeds=0,1,2 --jobs=2 \\
      data.path=$GCL_DATA/mr_hippocampus.npz

For each seed the run `few` pre-trains every arm and fine-tunes it with 2 and
with 1 labelled patients, three draws of them; `more` and `all` take over the
encoders of some arms and fine-tune those with 4 and 8 and with all. A seed is
one of pre-training and of fine-tuning; test patients and draws stay the same.

Prints tables of Dice and of paired differences out of whatever is finished,
with intervals over draws, seeds and test patients
(`gcl_jax.evaluation.volumes.mean_over_fits`); --jobs=0 does only that. A
stopped grid goes on where it was.
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import shutil
import sys

import launching

ARMS = (
  "scratch",
  "simclr",
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
  "all": {"arms": FEW, "segment.labelled": (0,), "segment.draws": (0,)},
}
# Of the tables of differences; the Mitigator must beat heads_mean, the filter
# F0 and random.
BASELINES = ("scratch", "simclr", "heads_mean", "pixel_F0", "pixel_random")
PARTS = {"eval": "test volumes", "ood": "out of distribution"}
_FIT = re.compile(r"(\w+)-m(\d+)-d(\d+)-s(\d+)")


def main() -> int:
  """Runs what is missing, then prints the tables."""
  arguments = parse()
  out = pathlib.Path(arguments.out)
  if arguments.jobs:
    run_all(arguments, out)
  tables(out)
  return 0


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/gcl.py:hippocampus")
  parser.add_argument("--out", default="runs/gcl_grid")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--runs", default=",".join(RUNS))
  parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
  parser.add_argument(
    "overrides", nargs="*", help="further settings, name=value"
  )
  return parser.parse_args()


def run_all(arguments: argparse.Namespace, out: pathlib.Path) -> None:
  """Every run of every seed, each on its share of the cores."""
  further = dict(item.split("=", 1) for item in arguments.overrides)
  cores = sorted(os.sched_getaffinity(0))
  jobs = arguments.jobs
  free = collections.deque(cores[k::jobs] for k in range(jobs))
  first: dict[int, concurrent.futures.Future] = {}

  def work(name: str, seed: int) -> None:
    if name != "few" and seed in first:
      first[seed].result()
    mine = free.popleft()
    try:
      settings = {"seed": seed, "segment.seeds": (seed,), **further}
      folder = out / f"seed{seed}" / name
      if name != "few":
        share(out / f"seed{seed}" / "few", folder)
      launching.run(arguments.config, folder, settings | RUNS[name], cores=mine)
    finally:
      free.append(mine)

  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    tasks = []
    for name in arguments.runs.split(","):
      for seed in map(int, arguments.seeds.split(",")):
        tasks.append(pool.submit(work, name, seed))
        if name == "few":
          first[seed] = tasks[-1]
    for task in tasks:
      task.result()


def share(base: pathlib.Path, folder: pathlib.Path) -> None:
  """Data and encoders of the first run, taken over by another."""
  for stage in ("data", *FEW, "gcl"):
    if (base / stage).exists() and not (folder / stage).exists():
      shutil.copytree(base / stage, folder / stage)


if __name__ == "__main__":
  sys.exit(main())
