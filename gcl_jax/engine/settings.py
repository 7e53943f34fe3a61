"""Presets, and early checks of settings that suggest the nearest valid name."""

import difflib
import importlib
import math
import pathlib
import pkgutil
import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from gcl_jax.errors import ConfigError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"  # shipped files
if not CONFIGS.is_dir():  # a checkout without symbolic links
  CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def preset_names(
  method: str, presets: Mapping[str, Callable]
) -> tuple[str, ...]:
  """Presets of a method: its own, then the files of `configs`."""
  files = sorted(path.stem for path in (CONFIGS / method).glob("*.py"))
  return (*presets, *files)


def with_preset(
  config: ConfigDict,
  preset: str,
  presets: Mapping[str, Callable[[ConfigDict], None]],
) -> ConfigDict:
  """Default settings of a method, changed by one of its presets.

  Args:
    config: the defaults.
    preset: a key of `presets`, or the name of a file in `configs/<method>/`
      whose function `change(config)` sets it.
    presets: name -> change of the configuration.

  Raises:
    ConfigError: the preset does not exist; the message names the nearest one.
  """
  names = preset_names(config.method, presets)
  if preset not in names:
    raise ConfigError(
      f"no preset {preset!r} of method {config.method}{near(preset, names)}"
      f" (presets: {', '.join(names)})"
    )
  config.preset = preset
  config.lock()  # a preset changes settings, it makes none
  try:
    if preset in presets:
      presets[preset](config)
    else:
      change_by_file(config, preset)
  except (AttributeError, KeyError, TypeError, SyntaxError) as error:
    raise ConfigError(f"preset {preset}: {one_line(error)}") from error
  return config


def check_method(name: str) -> str:
  """The name of a method that there is, before anything is imported by it.

  Raises:
    ConfigError: there is none; names the near one.
  """
  methods = importlib.import_module("gcl_jax.methods")
  known = sorted(m.name for m in pkgutil.iter_modules(methods.__path__))
  if name not in known:
    raise ConfigError(
      f"no method {name!r}{near(name, known)} (methods: {', '.join(known)})"
    )
  return name


def change_by_file(config: ConfigDict, name: str) -> None:
  """Changes a configuration by the file `configs/<method>/<name>.py`."""
  path = CONFIGS / config.method / f"{name}.py"
  change = runpy.run_path(str(path)).get("change")
  if change is None:
    raise ConfigError(f"{path} has no function change(config)")
  change(config)


def config_path(value: str) -> str:
  """Replaces METHOD:PRESET of `--config` by its file; keeps any other value.

  Raises:
    ConfigError: the value is neither a file nor a method with configurations.
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


def with_config_path(argv: Sequence[str]) -> list[str]:
  """Replaces METHOD:PRESET of `--config` among words of a command line.

  Raises:
    ConfigError: as `config_path`.
  """
  argv = list(argv)
  for k, word in enumerate(argv):
    if word in ("--config", "-config") and k + 1 < len(argv):
      argv[k + 1] = config_path(argv[k + 1])
    elif word.startswith(("--config=", "-config=")):
      flag, _, value = word.partition("=")
      argv[k] = f"{flag}={config_path(value)}"
  return argv


def check_numbers(
  config: ConfigDict, positive: Sequence[str], not_negative: Sequence[str]
) -> None:
  """Checks that settings, given as dotted names, are positive or not negative.

  Every entry of a tuple is checked; values that are not numbers are ignored.

  Raises:
    ConfigError: a number is not finite, one of `positive` is not above 0, or
      one of `not_negative` is below 0.
  """
  for name in (*positive, *not_negative):
    for value in numbers_of(value_of(config, name)):
      least = "more than 0" if name in positive else "0 or more"
      if not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value}")
      if value < 0 or (value == 0 and name in positive):
        raise ConfigError(f"{name} must be {least}, got {value}")


def check_at_most(
  config: ConfigDict, names: Sequence[str], largest: float
) -> None:
  """Checks that settings, given as dotted names, do not exceed a bound.

  Raises:
    ConfigError: names the setting and the bound.
  """
  for name in names:
    for value in numbers_of(value_of(config, name)):
      if value > largest:
        raise ConfigError(f"{name} must be {largest} or less, got {value}")


def numbers_of(value: Any) -> list[float]:
  """Numbers in a setting: its value, or the entries of a tuple."""
  if isinstance(value, tuple | list):
    return [number for entry in value for number in numbers_of(entry)]
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return [value] if number else []


def check_choices(
  config: ConfigDict, choices: Mapping[str, Sequence[str]]
) -> None:
  """Checks that settings have one of their allowed values.

  Raises:
    ConfigError: names the setting, its choices and the nearest one.
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
  """Checks that a list has no unknown or repeated entry.

  Raises:
    ConfigError: names the list and its allowed entries.
  """
  for value in values:
    if value not in known or list(values).count(value) > 1:
      raise ConfigError(
        f"{name} {tuple(values)}: each once, out of"
        f" {', '.join(known)}{near(value, known)}"
      )


def value_of(config: ConfigDict, dotted: str) -> Any:
  """Setting with a dotted name."""
  for part in dotted.split("."):
    config = config[part]
  return config


def near(value: Any, known: Sequence[str] | Mapping[str, Any]) -> str:
  """Hint "; did you mean 'x'?" with the nearest name, or ""."""
  names = difflib.get_close_matches(str(value), known, 1)
  return f"; did you mean {names[0]!r}?" if names and names[0] != value else ""


def one_line(error: Exception) -> str:
  """Error message in one line; of a quoted traceback the last line."""
  text = str(error.args[0] if error.args else error).strip()
  if "Traceback" in text:
    text = re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])
  text = text.replace("\\n", " ").replace("\\'", "'")
  text = re.sub(r"^'(.*)'$", r"\1", text)
  if re.fullmatch(r"\w+", text):  # all that a KeyError says of a field
    text = f"the configuration has no field {text!r}"
  return re.sub(r"\s+", " ", text)
