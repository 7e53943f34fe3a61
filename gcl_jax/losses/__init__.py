"""Losses as pure functions of features, alone or across devices."""

from gcl_jax.losses import pacing
from gcl_jax.losses.affinities import kernel, threshold
from gcl_jax.losses.classification import (
  balanced,
  cross_entropy,
  ordinal_probabilities,
)
from gcl_jax.losses.contrastive import (
  positives_per_anchor,
  soft_supcon,
  supcon,
)
from gcl_jax.losses.nce import anchor_losses, info_nce, pixel_nce
from gcl_jax.losses.prototypes import prototype_nce

__all__ = [
  "anchor_losses",
  "balanced",
  "cross_entropy",
  "info_nce",
  "kernel",
  "ordinal_probabilities",
  "pacing",
  "pixel_nce",
  "positives_per_anchor",
  "prototype_nce",
  "soft_supcon",
  "supcon",
  "threshold",
]
