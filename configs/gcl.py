"""GCL: contrast by several meta labels, then segmentation with few labels.

  python -m gcl_jax.main --config=configs/gcl.py:demo --workdir=runs/gcl

Presets and every setting: gcl_jax/methods/gcl/config.py.
"""

from gcl_jax.methods.gcl.config import get_config  # noqa: F401
