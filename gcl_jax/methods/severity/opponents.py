"""Scores that use no label and no network: what the severity score must beat.

The PCA is on equal terms with the autoencoders: one for each of them, fitted to
the same scans; every image is scored by the PCAs whose autoencoders score it;
and its error map is pooled in both ways (`error_map.by_layers`, plain mean).
"""

from typing import Any

import jax
import numpy as np

from gcl_jax.evaluation import label_free
from gcl_jax.methods.severity import error_map, folds
from gcl_jax.methods.severity.gradcon import models_of
from gcl_jax.pipeline.prepared import Prepared

COMPONENTS = 60
NAMES = {
  "pca": f"PCA error, {COMPONENTS} components",
  "pca_layers": "PCA error, pooled by layers",
  "edge": "edge energy",
  "brightness": "mean brightness",
}


def scores(images: Prepared, trained: dict | None) -> dict[str, np.ndarray]:
  """Scores by name (of `NAMES`), float64[N] each.

  Args:
    images: the prepared images.
    trained: artifact of stage `gradcon`; None for a score without
      autoencoders, beside which one PCA is fitted to all healthy training
      scans.

  Returns:
    Without `pca` and `pca_layers` if a PCA had fewer than two scans.
  """
  edge = label_free.edge_energy(images.pixels)
  return {
    **_pca(images, trained),
    "edge": edge,
    "brightness": label_free.brightness(images.pixels),
  }


def validation_rows(trained: dict) -> list[np.ndarray]:
  """Per autoencoder the rows on which its training was validated."""
  return [model["validation_rows"] for model in models_of(trained)]


def _pca(images: Prepared, trained: dict | None) -> dict[str, np.ndarray]:
  fits, unseen = _rows(images, trained)
  if min(map(len, fits)) < 2:
    return {}
  values = [_errors(images.pixels, rows) for rows in fits]
  if trained is None:
    return dict(zip(("pca", "pca_layers"), values[0].T, strict=True))
  use = folds.usable(trained["fold"], len(fits))
  return {
    name: folds.scored(np.stack([v[:, k] for v in values], 1), unseen, use)
    for k, name in enumerate(("pca", "pca_layers"))
  }


def _rows(images: Prepared, trained: dict | None) -> tuple[list, list]:
  """Per PCA the rows to fit it to, and the healthy ones that it leaves out."""
  if trained is None:
    healthy = images.healthy & images.part("train")
    return [np.flatnonzero(healthy)], []
  held_out, fold = validation_rows(trained), trained["fold"]
  return tuple(
    [rule(fold, number, rows) for number, rows in enumerate(held_out)]
    for rule in (folds.fitted, folds.unseen_healthy)
  )


def _errors(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Mean error and error by layers under a PCA of some rows, float64[N, 2]."""
  return label_free.pca_error(
    pixels[rows], pixels, min(COMPONENTS, len(rows) - 1), pool=_both
  )


def _both(residual: np.ndarray) -> np.ndarray:
  pooled = label_free.mean_square(residual), _by_layers(residual)
  return np.stack(pooled, 1, dtype=np.float64)


_by_layers: Any = jax.jit(error_map.by_layers)
