"""EyeQ: quality labels of EyePACS, at 512 pixels, on one GPU.

  gcl-jax --config=comcl:eyeq --workdir=runs/eyeq \\
      --config.data.path=EYEPACS_IMAGES --config.data.table=EYEQ_LABELS \\
      --config.lesion_data.path=IDRID

EYEQ_LABELS is a folder with Label_EyeQ_train.csv and Label_EyeQ_test.csv. The
images need an account with their publisher, so there is no measured time.
"""

from gcl_jax.methods.comcl.config import DETECTOR_TUNED


def change(config):
  """Changes the defaults of `comcl`."""
  config.data.name = "eyeq"
  config.lesion_data.name = "idrid"
  config.boxes.source = "detector"
  config.pretrain.update(
    arch="resnet50", dtype="bfloat16", epochs=100, schedule="cosine"
  )
  config.diagnosis.update(batch_size=32, steps=10_000)
  config.tuned = (DETECTOR_TUNED,)
