"""Presets and settings: refused early, with the nearest name."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from gcl_jax.errors import ConfigError


def with_preset(
  config: ml_collections.ConfigDict,
  preset: str,
  presets: Mapping[str, Callable[[ml_collections.ConfigDict], None]],
) -> ml_collections.ConfigDict:
  """The default settings of a method, changed by one of its presets.

  Raises:
    ConfigError: no such preset; the message names the nearest one.
  """
  if preset not in presets:
    raise ConfigError(
      f"no preset {preset!r} of method {config.method}{near(preset, presets)}"
      f" (presets: {', '.join(presets)})"
    )
  config.preset = preset
  presets[preset](config)
  return config


def check_numbers(
  config: Any, positive: Sequence[str], not_negative: Sequence[str]
) -> None:
  """Refuses settings, named with dots, that are below what makes sense.

  Raises:
    ConfigError: one of `positive` is not above 0, or one of `not_negative`
      below it.
  """
  for name in (*positive, *not_negative):
    value = value_of(config, name)
    if value < 0 or (value == 0 and name in positive):
      least = "more than 0" if name in positive else "0 or more"
      raise ConfigError(f"{name} must be {least}, got {value}")


def check_at_most(config: Any, names: Sequence[str], largest: float) -> None:
  """Refuses settings, named with dots, above a bound.

  Raises:
    ConfigError: names the setting and the bound.
  """
  for name in names:
    value = value_of(config, name)
    if value > largest:
      raise ConfigError(f"{name} must be {largest} or less, got {value}")


def check_choices(config: Any, choices: Mapping[str, Sequence[str]]) -> None:
  """Refuses a word that is none of a setting's choices.

  Raises:
    ConfigError: names the setting, its choices and the near one.
  """
  for name, known in choices.items():
    value = value_of(config, name)
    if value not in known:
      words = ", ".join(repr(k) if not k else k for k in known)
      raise ConfigError(
        f"{name} {value!r} is not one of {words}{near(value, known)}"
      )


def check_each_once(
  name: str, values: Sequence[str], known: Sequence[str]
) -> None:
  """Refuses a list with an unknown or repeated entry.

  Raises:
    ConfigError: names the list and what it may hold.
  """
  for value in values:
    if value not in known or list(values).count(value) > 1:
      raise ConfigError(
        f"{name} {tuple(values)}: each once, out of"
        f" {', '.join(known)}{near(value, known)}"
      )


def value_of(config: Any, dotted: str) -> Any:
  """The setting of a dotted name."""
  for part in dotted.split("."):
    config = config[part]
  return config


def near(value: Any, known: Sequence[str] | Mapping[str, Any]) -> str:
  """; did you mean 'x'?, or nothing."""
  found = difflib.get_close_matches(str(value), known, 1)
  return f"; did you mean {found[0]!r}?" if found and found[0] != value else ""


def one_line(error: Exception) -> str:
  """What went wrong; of a traceback quoted in the message, its last line."""
  text = str(error.args[0] if error.args else error).strip()
  if "Traceback" in text:
    text = re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])
  text = text.replace("\\n", " ").replace("\\'", "'")
  text = re.sub(r"^'(.*)'$", r"\1", text)
  if re.fullmatch(r"\w+", text):  # all that a KeyError says of a field
    text = f"the configuration has no field {text!r}"
  return re.sub(r"\s+", " ", text)
