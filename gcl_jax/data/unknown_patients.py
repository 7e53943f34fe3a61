"""Rows of a table that do not say whose image or volume they are."""

import dataclasses

import numpy as np
from absl import logging

from gcl_jax.data.table_files import Table
from gcl_jax.data.text import one_form
from gcl_jax.errors import ConfigError, DataError


def check_choice(unknown: str, unit: str) -> None:
  """Refuses a word that `with_patients` does not know (ConfigError)."""
  known = ("refuse", "exclude", unit)
  if unknown not in known:
    raise ConfigError(f"group_unknown={unknown!r}; known: {', '.join(known)}")


def with_patients(
  rows: Table, column: str, unknown: str, *, unit: str, id_column: str = "id"
) -> Table:
  """The rows whose patient is known, or is made of the id on demand.

  Args:
    rows: of the table; without the column every patient is unknown.
    column: of the patients.
    unknown: treatment of rows without a patient: "refuse" them, "exclude" them,
      or, if it is `unit`, take each for a patient of its own, named like its
      id. The log says how many rows that were.
    unit: what a row is, "image" or "volume".
    id_column: unique name of each row.

  Raises:
    DataError: naming the row: a blank patient that is refused; no such column,
      or no row with a patient.
    ConfigError: an unknown `unknown`.
  """
  check_choice(unknown, unit)
  column = one_form(column)
  own = f"group_unknown={unit} if every {unit} is of another patient"
  patients = _patients(rows, column, "" if unknown == unit else own)
  blank = patients == ""
  if blank.any() and unknown == "refuse":
    raise rows.error(
      np.flatnonzero(blank)[0],
      column,
      f"no patient ({blank.sum()} such rows); fill it in, or set"
      f" group_unknown=exclude, or {own}",
    )
  if unknown == unit:
    patients = np.where(blank, rows.text(id_column), patients)
  rows = dataclasses.replace(rows, columns={**rows.columns, column: patients})
  if blank.any():
    log_unknown(str(rows.path), int(blank.sum()), unknown)
    rows = rows if unknown == unit else rows.select(~blank)
  if not len(rows):
    raise DataError(f"{rows.path}: no row has a patient in {column!r}")
  return rows


def _patients(rows: Table, column: str, advice: str) -> np.ndarray:
  """The cells; blank ones without the column, or with `advice` DataError."""
  if column not in rows.columns and not advice:
    return np.full(len(rows), "")
  try:
    return rows.text(column)
  except DataError as error:
    raise DataError(f"{error}; name the patients, or set {advice}") from None


def log_unknown(where: str, count: int, unknown: str) -> None:
  """Logs what becomes of rows without a patient."""
  what = "left out"
  if unknown != "exclude":
    what = f"each {unknown} is taken for a patient of its own"
  logging.warning("%s: %d rows without a patient: %s", where, count, what)
