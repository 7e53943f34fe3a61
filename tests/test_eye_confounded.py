"""The eye phantom: lesions of a pair look alike, their places tell them apart.

Features are counted from what a photograph shows of its spots, without noise
and anatomy: a patch that held the fovea would tell where it is from.
"""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict

from gcl_jax.data.phantoms import eye_diseases, eye_photograph
from gcl_jax.data.phantoms import eye_zones as zones
from gcl_jax.data.readers import eye_fundus, eye_oct

SIZE = 64


@pytest.fixture(scope="module")
def fundus():
  return eye_fundus.eye_fundus_phantom(patients=600, seed=2)


def rows_of(dataset, names) -> np.ndarray:
  return np.flatnonzero(np.isin(dataset.table["disease"], names))


def cross_validated(features, classes, model=None) -> float:
  """Balanced accuracy in five folds."""
  model = model or RandomForestClassifier(
    60, min_samples_leaf=5, random_state=0
  )
  guess = cross_val_predict(model, features, classes, cv=5)
  return balanced_accuracy_score(classes, guess)


def patches(dataset, row) -> tuple[np.ndarray, np.ndarray]:
  """What 3 x 3 pixels show of each lesion, and its place."""
  cohort = dataset.read.__self__
  shown, eye = cohort.lesions(row), cohort._eye(row)
  spots = cohort.image(row) - cohort.photograph(row, ()).astype(float)
  u, v = shown.place.T
  y = eye.fovea[0] - eye_photograph.UNIT * v
  x = eye.fovea[1] + eye_photograph.UNIT * eye.nasal * u
  middles = (SIZE * np.stack([y, x], axis=1)).astype(int)
  found = [spots[r - 1 : r + 2, c - 1 : c + 2] for r, c in middles]
  return np.reshape(found, (len(found), 27)), shown.place


@pytest.mark.parametrize("pair", eye_diseases.PAIRS)
def test_lesions_of_a_pair_look_alike_and_lie_elsewhere(fundus, pair):
  looks, places, classes = [], [], []
  for row in rows_of(fundus, pair)[:90]:
    look, place = patches(fundus, row)
    looks.append(look)
    places.append(place)
    classes += [fundus.table["disease"][row]] * len(place)
  looks, places = np.concatenate(looks), np.concatenate(places)
  looks = np.column_stack([looks, looks.mean(1), looks.std(1)])
  assert cross_validated(looks, classes) == pytest.approx(0.5, abs=0.07)
  assert cross_validated(places, classes) > 0.8


def test_patches_tell_the_look(fundus):
  looks, classes = [], []
  for name in ("deposits_fovea", "cysts_fovea", "membrane_parafovea"):
    for row in rows_of(fundus, [name])[:15]:
      look, _ = patches(fundus, row)
      looks.append(look)
      classes += [name] * len(look)
  assert cross_validated(np.concatenate(looks), classes) > 0.9


@pytest.mark.parametrize("reader", [eye_fundus, eye_oct])
def test_places_of_lesions_and_the_look_tell_every_disease(fundus, reader):
  dataset = fundus
  if reader is eye_oct:
    dataset = eye_oct.eye_oct_phantom(patients=600, seed=2)
  features, classes = [], []
  for row in np.flatnonzero(dataset.table["held_out"] != "both"):
    place = reader.lesion_places(dataset, row)
    u, v = place.T if place.ndim == 2 else (place, 0 * place)
    counts = [(zones.weight(zone, u, v) > 0).sum() for zone in zones.ZONES]
    look = dataset.table["look"][row]
    of_look = [np.array(counts) * (look == one) for one in eye_diseases.LOOKS]
    features.append(np.concatenate([*of_look, [len(place)]]))
    classes.append(dataset.table["disease"][row])
  model = LogisticRegression(C=10, max_iter=1000)
  assert cross_validated(np.array(features), classes, model) > 0.9
