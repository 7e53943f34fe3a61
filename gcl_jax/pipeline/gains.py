"""Metrics of few-label segmentation: means with intervals, paired gains."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import Context
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import comparisons
from gcl_jax.evaluation.over_draws import mean_over_fits
from gcl_jax.evaluation.volumes import AMBIGUOUS
from gcl_jax.pipeline import report
from gcl_jax.pipeline.label_draws import draw_names, fits
from gcl_jax.pipeline.prepared import Prepared

PARTS = {"eval": "", "ood": "ood/"}  # and what stands before a metric's name
# Metric -> start of the name of a difference.
DIFFERENCES = {"dice": "gain", "hd95": "hd95", AMBIGUOUS: "gain_ambiguous"}
FAILURE = 0.5  # Dice below which a class of a volume counts as failed


def label(labelled: int) -> str:
  """M patients with labels in names of metrics: a number, or "all" for 0."""
  return str(labelled or "all")


def titles(config: ConfigDict) -> dict[str, str]:
  """Metric -> what it is in words, of those that a run has.

  Args:
    config: section `segment`.
  """
  found = {"dice": "Dice", "hd95": f"HD95 in {config.unit}"}
  if config.tolerance:
    found["surface_dice"] = "surface Dice"
  if alike := config.get("alike", ()):
    found[AMBIGUOUS] = f"Dice on {' and '.join(alike)} alone"
  return found


def scores_of(
  found: dict, config: ConfigDict, arm: str, labelled: int, part: str
) -> dict[str, np.ndarray]:
  """{"dice/..": float64[fits, V]} of an arm, in the order of `fits`.

  Args:
    found: what `segment.run` left.
    config: of the run.
    arm, labelled, part: which scores.
  """
  each = [
    unpack(found["fits"][fit.name][part])
    for fit in fits(config.segment, [arm])
    if fit.labelled == labelled and part in found["fits"][fit.name]
  ]
  if not each:
    return {}
  return {name: np.stack([e[name] for e in each]) for name in each[0]}


def metrics(
  found: dict, config: ConfigDict, arms: Sequence[str], against: Sequence[str]
) -> dict[str, dict]:
  """Flat name -> entry of `mean_over_fits`.

  `segment/<arm>@<M>/...` of every arm, and without the arm the figures of the
  method's own at the first M of `segment.labelled`. Differences of one metric,
  M and part are one family of comparisons. Where section `segment` has a field
  `alike`, `segment/dice/ambiguous` is always there, without a value where it
  names no class.

  Args:
    found: what `segment.run` left.
    config: of the run.
    arms: the method's own last.
    against: arms that every arm is compared with, paired by volume and fit; the
      method's own is compared with all.
  """
  out = {}
  for labelled in config.segment.labelled:
    for part, prefix in PARTS.items():
      scores = {
        arm: scores_of(found, config, arm, labelled, part) for arm in arms
      }
      if scores[arms[-1]]:
        mean = _mean_of(found, config, labelled, part)
        name = f"segment/{{}}@{label(labelled)}/{prefix}"
        for arm in arms:
          out |= _of_arm(scores[arm], name.format(arm), mean)
        out |= _differences(scores, pairs(arms, against), name, mean)
  ours = f"segment/{arms[-1]}@{label(config.segment.labelled[0])}/"
  for name in [name for name in out if name.startswith(ours)]:
    out[f"segment/{name.removeprefix(ours)}"] = out[name]
  if "alike" in config.segment:
    out.setdefault(f"segment/{AMBIGUOUS}", count(None, 0))
  return out


def pairs(arms: Sequence[str], against: Sequence[str]) -> list[tuple[str, str]]:
  """Which arm is compared with which, each pair once.

  The last, the method's own, is compared with all; the others with those of
  `against`, and of two that are both in it the later with the earlier.
  """
  found = []
  for k, arm in enumerate(arms[:-1]):
    baselines = [name for name in arms[:-1] if name in against]
    if arm in against:
      baselines = [name for name in arms[:k] if name in against]
    found += [(arm, other) for other in baselines]
  return found + [(arms[-1], other) for other in arms[:-1]]


def _mean_of(found, config, labelled, part) -> Callable[..., dict]:
  """`mean_over_fits` of values float64[K, fits, V] of this M and part."""
  each = [f for f in fits(config.segment, [""]) if f.labelled == labelled]
  return functools.partial(
    mean_over_fits,
    groups=found["tests"][part]["groups"],
    draws=draw_names(
      labelled, [fit.draw for fit in each], [fit.seed for fit in each]
    ),
    samples=config.report.bootstrap,
    seed=config.seed,
  )


def _of_arm(scores, name, mean) -> dict[str, dict]:
  """Means of an arm over classes and by class, and its share of failures."""
  out = {}
  for key, values in scores.items():
    metric, _, kind = key.partition("/")
    columns = _columns(scores, metric) if kind == "mean" else values[None]
    out[name + key] = mean(columns)
    if metric == "hd95":
      missing = int(np.isnan(columns).sum())
      out[f"{name}{key}/undefined"] = count(missing, columns.size)
  dice = _columns(scores, "dice")
  failed = np.where(np.isnan(dice), np.nan, dice < FAILURE)
  return out | {f"{name}failures": mean(failed, scale="logit")}


def _differences(scores, compared, name, mean) -> dict[str, dict]:
  """Metrics of one arm less another's; a family for each of `DIFFERENCES`."""
  out = {}
  for metric, word in DIFFERENCES.items():
    if metric == AMBIGUOUS and not all(metric in s for s in scores.values()):
      continue
    of_classes = {arm: _columns(scores[arm], metric) for arm in scores}
    family = {}
    for arm, other in compared:
      difference = of_classes[arm] - of_classes[other]
      key = f"{name.format(arm)}{word}_over_{other}"
      family[key] = mean(difference, paired=True)
      if metric == "hd95":
        missing = int(np.isnan(difference).sum())
        out[f"{key}/undefined"] = count(missing, difference.size)
    out |= comparisons.family(family)
  return out


def _columns(scores: dict, metric: str) -> np.ndarray:
  """float64[K, fits, V] of the classes of a metric; `AMBIGUOUS` is one."""
  if metric == AMBIGUOUS:
    return scores[metric][None]
  others = (f"{metric}/mean", AMBIGUOUS)
  names = [k for k in scores if k.startswith(f"{metric}/") and k not in others]
  return np.stack([scores[name] for name in names])


def write_tables(
  context: Context, images: Prepared, found: dict, arms: Sequence[str]
) -> None:
  """Writes scores.csv, predictions.csv and features.npz of a run.

  scores.csv has a row for every fine-tune and test volume; predictions.csv one
  for every test slice, with the pixels that the network of the method's own
  arm gives to each class; the class maps are in the artifact of the stage.

  Args:
    context: of stage `report`.
    images: the prepared slices.
    found: what `segment.run` left.
    arms: the method's own last.
  """
  rows = []
  for fit in fits(context.config.segment, arms):
    for part, test in found["tests"].items():
      scores = unpack(found["fits"][fit.name][part])
      for v, volume in enumerate(test["volumes"]):
        row = {"volume": volume, "group": test["groups"][v], "part": part}
        row |= fit._asdict() | {name: x[v] for name, x in scores.items()}
        rows.append(row)
  table = {name: [row[name] for row in rows] for name in rows[0]}
  report.write_table(context, "scores.csv", table)
  network = found["networks"][arms[-1]]
  chosen, maps = network["rows"], network["maps"]
  names = ("id", "volume", "group", "part")
  columns = {name: images.table[name][chosen] for name in names}
  for k, name in enumerate(images.classes, 1):
    columns[f"pixels of {name}"] = (maps == k).sum(axis=(1, 2))
  report.write_table(context, "predictions.csv", columns)
  report.write_features(context, images, found["features"])


def count(value: float | None, n: int) -> dict:
  """A metric without an interval."""
  return {"value": value, "low": None, "high": None, "n": n}


def spread(values: np.ndarray) -> float | None:
  """Standard deviation over draws and seeds of the mean over volumes."""
  per_fit = np.array([_mean(row) for row in values])
  return float(per_fit.std(ddof=1)) if len(per_fit) > 1 else None


def _mean(values: np.ndarray) -> float:
  defined = values[~np.isnan(values)]
  return defined.mean() if len(defined) else np.nan
