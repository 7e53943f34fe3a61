"""AUROC of the severity score on real OCT, beside label-free opponents.

Each setting runs the stages data, gradcon, score and grade over the seeds:

  python benchmarks/severity_scores.py --out=runs/scores --seeds=0,1,2 \\
      --data=$GCL_DATA/oct_octdl_96x264.npz

Prints one JSON object per setting and seed (flat metric names, intervals by
group) and, last, tables from the scores of every image: means over seeds with
intervals over seeds and groups, healthy against diseased on the evaluation
groups, before and after regressing out the device's texture, and the paired
differences to the opponents, a family for each setting. Finished runs are
reused.
"""

import argparse
import collections
import json
import pathlib
import sys
from collections.abc import Mapping

import launching
import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.checkpoint import load_artifact
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import comparisons, fits, intervals
from gcl_jax.methods.severity import grade, opponents
from gcl_jax.pipeline import report_comparisons

ONE_MODEL = {"autoencoder.folds": 1}  # enough for evaluation images
PUBLISHED = {
  "autoencoder.widths": (32, 32, 64, 64),
  "autoencoder.alpha": 0.03,
  "score.mode": "gradcon",
  "score.pooling": "mean",
}
ABSOLUTE = {
  **PUBLISHED,
  "autoencoder.alpha_scale": "absolute",
  "score.beta_scale": "absolute",
}
AUTHORS = {"autoencoder.widths": (32, 32, 64, 64)}
RAW = {
  "preprocess.flatten": False,
  "preprocess.normalise": False,
  "preprocess.crop": False,
}
SETTINGS = {
  "preset: alpha 0, pooled by layers, wide, 3 folds": {},
  "alpha 0, plain mean": {**ONE_MODEL, **AUTHORS, "score.pooling": "mean"},
  "alpha 0.03 of the mean-image loss": {**ONE_MODEL, **PUBLISHED},
  "alpha 0.03 absolute, as published": {**ONE_MODEL, **ABSOLUTE},
  "alpha 0, plain mean, raw scans": {
    **ONE_MODEL,
    **AUTHORS,
    "score.pooling": "mean",
    **RAW,
  },
  "the same, one model": ONE_MODEL,
  "the same, one model of the authors' widths": {**ONE_MODEL, **AUTHORS},
}
STAGES = ("data", "gradcon", "score", "grade")
KEYS = ("auroc", "auroc_adjusted", "sensitivity_at_90_specificity")
SCORES = (
  *("severity", "severity.gradcon", "severity.recon", "severity.grad"),
  *opponents.NAMES,
)
Figures = dict[str, np.ndarray]  # score -> float64[F, 1 + G] over F seeds


def main() -> int:
  """Executes unfinished runs, then prints the tables."""
  arguments = parse()
  found = collections.defaultdict(list)
  for seed in map(int, arguments.seeds.split(",")):
    for number, (name, overrides) in enumerate(SETTINGS.items()):
      if arguments.only and arguments.only not in name:
        continue
      workdir = pathlib.Path(arguments.out) / f"setting{number}_seed{seed}"
      for stage in STAGES:
        if not (workdir / stage / "manifest.json").exists():
          settings = {"seed": seed, "data.path": arguments.data, **overrides}
          launching.run(arguments.config, workdir, settings, stage)
      found[name].append(workdir)
      graded = load_artifact(workdir / "grade/artifact")
      metrics = json.loads(str(graded["metrics"]))
      print(json.dumps({"setting": name, "seed": seed, **metrics}), flush=True)
  for key in KEYS:
    rows = {name: figures(runs, key) for name, runs in found.items()}
    print(f"\n{grade.FIGURES[key][2]}, mean over seeds\n")
    table(rows)
    if key in grade.COMPARED:
      print("\nthe severity score of the setting over its opponents\n")
      differences(rows, key)
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/severity.py:octdl")
  parser.add_argument("--data", required=True, help="config.data.path")
  parser.add_argument("--out", default="runs/scores")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--only", default="", help="part of a setting's name")
  return parser.parse_args()


def figures(
  runs: list[pathlib.Path], key: str
) -> tuple[Figures, intervals.Support]:
  """A figure of every score in every run, whole and by group left out.

  Args:
    runs: one per seed; all have the same evaluation scans.
    key: of `grade.FIGURES`. Scores without it in one of the runs are absent.
  """
  found, support = collections.defaultdict(list), None
  for run in runs:
    graded = load_artifact(run / "grade/artifact")
    table = unpack(load_artifact(run / "data/artifact")["table"])
    rows = (table["part"] == "eval") & np.isfinite(graded["sick"])
    chosen = graded["adjusted" if key == "auroc_adjusted" else "scores"]
    values, support = grade.left_out(
      key,
      graded["sick"][rows],
      {name: score[rows] for name, score in chosen.items()},
      table["group"][rows],
    )
    for name, value in values.items():
      found[name].append(value)
  whole = {n: np.stack(v) for n, v in found.items() if len(v) == len(runs)}
  return whole, support


def over_seeds(
  values: np.ndarray, support: intervals.Support, paired: bool = False
) -> dict:
  """Entry of the mean over seeds, over groups alone if there is one seed."""
  if len(values) > 1:
    return fits.over_fits(values, support, paired=paired)
  if paired:
    return comparisons.difference(values[0], support)
  return intervals.interval(values[0], support)


def table(rows: Mapping[str, tuple[Figures, intervals.Support]]) -> None:
  """Prints one row per setting, one column per score."""
  print("| setting |", " | ".join(SCORES), "|")
  print("|" + " --- |" * (len(SCORES) + 1))
  for name, (values, support) in rows.items():
    cells = [
      results.interval(over_seeds(values[score], support))
      if score in values
      else "-"
      for score in SCORES
    ]
    print(f"| {name} |", " | ".join(cells), "|")


def differences(
  rows: Mapping[str, tuple[Figures, intervals.Support]], key: str
) -> None:
  """Prints the paired differences of each setting, corrected within it."""
  for name, (values, support) in rows.items():
    if "severity" not in values:
      print(f"- {name}: no {key} of the severity score")
      continue
    entries = {
      f"{name}, over {words}": over_seeds(
        values["severity"] - values[other], support, paired=True
      )
      for other, words in opponents.NAMES.items()
      if other in values
    }
    family = comparisons.family(entries)
    for line in report_comparisons.lines(family, grade.FIGURES[key][2]):
      print(f"- {line}")


if __name__ == "__main__":
  sys.exit(main())
