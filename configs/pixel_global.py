"""Pixel-global: pixels in two contexts, then segmentation with few labels.

  python -m gcl_jax.main --config=configs/pixel_global.py:demo --workdir=runs/pg

Presets demo, tiny and paper, and every setting, are in
gcl_jax/methods/pixel_global/config.py; those of real data sets in
configs/pixel_global/. After an install they work from any folder:
gcl-jax --config=pixel_global:acdc
"""

from gcl_jax.methods.pixel_global.config import get_config  # noqa: F401
