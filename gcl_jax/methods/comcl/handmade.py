"""Hand-made features and a ridge: what a diagnosis has to be better than."""

import numpy as np
from scipy import ndimage

from gcl_jax.data import splits

NAME = "ridge"
_PENALTIES = 10.0 ** np.arange(-2, 5)
_PERCENTILES = (0.5, 2, 10, 90, 98, 99.5)


def features(image: np.ndarray) -> np.ndarray:
  """What colour and fine structure of an image say.

  Mean and standard deviation of every channel; percentiles of the green (or
  only) channel; percentiles and the share beyond two and four standard
  deviations of the same channel less its Gaussian blur, at two widths. All
  within the disc, the pixels above 1/16 of the range.

  Args:
    image: uint8[H, W, C], C 1 or 3.

  Returns:
    float64[D], D = 2 C + 26; zeros for an image without a bright pixel.
  """
  pixels = image.astype(np.float64) / 255
  green = pixels[..., min(1, pixels.shape[-1] - 1)]
  inside = ndimage.binary_erosion(pixels.max(-1) > 1 / 16, iterations=3)
  if not inside.any():
    return np.zeros(2 * pixels.shape[-1] + 26)
  found = [*pixels[inside].mean(0), *pixels[inside].std(0)]
  found += [*np.percentile(green[inside], _PERCENTILES)]
  for width in (len(image) / 80, len(image) / 25):
    fine = _high_pass(green, inside, width)
    spread = max(float(fine.std()), 1e-6)
    found += [*np.percentile(fine, _PERCENTILES)]
    found += [
      float(np.mean(sign * fine > bound * spread))
      for sign in (1, -1)
      for bound in (2, 4)
    ]
  return np.array(found)


def _high_pass(green, inside, width) -> np.ndarray:
  """Values within the disc less their blur, which looks at the disc alone."""
  weight = ndimage.gaussian_filter(inside.astype(np.float64), width)
  blurred = ndimage.gaussian_filter(np.where(inside, green, 0), width)
  return (green - blurred / np.maximum(weight, 1e-6))[inside]


def predict(
  train: np.ndarray,
  grades: np.ndarray,
  groups: np.ndarray,
  tested: list[np.ndarray],
  count: int,
  seed: int = 0,
) -> list[np.ndarray]:
  """Grades by ridge regression.

  The penalty has the smallest squared error in five-fold cross-fitting by
  group, or by image where there is one group alone. The cut points give the
  predictions out of fold the shares that the grades have among the training
  images.

  Args:
    train: float64[T, D], features of the training images.
    grades: float[T], 0 to count - 1.
    groups: [T], the patients.
    tested: arrays float64[R, D].
    count: number of grades.
    seed: of the folds.

  Returns:
    For each of `tested` float64[R, count], 1 for the predicted grade.
  """
  mean, spread = train.mean(0), np.maximum(train.std(0), 1e-9)
  train = (train - mean) / spread
  if len(np.unique(groups)) < 2:
    groups = np.arange(len(train))  # of one patient: by image
  parts = min(5, len(np.unique(groups)))
  fold = splits.folds(groups, parts, seed, grades)
  out = {p: np.zeros(len(train)) for p in _PENALTIES}
  for k in range(parts):
    here = fold == k
    for penalty, found in out.items():
      found[here] = _ridge(train[~here], grades[~here], penalty, train[here])
  best = min(out, key=lambda p: np.mean((out[p] - grades) ** 2))
  below = [np.mean(grades < k) for k in range(1, count)]
  cuts = np.quantile(out[best], below)
  found = []
  for rows in tested:
    values = _ridge(train, grades, best, (rows - mean) / spread)
    found.append(np.eye(count)[np.searchsorted(cuts, values, side="right")])
  return found


def _ridge(rows, target, penalty, tested) -> np.ndarray:
  """Predictions of a ridge whose intercept is not penalised."""
  centre, level = rows.mean(0), target.mean()
  moved = rows - centre
  square = moved.T @ moved + penalty * np.eye(rows.shape[1])
  weights = np.linalg.solve(square, moved.T @ (target - level))
  return (tested - centre) @ weights + level
