"""CSV and Excel tables as text columns, with errors that name row and column.

Cells are texts in canonical form (see `text`) without surrounding spaces. Whole
numbers lose a trailing `.0`, so that an id is the same whether it was written
232 or 232.0. Rows are numbered as in the file; the header is row 1.
"""

import csv
import dataclasses
import difflib
import os
import pathlib
import re
import zipfile
from collections.abc import Iterable

import numpy as np

from gcl_jax.data.files import MAX_TABLE_BYTES, check_bytes, regular_file
from gcl_jax.data.optional import extra
from gcl_jax.data.quiet import one_error
from gcl_jax.data.text import one_form, one_forms
from gcl_jax.errors import DataError

_WHOLE = re.compile(r"([+-]?\d+)\.0*")


@dataclasses.dataclass(frozen=True)
class Table:
  """Text columns, and the number of each row in its file.

  Attributes:
    path: the file, for messages.
    columns: name -> str array [N] in canonical form; "" is a blank cell.
    rows: int [N], row numbers in the file (the header is row 1).
    written: name -> str array [N], the cells as they were written.
  """

  path: pathlib.Path
  columns: dict[str, np.ndarray]
  rows: np.ndarray
  written: dict[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.rows)

  def text(self, column: str) -> np.ndarray:
    """str [N].

    Raises:
      DataError: no such column; the message names the nearest one.
    """
    column = one_form(column)
    if column in self.columns:
      return self.columns[column]
    near = difflib.get_close_matches(column, self.columns, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(
      f"{self.path}: no column {column!r}{hint}"
      f" (columns: {', '.join(self.columns)})"
    )

  def as_written(self, column: str) -> np.ndarray:
    """str [N], as `text` but with the characters as written.

    Files are opened by their exact names.
    """
    return self.written.get(one_form(column), self.text(column))

  def filled(self, column: str) -> np.ndarray:
    """str [N] without blanks; DataError names the first blank row."""
    values = self.text(column)
    blank = np.flatnonzero(values == "")
    if blank.size:
      raise self.error(blank[0], column, f"is blank ({blank.size} such rows)")
    return values

  def numbers(self, column: str) -> np.ndarray:
    """float64 [N], blank and "nan" = nan.

    Raises:
      DataError: naming the first row that is no finite number.
    """
    return np.array(
      [
        self._number(i, column, v)
        for i, v in enumerate(self.text(column).tolist())
      ]
    )

  def binary(self, column: str) -> np.ndarray:
    """float64 [N] of 1, 0 and nan = blank; DataError for any other value."""
    values = self.numbers(column)
    wrong = np.flatnonzero(~np.isin(values, (0, 1)) & ~np.isnan(values))
    if wrong.size:
      shown = str(self.text(column)[wrong[0]])
      raise self.error(
        wrong[0], column, f"{shown!r} is not 0, 1 or blank (= unknown)"
      )
    return values

  def meta(self, column: str) -> np.ndarray:
    """float64 [N] if every filled cell is a number, else str [N]."""
    try:
      return self.numbers(column)
    except DataError:
      return self.text(column)

  def unique(self, column: str) -> np.ndarray:
    """str [N], filled and each value once; DataError names both rows."""
    values, written = self.filled(column), self.as_written(column)
    first = {}
    for i, value in enumerate(values.tolist()):
      j = first.setdefault(value, i)
      if j != i:
        how = ", in other characters" if written[i] != written[j] else ""
        raise self.error(
          i, column, f"{value!r} is already in row {self.rows[j]}{how}"
        )
    return values

  def select(self, keep: np.ndarray) -> "Table":
    """The table of these rows (positions or a mask), numbers kept."""
    columns, written = (
      {name: values[keep] for name, values in part.items()}
      for part in (self.columns, self.written)
    )
    return Table(self.path, columns, self.rows[keep], written)

  def error(self, index: int, column: str, what: str) -> DataError:
    """The error for one cell."""
    return DataError(
      f"{self.path}, row {self.rows[index]}, column {column!r}: {what}"
    )

  def _number(self, index: int, column: str, value: str) -> float:
    try:
      number = float(value) if value else np.nan
    except ValueError:
      number = np.inf
    # Python also accepts 1_000, which is not a number in a table.
    if np.isinf(number) or "_" in value:
      raise self.error(index, column, f"{value!r} is not a number")
    return number


def canonical(value: object) -> str:
  """Converts a cell to text: None is blank, 232.0 and "232.0 " are "232".

  Leading zeros are kept: patients 007 and 7 are different people. Case is kept
  too; Unicode is brought to the canonical form `text.one_form`.
  """
  return _trimmed(one_form(_text(value)))


def canonical_column(values: Iterable, where: str) -> np.ndarray:
  """str [N], `canonical` cells; warns where spellings are merged."""
  written = [_trimmed(_text(value)) for value in values]
  return one_forms(np.array(written, str), where, canonical)


def _text(value: object) -> str:
  if value is None:
    return ""
  return str(int(value) if isinstance(value, bool) else value)


def _trimmed(text: str) -> str:
  """Removes surrounding spaces and the .0 of a whole number."""
  text = text.strip()
  whole = _WHOLE.fullmatch(text)
  return whole[1] if whole else text


def read_table(path: str | os.PathLike) -> Table:
  """Reads a CSV (comma, semicolon or tab; UTF-8, BOM or not) or .xlsx table.

  Header names are stripped, columns without a name are dropped, blank rows are
  skipped. Only the first sheet of a workbook is read.

  Raises:
    DataError: not readable, more than `files.MAX_TABLE_BYTES`, no rows, a
      name twice, or a row whose number of cells is not that of the header.
  """
  path = regular_file(path)
  check_bytes(path, path.stat().st_size, MAX_TABLE_BYTES, "the table")
  if path.suffix.lower() in (".xlsx", ".xlsm"):
    return _table(path, _xlsx_rows(path))
  if path.suffix.lower() in (".xls", ".ods", ".parquet"):
    raise DataError(f"{path}: save the table as .csv or .xlsx")
  return _table(path, _csv_rows(path))


def _csv_rows(path: pathlib.Path) -> Iterable[list]:
  try:
    with path.open(encoding="utf-8-sig", newline="") as file:
      header = file.readline()
      file.seek(0)
      delimiter = max(",;\t", key=header.count)
      yield from csv.reader(file, delimiter=delimiter, strict=True)
  except UnicodeDecodeError as error:
    raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
  except csv.Error as error:
    raise DataError(f"{path}: not a readable CSV: {error}") from error


def _xlsx_rows(path: pathlib.Path) -> list[list]:
  openpyxl = extra("openpyxl")
  # openpyxl quotes cells in its warnings and exceptions.
  with one_error(path, "workbook"):
    with zipfile.ZipFile(path) as archive:
      unpacked = sum(member.file_size for member in archive.infolist())
    check_bytes(path, unpacked, MAX_TABLE_BYTES, "the unpacked table")
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
      return [list(row) for row in book.worksheets[0].values]
    finally:
      book.close()


def _table(path: pathlib.Path, records: Iterable[list]) -> Table:
  header, cells, rows = None, [], []
  for number, record in enumerate(records, 1):
    record = [_trimmed(_text(value)) for value in record]
    if not _filled(record):
      continue
    if header is None:
      header = _header(path, [canonical(name) for name in record])
      continue
    cells.append(_fitted(path, number, record, len(header)))
    rows.append(number)
  if not rows:
    raise DataError(f"{path}: holds no rows below a header")
  written = {
    name: np.array(column)
    for name, column in zip(header, zip(*cells, strict=True), strict=True)
    if name
  }
  columns = {
    name: one_forms(values, f"{path}, column {name!r}", canonical, rows)
    for name, values in written.items()
  }
  return Table(path, columns, np.array(rows), written)


def _filled(record: list[str]) -> bool:
  """Whether any cell has a visible character."""
  return any(map(canonical, record))


def _header(path: pathlib.Path, names: list[str]) -> list[str]:
  named = [name for name in names if name]
  twice = sorted({name for name in named if named.count(name) > 1})
  if twice:
    raise DataError(f"{path}: more than one column {twice[0]!r}")
  return names


def _fitted(
  path: pathlib.Path, number: int, record: list[str], width: int
) -> list[str]:
  """Cuts a record to the header's width; trailing blank cells are ignored."""
  if len(record) < width or _filled(record[width:]):
    raise DataError(
      f"{path}, row {number}: {len(record)} cells, the header has {width}"
    )
  return record[:width]
