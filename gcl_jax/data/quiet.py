"""Readers that repeat nothing of what a file says of a person.

pydicom, nibabel and Pillow quote elements of a file (name, birth date, number
of the patient) in what they log, in what they warn of and in what they raise.
Inside `quiet` nothing that they log or warn of is heard, and `one_error` says
in words of our own what kind of failure it was.

Silence is a matter of the thread that reads. Filters of `logging` and of
`warnings` belong to the whole process, so ours stay where they are put and
look at the thread that speaks: threads may come and go in any order, and an
application's own messages pass while others read.
"""

import contextlib
import gzip
import logging
import os
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator

from gcl_jax.errors import DataError

# What they are called in `logging`, decoders that pydicom may use included.
_LIBRARIES = frozenset(
  "PIL nibabel pydicom pylibjpeg libjpeg openjpeg jpeg_ls openpyxl".split()
)
# Pillow makes these loggers when it meets the first file of the kind, and so
# in the middle of a reading.
_LATER = ("PIL.PngImagePlugin", "PIL.TiffImagePlugin")

# What a failure means where its class tells; the first that fits.
_CLASSES = (
  (EOFError, "it is truncated"),
  (gzip.BadGzipFile, "its packed data or their checksum (CRC) are damaged"),
  (zlib.error, "its packed data are damaged"),
  (zipfile.BadZipFile, "its archive or a checksum (CRC) in it is damaged"),
  (struct.error, "a header in it is cut short or has a wrong number"),
  (MemoryError, "it needs more memory than there is"),
  (RecursionError, "its elements are nested too deeply"),
)
# And where the library has one class for many failures, by words of its text.
_WORDS = {
  "truncated": "it is truncated",
  "could the file be damaged": "it is truncated",
  "broken data stream": "its pixels are damaged",
}

_here = threading.local()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences what libraries log and warn of in this thread."""
  depth = getattr(_here, "depth", 0)
  if not depth:
    watch()
    _watch_warnings()
  try:
    _here.depth = depth + 1
    yield
  finally:
    _here.depth = depth


@contextlib.contextmanager
def one_error(path: str | os.PathLike, kind: str) -> Iterator[None]:
  """Reads quietly and turns whatever a library raises into a DataError.

  The error holds no text of the library and is not chained to its exception,
  which a traceback would print.
  """
  try:
    with quiet():
      yield
  except DataError:
    raise
  except Exception as error:
    raise DataError(f"{path}: not a readable {kind}: {reason(error)}") from None


def reason(error: Exception) -> str:
  """What kind of failure it was, in words that no file can choose."""
  if isinstance(error, OSError) and error.errno:
    return os.strerror(error.errno)
  for kind, words in _CLASSES:
    if isinstance(error, kind):
      return words
  text = str(error)
  for part, words in _WORDS.items():
    if part in text:
      return words
  return f"it does not decode ({type(error).__name__})"


def watch() -> None:
  """Puts our filter on the loggers of the libraries that there are by now.

  A filter of a logger does not see what its children log, so every one has it.
  """
  for name in _LATER:
    logging.getLogger(name)
  for name, logger in list(logging.root.manager.loggerDict.items()):
    if name.partition(".")[0] in _LIBRARIES and hasattr(logger, "filters"):
      if _not_while_reading not in logger.filters:
        logger.addFilter(_not_while_reading)


def _reading() -> bool:
  return getattr(_here, "depth", 0) > 0


def _not_while_reading(_: logging.LogRecord) -> bool:
  return not _reading()


class _WhileReading:
  """Stands for a pattern of module names in an entry of `warnings.filters`."""

  def match(self, _: str) -> bool:
    return _reading()


def _watch_warnings() -> None:
  """Puts our entry before all others in `warnings.filters`, once.

  It says "ignore" to a thread that reads and nothing to others. Somebody may
  have put another before it, or another list in place of this one. The new
  entry goes in before the old one goes out, so that no thread is without.
  """
  filters = warnings.filters
  if filters and isinstance(filters[0][3], _WhileReading):
    return
  older = [entry for entry in filters if isinstance(entry[3], _WhileReading)]
  filters.insert(0, ("ignore", None, Warning, _WhileReading(), 0))
  for entry in older:
    with contextlib.suppress(ValueError):
      filters.remove(entry)
