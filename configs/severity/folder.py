"""Your own scans: a CSV plus a folder of images.

  gcl-jax --config=severity:folder --workdir=runs/mine \\
      --config.data.path=FOLDER --config.data.table=TABLE.csv \\
      --config.data.healthy_column=healthy

    time and figures are those of your data; docs/data.md describes the table
"""


def change(config):
  """Changes the defaults of `severity`."""
  config.data.name = "folder"
