"""Severity labels from gradients, then supervised contrastive pre-training.

  python -m gcl_jax.main --config=configs/severity.py:demo --workdir=runs/demo
  python -m gcl_jax.main --config=configs/severity.py:octdl \\
      --config.data.path=$GCL_DATA/oct_octdl_96x264.npz --workdir=runs/octdl
"""

from gcl_jax.methods.severity.config import get_config  # noqa: F401
