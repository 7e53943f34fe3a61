"""Anomaly scores of a biomarker classifier: what the paper compares with.

MSP, ODIN and Mahalanobis (see `gcl_jax.gradients.classifier_scores`) of a
network trained with cross-entropy on one label.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.engine.context import Context
from gcl_jax.errors import ConfigError
from gcl_jax.gradients import classifier_scores
from gcl_jax.models import heads
from gcl_jax.pipeline import contrast, encoders, finetune, judge
from gcl_jax.pipeline.prepared import Prepared

SOURCES = ("msp", "odin", "mahalanobis")


def scores(
  context: Context, images: Prepared, source: str
) -> tuple[np.ndarray, dict]:
  """A classifier's score per image, larger = more anomalous.

  Args:
    context: of the stage.
    images: the prepared images.
    source: one of `SOURCES`.

  Returns:
    float[N], and the tree that `combined` scores a new image with.

  Raises:
    ConfigError: `classifier.label` is no label column.
  """
  config = context.config
  label = config.classifier.label or next(iter(images.labels), "")
  if label not in images.labels:
    raise ConfigError(
      f"score.source {source!r} needs a label: classifier.label {label!r} is"
      f" not a label column; there are: {', '.join(images.labels) or 'none'}"
    )
  settings = config.finetune.copy_and_resolve_references()
  # As published: classes not weighted.
  settings.update(steps=config.classifier.steps, balanced=False)
  statistics = images.pixel_statistics()
  rows = np.flatnonzero(images.train)
  trained = finetune.fit(
    context,
    settings,
    encoders.make(config.supcon),
    images.pixels,
    judge.targets_of(images, (label,)),
    rows,
    views=contrast.views_of(config.supcon, *statistics),
    ids=images.ids,
    name=f"classifier/{label}",
  )
  return _sweep(context, images, trained, label, rows)


def _network(config: ConfigDict) -> Callable:
  """apply(tree, normalised images float[B, ...]) -> two-class logits, taps."""
  encoder = encoders.make(config.supcon)
  head = heads.linear(1)

  def apply(tree, images):
    features, _, taps = encoder.apply(
      tree["encoder"], images, train=False, taps=True
    )
    logit = head.apply(tree["head"], features)
    # One sigmoid logit z is the two-class softmax of (0, z).
    return jnp.concatenate([jnp.zeros_like(logit), logit], 1), taps

  return apply


def scorer(config: ConfigDict, statistics: tuple) -> Callable:
  """fn(tree, batch) for a map: the scores of a batch, float[B, ...].

  Args:
    config: of the run, `score.source` and `supcon`.
    statistics: mean and standard deviation of training pixels in [0, 1].
  """
  source, apply = config.score.source, _network(config)

  def one_batch(tree, batch):
    x, network = augment.normalise(batch["image"], *statistics), tree["network"]
    if source == "msp":
      return classifier_scores.msp(apply(network, x)[0])
    if source == "odin":
      return classifier_scores.odin(apply, network, x)
    gaussians = [
      classifier_scores.Gaussians(**g)
      for _, g in sorted(tree["stages"].items())
    ]
    return classifier_scores.mahalanobis(apply, network, gaussians, x)

  return one_batch


def combined(tree: dict, values: np.ndarray) -> np.ndarray:
  """One score per image, float[B], of what `scorer` gives."""
  if "weights" not in tree:
    return values
  return np.asarray(classifier_scores.combine(values, tree["weights"]))


def _sweep(context, images, trained, label, rows):
  """Scores of all images; Mahalanobis stages are weighted on the training
  images, as released."""
  statistics = images.pixel_statistics()
  size = context.config.score.batch_size
  source, tree = context.config.score.source, {"network": trained}
  if source == "mahalanobis":
    truth = np.asarray(images.table[label], float)
    rows = rows[~np.isnan(truth[rows])]
    apply = _network(context.config)
    taps = context.map(
      lambda tree, batch: apply(
        tree["network"], augment.normalise(batch["image"], *statistics)
      )[1],
      tree,
      {"image": images.pixels[rows]},
      batch_size=size,
      name="mahalanobis",
    )
    fitted = classifier_scores.mahalanobis_fit(taps, truth[rows].astype(int))
    tree["stages"] = {str(k): g._asdict() for k, g in enumerate(fitted)}
  values = context.map(
    scorer(context.config, statistics),
    tree,
    {"image": images.pixels},
    batch_size=size,
    name=f"score/{source}",
  )
  if source == "mahalanobis":
    weights = classifier_scores.combine_fit(
      values[rows], truth[rows].astype(int)
    )
    tree["weights"] = weights
  return combined(tree, values), tree
