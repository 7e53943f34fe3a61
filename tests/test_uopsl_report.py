"""Warnings of UOPSL's report."""

import types

import numpy as np
import pytest

from gcl_jax.errors import DataError
from gcl_jax.methods.uopsl import captions, draws, pretrain, report
from gcl_jax.methods.uopsl.config import get_config

PLACES = {"a": ("dots here",), "b": ("dots there",), "c": ("a sheet",)}
ONE_LOOK = {"a": ("dots",), "b": ("dots",), "c": ("a sheet",)}
OWN_LOOKS = ONE_LOOK | {"b": ("spots",)}


def sources(looks, classes="aabbc"):
  images = types.SimpleNamespace(
    table={"class": np.array([*classes])}, train=np.ones(len(classes), bool)
  )
  return draws.Sources(images, None, captions.build(PLACES, looks))


def test_texts_that_are_labels_are_told():
  config = get_config("tiny")
  assert not report.text_warnings(config, sources(ONE_LOOK))
  for found in (sources(OWN_LOOKS), sources(ONE_LOOK, "bbc")):
    (note,) = report.text_warnings(config, found)
    assert "tell all classes" in note
  config.pretrain.rest = ""
  assert not report.text_warnings(config, sources(OWN_LOOKS))


def test_descriptions_too_long_for_a_transformer_are_refused():
  config, long = get_config("tiny"), {"a": ("dots " * 65,)}
  config.text.encoder = "transformer"
  found = sources(ONE_LOOK)._replace(captions=captions.build(long, long))
  with pytest.raises(DataError, match="65 words, more than the 64"):
    pretrain.networks_of(config, config.pretrain, found)
