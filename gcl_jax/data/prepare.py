"""Writes any data set as array_record, checked and fast to read.

  python -m gcl_jax.data.prepare --source=scans --table=scans.csv \\
      --label_columns=fluid,drusen --healthy_column=healthy --out=prepared

Every file is read in full. Unreadable files are left out and listed in
OUT/quarantine.csv with the reason; more than --max_bad of them end the run. The
result is a tensorflow-datasets data set (TensorFlow is not needed to write or
read it) that keeps ids, groups and labels exactly.
"""

import argparse
import contextlib
import csv
import io
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from gcl_jax import data
from gcl_jax.data import formats, preprocess
from gcl_jax.data.readers.tfds import METADATA
from gcl_jax.data.source import Dataset
from gcl_jax.errors import ConfigError, DataError, command

VERSION = "1.0.0"
_LISTS = ("label_columns", "meta_columns")


def prepare(
  dataset: Dataset,
  out: str | os.PathLike,
  *,
  name: str = "",
  size: tuple[int, int] | None = None,
  grey: bool = False,
  max_bad: int = 100,
) -> tuple[pathlib.Path, list[tuple[str, str]]]:
  """Writes the data set below `out` and lists unreadable images.

  8 and 16 bits are kept, float images become 8 bits by `formats.to_uint8`. The
  first readable image decides between grey and colour, 8 and 16 bits; images
  that cannot be stored like it without loss are quarantined.

  Args:
    dataset: what to write.
    out: a folder, made if needed.
    name: of the written data set; "" takes that of `dataset`.
    size: rows and columns to resize to (box average); None keeps each size.
    grey: turn colour into luminance (`formats.to_grey`).
    max_bad: number of unreadable images that are accepted.

  Returns:
    The folder written, OUT/name/1.0.0, and (id, reason) per bad image.

  Raises:
    DataError: `out` cannot be written or holds this data set already, more than
      `max_bad` bad images, or no readable one. Partial output is removed.
  """
  name = re.sub(r"\W+", "_", name or dataset.name).strip("_").lower() or "data"
  target = pathlib.Path(out) / name / VERSION
  if target.exists():
    raise DataError(f"{target}: already there; choose another --out or --name")
  bad: list[tuple[str, str]] = []
  try:
    examples = _Examples(dataset, size, grey, max_bad, bad)
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    _write(examples, out, name)
  except OSError as error:
    raise DataError(f"{out}: cannot be written: {error.strerror}") from error
  finally:
    _quarantine(pathlib.Path(out), bad)
  return target, bad


class _Examples:
  """Encoded features of the readable images of a data set, in order."""

  def __init__(
    self, dataset: Dataset, size, grey: bool, max_bad: int, bad: list
  ):
    self.dataset, self.size, self.grey = dataset, size, grey
    self.max_bad, self.bad = max_bad, bad
    self.columns = _features(dataset)
    self.kind: tuple[int, np.dtype] | None = None
    # The first readable image decides what is stored; it is kept.
    self.first = next(self._good(0), None)
    if self.first is None:
      raise DataError(f"no readable image in data set {dataset.name!r}")

  def __iter__(self) -> Iterator[tuple[int, dict]]:
    start, image = self.first
    with tqdm(total=len(self.dataset), unit="image", desc="prepare") as bar:
      bar.update(start + 1)
      yield start, self._encoded(start, image)
      for row, image in self._good(start + 1, bar):
        yield row, self._encoded(row, image)

  def _good(self, start: int, bar=None) -> Iterator[tuple[int, np.ndarray]]:
    for row in range(start, len(self.dataset)):
      if bar is not None:
        bar.update(1)
      try:
        image = _stored(self.dataset.read(row), self.size, self.grey)
        self.kind = self.kind or _kind(image)
        yield row, _of_kind(image, self.kind)
      except DataError as error:
        self._set_aside(row, error)

  def _set_aside(self, row: int, error: DataError) -> None:
    self.bad.append((str(self.dataset.ids[row]), str(error)))
    if len(self.bad) > self.max_bad:
      raise DataError(
        f"more than --max_bad={self.max_bad} unreadable images, the last one:"
        f" {error} (all of them: quarantine.csv)"
      )

  def _encoded(self, row: int, image: np.ndarray) -> dict:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    encoded.seek(0)
    example = {"image": encoded}
    for feature, (column, kind) in self.columns.items():
      value = self.dataset.table[column][row]
      # Stored as text, as float32 would round clinical values.
      example[feature] = {
        "binary": np.float32,
        "number": lambda value: repr(float(value)),
        "text": str,
      }[kind](value)
    return example


def _features(dataset: Dataset) -> dict[str, tuple[str, str]]:
  """Feature name -> (column, kind); slashes mean nesting in TFDS."""
  features: dict[str, tuple[str, str]] = {}
  for column, values in dataset.table.items():
    feature = re.sub(r"\W+", "_", column)
    if feature in features or feature == "image":
      raise DataError(f"column {column!r} clashes with another; rename it")
    binary = column in (*dataset.labels, "healthy")
    number = values.dtype.kind in "biuf"
    kind = "binary" if binary else "number" if number else "text"
    features[feature] = (column, kind)
  return features


def _stored(
  image: np.ndarray, size: tuple[int, int] | None, grey: bool
) -> np.ndarray:
  """Grey or RGB, uint8 or uint16, at the size asked for."""
  image = formats.to_grey(image) if grey else image
  if not image.size or (image.ndim != 2 and image.shape[2:] != (3,)):
    raise DataError(f"an image of shape {image.shape} is neither grey nor RGB")
  if image.dtype != np.uint16:
    image = formats.to_uint8(image)
  if image.dtype == np.uint16 and image.ndim == 3:
    raise DataError("16-bit colour cannot be stored; use --grey")
  if size is None or image.shape[:2] == tuple(size):
    return np.ascontiguousarray(image)
  planes = [image] if image.ndim == 2 else np.moveaxis(image, -1, 0)
  resized = [np.rint(preprocess.resize(p, size)) for p in planes]
  resized = resized[0] if image.ndim == 2 else np.stack(resized, -1)
  return resized.astype(image.dtype)


def _kind(image: np.ndarray) -> tuple[int, np.dtype]:
  return (1 if image.ndim == 2 else image.shape[2], image.dtype)


def _of_kind(image: np.ndarray, wanted: tuple[int, np.dtype]) -> np.ndarray:
  """The image with the wanted channels, where that loses nothing."""
  if wanted[0] == 1:
    image = formats.without_colour(image)
  elif image.ndim == 2:
    image = np.repeat(image[..., None], 3, axis=2)
  if _kind(image) != wanted:
    raise DataError(
      "{} channels of {}, but the first image has {} of {}; convert it, or"
      " use --grey".format(*_kind(image), *wanted)
    )
  return image


def _write(examples: _Examples, out: str | os.PathLike, name: str) -> None:
  """Writes with a TFDS builder, which renames a temporary folder at the end."""
  import tensorflow_datasets as tfds

  channels, dtype = examples.kind
  kinds = {"binary": np.float32}
  features = {
    feature: kinds.get(kind) or tfds.features.Text()
    for feature, (_, kind) in examples.columns.items()
  }
  image = tfds.features.Image(
    shape=(None, None, channels), dtype=dtype, encoding_format="png"
  )
  described = {
    "name": name,
    "columns": examples.columns,
    "labels": list(examples.dataset.labels),
    "meta": list(examples.dataset.meta),
  }

  class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images in the order of their data set."""

    VERSION = tfds.core.Version(VERSION)

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict({"image": image, **features}),
        metadata=tfds.core.MetadataDict({METADATA: described}),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {"images": self._generate_examples()}

    def _generate_examples(self):
      yield from examples

  Prepared.name = name
  tfds.disable_progress_bar()
  # The builder announces a download that does not take place.
  with contextlib.redirect_stdout(io.StringIO()):
    builder = Prepared(data_dir=os.fspath(out), file_format="array_record")
    builder.download_and_prepare()


def _quarantine(out: pathlib.Path, bad: list[tuple[str, str]]) -> None:
  """Writes OUT/quarantine.csv if there are bad images and `out` exists."""
  if not bad or not out.is_dir():
    return
  with (out / "quarantine.csv").open("w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows([("id", "reason"), *bad])


def main(arguments: Sequence[str] | None = None) -> str:
  """Parses the command line, prepares, and returns the line to print."""
  flags = _flags().parse_args(arguments)
  for name in _LISTS:
    split = [part.strip() for part in getattr(flags, name).split(",")]
    setattr(flags, name, tuple(part for part in split if part))
  config = argparse.Namespace(**{**vars(flags), "name": flags.reader})
  name = flags.name or pathlib.Path(flags.path).resolve().stem
  dataset = data.load(config)
  target, bad = prepare(
    dataset,
    flags.out,
    name=name,
    size=_size(flags.size),
    grey=flags.grey,
    max_bad=flags.max_bad,
  )
  where = f" ({len(bad)} in {flags.out}/quarantine.csv)" if bad else ""
  return (
    f"wrote {len(dataset) - len(bad)} of {len(dataset)} images{where} to"
    f" {target}; train on them with: python -m gcl_jax.main"
    " --config=severity:folder --config.data.name=tfds"
    f" --config.data.path={target} --workdir=runs/{target.parent.name}"
  )


def _flags() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="gcl-jax-prepare",
    description=__doc__.split("\n\n")[0],
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--source", dest="path", required=True, help="folder or file to read")
  add("--out", required=True, help="folder to write to")
  add("--name", default="", help="of the written set; default: the folder's")
  add("--reader", default="folder", help=", ".join(data.reader_names()))
  add("--table", default="", help="CSV or .xlsx with one row per image")
  add("--size", default="", help="HxW, for example 96x256; default: as stored")
  add("--grey", action="store_true", help="turn colour into grey")
  add("--max_bad", type=int, default=100, help="unreadable images accepted")
  add("--id_column", default="id")
  add("--path_column", default="path")
  add("--group_column", default="group", help="the patient")
  add("--healthy_column", default="", help="1, 0, blank; or the healthy class")
  add("--label_columns", default="", help="a,b,c")
  add("--meta_columns", default="", help="a,b,c")
  add("--split", default="", help="column, or the name of a published split")
  add("--pattern", default="", help="(?P<label>...) and (?P<group>...)")
  add(
    "--group_unknown",
    default="refuse",
    help="refuse, exclude, image (or volume)",
  )
  return parser


def _size(text: str) -> tuple[int, int] | None:
  if not text:
    return None
  match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
  if not match:
    raise ConfigError(f"--size={text}: expected HxW, for example 96x256")
  return int(match[1]), int(match[2])


def entry() -> None:
  """`gcl-jax-prepare`: exit code 2 and one line for a mistake of the user."""
  command(main)


if __name__ == "__main__":
  entry()
