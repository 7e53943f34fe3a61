"""draft"""


def change(config):
  """Changes the defaults of `pixel_global`."""
  config.data.update(
    name="volumes", axis="stored", classes=("RV", "myocardium", "LV")
  )
  config.preprocess.update(size=(96, 96), spacing=(2.25, 2.25))
  config.unet.widths = (16, 32, 64, 128)
  config.segment.update(labelled=(6,), draws=tuple(range(9)), seeds=(0, 1, 2))
  config.segment.update(batch_size=16, steps=500)
