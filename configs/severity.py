"""Severity labels from gradients, then supervised contrastive pre-training.

  python -m gcl_jax.main --config=configs/severity.py:demo --workdir=runs/demo

    embedded OCT phantom, 2 to 3 minutes on two CPU cores;
    Spearman of score and true severity 0.90

Presets demo, tiny and paper, and every setting, are in
gcl_jax/methods/severity/config.py, those of real data sets in
configs/severity/.
After an install they work from any folder: gcl-jax --config=severity:octdl
"""

from gcl_jax.methods.severity.config import get_config  # noqa: F401
