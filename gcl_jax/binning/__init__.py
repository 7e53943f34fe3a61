"""Severity scores to pseudo-labels.

Host code in numpy. A bin holds the images whose scores lie in one right-closed
interval (edges[k], edges[k + 1]]; equal scores always share a bin, and
`from_edges(scores, bins.edges)` gives back `bins.labels` exactly.
"""

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
  "choose",
  "describe",
  "equal_count",
  "equal_width",
  "from_edges",
]
