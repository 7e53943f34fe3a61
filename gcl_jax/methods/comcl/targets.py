"""What is diagnosed: one grade of every image, or several findings."""

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.methods.comcl.boxes import grades_of
from gcl_jax.pipeline import judge
from gcl_jax.pipeline.prepared import Prepared


def outputs_of(config: ConfigDict, labels: tuple[str, ...]) -> tuple[str, ...]:
  """Names of the classifier's outputs: "grade 0" ..., or the findings."""
  if config.diagnosis.loss == "sigmoid":
    return tuple(labels)
  return tuple(f"grade {k}" for k in range(config.diagnosis.grades))


def targets_of(images: Prepared, config: ConfigDict) -> np.ndarray:
  """float[N] of grades or float[N, K] of findings, nan where missing."""
  if config.diagnosis.loss == "sigmoid":
    return judge.targets_of(images, images.labels)
  return grades_of(images, config.diagnosis.grade)


def known_of(targets: np.ndarray) -> np.ndarray:
  """bool[N]: images with a grade, or with any known finding."""
  return ~np.isnan(targets.reshape(len(targets), -1)).all(1)


def nothing_to_diagnose(images: Prepared, config: ConfigDict) -> str:
  """Why there can be no diagnosis, in words; "" if there can."""
  findings = config.diagnosis.loss == "sigmoid"
  if findings and not images.labels:
    return "the data set has no label column (--config.data.label_columns)"
  known = known_of(targets_of(images, config))
  kind = "label" if findings else f"number in column {config.diagnosis.grade!r}"
  for part, name in ((images.train, "training"), (images.evaluation, "eval")):
    if (known & part).sum() < 2:
      return f"fewer than two images of the {name} part have a {kind}"
  return ""


def cases_of(targets: np.ndarray, count: int) -> np.ndarray:
  """int[P], positions of diseased images, evenly over the grades.

  Args:
    targets: of the evaluation images, as from `targets_of`.
    count: P at most; as many images as there are.
  """
  worst = np.nan_to_num(targets.reshape(len(targets), -1)).max(1)
  order = np.argsort(worst, kind="stable")
  ill = order[worst[order] > 0]
  return spread(ill if len(ill) else order, count)


def spread(rows: np.ndarray, count: int) -> np.ndarray:
  """At most `count` of the rows, evenly from the first to the last.

  >>> spread(np.arange(10), 4).tolist()
  [0, 3, 6, 9]
  """
  places = np.linspace(0, len(rows) - 1, min(count, len(rows)))
  return rows[np.round(places).astype(int)]
