"""GCL: contrast by several meta labels, then segmentation with few labels.

  python -m gcl_jax.main --config=configs/gcl.py:demo --workdir=runs/gcl

    embedded heart phantom, 3 minutes on two fast CPU cores, 8 on slow ones;
    with 2 labelled patients Dice 0.85, 0.05 above training from scratch, 0.24
    above it on the other scanner

Presets demo, tiny and paper, and every setting, are in
gcl_jax/methods/gcl/config.py; those of real data sets in configs/gcl/.
After an install they work from any folder: gcl-jax --config=gcl:hippocampus
"""

from gcl_jax.methods.gcl.config import get_config  # noqa: F401
