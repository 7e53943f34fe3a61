"""Pseudo-labels from severity scores, in numpy on the host.

A bin holds the images whose scores lie in one right-closed interval
(edges[k], edges[k + 1]]; equal scores always share a bin, and
`from_edges(scores, bins.edges)` returns exactly `bins.labels`.
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
