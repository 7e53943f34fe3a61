"""The fundus network of UOPSL: what it reads, and that nothing is of OCT."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.methods.uopsl import (
  arms,
  captions,
  classify,
  draws,
  networks,
  pretrain,
)
from gcl_jax.methods.uopsl.config import get_config

pytestmark = pytest.mark.compiles

SHAPE = (16, 16, 3)
KINDS = ("slots", "classes", "map")


def tiny(**changes):
  config = get_config("tiny")
  config.pretrain.update(width=2, size=6, count=3, **changes)
  return config


def encoder_of(rate=0.0, **changes):
  config = tiny(**changes)
  made = networks.make(config.pretrain, config.text, (8, 8, 1), 4, 9)
  return made, networks.fundus_encoder(made, rate)


def begun(encoder, key=0):
  return jax.jit(lambda k: encoder.init(k, SHAPE))(jax.random.key(key))


def images(count=3):
  rng = np.random.default_rng(0)
  return rng.normal(size=(count, *SHAPE)).astype(np.float32)


def fused(variables, seed=1):
  """Variables whose fusion is not 0."""
  fusion = variables["params"]["fusion"]
  values = np.random.default_rng(seed).normal(size=fusion["value"].shape)
  fusion = {**fusion, "value": values.astype(np.float32)}
  return {**variables, "params": {**variables["params"], "fusion": fusion}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fusion_of_zeros_is_the_network_without_sites_bit_for_bit(kind):
  _, sited = encoder_of(kind=kind)
  _, plain = encoder_of(sites="", site=0.0, diversity=0.0)
  variables = begun(sited)
  params = {"tokens": variables["params"]["tokens"]}
  fixed = {"tokens": variables["batch_stats"]["tokens"]}
  alone = {"params": params, "batch_stats": fixed}
  found = jax.jit(sited.apply)(variables, images())[0]
  expected = jax.jit(plain.apply)(alone, images())[0]
  np.testing.assert_array_equal(found, expected)
  other = jax.jit(sited.apply)(fused(variables), images())[0]
  assert np.abs(np.array(other) - expected).max() > 1e-3


def test_the_order_of_sites_changes_nothing():
  _, encoder = encoder_of()
  variables = fused(begun(encoder))
  fixed = variables["batch_stats"]
  turned = {**fixed, "sites": fixed["sites"][::-1]}
  found, _, shares = encoder.apply(variables, images(), looks=True)
  other, _, again = encoder.apply(
    {**variables, "batch_stats": turned}, images(), looks=True
  )
  np.testing.assert_allclose(found, other, atol=1e-5)
  np.testing.assert_allclose(shares, again[:, :, ::-1], atol=1e-6)
  np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)


def test_sites_move_by_a_share_of_the_rate_or_not_at_all():
  for rate in (0.0, 0.25):
    _, encoder = encoder_of(rate)
    variables = fused(begun(encoder))
    assert ("shift" in variables["params"]) == bool(rate)
    if not rate:
      continue
    params = {**variables["params"]}
    params["shift"] = jnp.full_like(params["shift"], 2.0)
    found = encoder.apply({**variables, "params": params}, images())[0]
    fixed = variables["batch_stats"]
    moved = {**fixed, "sites": fixed["sites"] + 0.5}
    expected = encoder.apply({**variables, "batch_stats": moved}, images())[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_gradient_reaches_frozen_sites_or_batch_statistics():
  _, encoder = encoder_of()
  variables = fused(begun(encoder))

  def total(fixed):
    out = encoder.apply({**variables, "batch_stats": fixed}, images())[0]
    return jnp.sum(out**2)

  found = jax.grad(total)(variables["batch_stats"])
  assert not np.any(found["sites"])


def leaves(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  }


def test_the_fine_tune_and_its_program_hold_nothing_of_oct():
  """Sizes of OCT are such that no tensor of fundus has them."""
  config = tiny()
  config.fundus.batch_size = 2
  config.oct_preprocess.size = (40, 56)
  kind = classify.kind_of(
    config, config.pretrain, SHAPE, 5, ((0.5,) * 3, (0.25,) * 3)
  )
  training = kind.training
  state = jax.eval_shape(training.init, jax.random.key(0), *training.arguments)
  names = leaves((state.params, state.extra))
  assert any("sites" in name for name in names)
  odd = ("oct", "gather", "read", "text", "log_scale")
  assert not [n for n in names if {*n.split("/")} & {*odd}]
  program = jax.jit(training.step).lower(state, training.batch).as_text()
  assert "16x16x3x" in program.replace("tensor<2x16x16x3x", "16x16x3x")
  assert "40x56" not in program and "14x10" not in program
  held = {*leaves(training.batch)}
  assert held == {"image", "index", "target"}


def test_what_a_pre_training_leaves_for_fundus_is_fundus_alone():
  config = tiny()
  made = networks.make(config.pretrain, config.text, (8, 8, 1), 4, 9)
  params = {
    name: {"w": np.zeros(1)}
    for name in ("fundus", "oct", "text", "fusion", "gather", "read", "sites")
  }
  stats = {"fundus": {"m": np.zeros(1)}, "oct": {"m": np.zeros(1)}}
  found = networks.for_fundus(made, params, stats, np.ones((3, 6)))
  assert leaves(found) == {
    "params/tokens/w",
    "params/fusion/w",
    "batch_stats/tokens/m",
    "batch_stats/sites",
  }


def test_frozen_random_sites_have_the_singular_values_of_the_learned():
  own = {"fundus": {"batch_stats": {"sites": images()[0, :, :, 0]}}}

  class Context:
    config = tiny()

  found = pretrain.frozen_sites(Context, "random", None, None, own)
  values = [
    np.linalg.svd(m, compute_uv=False)
    for m in (found, own["fundus"]["batch_stats"]["sites"])
  ]
  np.testing.assert_allclose(*values, rtol=1e-4)
  assert np.abs(found - own["fundus"]["batch_stats"]["sites"]).max() > 0.1
  assert set(arms.FROM_OWN) == {"random", "means"}


def test_zero_shot_is_a_softmax_of_scaled_cosines():
  rng = np.random.default_rng(2)
  features = rng.normal(size=(4, 6))
  texts = rng.normal(size=(3, 6))
  texts /= np.linalg.norm(texts, axis=1, keepdims=True)
  found = classify.zero_shot(features, texts, np.log(7.0))
  unit = features / np.linalg.norm(features, axis=1, keepdims=True)
  odds = np.exp(7 * unit @ texts.T)
  np.testing.assert_allclose(
    found, odds / odds.sum(1, keepdims=True), rtol=1e-5
  )
  most = classify.zero_shot(features, texts, 50.0)
  odds = np.exp(100 * (unit @ texts.T - (unit @ texts.T).max(1, keepdims=True)))
  np.testing.assert_allclose(
    most, odds / odds.sum(1, keepdims=True), rtol=1e-4, atol=1e-6
  )


def test_arms_share_programs_where_their_sites_are_as_many():
  config, texts = tiny(), {"a": ("x",), "b": ("y",)}
  images = [
    types.SimpleNamespace(pixels=np.zeros((1, *shape), np.uint8))
    for shape in (SHAPE, (8, 8, 1))
  ]
  found = draws.Sources(*images, captions.build(texts, texts))
  statistics = (0.5,) * 3, (0.25,) * 3
  task, kinds = classify.Task(found, ("a", "b"), None, None, statistics), {}
  names = (*arms.ARMS, arms.OWN)
  made = {n: classify._kind_of(config, n, task, kinds) for n in names}
  like = {
    name: {other for other in names if made[other] is made[name]}
    for name in (arms.OWN, "means", "fundus_only", "fundus_long")
  }
  assert {"random", "shuffled", "tokens", "open"} <= like[arms.OWN]
  # Three sites, and one of each of two classes.
  assert not like[arms.OWN] & {"means", "classes", "map", "text"}
  assert like["means"] == {"means", "map"}
  assert {arms.TEXT, "no_sites", "paired"} <= like["fundus_only"]
  assert like["fundus_long"] == {"fundus_long"}
