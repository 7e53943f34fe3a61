"""Suppression of library messages, which may quote patient data.

pydicom, nibabel, Pillow and openpyxl quote the content of a file (name, birth
date and number of the patient) in log records, warnings and exceptions. Inside
`quiet` their log records and warnings are suppressed; `one_error` replaces
their exceptions by a `DataError` in fixed words.

Only messages of the reading thread are suppressed. Filters of `logging` and
`warnings` apply to the whole process, so those installed here stay in place and
check which thread emits a message: threads may start and end in any order, and
messages of other threads pass.
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

# Names of their loggers, including those of decoders that pydicom may use.
_LIBRARIES = frozenset(
  "PIL nibabel pydicom pylibjpeg libjpeg openjpeg jpeg_ls openpyxl".split()
)
# Pillow creates these loggers with the first file of the kind, during a read.
_LATER = ("PIL.PngImagePlugin", "PIL.TiffImagePlugin")

# Meaning of a failure by its class; the first match is used.
_CLASSES = (
  (EOFError, "it is truncated"),
  (gzip.BadGzipFile, "its packed data or their checksum (CRC) are damaged"),
  (zlib.error, "its packed data are damaged"),
  (zipfile.BadZipFile, "its archive or a checksum (CRC) in it is damaged"),
  (struct.error, "a header in it is cut short or has a wrong number"),
  (MemoryError, "it needs more memory than there is"),
  (RecursionError, "its elements are nested too deeply"),
)
# By words of its text, where a library has one class for many failures.
_WORDS = {
  "truncated": "it is truncated",
  "could the file be damaged": "it is truncated",
  "broken data stream": "its pixels are damaged",
}

_here = threading.local()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Suppresses log records and warnings of libraries in this thread."""
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
  """Reads quietly and converts any exception of a library to a DataError.

  The error contains no text of the library and is not chained to its exception,
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
  """Describes a failure in fixed words that do not depend on the file."""
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
  """Adds the filter to all loggers of the libraries that exist by now.

  A filter does not apply to child loggers, so each one needs it.
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
  """Replaces the pattern of module names in an entry of `warnings.filters`."""

  def match(self, _: str) -> bool:
    return _reading()


def _watch_warnings() -> None:
  """Puts the entry of this module first in `warnings.filters`, once.

  It ignores warnings of a reading thread and does not match in others. Other
  code may have inserted entries before it or replaced the list. The new entry
  is inserted before the old one is removed, so that one is always active.
  """
  filters = warnings.filters
  if filters and isinstance(filters[0][3], _WhileReading):
    return
  older = [entry for entry in filters if isinstance(entry[3], _WhileReading)]
  filters.insert(0, ("ignore", None, Warning, _WhileReading(), 0))
  for entry in older:
    with contextlib.suppress(ValueError):
      filters.remove(entry)
