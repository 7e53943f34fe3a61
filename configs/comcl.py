"""CoMCL: lesions against artefacts, then diagnosis under falling quality.

  python -m gcl_jax.main --config=configs/comcl.py:demo --workdir=runs/comcl

    embedded fundus phantom, 2 minutes 10 s on two CPU cores; quadratic kappa
    0.45 at 33 % of low quality, 0.30 at 100 % (48 evaluation patients)

Presets and every setting: gcl_jax/methods/comcl/config.py.
"""

from gcl_jax.methods.comcl.config import get_config  # noqa: F401
