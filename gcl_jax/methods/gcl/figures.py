"""Figures of a run: means with intervals by patient, and paired gains."""

import math
from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import metrics, volumes
from gcl_jax.methods.gcl import arms
from gcl_jax.methods.gcl.segmenting import Fit, fits

BASELINES = ("scratch", "heads_mean")


def scores_of(
  found: dict, config: Any, arm: str, labelled: int, part: str
) -> dict[str, np.ndarray]:
  """{"dice/..": float64[fits, V]} of an arm, fits in order of draw and seed."""
  chosen = [
    fit
    for fit in fits(config)
    if (fit.arm, fit.labelled) == (arm, labelled)
    and part in found["fits"][fit.name]
  ]
  each = [unpack(found["fits"][fit.name][part]) for fit in chosen]
  if not each:
    return {}
  return {name: np.stack([e[name] for e in each]) for name in each[0]}


def all_metrics(found: dict, config: Any) -> dict[str, dict]:
  """Flat name -> {value, low, high, n}.

  `segment/<arm>@<M>/...` of every arm, and without the arm the figures of GCL
  at the first M of `segment.labelled`. Values are means over draws and seeds
  first; intervals are a bootstrap by patient.
  """
  out = {}
  for labelled in config.segment.labelled:
    for arm in arms.names(config):
      name = f"segment/{arm}@{labelled or 'all'}"
      out |= _of_arm(found, config, arm, labelled, name)
  first = config.segment.labelled[0] or "all"
  ours = f"segment/gcl@{first}/"
  for name in [name for name in out if name.startswith(ours)]:
    out[f"segment/{name.removeprefix(ours)}"] = out[name]
  return out


def _of_arm(found, config, arm, labelled, name) -> dict[str, dict]:
  out = {}
  for part, prefix in (("eval", ""), ("ood", "ood/")):
    scores = scores_of(found, config, arm, labelled, part)
    if not scores:
      continue
    groups = found["tests"][part]["groups"]
    mean = {k: _mean_of_fits(v) for k, v in scores.items()}
    summary = volumes.summarise(
      mean, groups, samples=config.report.bootstrap, seed=config.seed
    )
    for key, metric in summary.items():
      missing = metric.pop("undefined")
      out[f"{name}/{prefix}{key}"] = metric
      if key.startswith("hd95/"):
        out[f"{name}/{prefix}{key}/undefined"] = _count(missing, metric["n"])
    for other in BASELINES:
      if other in config.arms and other != arm:
        theirs = scores_of(found, config, other, labelled, part)
        out[f"{name}/{prefix}gain_over_{other}"] = gain(
          scores["dice/mean"], theirs["dice/mean"], groups, config
        )
  return out


def _count(value: int, n: int) -> dict:
  return {"value": value, "low": None, "high": None, "n": n}


def gain(
  ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray, config: Any
) -> dict:
  """Mean difference of two arms' Dice, paired by volume, draw and seed.

  Args:
    ours, theirs: float64[fits, V], the same fits and volumes.
    groups: [V], the patients.
    config: of the run.
  """
  difference = _mean_of_fits(ours - theirs)
  return metrics.bootstrap(
    lambda values: float(values.mean()),
    difference,
    groups=groups,
    samples=config.report.bootstrap,
    seed=config.seed,
  )


def spread(values: np.ndarray) -> float | None:
  """Standard deviation over draws and seeds of the mean over volumes."""
  per_fit = np.array([_mean(row) for row in values])
  return float(per_fit.std(ddof=1)) if len(per_fit) > 1 else None


def _mean_of_fits(values: np.ndarray) -> np.ndarray:
  """Mean over fits, of what is defined."""
  return np.array([_mean(column) for column in values.T])


def _mean(values: np.ndarray) -> float:
  defined = values[~np.isnan(values)]
  return defined.mean() if len(defined) else np.nan


def first_fit(config: Any, arm: str) -> Fit:
  """The fine-tune whose predictions the report shows."""
  return next(fit for fit in fits(config) if fit.arm == arm)


def conflict_rate(context: Any, arm: str = "gcl") -> float | None:
  """Mean over the logged steps of the share of conflicting pairs of labels."""
  logged = results.history(context, arm, arm).get("conflict_rate")
  return float(np.mean(logged[1])) if logged else None


def not_learned(context: Any, arm: str) -> list[str]:
  """Meta labels whose last logged losses are within 1 % of the floor."""
  bound = floor(context.config)
  history = results.history(context, arm, arm)
  return [
    name.removeprefix("loss/")
    for name, (_, values) in history.items()
    if name.startswith("loss/") and np.mean(values[-3:]) > 0.99 * bound
  ]


def floor(config: Any) -> float:
  """log(n - 1) of n = 2 B views: the loss when all embeddings are equal."""
  return math.log(2 * config.pretrain.batch_size - 1)
