"""Captions of UOPSL: one table of texts, and what mirrors them."""

import numpy as np
import pytest

from gcl_jax.errors import DataError
from gcl_jax.methods.uopsl import captions

WITH = {
  "amd": ("Drusen at the fovea.", "yellow deposits"),
  "dme": ("fluid, in the left half",),
}
WITHOUT = {"amd": ("deposits",), "dme": ("deposits",)}
PAIRS = (("left", "right"),)


def test_a_class_has_a_caption_with_and_one_without_its_place():
  found = captions.build(WITH, WITHOUT)
  assert found.classes == ("amd", "dme")
  rows = found.of_classes(places=True)
  assert [found.texts[k] for k in rows] == [WITH["amd"], WITH["dme"]]
  # One look: one caption.
  assert len(set(found.of_classes(places=False).tolist())) == 1
  assert found.of_classes(False)[0] not in rows
  table = found.table
  np.testing.assert_array_equal(table.there[rows], [[1, 1], [1, 0]])
  words = [found.vocabulary[k - 1] for k in table.ids[rows[0], 0] if k]
  assert words == ["drusen", "at", "the", "fovea"]
  np.testing.assert_array_equal(table.words, table.ids > 0)


def test_images_of_unknown_class_have_no_caption():
  found = captions.build(WITH, WITHOUT)
  rows = found.of_images(np.array(["dme", ""]), np.array(["", ""]), True)
  assert rows.tolist() == [found.of_classes(True)[1], -1]


def test_an_attribute_stands_in_front_and_changes_no_meaning():
  found = captions.build(WITH, WITHOUT, ["os"])
  plain, other = (
    found.of_images(np.array(["amd"]), np.array([a]), True)[0]
    for a in ("", "os")
  )
  assert found.texts[other][0] == "os Drusen at the fovea."
  assert plain != other
  assert found.table.target[plain] == found.table.target[other]
  targets = found.table.target[found.of_classes(True)]
  assert targets[0] != targets[1]


def test_mirrored_texts_swap_their_sides_and_keep_their_meaning():
  found = captions.build(WITH, WITHOUT, swapped=PAIRS)
  row = found.of_classes(True)[1]
  other = found.table.mirrored[row]
  assert found.texts[other] == ("fluid, in the right half",)
  assert found.table.mirrored[other] == row
  assert found.table.target[other] == found.table.target[row]
  same = found.of_classes(True)[0]
  assert found.table.mirrored[same] == same


def test_vectors_of_texts_are_those_of_the_file(tmp_path):
  texts = [t for each in (WITH, WITHOUT) for ts in each.values() for t in ts]
  vectors = np.random.default_rng(0).normal(size=(len(texts), 5))
  np.savez(tmp_path / "v.npz", texts=texts, vectors=vectors)
  named, read = captions.read_vectors(tmp_path / "v.npz")
  given = dict(zip(named, read, strict=True))
  found = captions.build(WITH, WITHOUT, vectors=given)
  row = found.of_classes(True)[0]
  np.testing.assert_allclose(found.table.vectors[row], vectors[:2], rtol=1e-6)
  assert found.table.inputs()[0] is found.table.vectors
  del given["yellow deposits"]
  with pytest.raises(DataError, match="1 descriptions .* 'yellow deposits'"):
    captions.build(WITH, WITHOUT, vectors=given)


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    (dict(texts=["a"]), "needs the arrays texts and vectors"),
    (dict(texts=["a"], vectors=np.zeros((2, 3))), r"got \(1,\) and \(2, 3\)"),
    (dict(texts="a", vectors=np.zeros((1, 3))), r"got \(\) and \(1, 3\)"),
    (dict(texts=["a"], vectors=np.full((1, 3), np.nan)), "finite"),
  ],
)
def test_other_files_of_vectors_are_refused(tmp_path, arrays, message):
  np.savez(tmp_path / "v.npz", **arrays)
  with pytest.raises(DataError, match=message):
    captions.read_vectors(tmp_path / "v.npz")


def test_a_text_without_words_is_refused():
  with pytest.raises(DataError, match="has no words"):
    captions.build({"a": ("...",)}, {"a": ("dots",)})


SIDES = (("left", "right"), ("od", "os"))


@pytest.mark.parametrize(
  ("text", "other"),
  [
    ("OD drusen", "OS drusen"),
    ("Left half", "Right half"),
    ("a left-sided one, lower-right", "a right-sided one, lower-left"),
    ("leftover odd", "leftover odd"),
  ],
)
def test_mirrored_words_keep_their_case_and_may_be_parts(text, other):
  assert captions.mirrored([text], SIDES) == (other,)
  assert captions.mirrored([other], SIDES) == (text,)


def test_texts_of_any_case_have_a_mirrored_one():
  """One eye alone, and words that come back in another case."""
  for text, attributes in (("x", ["OD"]), ("lEFT x", ())):
    found = captions.build({"a": (text,)}, {"a": ("x",)}, attributes, SIDES)
    for row, texts in enumerate(found.texts):
      there = found.table.mirrored[row]
      assert found.texts[there] == captions.mirrored(texts, SIDES)
      assert found.table.target[there] == found.table.target[row]
