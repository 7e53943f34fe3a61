"""Colour fundus photographs with retinopathy grades; quality by degradation.

  gcl-jax --config=comcl:fundus_dr --workdir=runs/dr \\
      --config.data.path=$GCL_DATA/fundus_dr \\
      --config.data.table=$GCL_DATA/fundus_dr/labels.csv \\
      --config.lesion_data.path=$GCL_DATA/fundus_idrid

  with detector.steps=300 and five further arms 95 minutes of one core, of which
  a fine-tune takes 11; kappa at 33 / 70 / 100 % of low quality 0.29 / 0.21 /
  0.12, of supervised training with degradations 0.51 / 0.46 / 0.37, of a ridge
  on hand-made features 0.51 / 0.48 / 0.51 (three seeds, docs/results.md)

233 patients, both eyes; boxes come from a detector trained on the class maps of
IDRiD.
"""

from gcl_jax.methods.comcl.config import DETECTOR_TUNED, small

DIAGNOSIS_TUNED = (
  "training: diagnosis.loss, diagnosis.balanced and diagnosis.learning_rate,"
  " out of three settings of the supervised arm, by kappa on a quarter of the"
  " training patients"
)


def change(config):
  """Changes the defaults of `comcl`."""
  config.data.update(
    name="folder",
    group_column="patient",
    meta_columns=("grade", "eye"),
  )
  config.lesion_data.name = "idrid"
  config.boxes.source = "detector"
  config.preprocess.size = (256, 256)
  config.patches.size = 64
  config.boxes.margin = 2
  small(config)
  config.pretrain.epochs = 20
  config.diagnosis.update(batch_size=16, steps=2400, learning_rate=1e-3)
  config.diagnosis.update(loss="ordinal", balanced=False)
  config.tuned = (DETECTOR_TUNED, DIAGNOSIS_TUNED)
