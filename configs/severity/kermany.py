"""Kermany OCT2017: NORMAL against CNV, DME and DRUSEN.

  gcl-jax --config=severity:kermany --workdir=runs/kermany \\
      --config.data.path=OCT2017

    needs a GPU; not run by us: no figure
"""


def change(config):
  """Changes the defaults of `severity`."""
  config.data.name = "kermany"
  config.preprocess.size = (128, 128)
  config.autoencoder.update(batch_size=64, steps=20_000, eval_every=500)
