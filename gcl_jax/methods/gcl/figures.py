"""Figures of a run: means with their intervals, and paired gains."""

import math
from typing import Any

import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.tables import unpack
from gcl_jax.evaluation import volumes
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
  at the first M of `segment.labelled`. Intervals as in
  `volumes.mean_over_fits`.
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
    for key, values in scores.items():
      metric, _, kind = key.partition("/")
      columns = _classes(scores, metric) if kind == "mean" else values[None]
      out[f"{name}/{prefix}{key}"] = _interval(columns, groups, config)
      if metric == "hd95":
        missing = int(np.isnan(columns).sum())
        out[f"{name}/{prefix}{key}/undefined"] = _count(missing, columns.size)
    for other in BASELINES:
      if other in config.arms and other != arm:
        theirs = scores_of(found, config, other, labelled, part)
        difference = _classes(scores, "dice") - _classes(theirs, "dice")
        out[f"{name}/{prefix}gain_over_{other}"] = _interval(
          difference, groups, config
        )
  return out


def _interval(values, groups, config) -> dict:
  return volumes.mean_over_fits(
    values,
    groups,
    draws=len(config.segment.draws),
    samples=config.report.bootstrap,
    seed=config.seed,
  )


def _classes(scores: dict, metric: str) -> np.ndarray:
  """float64[K, fits, V] of the classes of a metric."""
  mean = f"{metric}/mean"
  names = [k for k in scores if k.startswith(f"{metric}/") and k != mean]
  return np.stack([scores[name] for name in names])


def _count(value: float, n: int) -> dict:
  return {"value": value, "low": None, "high": None, "n": n}


def spread(values: np.ndarray) -> float | None:
  """Standard deviation over draws and seeds of the mean over volumes."""
  per_fit = np.array([_mean(row) for row in values])
  return float(per_fit.std(ddof=1)) if len(per_fit) > 1 else None


def _mean(values: np.ndarray) -> float:
  defined = values[~np.isnan(values)]
  return defined.mean() if len(defined) else np.nan


def first_fit(config: Any, arm: str) -> Fit:
  """The fine-tune whose predictions the report shows."""
  return next(fit for fit in fits(config) if fit.arm == arm)


def conflict_rate(context: Any, arm: str = "gcl") -> dict | None:
  """Share of conflicting pairs of labels: its mean over the n logged steps."""
  logged = results.history(context, arm, arm).get("conflict_rate")
  if not logged:
    return None
  values = logged[1]
  return _count(float(np.mean(values)), len(values))


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
