"""Lesions against artefacts on the class maps of IDRiD; no diagnosis.

  gcl-jax --config=comcl:idrid --workdir=runs/idrid \\
      --config.data.path=$GCL_DATA/fundus_idrid

Every image of the set is diseased, so healthy windows are those of the same
images that touch no lesion.
"""

from gcl_jax.methods.comcl.config import small


def change(config):
  """Changes the defaults of `comcl`."""
  config.data.name = "idrid"
  config.data.eval_fraction = 0.5  # probes need five images on either side
  config.patches.update(healthy="lesion_free", per_image=16)
  small(config)
  config.pretrain.epochs = 10
  config.arms = ("simclr", "simclr_degraded", "shuffled_quality")
