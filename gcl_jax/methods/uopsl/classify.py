"""Stage `fundus`: classifiers of fundus images alone, with few labels."""

import json
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import special

from gcl_jax.engine.arrays import Rows
from gcl_jax.engine.context import Context
from gcl_jax.engine.train import Training
from gcl_jax.evaluation import probe
from gcl_jax.losses import alignment
from gcl_jax.methods.uopsl import arms, draws, figures, networks, pretrain
from gcl_jax.models.heads import unit_length
from gcl_jax.models.layers import Model
from gcl_jax.pipeline import encoders, finetune, finetune_steps
from gcl_jax.pipeline.contrast import views_of


class Task(NamedTuple):
  """What every arm is trained and tested on.

  Attributes:
    found: both sets of images.
    names: the K classes that the training part of the fundus images has.
    target: int[N], number of the class of each image; -1 for none of them.
    rows: int[R], the evaluation images of known class.
    statistics: mean and standard deviation of training pixels in [0, 1].
  """

  found: draws.Sources
  names: tuple[str, ...]
  target: np.ndarray
  rows: np.ndarray
  statistics: tuple


class Kind(NamedTuple):
  """Programs of encoders of one form, with sites or without, and the section
  `fundus` that they are trained by."""

  section: ConfigDict
  encoder: Model
  training: Training
  features: Any
  predict: Any


def run(context: Context) -> dict[str, Any]:
  """Fine-tunes and tests a classifier of every arm and number of labels.

  Nothing of OCT is in any of their programs: tokens of fundus images, and sites
  as a matrix of numbers.

  Returns:
    `metrics` (JSON); `names` str[K], the classes that the training part has;
    `rows` int[R], the evaluation images of known class; `probabilities` {arm:
    {m20: float32[R, K]}}; `probe` likewise, of linear probes on features before
    the fine-tune; `zeroshot` {arm: {m20: float32[R, C]}} of all C classes by
    their descriptions; `labelled` {m20: str[], ids}; `features` float32[N, D]
    of this method's encoder with the most labels, before the fine-tune, and its
    `classifier` after it.

  Raises:
    DataError: `fundus.pairs` names a class that there is not.
  """
  found, config = draws.sources_of(context), context.config
  figures.check_pairs(config, found.captions.classes)
  task, kinds = task_of(found), {}
  left = {"probabilities": {}, "probe": {}, "zeroshot": {}, "labelled": {}}
  counts = draws.labelled_counts(config)
  describe = describer(config, found)
  for arm in arms.names(config):
    stored = context.load(arm) if arm in context.stage.inputs else {}
    kind = _kind_of(config, arm, task, kinds)
    for name, count in counts.items():
      chosen = draws.labelled(found.fundus, count, config.fundus.draw)
      left["labelled"][name] = found.fundus.ids[chosen]
      of_arm, kept = _of_fit(
        context, f"{arm}/{name}", kind, task, chosen, stored.get(name), describe
      )
      for key, values in of_arm.items():
        left[key].setdefault(arm, {})[name] = values
      if arm == arms.OWN and name == draws.most(config):
        left |= kept
  metrics = figures.metrics(found, config, task.names, task.rows, left)
  for line in figures.lines(config, metrics):
    context.telemetry.say(line)
  return left | {
    "metrics": np.array(json.dumps(metrics)),
    "names": np.array(task.names, str),
    "rows": task.rows,
  }


def task_of(found: draws.Sources) -> Task:
  """What is learned and tested; classes in the order of the captions."""
  fundus = found.fundus
  classes = fundus.table["class"]
  there = set(classes[draws.known(fundus)].tolist())
  names = tuple(name for name in found.captions.classes if name in there)
  number = {name: k for k, name in enumerate(names)}
  return Task(
    found,
    names,
    np.array([number.get(name, -1) for name in classes.tolist()]),
    np.flatnonzero(fundus.evaluation & (classes != "")),
    fundus.pixel_statistics(),
  )


def kind_of(
  config: ConfigDict,
  settings: ConfigDict,
  shape: tuple[int, ...],
  labels: int,
  statistics: tuple,
  steps: int = 0,
) -> Kind:
  """Programs of an encoder and its classifier, from shapes alone.

  Args:
    config: of the run.
    settings: section `pretrain` of the arm.
    shape: (H, W, 3) of the images.
    labels: K.
    statistics: mean and standard deviation of training pixels in [0, 1].
    steps: of the classifier; 0 for those of the configuration.
  """
  # The shapes of OCT and of the texts do not matter here.
  made = networks.make(settings, config.text, shape, 1, 2)
  encoder = networks.fundus_encoder(made, config.fundus.site_rate)
  section = ConfigDict(config.fundus.to_dict())
  section.steps = steps or section.steps
  views = views_of(section, *statistics)
  return Kind(
    section,
    encoder,
    finetune_steps.training(section, encoder, shape, labels, views),
    encoders.pooled(encoder, *statistics),
    finetune.predictor(encoder, labels, statistics, kind=section.loss),
  )


def _kind_of(config, arm, task, kinds) -> Kind:
  """The programs of an arm, the same for all arms that can share them: those
  of as many sites and steps."""
  settings = arms.settings_of(config, arm)
  if arm in arms.UNTRAINED:
    settings.sites = ""
  steps = arms.steps(config, arm)
  sites = pretrain.networks_of(config, settings, task.found).sites
  key = sites and sites.shape, steps
  if key not in kinds:
    shape = task.found.fundus.pixels.shape[1:]
    kinds[key] = kind_of(
      config, settings, shape, len(task.names), task.statistics, steps
    )
  return kinds[key]


def _of_fit(context, name, kind, task, chosen, stored, describe):
  """Predictions of one arm and number of labels, and what this method keeps."""
  fundus = task.found.fundus
  section, variables = kind.section, None
  if stored is not None:
    variables = networks.moved(stored["fundus"], section.site_rate)
  trained = finetune.fit(
    context,
    section,
    kind.encoder,
    fundus.pixels,
    task.target.astype(float),
    np.flatnonzero(chosen),
    views={},
    ids=fundus.ids,
    name=f"fundus/{name}",
    variables=variables,
    labels=len(task.names),
    batch_rows=section.batch_size,
    shared=kind.training,
  )
  found = {
    "probabilities": context.map(
      kind.predict,
      trained,
      {"image": Rows(fundus.pixels, task.rows)},
      batch_size=section.batch_size,
      name=f"fundus/{name}/test",
      quiet=True,
    )
  }
  if stored is None:
    return found, {}
  features = context.map(
    kind.features,
    variables,
    {"image": fundus.pixels},
    batch_size=section.batch_size,
    name=f"fundus/{name}/features",
    quiet=True,
  )
  found["probe"] = _probed(features, task, chosen)
  found["zeroshot"] = zero_shot(
    features[task.rows], describe(stored["text"]), stored["log_scale"]
  )
  return found, {"classifier": trained, "features": features}


def zero_shot(
  features: np.ndarray, descriptions: np.ndarray, log_scale: float
) -> np.ndarray:
  """Probability of every class by its descriptions, `alignment.zero_shot`.

  Args:
    features: float[R, D], not of unit length.
    descriptions: float[C, D], unit vectors.
    log_scale: logarithm of the scale.

  Returns:
    float32[R, C].
  """
  length = np.linalg.norm(features, axis=1, keepdims=True)
  cosines = features / np.maximum(length, 1e-12) @ np.asarray(descriptions).T
  scale = min(float(np.exp(log_scale)), 100.0)
  return special.softmax(scale * cosines, axis=1).astype(np.float32)


def describer(config, found):
  """text variables -> unit vectors float32[C, D] of the classes."""
  made = pretrain.networks_of(config, config.pretrain, found)
  table = found.captions.table
  rows = found.captions.of_classes(places=True)

  @jax.jit
  def describe(variables):
    texts = made.text.apply(variables, *table.inputs())[rows]
    return alignment.prototypes(unit_length(texts), table.there[rows])

  return describe


def _probed(features, task, chosen) -> np.ndarray:
  """Class probabilities of one-against-rest probes, float32[R, K].

  A class that has no labelled image, or all of them, has probability 0.
  """
  targets = task.target[chosen]
  labels = {
    str(k): (targets == k).astype(np.float64) for k in range(len(task.names))
  }
  heads = probe.fit_linear(features[chosen], labels)
  found = np.zeros((len(task.rows), len(task.names)), np.float32)
  for k in range(len(task.names)):
    if (head := heads[str(k)]) is not None:
      found[:, k] = probe.probability(head, features[task.rows])
  return found
