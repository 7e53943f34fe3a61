"""Supervised classifiers: the reference, and the label sources the paper
compares with (MSP, ODIN, Mahalanobis of a biomarker classifier)."""

import dataclasses
from typing import Any
from urllib.parse import quote

import jax.numpy as jnp
import numpy as np

from gcl_jax import augment
from gcl_jax.engine import sweep
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.evaluation import finetune
from gcl_jax.methods.severity import classifier_scores, pretrain
from gcl_jax.methods.severity.images import Images
from gcl_jax.models import heads

SOURCES = ("msp", "odin", "mahalanobis")


def targets_of(images: Images, names: tuple[str, ...]) -> np.ndarray:
  """float[N, K]: 1, 0 or nan per label column."""
  if not names:
    raise DataError(
      "the data set has no label column: name some with"
      " --config.data.label_columns"
    )
  return np.stack([np.asarray(images.table[n], float) for n in names], 1)


def fit(context: Any, images: Images, variables, names, rows, stage: str):
  """Encoder and head trained on the labelled ones among `rows`.

  A stopped run goes on from the last checkpoint of the fit named `stage`.
  """
  config = context.config
  targets = targets_of(images, names)
  rows = rows[~np.isnan(targets[rows]).all(1)]
  return finetune.train_classifier(
    pretrain.make_encoder(config.supcon),
    variables,
    images.pixels,
    targets,
    rows,
    config=config.finetune,
    views=pretrain.views_of(config.supcon, *images.pixel_statistics()),
    mesh=context.mesh,
    mode=context.mode,
    seed=config.seed,
    name=stage,
    telemetry=context.telemetry,
    checkpoints=context.checkpoints(f"checkpoints-{quote(stage, '')}", keep=1),
  )


def probabilities(context: Any, images: Images, trained, names, rows, stage):
  """float32[R, K] of the rows under a trained classifier."""
  config = context.config
  mean, std = images.pixel_statistics()
  size = config.score.batch_size
  return finetune.predict(
    pretrain.make_encoder(config.supcon),
    trained,
    images.pixels[rows],
    labels=len(names),
    mean=mean,
    std=std,
    mesh=context.mesh,
    mode=context.mode,
    batch_size=size,
    name=f"{stage}/predict",
    telemetry=context.telemetry,
  )


def anomaly_scores(context: Any, images: Images, source: str) -> np.ndarray:
  """float[N]: a classifier's score per image, larger = more anomalous."""
  label = context.config.classifier.label or next(iter(images.labels), "")
  if label not in images.labels:
    raise ConfigError(
      f"score.source {source!r} needs a label: classifier.label {label!r} is"
      f" not a label column; there are: {', '.join(images.labels) or 'none'}"
    )
  config = context.config.copy_and_resolve_references()
  config.finetune.steps = config.classifier.steps
  local = dataclasses.replace(context, config=config)
  rows = np.flatnonzero(images.train)
  trained = fit(local, images, None, (label,), rows, f"classifier/{label}")
  return _sweep(local, images, trained, label, rows, source)


def _network(config: Any):
  """apply(tree, normalised images float[B, ...]) -> two-class logits, taps."""
  encoder = pretrain.make_encoder(config.supcon)
  head = heads.linear(1)

  def apply(tree, images):
    features, _, taps = encoder.apply(
      tree["encoder"], images, train=False, taps=True
    )
    logit = head.apply(tree["head"], features)
    # One sigmoid logit z is the two-class softmax of (0, z).
    return jnp.concatenate([jnp.zeros_like(logit), logit], 1), taps

  return apply


def _sweep(context, images: Images, trained, label, rows, source):
  """Scores of all images; Mahalanobis stages are weighted on the training
  images, as released."""
  apply = _network(context.config)
  mean, std = images.pixel_statistics()
  tree = {"network": trained}
  if source == "mahalanobis":
    truth = np.asarray(images.table[label], float)
    rows = rows[~np.isnan(truth[rows])]
    tree["gaussians"] = _fit_mahalanobis(
      context, images, apply, tree, truth, rows
    )

  def one_batch(tree, batch):
    x, network = augment.normalise(batch["image"], mean, std), tree["network"]
    if source == "msp":
      return classifier_scores.msp(apply(network, x)[0])
    if source == "odin":
      return classifier_scores.odin(apply, network, x)
    return classifier_scores.mahalanobis(apply, network, tree["gaussians"], x)

  out = _map(context, one_batch, tree, images.pixels, f"score/{source}")
  if source != "mahalanobis":
    return out
  weights = classifier_scores.combine_fit(out[rows], truth[rows].astype(int))
  return np.asarray(classifier_scores.combine(out, weights))


def _map(context, function, tree, pixels, name):
  return sweep.map_examples(
    function,
    tree,
    {"image": pixels},
    mesh=context.mesh,
    mode=context.mode,
    batch_size=context.config.score.batch_size,
    name=name,
    telemetry=context.telemetry,
  )


def _fit_mahalanobis(context, images, apply, tree, truth, rows):
  """Class means and tied covariance per stage, from the training images."""
  mean, std = images.pixel_statistics()

  def taps(tree, batch):
    return apply(tree["network"], augment.normalise(batch["image"], mean, std))[
      1
    ]

  stages = _map(context, taps, tree, images.pixels[rows], "mahalanobis")
  return classifier_scores.mahalanobis_fit(stages, truth[rows].astype(int))
