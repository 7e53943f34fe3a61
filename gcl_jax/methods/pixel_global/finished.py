"""A finished Pixel-global run on new slices: features and class maps."""

from gcl_jax.pipeline.finished_slices import Run  # noqa: F401
