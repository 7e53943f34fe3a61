"""Lesions against artefacts on the class maps of IDRiD; no diagnosis.

  gcl-jax --config=comcl:idrid --workdir=runs/idrid \\
      --config.data.path=$GCL_DATA/fundus_idrid

    14 images: 5 minutes on two CPU cores; lesion against bright spot, AUROC
    0.62 (SimCLR 0.67, not told apart) on 7 images

Every image of the set is diseased, so healthy windows are those of the same
images that touch no lesion. Windows have 64 of 512 pixels: of 128, hardly any
is free of lesions.
"""

from gcl_jax.methods.comcl.config import small


def change(config):
  """Changes the defaults of `comcl`."""
  config.data.name = "idrid"
  config.data.eval_fraction = 0.5  # probes need five images on either side
  config.patches.update(size=64, healthy="lesion_free", per_image=16)
  small(config)
  config.pretrain.epochs = 10
  config.arms = ("simclr", "simclr_degraded", "shuffled_quality")
