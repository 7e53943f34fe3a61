"""Canonical form of the texts that name patients, images and files.

One name can be stored in several ways that look alike: with ü composed or
decomposed, with zero-width spaces copied from a web page, with no-break spaces.
Texts are therefore compared in a canonical form:

- letters are composed (Unicode NFC, not NFKC, which turns a superscript into a
  digit: two ids may differ in that alone);
- invisible characters are removed: format characters (category Cf: zero-width
  spaces and joiners, the byte order mark, soft hyphens, direction marks),
  variation selectors and the grapheme joiner;
- every space (Zs: no-break, thin, ideographic) becomes a plain space.

Case, leading zeros and the number of spaces are kept.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

# Invisible characters of category Mn: grapheme joiner, variation selectors.
_UNSEEN = re.compile(
  "[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)


def one_form(text: str) -> str:
  """Returns the canonical form of a text; ASCII is unchanged."""
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
  """Returns an array with canonical texts; warns where spellings are merged.

  Args:
    values: [N]; values other than str and UTF-8 bytes are kept.
    where: name of the array, for the warning.
    form: converts a text that is not ASCII.
    rows: int [N], row numbers for the warning; None = from 0.

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
  """Warns of texts with several spellings of one canonical form.

  Args:
    before: [N], as written.
    after: [N], in canonical form.
    where: name of the array, for the message. No text is quoted, as it may be
      the name of a person.
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
    # Bytes of another encoding are returned unchanged.
    text = form(value.decode("utf-8", "surrogateescape"))
    return text.encode("utf-8", "surrogateescape")
  return form(value)
