"""The report of a run.

`charts`, `distributions` and `tiles` draw pictures, `projection` maps features
to the plane, and `html` writes the page. Every drawing function takes plain
arrays and returns the bytes of an SVG in one style, with a palette for every
colour vision. Without anything to draw (no rows, one class where two are
needed, only NaN) the picture states the reason; rows that are not finite are
left out and counted in the picture. Arrays of contradicting lengths raise
ValueError.
"""
