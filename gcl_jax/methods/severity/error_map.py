"""From an error map to one number, where layers run along the rows."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

SMOOTHING = 0.7 / 48  # standard deviation along the depth, share of the height
BLOCKS = 4  # parts of the width that are judged apart
WORST = 1 / 6  # share of the rows that count
FLOOR = 1e-6  # squared error below which a part is as good as perfect


def by_layers(residual: jax.Array) -> jax.Array:
  """Log error of the worst rows, averaged over four parts of the width.

  In a flattened B-scan the layers run along the rows, so a lesion shows as a
  few bad rows in one part of the scan and hardly moves the mean over all
  pixels. The residual is smoothed a little along the depth (speckle) and
  squared; in each of four blocks of columns the rows' means are taken and the
  worst sixth of them averaged; the result is the mean of the four logarithms.
  Ours; found on OCTDL (docs/results.md), where it helps a PCA as well.

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
  """[H, H] smoothing along the rows, mirrored at the ends."""
  return ndimage.gaussian_filter1d(
    np.eye(height), SMOOTHING * height, axis=0
  ).astype(np.float32)
