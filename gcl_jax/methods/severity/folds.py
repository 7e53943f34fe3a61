"""Cross-fitting: which model may score an image, and one scale for all models.

The autoencoders and the PCA beside them share these rules. `fold` int[N] is
what stage `gradcon` left: the number of the model that leaves out a healthy
training image, -1 for every other image; with a single model the images that it
was trained on have a number that is no model's.
"""

import numpy as np


def fitted(
  fold: np.ndarray, number: int, validation_rows: np.ndarray
) -> np.ndarray:
  """Rows int[T] that the weights of model `number` were fitted to.

  Args:
    fold: int[N].
    number: of the model.
    validation_rows: int[V], on which its training was validated.
  """
  seen = np.flatnonzero((fold >= 0) & (fold != number))
  return np.setdiff1d(seen, validation_rows)


def unseen_healthy(
  fold: np.ndarray, number: int, validation_rows: np.ndarray
) -> np.ndarray:
  """Rows of healthy scans that no weight of model `number` was fitted to.

  These are those of its fold, or of a single model the validation rows.
  """
  left_out = np.flatnonzero(fold == number)
  return left_out if len(left_out) else np.asarray(validation_rows)


def usable(fold: np.ndarray, models: int) -> np.ndarray:
  """Mask of the models that may score each image, bool[N, M].

  A healthy training scan of fold k is scored by model k only, a scan of no fold
  by all models. A single model without a left-out fold scores everything.
  """
  use = np.ones((len(fold), models), bool)
  if models > 1:
    for number in range(models):
      use[(fold >= 0) & (fold != number), number] = False
  return use


def seen_by_its_scorer(
  fold: np.ndarray, validation_rows: list[np.ndarray]
) -> np.ndarray:
  """Images whose score comes from a model that was fitted to them, bool[N].

  Args:
    fold: int[N].
    validation_rows: per model, the rows on which it was validated.
  """
  seen = np.zeros(len(fold), bool)
  use = usable(fold, len(validation_rows))
  for number, rows in enumerate(validation_rows):
    own = fitted(fold, number, rows)
    seen[own] |= use[own, number]
  return seen


def levels_of(values: np.ndarray, unseen: list) -> tuple:
  """Mean and standard deviation, float[M] each, of the healthy scores.

  Args:
    values: float[N, M], scores under M models.
    unseen: per model, the rows of healthy scans that it has not seen.
  """
  healthy = [values[rows, m] for m, rows in enumerate(unseen)]
  sd = np.array([found.std() for found in healthy])
  return np.array([found.mean() for found in healthy]), np.where(sd > 0, sd, 1)


def levelled(values: np.ndarray, levels: tuple) -> np.ndarray:
  """Scores float[N, M] under M models on their mean scale.

  Mean and standard deviation of the healthy scores (`levels_of`) are made
  equal over models; scores of one model are unchanged.
  """
  if values.shape[1] == 1:
    return values
  mean, sd = levels
  return (values - mean) / sd * sd.mean() + mean.mean()


def combined(values: np.ndarray, use: np.ndarray) -> np.ndarray:
  """Mean over the models that may score an image, float[N].

  Args:
    values: float[N, M] from `levelled`.
    use: bool[N, M], at least one model per image.
  """
  return np.where(use, values, 0).sum(1) / use.sum(1)


def scored(values: np.ndarray, unseen: list, use: np.ndarray) -> np.ndarray:
  """One score per image, float[N], of those under M models on one scale.

  Args:
    values: float[N, M].
    unseen: as for `levels_of`.
    use: as for `combined`.
  """
  return combined(levelled(values, levels_of(values, unseen)), use)
