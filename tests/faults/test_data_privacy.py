"""Row 50: no personal data of a file is printed, logged or raised.

Every text of the files here is a marker. Their damage is the same every time.
"""

import concurrent.futures
import contextlib
import functools
import io
import logging
import pathlib
import struct
import subprocess
import sys
import textwrap
import threading
import traceback
import warnings
import zipfile

import fuzz_seeds
import marked
import numpy as np
import openpyxl
import pytest

from gcl_jax.data import files, formats, npz_volumes
from gcl_jax.data.nifti import nifti_grid
from gcl_jax.data.quiet import _WhileReading as Pattern
from gcl_jax.data.quiet import quiet
from gcl_jax.data.table_files import read_table
from gcl_jax.engine import feed
from gcl_jax.errors import DataError

DICOM = (formats.read_image, formats.read_volume, formats.count_slices)
NIFTI = (formats.count_slices, nifti_grid, formats.read_volume)
NPZ = (files.read_npz, lambda path: npz_volumes.npz_grid(path, "image"))


class Heard:
  """Recorded log messages, warnings and exceptions."""

  def __init__(self):
    self.log, self.warned, self.raised = io.StringIO(), [], []

  def text(self) -> str:
    return "\n".join(
      [self.log.getvalue(), *map(str, self.warned), *self.raised]
    )


@contextlib.contextmanager
def listening():
  """Records all messages, like an application with logging at DEBUG."""
  heard, root = Heard(), logging.getLogger()
  handler, level = logging.StreamHandler(heard.log), root.level
  root.addHandler(handler)
  root.setLevel(logging.DEBUG)
  try:
    with warnings.catch_warnings(record=True) as heard.warned:
      warnings.simplefilter("always")
      yield heard
  finally:
    root.removeHandler(handler)
    root.setLevel(level)


def read_all(path: pathlib.Path, contents, readers, heard: Heard) -> int:
  """Reads damaged files; what is raised is heard as a traceback prints it."""
  refused = 0
  for content in contents:
    path.write_bytes(content)
    for read in readers:
      try:
        read(path)
      except DataError as error:
        refused += 1
        heard.raised.append("".join(traceback.format_exception(error)))
  return refused


# Suffix, readers, and what makes the damaged files.
CASES = {
  "dicom": (".dcm", DICOM, lambda: marked.damaged_dicom(marked.dicom())),
  "rle": (
    ".dcm",
    (formats.read_image,),
    lambda: marked.damaged_dicom(marked.dicom(compress="rle")),
  ),
  "nifti": (".nii", NIFTI, lambda: marked.damaged_nifti(marked.nifti())),
  "packed": (".nii.gz", NIFTI, lambda: marked.damaged_gzip(marked.nifti())),
  "png": (
    ".png",
    (formats.read_image,),
    lambda: marked.damaged_raster(marked.png(), "png"),
  ),
  "jpeg": (
    ".jpg",
    (formats.read_image,),
    lambda: marked.damaged_raster(marked.jpeg(), "jpeg"),
  ),
  "tiff": (
    ".tif",
    (formats.read_image,),
    lambda: marked.damaged_raster(marked.tiff(), "tiff"),
  ),
  "npz": (".npz", NPZ, marked.npz),
}


@pytest.mark.parametrize("name", CASES)
def test_row50_damaged_files_tell_nothing(tmp_path, capfd, name):
  suffix, readers, make = CASES[name]
  contents = list(make())
  with listening() as heard:
    refused = read_all(tmp_path / f"a{suffix}", contents, readers, heard)
  printed = "".join(capfd.readouterr())
  assert not marked.held(heard.text()), marked.held(heard.text())
  assert not heard.log.getvalue() and not heard.warned
  assert not marked.held(printed)
  # libtiff itself prints names of tags and numbers, past Python.
  assert not printed or name == "tiff", printed[:500]
  assert refused >= 10


OURS = (
  "SpecificCharacterSet", "SeriesInstanceUID", "InstanceNumber", "Rows",
  "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
  "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
  "RescaleSlope", "RescaleIntercept", "ImagePositionPatient",
  "ImageOrientationPatient",
)  # fmt: skip


def with_text(content: bytes, name: str) -> bytes:
  """The file with an element that holds the marker, whatever its kind."""
  from pydicom.datadict import dictionary_VR, tag_for_keyword

  tag, vr = tag_for_keyword(name), dictionary_VR(tag_for_keyword(name))
  start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
  new = start + struct.pack("<H", 8) + marked.TEXT.encode()
  place = content.find(start)
  if place < 0:  # before the first pixel stands as good as in its order
    place = content.index(struct.pack("<HH", 0x28, 0x2))
    return content[:place] + new + content[place:]
  length = int.from_bytes(content[place + 6 : place + 8], "little")
  return content[:place] + new + content[place + 8 + length :]


@pytest.mark.parametrize("name", OURS)
def test_row50_texts_where_numbers_and_words_should_be(tmp_path, name):
  root = tmp_path / "series"
  root.mkdir()
  whole = marked.dicom(SeriesInstanceUID="1.2", InstanceNumber="1")
  (root / "whole.dcm").write_bytes(whole)
  readers = (*DICOM, lambda _: formats.read_volume(root))
  with listening() as heard:
    text = with_text(whole, name)
    assert read_all(root / "text.dcm", [text], readers, heard)
  assert not marked.held(heard.text()), heard.text()
  assert not heard.log.getvalue() and not heard.warned
  if name in ("Rows", "NumberOfFrames", "RescaleSlope", "HighBit"):
    assert f"{name} is not a" in heard.text()
  if name == "PhotometricInterpretation":
    assert f"{name} is missing or no kind" in heard.text()


def test_row50_series_and_transfer_syntaxes_are_not_quoted(tmp_path):
  root = tmp_path / "series"
  root.mkdir()
  (root / "a.dcm").write_bytes(marked.dicom())
  (root / "b.dcm").write_bytes(marked.dicom(SeriesInstanceUID="1.2.3"))
  with pytest.raises(DataError, match="2 different SeriesInstanceUID") as found:
    formats.read_volume(root)
  assert not marked.held(str(found.value))
  content = marked.dicom()
  known = b"1.2.840.10008.1.2.1\0"
  assert content.count(known) == 1
  unknown = f"1.2.3.{marked.DATE}.1".ljust(20, "\0").encode()
  (root / "c.dcm").write_bytes(content.replace(known, unknown))
  with pytest.raises(
    DataError, match="transfer syntax .an unknown one"
  ) as found:
    formats.read_image(root / "c.dcm")
  assert not marked.held("".join(traceback.format_exception(found.value)))


def test_row50_a_chunk_of_a_png_is_named_only_if_it_is_one(tmp_path):
  content, path = marked.png(), tmp_path / "a.png"
  end = content.index(b"IEND") - 4  # after the pixels, where only we look
  for name, said in (("tEXt", "a tEXt"), (marked.TEXT[:4], "an unknown")):
    chunk = struct.pack(">I", 4) + name.encode() + bytes(8)
    path.write_bytes(content[:end] + chunk + content[end:])
    with pytest.raises(DataError, match=f"wrong checksum of {said} chunk"):
      formats.read_image(path)


ODD = dict(
  SeriesInstanceUID="1.2." + "3" * 80,
  PatientName="n" * 100,
  InstanceNumber="7",
  RescaleIntercept="-1024.000000000000000000",
)


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 999"])
def test_row50_odd_files_that_pydicom_warns_of_are_read(tmp_path, charset):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    content = marked.dicom(SpecificCharacterSet=charset, **ODD)
  for k in range(2):
    (tmp_path / f"{k}.dcm").write_bytes(content)
  # Warnings are errors here.
  read = formats.read_image(tmp_path / "0.dcm")
  stored = fuzz_seeds.pattern("uint16").astype(np.float32)
  np.testing.assert_array_equal(read, stored * 2.5 - 1024)
  with pytest.raises(DataError, match="repeated instance number"):
    formats.read_volume(tmp_path)


FIRST = """
  import logging, sys
  logging.basicConfig(level=logging.DEBUG)
  from gcl_jax.data import formats
  try:
    getattr(formats, sys.argv[1])(sys.argv[2])
  except formats.DataError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["dicom", "nifti", "tiff"])
def test_row50_the_first_file_of_a_process(tmp_path, name):
  """Libraries, and their loggers, are there only once a file is read."""
  suffix, readers, _ = CASES[name]
  content = {
    "dicom": lambda: with_text(marked.dicom(), "SpecificCharacterSet"),
    "nifti": lambda: marked.nifti()[:76] + b"QZXW" + marked.nifti()[80:],
    "tiff": marked.tiff,
  }[name]()
  (tmp_path / f"a{suffix}").write_bytes(content)
  code = [sys.executable, "-c", textwrap.dedent(FIRST)]
  done = subprocess.run(
    [*code, readers[-1].__name__, str(tmp_path / f"a{suffix}")],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  assert not marked.held(done.stdout) and not done.stderr


# Threads


def speak(name: str, text: str) -> None:
  """Logs as an application and a library do while no file is read."""
  logging.getLogger(name).warning(text)
  warnings.warn(text, UserWarning, stacklevel=2)


def test_row50_silence_is_of_the_thread_that_reads():
  steps = [threading.Event() for _ in range(4)]

  def first():
    with quiet():
      steps[0].set()
      assert steps[1].wait(10)
    steps[2].set()

  def second():
    assert steps[0].wait(10)
    with quiet():
      steps[1].set()
      assert steps[2].wait(10)  # the first has left
      speak("pydicom", "second")
      assert steps[3].wait(10)
    speak("pydicom", "second, later")

  with listening() as heard:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      running = [pool.submit(first), pool.submit(second)]
      assert steps[1].wait(10)
      speak("nibabel.global", "main")
      steps[3].set()
      for done in running:
        done.result()
  assert heard.log.getvalue().splitlines() == ["main", "second, later"]
  said = [str(warning.message) for warning in heard.warned]
  assert said == ["main", "second, later"]


def test_row50_settings_are_as_they_were_after_reading_in_threads(tmp_path):
  names = ("", "pydicom", "nibabel.global", "PIL.TiffImagePlugin", "absl")
  contents = list(marked.damaged_dicom(marked.dicom()))[::25]

  def settings():
    loggers = [logging.getLogger(name) for name in names]
    others = [f for f in warnings.filters if not isinstance(f[3], Pattern)]
    return others, warnings.showwarning, [
      (x.level, list(x.handlers), x.propagate, x.disabled) for x in loggers
    ]  # fmt: skip

  def work(i):
    heard = Heard()
    read_all(tmp_path / f"{i}.dcm", contents, DICOM, heard)
    return heard.text()

  with listening() as heard:
    warnings.filterwarnings("error", message="mine")
    before = settings()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
      texts = list(pool.map(work, range(6)))
    assert settings() == before
    assert not heard.log.getvalue() and not heard.warned
    assert not any(map(marked.held, texts))
    speak("pydicom", "said")
    with pytest.raises(UserWarning, match="mine"):
      warnings.warn("mine", UserWarning, stacklevel=1)
  assert heard.log.getvalue() == "said\n" and len(heard.warned) == 1


def test_row50_filters_that_others_put_before_ours(tmp_path):
  path = tmp_path / "a.dcm"
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    path.write_bytes(marked.dicom(SpecificCharacterSet="ISO_IR 999", **ODD))
  sizes = []
  for _ in range(5):
    warnings.simplefilter("error")
    formats.read_image(path)
    with warnings.catch_warnings():
      warnings.simplefilter("error", UserWarning)
      formats.read_image(path)
    sizes.append(len(warnings.filters))
  assert len(set(sizes[1:])) == 1, sizes  # nothing heaps up
  with quiet():
    with warnings.catch_warnings():  # as another thread may, over a reading
      pass
    formats.read_image(path)


SCRIPT = """
  import logging, sys, threading, warnings
  from absl import app
  from gcl_jax.data import formats
  from gcl_jax.errors import DataError

  def read(paths):
    for path in paths:
      for reader in (formats.count_slices, formats.read_image):
        try:
          reader(path)
        except DataError as error:
          print(error)

  def main(paths):
    logging.getLogger("pydicom").warning("mine, before")
    threads = [
      threading.Thread(target=read, args=(paths[i + 1::4],)) for i in range(4)
    ]
    for thread in threads:
      thread.start()
    for i in range(50):
      logging.getLogger("PIL.mine").debug("mine, during")
    warnings.warn("mine, warned")
    for thread in threads:
      thread.join()
    logging.getLogger("pydicom").warning("mine, after")
    read(["gone.dcm"])
    raise DataError("the end")

  app.run(main, argv=[sys.argv[0], "--verbosity=1", "--", *sys.argv[1:]])
"""


def test_row50_a_user_who_asks_for_every_line_sees_no_marker(tmp_path):
  paths = []
  for name in ("dicom", "nifti", "png", "jpeg", "tiff"):
    suffix, _, make = CASES[name]
    for i, content in enumerate(list(make())[::10]):
      paths.append(tmp_path / f"{name}{i}{suffix}")
      paths[-1].write_bytes(content)
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, paths)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert not marked.held(done.stdout + done.stderr), done.stderr[-2000:]
  assert done.stdout.count("\n") > 20 and "DataError: the end" in done.stderr
  for own, times in {
    "before": 1,
    "during": 50,
    "warned": 1,
    "after": 1,
  }.items():
    assert done.stderr.count(f"mine, {own}") == times, own


def _said(paths: list[str], row: int) -> str:
  """Read in a worker: what a reader says of one file."""
  try:
    return str(formats.read_image(paths[row]).shape)
  except DataError as error:
    return "".join(traceback.format_exception(error))


def test_row50_worker_processes_are_as_quiet(tmp_path, capfd):
  paths = []
  for i, content in enumerate(list(CASES["dicom"][2]())[::8]):
    paths.append(str(tmp_path / f"{i}.dcm"))
    pathlib.Path(paths[-1]).write_bytes(content)
  read = functools.partial(_said, paths)
  said = "".join(feed.mapped(read, len(paths), workers=2))
  printed = "".join(capfd.readouterr())
  assert said.count("DataError") > 10 and not marked.held(said + printed)
  assert "pydicom" not in printed


def test_row50_workbooks_tell_nothing(tmp_path, capfd):
  """openpyxl warns of and raises with what a cell holds."""
  book = openpyxl.Workbook()
  for row in (["id", "born"], ["p1", 1]):
    book.active.append(row)
  book.active["B2"].number_format = "yyyy-mm-dd"
  good = tmp_path / "good.xlsx"
  book.save(good)
  texts = ("93711128999", "QZXWVJK9")
  for number, text in enumerate(texts):
    path = tmp_path / f"{number}.xlsx"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
      for name in old.namelist():
        cell = old.read(name).replace(b"<v>1</v>", f"<v>{text}</v>".encode())
        new.writestr(name, cell)
    said = "read"
    with warnings.catch_warnings():
      warnings.simplefilter("always")
      try:
        read_table(path)
      except DataError as error:
        said = "".join(traceback.format_exception(error))
    assert not any(text in said for text in texts)
    assert (number == 1) == ("not a readable workbook" in said)
  assert not any(text in "".join(capfd.readouterr()) for text in texts)
