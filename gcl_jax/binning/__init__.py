"""Severity scores to pseudo-labels, and batches that keep bins together.

Host code in numpy. A bin holds the images whose scores lie in one right-closed
interval (edges[k], edges[k + 1]]; equal scores always share a bin, and
`from_edges(scores, bins.edges)` gives back `bins.labels` exactly.
"""

from gcl_jax.binning.batches import bin_aware_batch
from gcl_jax.binning.choice import choose
from gcl_jax.binning.rules import (
  Bins,
  describe,
  equal_count,
  equal_width,
  from_edges,
)

__all__ = [
  "Bins",
  "bin_aware_batch",
  "choose",
  "describe",
  "equal_count",
  "equal_width",
  "from_edges",
]
