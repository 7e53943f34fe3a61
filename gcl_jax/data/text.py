"""One form for the texts that name a patient, an image or a file.

One name is stored in several ways that look alike: ü as one letter or as u
and two dots, with a zero-width space out of a web page, with a space that
does not break. Texts are therefore compared in one form:

- letters are composed (Unicode NFC, not NFKC, which would take a superscript
  for a digit: two ids may differ in that alone);
- what is not seen is left out: format characters (category Cf: zero-width
  spaces and joiners, the byte order mark, soft hyphens, marks of direction),
  variation selectors and the grapheme joiner;
- every space (Zs: no-break, thin, ideographic) is a plain one.

Case, leading zeros, and how many spaces there are, are kept.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

# Unseen like Cf, but filed under Mn: the joiner, and what chooses a glyph.
_UNSEEN = re.compile(
  "[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)


def one_form(text: str) -> str:
  """The text in the form in which texts are compared; ASCII is in it."""
  if text.isascii():
    return text
  seen = "".join(map(_seen, _UNSEEN.sub("", text)))
  return unicodedata.normalize("NFC", seen)


def one_forms(
  values: np.ndarray,
  where: str,
  form: Callable[[str], str] = one_form,
  rows: Sequence[int] | None = None,
) -> np.ndarray:
  """An array with its texts in one form; a warning where two have met.

  Args:
    values: [N]; what is neither str nor UTF-8 bytes stays as it is.
    where: what the array is, for the warning.
    form: how a text that is not ASCII gets its form.
    rows: int [N], how the warning counts the rows; None = from 0.

  Returns:
    [N], `values` itself if nothing changed.
  """
  values = np.asarray(values)
  if values.dtype.kind not in "USOT":
    return values
  before = values.tolist()
  after = [_formed(value, form) for value in before]
  if after == before:
    return values
  warn_of_meetings(before, after, where, rows)
  return np.array(after, values.dtype if values.dtype.kind in "OT" else None)


def warn_of_meetings(
  before: Sequence,
  after: Sequence,
  where: str,
  rows: Sequence[int] | None = None,
) -> None:
  """Says how many texts were written in several forms, if any, and where.

  Args:
    before: [N], as written.
    after: [N], in one form.
    where: what they are, for the message, which names no text: it may be that
      of a person.
    rows: as in `one_forms`.
  """
  first: dict[Any, int] = {}
  met: dict[Any, tuple[int, int]] = {}
  for i, (written, text) in enumerate(zip(before, after, strict=True)):
    j = first.setdefault(text, i)
    if text != "" and before[j] != written:
      met.setdefault(text, (j, i))
  if met:
    pair = min(met.values())
    shown = pair if rows is None else [rows[i] for i in pair]
    logging.warning(
      "%s: %d texts are written in more than one form (composed and decomposed"
      " letters, unseen characters, other spaces) and count as one each; the"
      " first: rows %d and %d%s",
      where,
      len(met),
      *shown,
      " (from 0)" if rows is None else "",
    )


def _seen(letter: str) -> str:
  kind = unicodedata.category(letter)
  return {"Zs": " ", "Cf": ""}.get(kind, letter)


def _formed(value: Any, form: Callable[[str], str]) -> Any:
  if not isinstance(value, str | bytes) or value.isascii():
    return value
  if isinstance(value, bytes):
    # Bytes of another code come back as they were.
    text = form(value.decode("utf-8", "surrogateescape"))
    return text.encode("utf-8", "surrogateescape")
  return form(value)
