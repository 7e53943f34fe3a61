"""Stage `diagnosis`: whole-image classifiers, tested as image quality falls."""

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.augment import degradations
from gcl_jax.engine import feed
from gcl_jax.engine.arrays import Rows
from gcl_jax.engine.context import Context
from gcl_jax.engine.train import Training
from gcl_jax.evaluation import comparisons, intervals, robustness
from gcl_jax.methods.comcl import arms, attribution, handmade
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.methods.comcl.targets import (
  cases_of,
  known_of,
  nothing_to_diagnose,
  outputs_of,
  targets_of,
)
from gcl_jax.pipeline import (
  encoders,
  finetune,
  finetune_steps,
  report_comparisons,
)
from gcl_jax.pipeline.prepared import Prepared

DEGRADED = "supervised_degraded"  # the arm whose fall decides
EXPLAINED = (arms.OWN, "supervised")  # arms with attribution pictures


def run(context: Context) -> dict[str, Any]:
  """Fine-tunes a classifier of every arm and tests it in every condition.

  Returns:
    `metrics` (JSON); `rows` int[R], the evaluation images of known grade (or
    with a known finding); `probabilities` {arm: {"clean", "low": float32[R,
    K]}} of the clean and of the degraded images, of grades also those of a
    ridge on hand-made features under its name; `classifier`, variables of
    encoder and head of this method's arm; `features` float32[N, D] of its
    encoder before the fine-tune; `cases` int[P], the images whose attributions
    {arm: {"clean", "low": float32[P, H, W]}} were computed. Without labels no
    metrics and no classifier, and `rows` of all evaluation images.
  """
  images, quality, config = Prepared(context), Quality(context), context.config
  features = encoders.features(
    context,
    encoders.make(config.pretrain),
    context.load(arms.OWN)["encoder"],
    images.pixels,
    statistics=images.pixel_statistics(),
    batch_size=config.diagnosis.batch_size,
    name=f"features/{arms.OWN}",
  )
  if missing := nothing_to_diagnose(images, config):
    context.telemetry.say(f"no diagnosis: {missing}")
    rows = np.flatnonzero(images.evaluation)
    empty = {"metrics": np.array("{}"), "probabilities": {}, "attributions": {}}
    return empty | {"rows": rows, "cases": rows[:0], "features": features}
  targets = targets_of(images, config)
  rows = np.flatnonzero(known_of(targets) & images.evaluation)
  cases = rows[cases_of(targets[rows], config.report.pictures)]
  found = _test_arms(context, images, quality, targets, rows, cases)
  if targets.ndim == 1 and config.diagnosis.handmade:
    found["probabilities"][handmade.NAME] = _ridge(
      images, quality, config, targets, rows
    )
  metrics = metrics_of(images, quality, config, rows, found["probabilities"])
  _say(context, metrics)
  return found | {
    "metrics": np.array(json.dumps(metrics)),
    "rows": rows,
    "cases": cases,
    "features": features,
  }


def predictor(config: ConfigDict, labels: int, statistics: tuple) -> Callable:
  """fn(trained, batch) for `Context.map`: probabilities float32[B, K].

  Args:
    config: the whole configuration.
    labels: K, of grades or findings.
    statistics: mean and standard deviation of training pixels in [0, 1].
  """
  encoder = encoders.make(config.pretrain)
  return finetune.predictor(
    encoder, labels, statistics, kind=config.diagnosis.loss
  )


def training(config: ConfigDict, shape: tuple, statistics: tuple) -> Training:
  """What the fine-tune of this method's arm trains, from shapes alone.

  The number of findings is that of `data.label_columns`, which some data sets
  leave empty because they bring their own: then it is taken for 1.
  """
  labels = config.diagnosis.grades
  if config.diagnosis.loss == "sigmoid":
    labels = len(config.data.label_columns) or 1
  return finetune_steps.training(
    config.diagnosis,
    encoders.make(config.pretrain),
    shape,
    labels,
    _views(config.diagnosis, statistics),
    transform=_transform(config, arms.OWN),
  )


def metrics_of(
  images: Prepared,
  quality: Quality,
  config: ConfigDict,
  rows: np.ndarray,
  probabilities: dict[str, dict[str, np.ndarray]],
) -> dict[str, dict]:
  """Figures of every arm in every condition; see `evaluation.robustness`.

  Returns:
    `diagnosis/<arm>/<figure>@<percent>` and `diagnosis/<figure>@<percent>` of
    this method's own arm, falls, slopes and differences likewise, and
    `diagnosis/kappa_fall_gain`, the fall of `supervised_degraded` less the own
    (undefined without that arm).
  """
  truth = targets_of(images, config)[rows]
  if truth.ndim == 1:
    truth = np.where(np.isnan(truth), -1, truth).astype(int)
  low = {s: quality.condition(s)[rows] for s in config.quality.shares}
  predictions = {
    arm: {
      share: np.where(chosen[:, None], versions["low"], versions["clean"])
      for share, chosen in low.items()
    }
    for arm, versions in probabilities.items()
  }
  found = robustness.evaluate(
    truth, predictions, images.groups[rows], images.labels
  )
  gain = found.get(f"kappa_fall_gain_over_{DEGRADED}")
  if gain is None:
    support = intervals.support_of(images.groups[rows])
    gain = comparisons.tested(np.nan, support, np.nan, 1.0)
  found["kappa_fall_gain"] = gain
  own = f"{arms.OWN}/"
  found |= {
    name.removeprefix(own): entry
    for name, entry in found.items()
    if name.startswith(own)
  }
  return {f"diagnosis/{name}": entry for name, entry in found.items()}


def _test_arms(context, images, quality, targets, rows, cases) -> dict:
  """Classifiers of all arms, their probabilities and attributions."""
  config, statistics = context.config, images.pixel_statistics()
  labels = len(outputs_of(config, images.labels))
  predict = predictor(config, labels, statistics)
  explain = attribution.mapped(
    encoders.make(config.pretrain), labels, statistics, config.diagnosis.loss
  )
  found = {"probabilities": {}, "attributions": {}}
  for arm in arms.names(config):
    trained = _fitted(context, arm, images, quality, targets)
    if arm == arms.OWN:
      found["classifier"] = trained
    for version, pixels in (
      ("clean", quality.clean),
      ("low", quality.degraded),
    ):
      found["probabilities"].setdefault(arm, {})[version] = context.map(
        predict,
        trained,
        {"image": Rows(pixels, rows)},
        batch_size=config.diagnosis.batch_size,
        name=f"diagnosis/{arm}/{version}",
      )
      if arm in EXPLAINED and len(cases):
        found["attributions"].setdefault(arm, {})[version] = context.map(
          explain,
          trained,
          {"image": Rows(pixels, cases)},
          batch_size=len(cases),
          name=f"diagnosis/{arm}/attribution",
          quiet=True,
        )
  return found


def _ridge(images, quality, config, targets, rows) -> dict[str, np.ndarray]:
  """Grades by a ridge on hand-made features, 1 for the predicted one."""
  train = np.flatnonzero(images.train & known_of(targets))
  parts = [Rows(quality.seen, train)]
  parts += [Rows(pixels, rows) for pixels in (quality.clean, quality.degraded)]
  drawn, *tested = (
    np.stack(
      list(feed.mapped(lambda k, p=part: handmade.features(p[k]), len(part)))
    )
    for part in parts
  )
  found = handmade.predict(
    drawn,
    targets[train],
    images.groups[train],
    tested,
    config.diagnosis.grades,
    config.seed,
  )
  return dict(zip(("clean", "low"), np.float32(found), strict=True))


def _fitted(context, arm, images, quality, targets) -> dict[str, Any]:
  """Encoder and head of an arm, fine-tuned on the training images as seen."""
  config, start = context.config, arms.encoder_of(arm)
  return finetune.fit(
    context,
    config.diagnosis,
    encoders.make(config.pretrain),
    quality.seen,
    targets,
    np.flatnonzero(images.train),
    views=_views(config.diagnosis, images.pixel_statistics()),
    ids=images.ids,
    name=f"diagnosis/{arm}",
    variables=context.load(start)["encoder"] if start else None,
    labels=len(outputs_of(config, images.labels)),
    transform=_transform(config, arm),
  )


def _views(config: ConfigDict, statistics: tuple) -> dict[str, Any]:
  """Keywords of `augment.crop`."""
  mean, std = statistics
  return dict(
    crop_scale=tuple(config.crop_scale),
    flip=config.flip,
    brightness=config.brightness,
    contrast=config.contrast,
    mean=mean,
    std=std,
  )


def _transform(config: ConfigDict, arm: str) -> Callable | None:
  """Random degradations of the arms that are trained with them."""
  if not arms.degrades(arm):
    return None
  return functools.partial(
    degradations.degrade,
    family=config.quality.family,
    probability=config.diagnosis.degrade,
  )


def _say(context, metrics) -> None:
  """Kappas and the differences of the falls, for the log."""
  words = " ".join(
    f"{percent} % {value:.3f}"
    for share in context.config.quality.shares
    if (percent := robustness.percent(share))
    and (value := metrics[f"diagnosis/kappa@{percent}"]["value"]) is not None
  )
  context.telemetry.say(f"kappa at shares of low quality: {words}")
  prefix = "diagnosis/kappa_fall_gain_over_"
  gains = {
    f"gain over {name.removeprefix(prefix)}": entry
    for name, entry in metrics.items()
    if name.startswith(prefix)
  }
  for line in report_comparisons.lines(gains, "fall of kappa"):
    context.telemetry.say(line)
