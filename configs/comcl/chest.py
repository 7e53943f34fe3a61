"""ChestX-ray14 with quality labels: eight findings, boxes of the NIH list.

  gcl-jax --config=comcl:chest --workdir=runs/chest \\
      --config.data.path=FOLDER --config.data.quality_table=quality.csv \\
      --config.data.boxes_path=BOXES.csv

FOLDER holds Data_Entry_2017.csv, the lists of the split and the images. BOXES
is BBox_List_2017.csv or a file of any detector; a run whose training images
have no box stops and counts what became of the boxes. Without a quality table
the images are degraded here, by a family of our own: the paper does not say how
its X-rays were. Without boxes, and with one binary label, the robustness curve
alone (whole images by momentum contrast):

  gcl-jax --config=comcl:chest --workdir=runs/pneumonia \\
      --config.data.name=medmnist \\
      --config.data.path=$GCL_DATA/cxr_pneumoniamnist_28.npz \\
      --config.data.duplicates=drop \\
      --config.preprocess.size="(28, 28)" --config.patches.size=28 \\
      --config.pretrain.loss=moco --config.pretrain.arch=resnet10 \\
      --config.arms="('supervised', 'supervised_degraded', 'comcl_degraded')"
"""


def change(config):
  """Changes the defaults of `comcl`."""
  config.data.name = "chestxray14"
  config.preprocess.update(disc=False, channels=1)
  config.quality.family = "xray"
  config.pretrain.update(
    dtype="bfloat16",
    epochs=100,
    schedule="cosine",
    saturation=0.0,
    hue=0.0,
    grayscale=0.0,
  )
  config.diagnosis.update(loss="sigmoid", batch_size=32, steps=10_000)
