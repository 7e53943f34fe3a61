"""Effect of pre-training on severity bins: the full comparison, over seeds.

For each seed one run makes data, autoencoders and scores; every condition
then has its own bins, encoder and probe from the same scores:

  python benchmarks/severity_grid.py --config=configs/severity.py:octdl \\
      --data=$GCL_DATA/oct_octdl_96x264.npz --out=runs/grid --seeds=0,1,2

Prints one JSON object per condition and seed (macro AUROC and macro F1 of the
frozen probe per label fraction) and, last, tables of the means over seeds and
of paired differences. A seed also draws which patients are labelled. Intervals
are over seeds and evaluation patients (`evaluation.fits`), from the probability
of every image that stage `probe` leaves. --picture=FILE.svg draws the macro
AUROC over label fractions. Finished conditions are reused, so it can be stopped
and resumed.
"""

import argparse
import json
import pathlib
import shutil
import sys
from typing import NamedTuple

import launching
import markdown
import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.context import read_stage
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import by_label, comparisons, fits
from gcl_jax.evaluation.intervals import Support
from gcl_jax.methods.severity.config import OWN
from gcl_jax.pipeline import report_comparisons, report_probe

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
  "supcon, our rule": RULE,
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
  # The preset's own rule, with what all conditions are compared with.
  "supcon, finest bins with a positive": {
    "bin.rule": "finest",
    "arms": ("random", "simclr", "supervised"),
  },
  "supcon, 50 bins, bin-aware sampler": {
    **BINS["supcon, 50 bins"],
    "supcon.images_per_bin": 4,
  },
}
SHARED = ("data", "gradcon", "score")
FIGURES = ("macro_auroc", "macro_f1")
OPPONENTS = ("simclr", "supcon, our rule")
DRAWN = ("supcon, our rule", "random", "simclr", "supervised")


class Figure(NamedTuple):
  """One figure of one condition and label fraction, a row for every seed.

  Attributes:
    values: seed -> float64[1 + G], whole and without each evaluation patient.
    support: what it rests on.
    skipped: labels that the mean leaves out.
  """

  values: dict[str, np.ndarray]
  support: Support
  skipped: tuple[str, ...] = ()


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
      found = {
        f"{key[0]}, {key[1]} at {key[2]:g}": round(float(values[0]), 4)
        for key, (values, _) in read(folder, name).items()
      }
      print(json.dumps({"seed": seed, **found}), flush=True)
  figures = gathered(pathlib.Path(arguments.out))
  tables(figures)
  if arguments.picture:
    draw(figures, names, pathlib.Path(arguments.picture))
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
    "--picture",
    default="",
    help="an SVG of learning curves: of our rule, or of --only, and the arms",
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


def read(
  folder: pathlib.Path, name: str
) -> dict[tuple, tuple[np.ndarray, Support, tuple[str, ...]]]:
  """(figure, condition or arm, fraction) -> values, support, and labels that
  the mean leaves out, of one run."""
  found, artifact, data = {}, read_stage(folder, "probe"), None
  if "chosen" not in artifact:
    raise SystemExit(
      f"{folder} is of an older version, which kept no probability of every"
      " label fraction: remove it, or take another --out"
    )
  data = read_stage(folder, "data")
  table, rows = unpack(data["table"]), artifact["rows"]
  labels = [str(label) for label in data["labels"]]
  truths = {n: np.asarray(table[n], float)[rows] for n in labels}
  for encoder, by_fraction in artifact["probabilities"].items():
    for fraction, values in by_fraction.items():
      thresholds = artifact["chosen"][encoder][fraction]["threshold"]
      made = by_label.table(
        truths,
        {
          n: None if np.isnan(column).all() else column
          for n, column in zip(labels, values.T, strict=True)
        },
        table["group"][rows],
        thresholds=dict(zip(labels, thresholds, strict=True)),
      )
      for figure in FIGURES:
        key = figure, name if encoder == OWN else encoder, float(fraction)
        found[key] = made.values[figure], made.supports[figure], made.skipped
  return found


def gathered(out: pathlib.Path) -> dict[tuple, Figure]:
  """The figures of every finished condition, the seeds side by side.

  Raises:
    SystemExit: seeds were not tested on the same patients or labels.
  """
  found: dict[tuple, Figure] = {}
  for folder in sorted(out.glob("seed*/*")):
    if folder.name == "base" or not (folder / "report.json").exists():
      continue
    name = next(n for n in CONDITIONS if folder_name(n) == folder.name)
    for key, (values, support, skipped) in read(folder, name).items():
      figure = found.setdefault(key, Figure({}, support, skipped))
      if figure.skipped != skipped:
        raise SystemExit(
          f"{folder}: means at {key[2]:g} leave out {skipped}, those of other"
          f" seeds {figure.skipped}: take this fraction out of probe.fractions"
        )
      figure.values[folder.parent.name] = values
      found[key] = figure._replace(
        support=_common(figure.support, support, folder)
      )
  return found


def _common(first: Support, second: Support, where: pathlib.Path) -> Support:
  """What two seeds rest on: the same patients; of the degrees of freedom of a
  mean over labels, which depend on the figures, the fewer."""
  degrees = [s.degrees for s in (first, second) if s.degrees is not None]
  first, second = first._replace(degrees=None), second._replace(degrees=None)
  if first != second:
    raise SystemExit(
      f"{where}: {second} is not what other seeds were tested on, {first}: give"
      " all the same data.split_seed"
    )
  return first._replace(degrees=min(degrees, default=None))


def entry_of(figure: Figure) -> dict:
  """Mean over seeds, with its interval over seeds and patients."""
  return fits.over_fits(np.stack(list(figure.values.values())), figure.support)


def difference_of(ours: Figure, theirs: Figure) -> dict | None:
  """Paired difference over the seeds that both have; None without any."""
  seeds = [seed for seed in ours.values if seed in theirs.values]
  if not seeds:
    return None
  values = [ours.values[seed] - theirs.values[seed] for seed in seeds]
  return fits.over_fits(np.stack(values), ours.support, paired=True)


def tables(figures: dict[tuple, Figure]) -> None:
  """Prints the means of every condition, then families of differences."""
  for figure in FIGURES:
    of_figure = {key[1:]: f for key, f in figures.items() if key[0] == figure}
    print(f"\n{figure}: mean over seeds, 95 % over seeds and patients\n")
    print(
      "| pre-training | share of groups | seeds | mean |\n" + "| --- " * 4 + "|"
    )
    for (name, fraction), found in sorted(of_figure.items()):
      text = results.interval(entry_of(found))
      print(f"| {name} | {fraction:g} | {len(found.values)} | {text} |")
    for other in OPPONENTS:
      _print_family(figure, other, of_figure)


def _print_family(figure, other, of_figure) -> None:
  """Differences of every condition and arm from one of them."""
  entries = {
    f"{name} over {other}, {100 * fraction:g} % of groups": difference_of(
      found, of_figure[other, fraction]
    )
    for (name, fraction), found in sorted(of_figure.items())
    if name != other and (other, fraction) in of_figure
  }
  entries = {name: entry for name, entry in entries.items() if entry}
  if not entries:
    return
  family = comparisons.family(entries)
  markdown.show(report_comparisons.table(family, figure))


def draw(
  figures: dict[tuple, Figure], names: list[str], path: pathlib.Path
) -> None:
  """Writes the learning curves as SVG, with their intervals as bands."""
  shown = DRAWN if len(names) == len(CONDITIONS) else (*names, *DRAWN[1:])
  entries: dict[str, dict[float, dict]] = {}
  for name in shown:
    for (figure, of, fraction), found in figures.items():
      if figure == "macro_auroc" and of == name:
        entries.setdefault(name, {})[fraction] = entry_of(found)
  path.write_bytes(report_probe.curves(entries, "macro AUROC"))


if __name__ == "__main__":
  sys.exit(main())
