"""Figures of UOPSL: which images, classes and arms they are of."""

import types

import numpy as np
import pytest

from gcl_jax.errors import DataError
from gcl_jax.methods.uopsl import arms, classify, draws, figures
from gcl_jax.methods.uopsl.config import get_config

CLASSES = ("a", "b", "new", "other")  # no photograph of the last two trains
SEEN = CLASSES[:2]


class Images:
  """As much of prepared images as a task and its figures need."""

  def __init__(self, count=80):
    rng = np.random.default_rng(0)
    classes = np.array([*CLASSES, ""])[np.arange(count) % 5]
    self.evaluation = (np.arange(count) % 2 == 0) | np.isin(
      classes, CLASSES[2:]
    )
    self.train = ~self.evaluation
    groups = np.array([f"p{k // 2}" for k in rng.permutation(count)])
    self.table = {"class": classes, "group": groups}
    self.groups, self.pixels = groups, np.zeros((count, 2, 2, 3), np.uint8)

  def pixel_statistics(self):
    return (0.5,) * 3, (0.2,) * 3


def sources():
  texts = types.SimpleNamespace(classes=CLASSES)
  return draws.Sources(Images(), None, texts)


def settings(**changes):
  config = get_config("tiny")
  config.fundus.update(labelled=(4,), headline=4, pairs=(SEEN,))
  config.update_from_flattened_dict(changes)
  return config


def right(truth, count, share, seed=0):
  """Probabilities of which a share names the truth, the others the next."""
  rng = np.random.default_rng(seed)
  called = np.where(rng.random(len(truth)) < share, truth, truth + 1) % count
  return np.eye(count)[called] * 0.9 + 0.1 / count


def left_of(task, shares):
  """What stage `fundus` leaves of arms that are right in these shares."""
  classes = task.found.fundus.table["class"][task.rows]
  every = np.array([CLASSES.index(c) for c in classes])
  own = np.where(every < 2, every, 0)
  left = {"probabilities": {}, "probe": {}, "zeroshot": {}}
  for arm, share in shares.items():
    left["probabilities"][arm] = {"m4": right(own, 2, share)}
    if arm not in arms.UNTRAINED:
      left["probe"][arm] = {"m4": right(own, 2, share, 1)}
      left["zeroshot"][arm] = {"m4": right(every, 4, share, 2)}
  return left


SHARES = {arms.OWN: 1.0, arms.TEXT: 0.4, "fundus_only": 0.2}


@pytest.fixture(scope="module")
def made():
  found = sources()
  task = classify.task_of(found)
  left = left_of(task, SHARES)
  return task, figures.metrics(found, settings(), task.names, task.rows, left)


def test_what_is_tested_is_evaluation_images_of_known_class_alone(made):
  task, _ = made
  images = task.found.fundus
  assert task.names == SEEN
  assert images.evaluation[task.rows].all()
  known = images.evaluation & (images.table["class"] != "")
  assert len(task.rows) == known.sum()
  named = np.array([*SEEN, "none"])[task.target]
  seen = np.isin(images.table["class"], SEEN)
  np.testing.assert_array_equal(named[seen], images.table["class"][seen])
  assert (task.target[~seen] == -1).all()


def test_figures_are_of_the_classes_that_are_learned(made):
  task, found = made
  classes = task.found.fundus.table["class"][task.rows]
  assert found["fundus/accuracy@4"]["value"] == 1
  assert found["fundus/accuracy@4"]["n"] == np.isin(classes, SEEN).sum()
  assert found[f"fundus/{arms.TEXT}/accuracy@4"]["value"] < 0.7
  assert "probe/fundus_only/accuracy@4" not in found
  assert found["fundus/confounded_accuracy"]["value"] == 1
  assert {f"fundus/auroc/{name}@4" for name in SEEN} <= set(found)


def test_differences_are_this_method_less_the_other(made):
  _, found = made
  gain = found["fundus/gain_over_text"]
  assert gain == found[f"fundus/accuracy@4_over_{arms.TEXT}"]
  own, other = (
    found[f"fundus/{arm}/accuracy@4"]["value"] for arm in (arms.OWN, arms.TEXT)
  )
  assert gain["value"] == pytest.approx(own - other) and gain["value"] > 0


def test_unseen_classes_are_those_without_a_photograph_in_training(made):
  task, found = made
  classes = task.found.fundus.table["class"][task.rows]
  unseen = found["zeroshot/accuracy"]
  assert unseen["value"] == 1 and unseen["chance"] == 0.5
  assert unseen["n"] == np.isin(classes, CLASSES[2:]).sum()
  assert found["zeroshot/accuracy_of_all"]["n"] == len(classes)
  # Called among the unseen classes alone: a vote for another is no vote.
  left = left_of(task, {arms.OWN: 1.0})
  values = left["zeroshot"][arms.OWN]["m4"]
  values[:, 0] += 1
  again = figures.zero_shot(
    task.found, settings(), task.names, task.rows, left["zeroshot"]
  )
  assert again["zeroshot/accuracy"]["value"] == 1
  assert again["zeroshot/accuracy_of_all"]["value"] == 0.25


def test_a_run_without_the_deciding_arm_has_no_gain(made):
  task, _ = made
  left = left_of(task, {arms.OWN: 1.0})
  found = figures.metrics(task.found, settings(), SEEN, task.rows, left)
  assert found["fundus/gain_over_text"]["value"] is None


def test_pairs_of_classes_that_there_are_not_are_refused():
  figures.check_pairs(settings(), CLASSES)
  with pytest.raises(DataError, match="class 'neww'; did you mean 'new'"):
    figures.check_pairs(settings(**{"fundus.pairs": (("a", "neww"),)}), CLASSES)


def test_the_most_labels_may_stand_anywhere():
  wanted = {(20, 200): "m200", (200, 20): "m200", (0, 20): "all", (3,): "m3"}
  for counts, name in wanted.items():
    assert draws.most(settings(**{"fundus.labelled": counts})) == name


def test_probes_are_fitted_on_labelled_images_alone():
  task = classify.task_of(sources())
  images = task.found.fundus
  chosen = draws.labelled(images, 0, 0)
  rng = np.random.default_rng(1)
  features = rng.normal(size=(len(chosen), 3))
  features[chosen, 0] += 4 * (task.target[chosen] == 1)
  found = classify._probed(features, task, chosen)
  assert found.shape == (len(task.rows), 2)
  other = features.copy()
  other[task.rows[0]] += 100  # changes what is said of this image alone
  again = classify._probed(other, task, chosen)
  np.testing.assert_array_equal(again[1:], found[1:])
  called = found.argmax(1)
  wanted = features[task.rows, 0] > 2
  assert (called == wanted).mean() > 0.9
