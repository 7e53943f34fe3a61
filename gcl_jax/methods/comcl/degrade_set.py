"""Degrades a data set until a share of its images is of low quality.

  python -m gcl_jax.methods.comcl.degrade_set --config=comcl:fundus_dr \\
      --share=0.7 --out=degraded

The data set is that of the configuration's section `data`; the degradations are
those of a run with the same section `quality` (family, seed and column), on the
images as stored. Images that the quality column calls low stay as they are and
count. Images are chosen by a hash of id and seed: those of 33 % are among those
of 70 %, degraded in the same way.

OUT/images/*.png    every image that can be read, 8 bits, degraded or not
OUT/table.csv       a row per image: the data set's columns, path, quality (1 =
                    low), degradation (its kind) and what was drawn for it
OUT/pictures.svg    images of each kind before and after
OUT/quarantine.csv  images left out, with the reason; absent without any
"""

import argparse
import pathlib
import shutil
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from gcl_jax import data, disk
from gcl_jax.augment import degradations
from gcl_jax.data import splits
from gcl_jax.data.source import Dataset
from gcl_jax.engine.settings import one_line, with_config_path
from gcl_jax.errors import ConfigError, DataError, UserError, command
from gcl_jax.methods.comcl.degraded_files import Files


def degrade_set(
  dataset: Dataset,
  share: float,
  out: str | pathlib.Path,
  *,
  settings: ConfigDict,
  max_bad: int = 20,
) -> str:
  """Writes the data set below `out`, a share of its images of low quality.

  Args:
    dataset: what to degrade.
    share: of images of low quality, in [0, 1].
    out: a folder that does not exist, or an empty one.
    settings: section `quality` of a configuration: column, family, seed.
    max_bad: number of unreadable images that are accepted.

  Returns:
    The lines to print: what was written, what could not be read, and how to
    read it.

  Raises:
    ConfigError: `share` out of range.
    DataError: `out` is in use; more than `max_bad` bad images, or no other; a
      column that has the name of one of ours. Nothing is left at `out`.
  """
  if not 0 <= share <= 1:
    raise ConfigError(f"--share={share}: give a share from 0 to 1, such as 0.7")
  out = pathlib.Path(out)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise DataError(f"{out}: already there; choose another --out")
  place = out.absolute()  # "." has no name
  unfinished = place.with_name(f".{place.name}.unfinished")
  shutil.rmtree(unfinished, ignore_errors=True)
  try:
    (unfinished / "images").mkdir(parents=True)
    written = Files(dataset, unfinished, settings, max_bad)
    written.write(share)
    disk.replace_folder(unfinished, place)
  except OSError as error:
    raise UserError(f"{out}: cannot be written: {error.strerror}") from error
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
  return written.lines(out, share)


def main(arguments: Sequence[str] | None = None) -> str:
  """Parses the command line, degrades, and returns the lines to print.

  Raises:
    UserError: a flag, a setting or a data set that cannot be used.
  """
  parser = argparse.ArgumentParser(
    prog="python -m gcl_jax.methods.comcl.degrade_set",
    description=__doc__.split("\n\n")[0],
    epilog="--config=comcl:PRESET and --config.SECTION.NAME=VALUE as in"
    " gcl_jax.main",
    allow_abbrev=False,
  )
  parser.add_argument("--share", type=float, required=True, help="0 to 1")
  parser.add_argument("--out", required=True, help="folder to write to")
  found, rest = parser.parse_known_args(arguments)
  config = _config(rest)
  if config.quality.family not in degradations.KINDS:
    raise ConfigError(
      f"quality.family {config.quality.family!r} is not one of"
      f" {', '.join(degradations.KINDS)}"
    )
  dataset = splits.limited(data.load(config.data), config.data.limit)
  return degrade_set(
    dataset,
    found.share,
    found.out,
    settings=config.quality,
    max_bad=config.data.max_bad,
  )


def _config(words: Sequence[str]) -> ConfigDict:
  """The configuration that `--config` and `--config.X=` describe."""
  values = flags.FlagValues()
  try:
    words = ["degrade_set", *with_config_path(words)]
    config_flags.DEFINE_config_file(
      "config", None, "", flag_values=values, sys_argv=words
    )
    rest = values(words)[1:]
    if rest:
      raise ConfigError(f"not understood: {' '.join(rest)}")
    if values.config is None or "quality" not in values.config:
      raise ConfigError(
        "a configuration of comcl is needed, such as --config=comcl:fundus_dr"
      )
    return values.config
  except UserError:
    raise
  except (
    flags.Error,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
  ) as error:
    raise ConfigError(one_line(error)) from error


def entry() -> None:
  """Exit code 2 and one line for a mistake of the user."""
  command(main)


if __name__ == "__main__":
  entry()
