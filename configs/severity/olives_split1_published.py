"""OLIVES split 1 as published: its figures are too good.

  gcl-jax --config=severity:olives_split1_published --workdir=runs/olives1 \\
      --config.data.path=OLIVES --config.healthy_data.path=OCT2017

    needs a GPU; not run by us: no figure

Fellow eyes of 4 of the 20 test patients are in the training part, which is
refused elsewhere.
"""

from gcl_jax.engine.settings import change_by_file


def change(config):
  """Changes the defaults of `severity`."""
  change_by_file(config, "olives")
  config.data.split = "1-published"
  config.data.allow_group_overlap = True
