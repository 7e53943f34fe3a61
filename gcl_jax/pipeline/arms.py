"""Arms: what a method is compared with, the same code under other settings."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

# Name of an arm -> (the configured section -> what changes in it).
Arms = Mapping[str, Callable[[Any], dict]]


def settings_of(
  section: Any, arms: Arms, arm: str
) -> ml_collections.ConfigDict:
  """A copy of a section as an arm has it; the method's own is as configured.

  Args:
    section: the configured settings.
    arms: the changes of every arm.
    arm: one of them, or the name of the method.
  """
  settings = ml_collections.ConfigDict(section.to_dict())
  if arm in arms:
    settings.update(arms[arm](section))
  return settings
