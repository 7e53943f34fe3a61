"""Diabetic retinopathy on fundus alone, taught by OCT of the same cohort.

  gcl-jax --config=uopsl:oct_fundus --workdir=runs/oct_fundus \\
      --config.data.path=PAIRS --config.data.table=PAIRS/table.csv \\
      --config.oct_data.path=PAIRS --config.oct_data.table=PAIRS/table.csv \\
      --config.more_oct_data.path=oct_octdl_96x264.npz

PAIRS has fundus/, oct/ and table.csv (docs/data.md). Which photograph and which
scan are of one eye is hidden, but for the arm `paired`, a bound. Patients whose
photographs are kept for evaluation have no scan in training. With
--config.data.class_column=dme and class_names=("0=no_oedema","1=oedema") it
learns oedema.
"""


def change(config):
  """Changes the defaults of `uopsl`."""
  columns = ("modality", "patient", "eye", "dr", "dme", "graded")
  for section in (config.data, config.oct_data):
    section.update(name="folder", meta_columns=columns)
  # Photographs with ids below 1221 come from another camera and all have
  # oedema: only graded ones are used.
  config.data.where = ("modality=fundus", "graded=1")
  config.data.update(
    class_column="dr", class_names=("0=healthy", "NPDR=npdr", "PDR=pdr")
  )
  config.oct_data.where = ("modality=oct",)
  config.oct_data.class_column = "dr+dme"
  config.oct_data.class_names = (
    *("0+0=healthy", "0+1=oedema", "NPDR+0=npdr", "NPDR+1=npdr_oedema"),
    *("PDR+0=pdr", "PDR+1=pdr_oedema", "+0=no_oedema", "+1=oedema"),
  )
  config.oct_data.eval_fraction = 0.05
  config.more_oct_data.update(name="octdl", eval_fraction=0.05)
  config.more_oct_data.class_names = (
    *("healthy=healthy", "AMD=amd", "DME=oedema", "ERM=erm"),
    *("RAO=rao", "RVO=rvo", "VID=vid"),
  )
  config.preprocess.size = (128, 128)
  config.oct_preprocess.size = (64, 160)
  config.text.file = "retina"
  config.pretrain.update(arch="resnet10", stem="oct", width=16)
  config.fundus.pair_columns = ("patient", "eye")
