"""Descriptions of classes: the file of the eye phantom, and malformed ones."""

import pytest

from gcl_jax.data import descriptions
from gcl_jax.data.phantoms import eye_diseases
from gcl_jax.errors import DataError

GOOD = "a:\n  with_place: [x at y, z]\n  without_place: [x]\n"
# A word of each, at least, is in every description with a place.
PLACES = {
  "fovea": {"fovea", "foveal", "centre", "central"},
  "parafovea": {"parafovea", "parafoveal", "ring"},
  "disc": {"disc", "peripapillary", "nasal"},
  "temporal": {"temporal", "arcades"},
}
OTHERS = {"macula", "nerve", "optic", "superior", "inferior", "side"}


def words(text: str) -> set[str]:
  return set(text.replace(",", "").split())


@pytest.fixture(scope="module")
def placed():
  return descriptions.read(descriptions.EYE_WORDS, eye_diseases.CLASSES)


@pytest.fixture(scope="module")
def plain():
  return descriptions.read(
    descriptions.EYE_WORDS, eye_diseases.CLASSES, places=False
  )


def write(folder, text):
  path = folder / "words.yaml"
  path.write_text(text, encoding="utf-8")
  return path


def test_every_class_of_the_phantom_has_four_to_six_of_either_kind(
  placed, plain
):
  for found in (placed, plain):
    assert tuple(found) == eye_diseases.CLASSES
    for texts in found.values():
      assert 4 <= len(texts) == len(set(texts)) <= 6


def test_texts_with_a_place_name_that_of_the_disease_alone(placed):
  for disease in eye_diseases.DISEASES:
    for text in placed[disease.name]:
      named = {zone for zone, some in PLACES.items() if some & words(text)}
      assert named == {disease.zone}, text


def test_texts_without_a_place_have_no_word_of_place(placed, plain):
  of_place = OTHERS.union(*PLACES.values())
  for texts in plain.values():
    for text in texts:
      assert not of_place & words(text), text
  for name, texts in placed.items():
    for text in texts:
      assert bool(of_place & words(text)) == (name != "healthy"), text


def test_only_the_place_tells_diseases_of_a_look_apart(placed, plain):
  for one in eye_diseases.DISEASES:
    for other in eye_diseases.DISEASES:
      same = one.look == other.look
      assert (plain[one.name] == plain[other.name]) == same
      shared = set(placed[one.name]) & set(placed[other.name])
      assert bool(shared) == (one is other)


def test_words_of_held_out_classes_are_those_of_the_others(placed):
  known, held_out = set(), {}
  for disease in eye_diseases.DISEASES:
    found = set().union(*map(words, placed[disease.name]))
    if disease.held_out == "none":
      known |= found
    else:
      held_out[disease.name] = found
  assert len(held_out) == 3
  for name, found in held_out.items():
    assert found <= known, (name, found - known)


def test_a_file_of_ones_own_is_read(tmp_path):
  path = write(tmp_path, GOOD + "b: 3\n")
  assert descriptions.read(path, ["a"]) == {"a": ("x at y", "z")}
  assert descriptions.read(path, ["a"], places=False) == {"a": ("x",)}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "empty"),
    ("- a\n- b\n", "at the top"),
    (GOOD.replace("a:", "b:"), "no class 'a'"),
    (GOOD + GOOD, "'a' more than once"),
    ("a: [x]\n", "with_place and without_place"),
    ("a:\n  with_place: [x]\n", "with_place and without_place"),
    (GOOD + "  more: [x]\n", "with_place and without_place"),
    (GOOD.replace("[x]", "x"), "without_place of class 'a' is not a list"),
    (GOOD.replace("[x]", "[]"), "without_place of class 'a' is empty"),
    (GOOD.replace("[x]", "[3]"), "no text"),
    (GOOD.replace("[x]", "[no]"), "no text"),
    (GOOD.replace("[x]", "['  ']"), "blank"),
    (GOOD.replace("[x]", "[x"), "line 4: is not YAML"),
    ("a: !!python/object:os.system {}\n", "line 1: is not YAML"),
    ("a: 2001-99-99\n", "YAML"),
    ("a: " + 3000 * "[", "YAML"),
  ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path, text, message):
  path = write(tmp_path, text)
  with pytest.raises(DataError, match=message) as caught:
    descriptions.read(path, ["a"])
  assert "\n" not in str(caught.value) and "words.yaml" in str(caught.value)
