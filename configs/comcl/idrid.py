"""Lesions against artefacts on the class maps of IDRiD; no diagnosis.

  gcl-jax --config=comcl:idrid --workdir=runs/idrid \\
      --config.data.path=$GCL_DATA/fundus_idrid

Every image of the set is diseased, so healthy windows are those of the same
images that touch no lesion.
"""


def change(config):
  """Changes the defaults of `comcl`."""
  config.data.name = "idrid"
  config.patches.update(healthy="lesion_free", per_image=16)
  config.pretrain.update(
    arch="resnet18",
    width=16,
    head_hidden=256,
    head_out=128,
    batch_size=32,
    epochs=10,
    optimizer="adamw",
    learning_rate=1e-3,
    schedule="cosine",
  )
  config.arms = ("simclr", "simclr_degraded", "shuffled_quality")
