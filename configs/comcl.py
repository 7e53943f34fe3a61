"""CoMCL: lesions against artefacts, then diagnosis under falling quality.

  python -m gcl_jax.main --config=configs/comcl.py:demo --workdir=runs/comcl

Presets and every setting: gcl_jax/methods/comcl/config.py.
"""

from gcl_jax.methods.comcl.config import get_config  # noqa: F401
