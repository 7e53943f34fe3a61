"""UOPSL: OCT teaches where disease sits, fundus alone uses it.

  python -m gcl_jax.main --config=configs/uopsl.py:demo --workdir=runs/uopsl

    embedded eye phantom, 4 minutes 23 s on one CPU core; balanced accuracy of
    six classes with 20 / 50 / 200 labels 0.17 / 0.29 / 0.34, of texts without
    OCT 0.17 / 0.23 / 0.18 (one seed; 0.17 is chance; longer runs learn more)

Presets and every setting: gcl_jax/methods/uopsl/config.py.
"""

from gcl_jax.methods.uopsl.config import get_config  # noqa: F401
