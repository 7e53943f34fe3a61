"""Pooling of an error map to one number, for layers along the rows."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

SMOOTHING = 0.7 / 48  # standard deviation along the depth, share of the height
BLOCKS = 4  # blocks of columns, each pooled separately
WORST = 1 / 6  # share of the rows that are averaged
FLOOR = 1e-6  # added to the squared error inside the logarithm


def by_layers(residual: jax.Array) -> jax.Array:
  """Log error of the worst rows, averaged over four parts of the width.

  In a flattened B-scan the layers run along the rows, so a lesion shows as a
  few bad rows in one part of the scan and hardly changes the mean over all
  pixels. The residual is smoothed along the depth (speckle) and squared; in
  each of four blocks of columns the worst sixth of the row means is averaged;
  the result is the mean of the four logarithms. This rule is ours, developed on
  OCTDL (docs/results.md), where it improves a PCA as well.

  Args:
    residual: float[B, H, W, C], image minus reconstruction.

  Returns:
    float[B].
  """
  height = residual.shape[1]
  smooth = jnp.einsum("kh,bhwc->bkwc", _gaussian(height), residual)
  worst = max(1, round(height * WORST))
  parts = jnp.array_split(jnp.square(smooth), BLOCKS, axis=2)
  rows = jnp.stack([part.mean((2, 3)) for part in parts], 1)
  error = jax.lax.top_k(rows, worst)[0].mean(-1)
  return jnp.log(error + FLOOR).mean(1)


def _gaussian(height: int) -> np.ndarray:
  """Gaussian smoothing matrix along the depth, [H, H], mirrored at the ends."""
  return ndimage.gaussian_filter1d(
    np.eye(height), SMOOTHING * height, axis=0
  ).astype(np.float32)
