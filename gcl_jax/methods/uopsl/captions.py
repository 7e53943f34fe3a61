"""Descriptions of images as rows of one table of texts.

A caption is a list of texts, of which a step draws one. Every class has two,
one that says where its lesions lie and one that does not; attributes of an
image, such as the eye, are put in front of both. Captions are the same where
their texts are: images of classes that no text tells apart are positives of
each other.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gcl_jax.data.files import read_npz
from gcl_jax.errors import DataError

Texts = Mapping[str, tuple[str, ...]]  # class -> its descriptions

_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*")
_ANY_CASE = re.compile(_WORD.pattern, re.IGNORECASE)
_PART = re.compile("[a-z0-9]+", re.IGNORECASE)  # of a word such as left-sided


class Table(NamedTuple):
  """Texts of K captions, at most N each and at most L words long.

  Attributes:
    ids: int32[K, N, L], numbers of words, 0 where there is none.
    words: bool[K, N, L], where there is a word.
    there: bool[K, N], which texts a caption has.
    target: int32[K], equal where captions mean the same.
    mirrored: int32[K], the caption of the mirrored image.
    vectors: float32[K, N, E], precomputed; None for texts as words.
  """

  ids: np.ndarray
  words: np.ndarray
  there: np.ndarray
  target: np.ndarray
  mirrored: np.ndarray
  vectors: np.ndarray | None = None

  def inputs(self) -> tuple[np.ndarray, np.ndarray]:
    """Arguments of `models.text` for all texts at once."""
    first = self.ids if self.vectors is None else self.vectors
    return first, self.words


class Captions(NamedTuple):
  """What images of the classes are described by.

  Attributes:
    classes: names of the C classes.
    vocabulary: the words, number k - 1 of word k.
    table: of all texts.
    rows: {(class, attribute, places): row of the table}.
    texts: the texts of each row of the table.
  """

  classes: tuple[str, ...]
  vocabulary: tuple[str, ...]
  table: Table
  rows: dict[tuple[str, str, bool], int]
  texts: tuple[tuple[str, ...], ...]

  def of_images(
    self, classes: np.ndarray, attributes: np.ndarray, places: bool
  ) -> np.ndarray:
    """Rows of the table int32[N]; -1 where the class is not known.

    Args:
      classes: str[N], "" = unknown.
      attributes: str[N], "" without any.
      places: whether the captions say where lesions lie.
    """
    pairs = zip(classes.tolist(), attributes.tolist(), strict=True)
    found = [self.rows[c, a, places] if c else -1 for c, a in pairs]
    return np.array(found, np.int32)

  def of_classes(self, places: bool) -> np.ndarray:
    """Rows of the table int32[C] of the classes without attributes."""
    return np.array([self.rows[c, "", places] for c in self.classes], np.int32)


def words_of(text: str) -> list[str]:
  """Its words in lower case, without punctuation.

  >>> words_of("Drusen, round the optic disc.")
  ['drusen', 'round', 'the', 'optic', 'disc']
  """
  return _WORD.findall(text.lower())


def build(
  with_place: Texts,
  without_place: Texts,
  attributes: Sequence[str] = (),
  swapped: Sequence[Sequence[str]] = (),
  vectors: Mapping[str, np.ndarray] | None = None,
) -> Captions:
  """The captions of classes, with and without places.

  Args:
    with_place, without_place: class -> its texts, the same classes in both.
    attributes: all attributes that images have; "" is always among them.
    swapped: pairs of words that take each other's place when an image is
      mirrored, such as ("left", "right").
    vectors: text -> float[E], precomputed; None for words.

  Raises:
    DataError: a text without words, or one without a precomputed vector.
  """
  found: dict[tuple[str, ...], int] = {}
  rows, meaning = {}, {}
  for places, by_class in ((True, with_place), (False, without_place)):
    for name, own in by_class.items():
      meant = meaning.setdefault(own, len(meaning))
      for attribute in dict.fromkeys(("", *attributes)):
        texts = tuple(f"{attribute} {text}".strip() for text in own)
        row = found.setdefault(texts, len(found))
        rows[name, attribute, places] = row
        meaning[texts] = meant
  for texts in list(found):
    # Words of mixed case come back in another one.
    while (other := mirrored(texts, swapped)) not in found:
      found[other], meaning[other] = len(found), meaning[texts]
      texts = other
  texts = tuple(found)
  target = [meaning[each] for each in texts]
  turned = [found[mirrored(each, swapped)] for each in texts]
  vocabulary = tuple(
    sorted({word for each in texts for text in each for word in words_of(text)})
  )
  table = _table(texts, vocabulary, target, turned, vectors)
  return Captions(tuple(with_place), vocabulary, table, rows, texts)


def read_vectors(path: str) -> tuple[list[str], np.ndarray]:
  """Precomputed vectors of texts from an npz file.

  Args:
    path: of the file: `texts` str[T] and `vectors` float[T, E].

  Raises:
    DataError: another form, or a vector that is not finite.
  """
  found = read_npz(path)
  if {"texts", "vectors"} - set(found):
    raise DataError(f"{path}: needs the arrays texts and vectors")
  texts, vectors = found["texts"], found["vectors"]
  if (texts.ndim, vectors.ndim) != (1, 2) or len(texts) != len(vectors):
    raise DataError(
      f"{path}: texts [T] and vectors [T, E] wanted, got {texts.shape} and"
      f" {vectors.shape}"
    )
  if vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
    raise DataError(f"{path}: vectors must be finite numbers")
  return [str(text) for text in texts], vectors.astype(np.float32)


def mirrored(
  texts: Sequence[str], swapped: Sequence[Sequence[str]]
) -> tuple[str, ...]:
  """Texts of the mirrored image, words in the case of those they replace.

  >>> mirrored(["Left-sided, nasal; OD"], [("left", "right"), ("od", "os")])
  ('Right-sided, nasal; OS',)
  """
  other = {a: b for pair in swapped for a, b in (pair, tuple(pair)[::-1])}

  def turned(match):
    word = match[0]
    if (found := other.get(word.lower())) is not None:
      return _like(word, found)
    return _PART.sub(turned, word) if _PART.fullmatch(word) is None else word

  return tuple(_ANY_CASE.sub(turned, text) for text in texts)


def _like(word: str, other: str) -> str:
  """The other word, in capitals or with a first one as the word has them."""
  if word.isupper():
    return other.upper()
  return other[0].upper() + other[1:] if word[0].isupper() else other


def _table(texts, vocabulary, target, turned, vectors) -> Table:
  number = {word: k for k, word in enumerate(vocabulary, 1)}
  split = [[words_of(text) for text in each] for each in texts]
  for each, of_each in zip(texts, split, strict=True):
    if not all(of_each):
      raise DataError(f"a description has no words: {each}")
  shape = (len(texts), max(map(len, texts)))
  longest = max(len(words) for each in split for words in each)
  ids, there = np.zeros((*shape, longest), np.int32), np.zeros(shape, bool)
  for k, each in enumerate(split):
    for n, words in enumerate(each):
      ids[k, n, : len(words)] = [number[word] for word in words]
      there[k, n] = True
  return Table(
    ids,
    ids > 0,
    there,
    np.array(target, np.int32),
    np.array(turned, np.int32),
    None if vectors is None else _precomputed(texts, vectors, shape),
  )


def _precomputed(texts, vectors, shape) -> np.ndarray:
  """float32[K, N, E]; DataError for a text that has no vector."""
  missing = [t for each in texts for t in each if t not in vectors]
  if missing:
    raise DataError(
      f"{len(missing)} descriptions have no precomputed vector, such as"
      f" {missing[0]!r}"
    )
  size = len(next(iter(vectors.values())))
  found = np.zeros((*shape, size), np.float32)
  for k, each in enumerate(texts):
    for n, text in enumerate(each):
      found[k, n] = vectors[text]
  return found
