"""Severity labels from gradients, then supervised contrastive pre-training.

  python -m gcl_jax.main --config=configs/severity.py:demo --workdir=runs/demo

    embedded OCT phantom, 2 to 3 minutes on two CPU cores;
    Spearman of score and true severity 0.90

  python -m gcl_jax.main --config=configs/severity.py:octdl \\
      --config.data.path=$GCL_DATA/oct_octdl_96x264.npz --workdir=runs/octdl

    real OCT, about 14 minutes on two CPU cores; AUROC of the score 0.94
    (PCA error 0.91), macro AUROC of the probe 0.89 (SimCLR 0.90)

Presets and every setting: gcl_jax/methods/severity/config.py.
"""

from gcl_jax.methods.severity.config import get_config  # noqa: F401
