"""Effect of pre-training on severity bins: the full comparison, over seeds.

For each seed one run makes data, autoencoders and scores; every condition
then has its own bins, encoder and probe from the same scores:

  python benchmarks/severity_grid.py --config=configs/severity.py:octdl \\
      --data=$GCL_DATA/oct_octdl_96x264.npz --out=runs/grid --seeds=0,1,2

Prints one JSON object per condition and seed (macro AUROC and macro F1 of the
frozen probe per label fraction) and, last, tables of mean and standard
deviation and of paired differences. Finished conditions are reused, so it can
be stopped and resumed.
"""

import argparse
import collections
import json
import pathlib
import shutil
import sys

import launching
import numpy as np
import scipy.stats

BINS = {
  f"supcon, {count} bins": {
    "bin.rule": "equal_width",
    "bin.count": count,
    "bin.allow_empty": True,
  }
  for count in (10, 50, 500, 5000)
}
RULE = {"bin.rule": "choose"}
CONDITIONS = {
  "supcon, our rule": {
    **RULE,
    "arms": ("random", "simclr", "supervised"),
  },
  **BINS,
  "supcon, our rule, shuffled bins": {
    **RULE,
    "supcon.labels": ("shuffled",),
  },
  "supcon, our rule, bins of the plain error": {
    **RULE,
    "supcon.labels": ("severity.recon",),
  },
  "supcon, our rule, bin-aware sampler": {
    **RULE,
    "supcon.images_per_bin": 4,
  },
  "supcon, kernel on score distance": {**RULE, "supcon.loss": "soft"},
  "supcon, three scores as three label sets": {
    **RULE,
    "supcon.labels": ("severity.recon", "severity.grad", "severity.gradcon"),
    "supcon.label_weights": (0.34, 0.33, 0.33),
  },
  "supcon, finest bins with a positive": {"bin.rule": "finest"},
  "supcon, 50 bins, bin-aware sampler": {
    **BINS["supcon, 50 bins"],
    "supcon.images_per_bin": 4,
  },
}
SHARED = ("data", "gradcon", "score")


def main() -> int:
  """Runs unfinished conditions, then prints the table."""
  arguments = parse()
  names = list(CONDITIONS)
  if arguments.only:
    names = [n for n in names if any(o in n for o in arguments.only.split(";"))]
  further = dict(item.split("=", 1) for item in arguments.overrides)
  for seed in map(int, arguments.seeds.split(",")):
    common = {"seed": seed, "data.path": arguments.data, **further}
    base = pathlib.Path(arguments.out) / f"seed{seed}" / "base"
    for stage in SHARED:
      launching.run(arguments.config, base, common, stage)
    for name in names:
      folder = base.parent / folder_name(name)
      if not (folder / "report" / "manifest.json").exists():
        share(base, folder)
        settings = common | {"arms": (), **CONDITIONS[name]}
        launching.run(arguments.config, folder, settings)
      print(json.dumps({"seed": seed, **read(folder, name)}), flush=True)
  table(arguments.out)
  return 0


def parse() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/severity.py:octdl")
  parser.add_argument("--data", required=True, help="config.data.path")
  parser.add_argument("--out", default="runs/grid")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument(
    "--only", default="", help="parts of condition names, split by ;"
  )
  parser.add_argument(
    "overrides", nargs="*", help="further settings, name=value"
  )
  return parser.parse_args()


def folder_name(condition: str) -> str:
  """Folder name of a condition."""
  return condition.replace(",", "").replace(" ", "_")


def share(base: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies the finished stages of the base run to a condition."""
  for stage in SHARED:
    if not (folder / stage).exists():
      shutil.copytree(base / stage, folder / stage)


def read(folder: pathlib.Path, name: str) -> dict:
  """Figures {condition: {fraction: ...}} of one finished run."""
  report = json.loads((folder / "report.json").read_text())
  found = collections.defaultdict(dict)
  for key, metric in report["metrics"].items():
    parts = key.split("/")
    if parts[0] == "probe" and "@" in parts[1] and len(parts) == 3:
      encoder, fraction = parts[1].split("@")
      if parts[2] in ("macro_auroc", "macro_f1"):
        label = name if encoder == "severity" else encoder
        found[label][f"{parts[2]}@{fraction}"] = metric["value"]
  return {"conditions": found}


def table(out: str) -> None:
  """Prints mean and standard deviation over seeds, one row per condition, then
  the differences from SimCLR and from our rule, paired by seed."""
  rows = collections.defaultdict(lambda: collections.defaultdict(dict))
  for folder in sorted(pathlib.Path(out).glob("seed*/*")):
    if folder.name == "base" or not (folder / "report.json").exists():
      continue
    name = next(n for n in CONDITIONS if folder_name(n) == folder.name)
    for label, values in read(folder, name)["conditions"].items():
      for key, value in values.items():
        if value is not None:
          rows[label][key][folder.parent.name] = value
  keys = sorted({key for values in rows.values() for key in values})
  _print("mean (standard deviation) over seeds", rows, keys, _spread)
  for other in ("simclr", "supcon, our rule"):
    if other not in rows:
      continue
    differences = {
      label: {key: _minus(values[key], rows[other][key]) for key in keys}
      for label, values in rows.items()
      if label != other
    }
    title = f"difference from {other}, same seed, 95 % by Student's t"
    _print(title, differences, keys, _interval)


def _print(title, rows, keys, cell) -> None:
  print(f"\n{title}\n")
  print("| pre-training | seeds |", " | ".join(keys), "|")
  print("|" + " --- |" * (len(keys) + 2))
  for label, values in rows.items():
    seeds = max(len(v) for v in values.values())
    cells = [cell(list(values[key].values())) for key in keys]
    print(f"| {label} | {seeds} |", " | ".join(cells), "|")


def _minus(one: dict, other: dict) -> dict:
  return {seed: one[seed] - other[seed] for seed in one if seed in other}


def _spread(values: list[float]) -> str:
  if not values:
    return "-"
  return f"{np.mean(values):.3f} ({np.std(values, ddof=len(values) > 1):.3f})"


def _interval(values: list[float]) -> str:
  if len(values) < 2:
    return "-"
  half = scipy.stats.t.ppf(0.975, len(values) - 1)
  half *= np.std(values, ddof=1) / np.sqrt(len(values))
  return f"{np.mean(values):+.3f} ± {half:.3f}"


if __name__ == "__main__":
  sys.exit(main())
