"""The pictures of a report, each an SVG for `html.Figure`.

Every function takes plain arrays and returns SVG bytes in one style and a
palette for every colour vision. With nothing to draw (no rows, one class
where two are needed, only NaN) the picture says so; rows that are not
finite are left out and counted in the picture. Arrays whose lengths
contradict each other raise ValueError.
"""

from gcl_jax.report.canvas import nothing
from gcl_jax.report.charts import bin_sizes, curves, histogram_by_class
from gcl_jax.report.clouds import embedding, scatter
from gcl_jax.report.comparison import bars, roc, roc_points
from gcl_jax.report.projection import project_2d
from gcl_jax.report.tiles import before_after, gallery, reconstructions

__all__ = [
  "bars",
  "before_after",
  "bin_sizes",
  "curves",
  "embedding",
  "gallery",
  "histogram_by_class",
  "nothing",
  "project_2d",
  "reconstructions",
  "roc",
  "roc_points",
  "scatter",
]
