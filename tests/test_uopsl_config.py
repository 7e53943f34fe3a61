"""Settings of UOPSL: presets, arms, and what is refused."""

import types

import numpy as np
import pytest

from gcl_jax.engine.settings import preset_names
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.uopsl import arms, data, draws
from gcl_jax.methods.uopsl.config import PRESETS, check, get_config


def tiny(**changes):
  config = get_config("tiny")
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize("preset", preset_names("uopsl", PRESETS))
def test_presets_can_run(preset):
  config = get_config(preset)
  if config.text.encoder == "frozen":
    config.text.vectors = "vectors.npz"
  check(config)
  assert config.preset == preset


def test_every_arm_can_run_and_is_unlike_the_method():
  config = tiny(arms=tuple(arms.ARMS))
  check(config)
  own = config.pretrain.to_dict()
  for arm in arms.trained(config)[1:]:
    assert arms.settings_of(config, arm).to_dict() != own, arm


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"oct_data.name": ""}, "oct_data.name is empty"),
    ({"preprocess.size": (32, 16)}, "two equal numbers"),
    ({"fundus.labelled": ()}, "fundus.labelled"),
    ({"fundus.labelled": (20, 20)}, "each once"),
    ({"fundus.headline": 7}, "fundus.headline 7: one of"),
    ({"text.encoder": "frozen"}, "--config.text.vectors"),
    ({"text.encoder": "bagg"}, "did you mean 'bag'"),
    ({"pretrain.kind": "slot"}, "did you mean 'slots'"),
    ({"pretrain.sites": "random"}, "add 'random' to arms"),
    ({"pretrain.sites": "", "pretrain.site": 1.0}, "pretrain.site is of sites"),
    ({"pretrain.oct": False}, "arm uopsl: pretrain.oct_text needs OCT"),
    (
      {
        "pretrain.sites": "",
        "pretrain.site": 0.0,
        "pretrain.diversity": 0.0,
        "arms": ("random",),
      },
      "arm random takes the place of sites of OCT",
    ),
    ({"pretrain.count": 1}, "2 sites or more"),
    ({"pretrain.pair": 1.0}, "needs pretrain.oct_draw=pair"),
    (
      {"pretrain.rest": "", "arms": ("paired",)},
      "needs pretrain.rest=without_place",
    ),
    (
      {"fundus.labelled": (50, 0), "arms": ("paired",)},
      r"arm paired: .* without a label, .* there are none",
    ),
    ({"pretrain.batch.oct": 0}, "pretrain.batch.oct must be more than 0"),
    ({"fundus.site_rate": 2.0}, "fundus.site_rate must be 1 or less"),
    ({"arms": ("textt",)}, "did you mean 'text'"),
    ({"protocol": "transductive"}, "take strict"),
    ({"oct_preprocess.size": (32,)}, "rows and columns"),
    ({"oct_preprocess.size": (0, 32)}, "oct_preprocess.size must be more"),
    ({"data.class_names": ("a",)}, "data.class_names: NAME=CLASS"),
    ({"more_oct_data.class_names": ("a=b", "a=c")}, "every name once"),
    ({"text.swapped": (("left",),)}, "pairs of words"),
    ({"text.swapped": (("left", "Right"),)}, "small letters"),
    ({"text.swapped": (("a", "b"), ("b", "c"))}, "each once"),
    (
      {"text.encoder": "transformer", "text.width": 10},
      "text.width 10: a multiple of text.heads 4",
    ),
    ({"text.heads": 0}, "text.heads must be more than 0"),
    ({"fundus.pairs": (("a", "b", "c"),)}, "two classes each"),
    ({"fundus.pairs": (("a", "a"),)}, "two classes each"),
    ({"pretrain.centre_momentum": 0.0}, "centre_momentum must be more than 0"),
    ({"pretrain.site_momentum": 0.0}, "site_momentum must be more than 0"),
    (
      dict.fromkeys([f"pretrain.{name}" for name in arms.TERMS], 0.0),
      "the weights of all terms are 0",
    ),
    (
      {
        "pretrain.sites": "fundus",
        "pretrain.site": 0.0,
        "pretrain.diversity": 0.0,
      },
      "learned from photographs alone",
    ),
    (
      {f"pretrain.{name}": 0.0 for name in arms.OF_OCT}
      | {
        "pretrain.oct": False,
        "pretrain.sites": "",
        "pretrain.oct_draw": "class",
      },
      "oct_draw class without pretrain.oct",
    ),
  ],
)
def test_settings_that_cannot_run_are_refused(changes, message):
  check(tiny())
  with pytest.raises(ConfigError, match=message):
    check(tiny(**changes))


@pytest.mark.parametrize(
  "changes",
  [
    {"pretrain.oct_draw": "class"},
    {"pretrain.oct_draw": "pair", "pretrain.pair": 1.0},
    {"pretrain.across": 0.5, "pretrain.concept_mse": 1.0},
    {"pretrain.tie": "average", "pretrain.site": 0.0},
    {"pretrain.places": False},
  ],
)
def test_arms_are_what_their_names_say_whatever_is_configured(changes):
  config = tiny(arms=tuple(arms.ARMS), **changes)
  check(config)
  for arm in ("text", arms.TEXT, "fundus_sites"):
    found = arms.settings_of(config, arm)
    assert not found.oct and found.oct_draw == "independent"
    assert not any(found[name] for name in arms.OF_OCT)
  assert arms.settings_of(config, arms.TEXT).places
  assert not arms.settings_of(config, "text").places
  for arm in ("concepts", "prototypes"):
    found = arms.settings_of(config, arm)
    assert found.oct_draw == "class" and not found.pair


def test_labels_are_drawn_one_of_every_class_first_and_nested():
  rng = np.random.default_rng(0)
  classes = np.array(["a"] * 50 + ["b"] * 5 + ["c"] * 2)
  groups = np.array([f"p{k}" for k in rng.permutation(57)])
  orders = [draws.covering_order(groups, classes, seed) for seed in range(6)]
  of = dict(zip(groups.tolist(), classes.tolist(), strict=True))
  for order in orders:
    assert sorted(order) == sorted(groups.tolist())
    assert {of[name] for name in order[:3]} == {"a", "b", "c"}
  assert len({tuple(order[:10]) for order in orders}) == 6
  later = [of[name] for order in orders for name in order[3:]]
  assert np.mean(np.array(later) == "a") > 0.85  # then at random


class Images:
  """As much of prepared images as a draw needs."""

  def __init__(self, classes, groups):
    self.table = {"class": np.array(classes)}
    self.groups = np.array(groups)
    self.train = np.ones(len(groups), bool)


def test_more_labels_than_patients_are_refused():
  images = Images(["a", "b", "", "a", ""], ["p", "q", "r", "p", "p"])
  known = [True, True, False, True, False]
  assert draws.labelled(images, 0, 0).tolist() == known
  # All images of a patient, but for those of unknown class.
  assert draws.labelled(images, 2, 0).tolist() == known
  with pytest.raises(DataError, match="has 2 patients whose class is known"):
    draws.labelled(images, 3, 0)


def test_a_scan_is_drawn_among_those_of_the_same_value():
  values, others = np.array([4, 5, 6]), np.array([5, 4, 4, 9])
  kept, by_value = draws.partners(
    values, others, np.arange(3), np.array([0, 1, 3])
  )
  assert kept.tolist() == [0, 1]
  assert by_value[4].tolist() == [1] and by_value[5].tolist() == [0]


def table_of(**columns):
  from gcl_jax.data.source import Dataset

  table = {k: np.array(v) for k, v in columns.items()}
  labels = tuple(name for name in ("amd", "dme", "diseased") if name in table)
  return Dataset("set", table, lambda row: None, labels)


def test_classes_of_the_second_set_of_scans_are_described_too():
  config = tiny()
  names = {"data": "deposits_disc", "oct_data": "healthy"}
  names["more_oct_data"] = "cysts_fovea"
  datasets = {
    section: table_of(id=["1"], group=["1"], disease=[name])
    for section, name in names.items()
  }
  config.more_oct_data.class_column = "disease"
  context = types.SimpleNamespace(config=config, datasets=datasets)
  found = data._described(context)["with_place"]
  assert list(found) == ["cysts_fovea", "deposits_disc", "healthy"]
  del datasets["more_oct_data"]
  assert "cysts_fovea" not in data._described(context)["with_place"]


def test_a_class_is_a_column_or_the_one_label():
  section = get_config("tiny").data
  section.class_column = ""
  plain = dict(id=["1", "2", "3"], group=["1", "2", "3"])
  found = table_of(**plain, grade=[0.0, 2.0, np.nan])
  with pytest.raises(DataError, match="no image has a class"):
    data.with_class(found, section)
  section.class_column = "grade"
  assert data.with_class(found, section).table["class"].tolist() == [
    *("0", "2", "")
  ]
  section.class_names = ("0=healthy",)
  assert data.with_class(found, section).table["class"].tolist() == [
    *("healthy", "", "")
  ]
  section.class_column, section.class_names = "", ()
  labels = dict(amd=[1.0, 0, 0], dme=[0, 0, 1.0], diseased=[1.0, 0, 1.0])
  found = table_of(**plain, **labels, healthy=[0.0, 1.0, 0.0])
  assert data.with_class(found, section).table["class"].tolist() == [
    *("amd", "healthy", "dme")
  ]
  both = table_of(**plain, amd=[1.0, 0, 1], dme=[1.0, 0, 0])
  with pytest.raises(DataError, match="1: is both 'amd' and 'dme'"):
    data.with_class(both, section)
