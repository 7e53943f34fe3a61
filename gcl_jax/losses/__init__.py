"""Losses as pure functions of features, alone or across devices."""

from gcl_jax.losses.contrastive import (
  kernel,
  positives_per_anchor,
  soft_supcon,
  supcon,
  threshold,
)
from gcl_jax.losses.dictionary import info_nce, prototype_nce

__all__ = [
  "info_nce",
  "kernel",
  "positives_per_anchor",
  "prototype_nce",
  "soft_supcon",
  "supcon",
  "threshold",
]
