"""AUROC of the severity score on real OCT, with label-free baselines.

Each setting runs the stages data, gradcon, score and grade over the seeds:

  python benchmarks/severity_scores.py --out=runs/scores --seeds=0,1,2 \\
      --data=$GCL_DATA/oct_octdl_96x264.npz

Prints one JSON object per setting and seed (flat metric names, intervals by
group) and, last, tables of mean and standard deviation over seeds: healthy
against diseased on the evaluation groups, before and after regressing out the
device's texture. Finished runs are reused.
"""

import argparse
import collections
import json
import pathlib
import sys

import launching
import numpy as np

from gcl_jax.engine.checkpoint import load_artifact

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
SCORES = (
  "severity",
  "severity/gradcon",
  "severity/recon",
  "severity/grad",
  "baseline/pca",
  "baseline/edge",
  "baseline/brightness",
)


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
      metrics = json.loads(load_artifact(workdir / "grade/artifact")["metrics"])
      found[name].append(metrics)
      print(json.dumps({"setting": name, "seed": seed, **metrics}), flush=True)
  for suffix in ("auroc", "auroc_adjusted"):
    print(f"\n{suffix}\n")
    table(found, suffix)
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


def table(found: dict, suffix: str) -> None:
  """Prints one row per setting, one column per score: mean (sd over seeds)."""
  print("| setting |", " | ".join(SCORES), "|")
  print("|" + " --- |" * (len(SCORES) + 1))
  for name, runs in found.items():
    cells = []
    for score in SCORES:
      joint = "_" if score.startswith("baseline") else "/"
      values = [run[f"{score}{joint}{suffix}"]["value"] for run in runs]
      spread = np.std(values, ddof=len(values) > 1)
      cells.append(f"{np.mean(values):.3f} ({spread:.3f})")
    print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
  sys.exit(main())
