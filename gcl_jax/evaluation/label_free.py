"""Baseline anomaly scores without training or labels.

A reconstruction error may only reflect brightness, sharpness or the export size
of one device. These baselines measure the discrimination by such properties,
and `regress_out` removes them from a score. Host code in numpy and scipy;
images are read in blocks, so memory maps are supported.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from gcl_jax.errors import DataError

TEXTURE = ("mean", "sd", "background", "p99", "log_laplacian")
_BLOCK = 256  # images converted to float at once


def mean_square(residual: np.ndarray) -> np.ndarray:
  """Mean square of each error map, float64[B], of float32[B, H, W, C]."""
  flat = residual.reshape(len(residual), -1)
  return np.mean(np.square(flat, dtype=np.float64), axis=1)


def pca_error(
  train_images: np.ndarray,
  images: np.ndarray,
  components: int = 60,
  max_train: int = 2000,
  pool: Callable[[np.ndarray], np.ndarray] = mean_square,
) -> np.ndarray:
  """Reconstruction error of a PCA of healthy images.

  The linear autoencoder: x is projected on the mean and the first principal
  axes of the training images, fitted exactly (eigenvectors of their inner
  products) and without random numbers.

  Args:
    train_images: uint8[T, H, W, 1], healthy; T >= 2.
    images: uint8[N, H, W, 1] to score; the score of an image in `train_images`
      is too low.
    components: number of axes, at most T - 1 are used.
    max_train: largest number of training images, chosen evenly spaced.
    pool: error maps float32[B, H, W, 1], image minus reconstruction with
      intensities in [0, 1], -> float[B], or float[B, K] for K numbers each.
      It is called on blocks of up to 256 images.

  Returns:
    float64[N] or float64[N, K] from `pool`; without it the mean squared error,
    of which larger is less healthy.

  Raises:
    DataError: there are fewer than two training images, or sizes differ.
  """
  if len(train_images) < 2:
    raise DataError(f"PCA needs 2 healthy images, got {len(train_images)}")
  if train_images.shape[1:] != images.shape[1:]:
    raise DataError(
      f"image sizes differ: {train_images.shape[1:]} and {images.shape[1:]}"
    )
  count = min(len(train_images), max_train)
  chosen = np.linspace(0, len(train_images) - 1, count).round().astype(int)
  train = _flat(train_images[chosen])
  mean = train.mean(0, dtype=np.float64).astype(np.float32)
  with threadpool_limits(1):  # with many threads eigh stalls on a busy machine
    axes = _principal_axes(train - mean, components)
  errors = []
  for start in range(0, len(images), _BLOCK):
    centred = _flat(images[start : start + _BLOCK]) - mean
    rest = centred - (centred @ axes.T) @ axes
    errors.append(pool(rest.reshape(-1, *images.shape[1:])))
  return np.concatenate(errors, dtype=np.float64) if errors else np.zeros(0)


def edge_energy(images: np.ndarray, sigma: float = 2.0) -> np.ndarray:
  """Mean absolute horizontal gradient of the smoothed image.

  Retinal layers of a flattened B-scan run along the rows, so changes along a
  row are bumps (drusen, oedema) or shadows.

  Args:
    images: uint8[N, H, W, 1].
    sigma: standard deviation of the Gaussian smoothing, in pixels.

  Returns:
    float64[N] >= 0, intensity in [0, 1] per pixel.
  """

  def energy(image):
    smooth = ndimage.gaussian_filter(image, sigma, mode="nearest")
    return np.abs(np.diff(smooth, axis=1)).mean(dtype=np.float64)

  return np.array([energy(_grey(image)) for image in images])


def brightness(images: np.ndarray) -> np.ndarray:
  """Mean intensity, float64[N] in [0, 1], of uint8[N, H, W, 1]."""
  return np.array([_grey(image).mean(dtype=np.float64) for image in images])


def texture_features(
  images: Iterable[np.ndarray], sizes: Sequence[Sequence[int]] | None = None
) -> np.ndarray:
  """Photometric features of stored images, which differ between devices.

  Args:
    images: N arrays [H, W], [H, W, 1] or [H, W, 3] of any sizes; integers are
      divided by the largest value of their type.
    sizes: int[N, 2], height and width of the exported files, if images were
      resized later; None leaves these two columns out.

  Returns:
    float64[N, 5]: mean, standard deviation, background (5th percentile), 99th
    percentile, log variance of the Laplacian (sharpness), as named in
    `TEXTURE`; with `sizes` two more, log height and log width.
  """
  table = np.array([_texture(_grey(image)) for image in images])
  if sizes is None:
    return table
  sizes = np.asarray(sizes, np.float64)
  if sizes.shape != (len(table), 2) or not (sizes > 0).all():
    raise DataError(f"sizes must be {len(table)} rows of height, width > 0")
  return np.concatenate([table, np.log(sizes)], axis=1)


def regress_out(
  scores: np.ndarray, features: np.ndarray, fit_rows: np.ndarray
) -> np.ndarray:
  """Residual of a score after a linear fit on photometric features.

  The fit uses healthy training rows only, where brightness and sharpness cannot
  be proxies of disease. Features are standardised on the same rows.

  Args:
    scores: float[N].
    features: float[N, F], e.g. from `texture_features`.
    fit_rows: bool[N] or int[n], rows of healthy training images, n > F + 1.

  Returns:
    float64[N]: score minus fitted score; mean 0 on `fit_rows`.

  Raises:
    DataError: a value is not finite, or there are too few rows to fit.
  """
  scores = np.asarray(scores, np.float64)
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or len(features) != len(scores):
    raise DataError(f"features {features.shape} for {len(scores)} scores")
  if not (np.isfinite(scores).all() and np.isfinite(features).all()):
    raise DataError("scores and features must be finite")
  fit_rows = np.arange(len(scores))[fit_rows]
  if len(fit_rows) <= features.shape[1] + 1:
    raise DataError(
      f"{len(fit_rows)} healthy rows cannot fit {features.shape[1]} features"
    )
  mean, spread = features[fit_rows].mean(0), features[fit_rows].std(0)
  design = (features - mean) / np.where(spread > 0, spread, 1)
  design = np.concatenate([np.ones((len(scores), 1)), design], axis=1)
  weights = np.linalg.lstsq(design[fit_rows], scores[fit_rows], rcond=None)[0]
  return scores - design @ weights


def _principal_axes(centred: np.ndarray, components: int) -> np.ndarray:
  """Orthonormal principal axes float32[C, D] of centred float32[T, D]."""
  values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
  values, vectors = values[::-1], vectors[:, ::-1]
  # Axes without variance in the training images would be rounding noise.
  keep = min(components, int(np.sum(values > 1e-6 * max(values[0], 1e-30))))
  axes = (vectors[:, :keep] / np.sqrt(values[:keep])).T @ centred
  return axes.astype(np.float32)


def _flat(images: np.ndarray) -> np.ndarray:
  return np.asarray(images).reshape(len(images), -1).astype(np.float32) / 255


def _grey(image: np.ndarray) -> np.ndarray:
  """Grey image float32[H, W]; integers scaled to [0, 1], channels averaged."""
  image = np.asarray(image)
  top = np.iinfo(image.dtype).max if image.dtype.kind in "ui" else 1
  image = image.astype(np.float32) / top
  return image.mean(-1) if image.ndim == 3 else image


def _texture(image: np.ndarray) -> tuple[float, ...]:
  image = image.astype(np.float64)
  background, p99 = np.quantile(image, [0.05, 0.99])
  sharpness = np.log(ndimage.laplace(image, mode="nearest").var() + 1e-12)
  return image.mean(), image.std(), background, p99, sharpness
