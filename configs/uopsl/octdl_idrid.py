"""Grades of IDRiD's photographs, taught by OCTDL's scans.

  gcl-jax --config=uopsl:octdl_idrid --workdir=runs/octdl_idrid \\
      --config.data.path=IMAGES --config.data.table=LABELS.csv \\
      --config.oct_data.path=oct_octdl_96x264.npz

IMAGES and LABELS.csv are those of IDRiD's disease grading, its columns renamed
to id, path, group (IDRiD gives no patients: repeat the id) and oedema, the
"Risk of macular edema". Vocabularies overlap in part: scans of healthy eyes and
of oedema meet photographs, those of other diseases teach texts alone. The
grading set is not among the data that figures were measured on.
"""


def change(config):
  """Changes the defaults of `uopsl`."""
  config.data.update(
    name="folder",
    meta_columns=("oedema",),
    class_column="oedema",
    class_names=("0=no_oedema", "1=oedema", "2=oedema"),
  )
  config.oct_data.update(name="octdl", eval_fraction=0.05)
  config.oct_data.class_names = (
    *("healthy=no_oedema", "AMD=amd", "DME=oedema", "ERM=erm"),
    *("RAO=rao", "RVO=rvo", "VID=vid"),
  )
  config.oct_preprocess.size = (96, 256)
  config.text.file = "retina"
  config.pretrain.update(arch="resnet18", stem="imagenet", width=32)
