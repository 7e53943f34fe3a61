"""Your own CT volumes in Hounsfield units, by sliding windows.

  gcl-jax --config=pixel_global:ct --workdir=runs/pg_ct \\
      --config.data.path=FOLDER --config.data.table=FOLDER/volumes.csv \\
      --config.data.classes="('liver','spleen','left_kidney','right_kidney')" \\
      --config.segment.alike="('left_kidney','right_kidney')"

  the table has a column `modality` that says ct (docs/data.md). Reading and
  preparation are tested with a real scan; it was never trained by us: no figure

Slices of 192 x 192 pixels of 2 mm; pre-training sees crops, and fine-tuning and
prediction tiles, of 96 x 96.
"""

from gcl_jax.methods.pixel_global.config import DRAWS, SEEDS


def change(config):
  """Changes the defaults of `pixel_global`."""
  # Soft tissue of the abdomen: one grey level is 1.6 HU.
  config.data.update(name="volumes", axis="axial", ct_window=(-160.0, 240.0))
  config.preprocess.update(size=(192, 192), spacing=(2.0, 2.0))
  config.unet.widths = (16, 32, 64, 128, 256)
  config.pretrain.views.size = (96, 96)
  config.pretrain.steps = 20_000
  config.segment.update(labelled=(2,), draws=DRAWS, seeds=SEEDS)
  config.segment.update(tile=(96, 96), steps=4000)
