"""Presets and settings: refused early, with the nearest name."""

import difflib
import math
import pathlib
import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from gcl_jax.errors import ConfigError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"  # shipped files
if not CONFIGS.is_dir():  # a checkout without symbolic links
  CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def preset_names(
  method: str, presets: Mapping[str, Callable]
) -> tuple[str, ...]:
  """The presets of a method: those of its own, then the files of `configs`."""
  files = sorted(path.stem for path in (CONFIGS / method).glob("*.py"))
  return (*presets, *files)


def with_preset(
  config: ml_collections.ConfigDict,
  preset: str,
  presets: Mapping[str, Callable[[ml_collections.ConfigDict], None]],
) -> ml_collections.ConfigDict:
  """The default settings of a method, changed by one of its presets.

  Args:
    config: the defaults.
    preset: a key of `presets`, or the name of a file in `configs/<method>/`
      whose function `change(config)` sets it.
    presets: name -> change of the configuration.

  Raises:
    ConfigError: no such preset; the message names the nearest one.
  """
  names = preset_names(config.method, presets)
  if preset not in names:
    raise ConfigError(
      f"no preset {preset!r} of method {config.method}{near(preset, names)}"
      f" (presets: {', '.join(names)})"
    )
  config.preset = preset
  if preset in presets:
    presets[preset](config)
  else:
    change_by_file(config, preset)
  return config


def change_by_file(config: ml_collections.ConfigDict, name: str) -> None:
  """Changes a configuration as `configs/<method>/<name>.py` says."""
  path = CONFIGS / config.method / f"{name}.py"
  runpy.run_path(str(path))["change"](config)


def config_path(value: str) -> str:
  """The file of `--config=METHOD:PRESET`; any other value as it is.

  Raises:
    ConfigError: neither a file nor a method with configurations.
  """
  name, colon, preset = value.partition(":")
  if name.endswith(".py"):
    if not pathlib.Path(name).exists():
      hint = f"; {pathlib.Path(name).stem}{colon}{preset} works anywhere"
      known = (CONFIGS / pathlib.Path(name).name).exists()
      raise ConfigError(f"no file {name}{hint if known else ''}")
    return value
  methods = sorted(path.stem for path in CONFIGS.glob("*.py"))
  if name not in methods:
    raise ConfigError(
      f"--config {value!r}: no method {name!r}{near(name, methods)} (methods:"
      f" {', '.join(methods)}), and no file that ends in .py"
    )
  return f"{CONFIGS / name}.py{colon}{preset}"


def check_numbers(
  config: Any, positive: Sequence[str], not_negative: Sequence[str]
) -> None:
  """Refuses numbers, named with dots, that are below what makes sense.

  Each entry of a tuple counts; what is no number is passed over.

  Raises:
    ConfigError: a number is not finite, one of `positive` is not above 0, or
      one of `not_negative` below it.
  """
  for name in (*positive, *not_negative):
    for value in numbers_of(value_of(config, name)):
      least = "more than 0" if name in positive else "0 or more"
      if not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value}")
      if value < 0 or (value == 0 and name in positive):
        raise ConfigError(f"{name} must be {least}, got {value}")


def check_at_most(config: Any, names: Sequence[str], largest: float) -> None:
  """Refuses numbers, named with dots, above a bound.

  Raises:
    ConfigError: names the setting and the bound.
  """
  for name in names:
    for value in numbers_of(value_of(config, name)):
      if value > largest:
        raise ConfigError(f"{name} must be {largest} or less, got {value}")


def numbers_of(value: Any) -> list[float]:
  """The numbers of a setting: itself, or the entries of a tuple of them."""
  if isinstance(value, tuple | list):
    return [number for entry in value for number in numbers_of(entry)]
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return [value] if number else []


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
