"""UOPSL: OCT teaches where disease sits, fundus alone uses it.

  python -m gcl_jax.main --config=configs/uopsl.py:demo --workdir=runs/uopsl

Presets and every setting: gcl_jax/methods/uopsl/config.py.
"""

from gcl_jax.methods.uopsl.config import get_config  # noqa: F401
