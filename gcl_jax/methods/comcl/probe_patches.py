"""Stage `patches`: what frozen encoders know about single windows.

lesion    a lesion or a bright spot of the same degraded images
          (`artefacts`): what pre-training is said to tell apart.
quality   a window round a lesion as it is, or the same window degraded
          (`patch_pools`): the less an encoder tells, the less of quality is in
          its embedding.

Linear probes on the encoders' pooled features, fitted on windows of training
images and judged on those of evaluation images, each of patients of its own.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gcl_jax.engine.context import Context
from gcl_jax.evaluation import comparisons, crossfit, intervals, metrics, probe
from gcl_jax.losses.collapse import effective_rank, spread
from gcl_jax.methods.comcl import arms, artefacts, patch_pools, truth
from gcl_jax.methods.comcl.artefacts import Windows
from gcl_jax.pipeline import encoders
from gcl_jax.pipeline.prepared import Prepared

PLACE = "place"  # the opponent that knows the place of a window alone


def run(context: Context) -> dict[str, Any]:
  """Probes every pre-trained arm.

  Returns:
    `metrics`, JSON of `entries` and `patch/position_auroc`, how well the place
    tells lesion windows from healthy ones in training; `notes` str[...], which
    figures are missing, and why.
  """
  images, config = Prepared(context), context.config
  kinds, notes = _windows(context, images)
  encoder = encoders.make(config.pretrain)
  pooled = encoders.pooled(encoder, *images.pixel_statistics())
  features = {kind: {} for kind in kinds}
  for arm in arms.trained(config):
    variables = context.load(arm)["encoder"]
    for kind, given in kinds.items():
      if len(given.positive):
        features[kind][arm] = context.map(
          pooled,
          variables,
          {"image": given.images},
          batch_size=config.diagnosis.batch_size,
          name=f"patches/{arm}/{kind}",
        )
  found, more = entries(kinds, features, config.seed)
  value, groups = patch_pools.position(context, images)
  found["patch/position_auroc"] = alone(value, groups)
  if value is None:
    more.append("patch/position_auroc: windows of one kind are of one image")
  return {
    "metrics": json.dumps(found),
    "notes": np.array(notes + more, dtype=str),
  }


def entries(
  kinds: Mapping[str, Windows],
  features: Mapping[str, Mapping[str, np.ndarray]],
  seed: int = 0,
) -> tuple[dict[str, dict], list[str]]:
  """Metrics of the probes, and why some are missing.

  `patch/<arm>/lesion_auroc` and `patch/<arm>/quality_auroc` of every encoder,
  without the arm of the own; `patch/place/lesion_auroc` of a probe that knows
  the place of a window alone; paired differences
  `patch/<kind>_auroc_over_<arm>`; `effective_rank` and `within_variance` of the
  unit vectors of lesion windows of evaluation images.

  Args:
    kinds: "lesion" and "quality", where there are windows.
    features: kind -> arm -> float[W, D]; the own arm among them.
    seed: of the folds that choose a penalty.
  """
  found, notes = {}, []
  for kind in ("lesion", "quality"):
    given, of_arms = kinds.get(kind), dict(features.get(kind, {}))
    why = "" if given is None else lacking(given)
    if why:
      notes.append(f"patch/{kind}_auroc: {why}")
    if given is None or why:
      groups = [] if given is None else given.groups[given.evaluation]
      found[f"patch/{kind}_auroc"] = alone(None, groups)
      continue
    if kind == "lesion":
      of_arms[PLACE] = np.concatenate([given.places, given.places**2], axis=1)
    found |= of_probes(kind, given, of_arms, seed)
  for arm, values in features.get("quality", {}).items():
    found |= collapse(arm, kinds["quality"], values)
  return found, notes


def of_probes(
  kind: str,
  given: Windows,
  features: Mapping[str, np.ndarray],
  seed: int = 0,
) -> dict[str, dict]:
  """AUROC of a linear probe on every arm's features, and own less others.

  Args:
    kind: of windows, part of the names.
    given: the windows, of both kinds in both parts.
    features: arm -> float[W, D].
    seed: of the folds that choose a penalty.
  """
  tests, train = given.evaluation, ~given.evaluation
  y, groups, found, scores = given.positive, given.groups, {}, {}
  for arm, x in features.items():
    head, _ = crossfit.linear(x[train], y[train], groups[train], seed=seed)
    scores[arm] = probe.probability(head, x[tests])
    found |= named(
      arm,
      f"{kind}_auroc",
      metrics.jackknife(
        metrics.auroc, y[tests], scores[arm], groups=groups[tests]
      ),
    )
  gains = {
    f"patch/{kind}_auroc_over_{arm}": metrics.paired(
      metrics.auroc, y[tests], scores[arms.OWN], other, groups[tests]
    )
    for arm, other in scores.items()
    if arm != arms.OWN
  }
  return found | comparisons.family(gains)


def lacking(given: Windows) -> str:
  """Why windows are too few for a probe, or "".

  Both kinds need five groups in training and five in evaluation.
  """
  for part, word in ((False, "training"), (True, "evaluation")):
    for value, side in ((1, "positive"), (0, "negative")):
      rows = (given.evaluation == part) & (given.positive == value)
      count = len(np.unique(given.groups[rows]))
      if count < intervals.FEWEST:
        return (
          f"{side} windows are of {count} patients in {word}, fewer than"
          f" {intervals.FEWEST}"
        )
  return ""


def collapse(arm: str, given: Windows, values: np.ndarray) -> dict[str, dict]:
  """Effective rank and variance of the unit vectors of evaluation windows.

  Args:
    arm: whose features they are.
    given: the windows.
    values: float[W, D].
  """
  here = given.evaluation
  if not here.any():
    return {}
  length = np.linalg.norm(values[here], axis=1, keepdims=True)
  unit, groups = values[here] / np.maximum(length, 1e-12), given.groups[here]
  # One program each: by themselves, every operation would be compiled.
  rank, variance = (
    float(jax.jit(figure)(unit)) for figure in (effective_rank, spread)
  )
  found = named(arm, "effective_rank", alone(rank, groups))
  return found | named(arm, "within_variance", alone(variance, groups))


def alone(value: float | None, groups: np.ndarray) -> dict[str, Any]:
  """The entry of a figure without an interval, None where there is no figure.

  Args:
    value: the figure.
    groups: [W], the group of every window that it is of.
  """
  support = intervals.Support(len(groups), len(np.unique(groups)))
  value = np.nan if value is None else value
  return intervals.entry(value, support, "plain", np.nan, 1)


def _windows(context, images) -> tuple[dict[str, Windows], list[str]]:
  """The windows of both kinds, and why there are none to be told from spots."""
  lesions = truth.of_run(context)
  if context.config.quality.family != "fundus":
    lesions = "the spots that imitate lesions are those of fundus photographs"
  found = {"quality": patch_pools.clean_and_degraded(context, images)}
  if isinstance(lesions, str):
    return found, [f"patch/lesion_auroc: {lesions}"]
  side = context.config.patches.size
  found["lesion"] = artefacts.lesions_and_spots(context, lesions, side)
  return found, []


def named(arm: str, figure: str, entry: dict) -> dict[str, dict]:
  """An entry as `patch/<arm>/<figure>`, of the own arm without it as well."""
  names = [f"patch/{arm}/{figure}"]
  names += [f"patch/{figure}"] if arm == arms.OWN else []
  return dict.fromkeys(names, entry)
