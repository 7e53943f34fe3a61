"""Gradient-guided contrastive learning on medical images, in JAX."""

import importlib
import os
from typing import Any

__version__ = "0.1.0"


def load(folder: str | os.PathLike) -> Any:
  """A finished run, opened from its folder alone.

  Args:
    folder: the --workdir of the run.

  Returns:
    The `Run` of its method (`gcl_jax.methods.<name>.finished`), which prepares
    new images as the run did: `embed`, and `severity`, `predict` or `segment`
    where the method gives them.

  Raises:
    UserError: the folder holds no finished run, or that of another program.
  """
  finished = importlib.import_module("gcl_jax.pipeline.finished")
  settings = importlib.import_module("gcl_jax.engine.settings")
  method = settings.check_method(finished.method_of(folder))
  name = f"gcl_jax.methods.{method}.finished"
  return importlib.import_module(name).Run(folder)
