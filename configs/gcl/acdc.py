"""ACDC cine MR as its owners ship it.

gcl-jax --config=gcl:acdc --workdir=runs/acdc --config.data.path=ACDC

  needs a GPU; its step was timed (docs/performance.md), it was never trained
  by us: no figure
"""


def change(config):
  """Changes the defaults of `gcl`."""
  config.data.update(name="acdc", cine=True)
  config.preprocess.update(size=(224, 224), spacing=(1.25, 1.25))
  config.unet.widths = (32, 64, 128, 256, 512)
  config.pretrain.update(labels=("position<0.35", "patient", "cycle<0.1"))
  config.pretrain.update(
    steps=20_000, pixel="F1", optimizer="sgd", learning_rate=0.1
  )
  config.segment.update(
    labelled=(1, 2, 4, 8), draws=tuple(range(9)), seeds=(0, 1, 2), steps=4000
  )
