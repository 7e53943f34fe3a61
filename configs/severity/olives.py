"""OLIVES as published on disk, healthy scans from Kermany OCT2017.

  gcl-jax --config=severity:olives --workdir=runs/olives \\
      --config.data.path=OLIVES --config.healthy_data.path=OCT2017

    needs a GPU; not run by us: no figure
"""


def change(config):
  """Changes the defaults of `severity`."""
  config.data.update(name="olives", split="2")
  config.healthy_data.name = "kermany"
  config.preprocess.size = (128, 128)
  config.autoencoder.update(
    batch_size=64, steps=20_000, folds=1, eval_every=500, patience=10
  )
