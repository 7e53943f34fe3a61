"""Losses as pure functions of features, alone or across devices."""

from gcl_jax.losses import pacing
from gcl_jax.losses.affinities import kernel, threshold
from gcl_jax.losses.classification import (
  balanced,
  cross_entropy,
  ordinal_probabilities,
)
from gcl_jax.losses.collapse import effective_rank, spread
from gcl_jax.losses.contrastive import (
  positives_per_anchor,
  soft_supcon,
  supcon,
)
from gcl_jax.losses.hard_negatives import (
  hard_count,
  hardest,
  importance_nce,
)
from gcl_jax.losses.nce import anchor_losses, info_nce, pixel_nce
from gcl_jax.losses.prototypes import prototype_nce

__all__ = [
  "anchor_losses",
  "balanced",
  "cross_entropy",
  "effective_rank",
  "hard_count",
  "hardest",
  "importance_nce",
  "info_nce",
  "kernel",
  "ordinal_probabilities",
  "pacing",
  "pixel_nce",
  "positives_per_anchor",
  "prototype_nce",
  "soft_supcon",
  "spread",
  "supcon",
  "threshold",
]
