"""Faults of numbers: losses, scores, bins of one class, settings, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.engine import cluster, inference, parallel, start
from gcl_jax.errors import ConfigError
from gcl_jax.evaluation import metrics
from gcl_jax.gradients import gradcon
from gcl_jax.losses import supcon
from gcl_jax.methods.severity.config import check, get_config
from gcl_jax.models.autoencoder import autoencoder

pytestmark = pytest.mark.compiles


def unit(*shape, dtype=jnp.float32):
  values = np.random.default_rng(0).normal(size=shape)
  values /= np.linalg.norm(values, axis=-1, keepdims=True)
  return jnp.asarray(values, dtype)


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_row20_half_precision_features_overflow_nowhere(
  block_size, temperature
):
  features = unit(8, 2, 16, dtype=jnp.bfloat16)
  labels = jnp.arange(8) % 3

  def loss(features):
    return supcon(
      features, labels, temperature=temperature, block_size=block_size
    )

  value, gradient = jax.value_and_grad(loss)(features)
  assert value.dtype == jnp.float32 and jnp.isfinite(value)
  assert jnp.isfinite(gradient.astype(jnp.float32)).all()
  exact = loss(features.astype(jnp.float32))
  assert float(value) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("labels", [np.zeros(8, int), np.arange(8)])
def test_row36_one_label_or_all_different(labels, block_size):
  features = unit(8, 1, 16)

  def loss(features):
    return supcon(features, jnp.asarray(labels), block_size=block_size)

  value, gradient = jax.value_and_grad(loss)(features)
  assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
  if len(set(labels)) == 8:  # nobody has a positive: nothing to learn
    assert value == 0 and not gradient.any()


def test_row37_one_class_is_undefined_and_not_a_half():
  assert metrics.auroc(np.ones(4), np.arange(4.0)) is None
  assert metrics.auroc(np.array([0, 1]), np.array([0.0, 1.0])) == 1


@pytest.fixture(scope="module")
def scored():
  """(model, params, images, reference)."""
  model = autoencoder(1, 1, (4, 4, 4, 4))
  params = jax.jit(lambda key: model.init(key, (32, 32, 1)))(jax.random.key(0))
  images = jax.random.uniform(jax.random.key(1), (64, 32, 32, 1))
  weights = model.decoder_weights(params)
  reference = gradcon.start(jax.tree.map(jnp.ones_like, weights)).mean
  return model, params, images, reference


def scores_of(scored, images, **settings):
  model, params, _, reference = scored
  run = jax.jit(
    lambda x: gradcon.scores(model, params, x, reference, **settings)
  )
  return jax.tree.map(np.asarray, run(images))


def test_row38_a_dead_layer_and_a_zero_reference_score_finite(scored):
  model, params, images, reference = scored
  silent = jax.tree.map(jnp.zeros_like, reference)
  found = gradcon.scores(model, params, images[:3], silent)
  assert not found.cos.any() and np.isfinite(found.score).all()
  dead = jax.tree.map(jnp.zeros_like, params)
  found = gradcon.scores(model, dead, images[:3], reference)
  assert np.isfinite(found.score).all() and np.isfinite(found.cos).all()
  assert (np.asarray(found.norm) == 0).any()


@pytest.mark.parametrize("size", [1, 7, 64])
def test_row39_row40_scores_belong_to_the_image_in_any_batch(scored, size):
  model, params, images, reference = scored
  whole = scores_of(scored, images).score
  order = np.random.default_rng(1).permutation(len(images))[:37]

  def score(tree, batch):
    return {"s": gradcon.scores(model, *tree, batch["x"], reference).score}

  def run(devices):
    return inference.map_examples(
      lambda tree, batch: score((tree,), batch),
      params,
      {"x": np.asarray(images)[order]},
      mesh=parallel.make_mesh(jax.devices()[:devices]),
      batch_size=size,
    )["s"]

  for devices in (1, 8):
    np.testing.assert_allclose(run(devices), whole[order], atol=1e-6)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("supcon.batch_size", 0),
    ("supcon.temperature", -0.1),
    ("autoencoder.steps", -5),
    ("workers", -1),
    ("steps_per_dispatch", 0),
  ],
)
def test_row42_sizes_that_mean_nothing_are_refused(name, value):
  config = get_config("tiny")
  config.update_from_flattened_dict({name: value})
  with pytest.raises(ConfigError, match=f"{name} must be .*got {value}"):
    check(config)


def test_row42_words_are_refused_with_the_nearest():
  with pytest.raises(ConfigError, match="did you mean 'demo'"):
    get_config("dmeo")
  config = get_config("tiny")
  config.supcon.stem = "imagnet"
  with pytest.raises(ConfigError, match="did you mean 'imagenet'"):
    check(config)


def test_row43_no_silent_fall_to_the_cpu(monkeypatch, tmp_path):
  with pytest.raises(ConfigError, match="asked for a gpu, and JAX runs on the"):
    cluster.check_platform("gpu")
  cluster.check_platform("cpu")
  present = tmp_path / "nvidia0"
  present.write_text("")
  monkeypatch.setattr(cluster, "_NVIDIA", str(present))
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  with pytest.raises(ConfigError, match="has an NVIDIA GPU and JAX runs on"):
    cluster.check_platform()
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  cluster.check_platform()


def test_row43_out_of_memory_is_said_with_what_to_lower(tmp_path):
  with (
    pytest.raises(ConfigError, match="out of memory.*9 GiB") as raised,
    start.together(get_config("tiny"), tmp_path, None),
  ):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB")
  said = str(raised.value)
  assert "lower --config.autoencoder.batch_size or --config.finetune" in said
  assert "--config.supcon.block_size=1024 or --config.supcon.remat=True" in said
  assert "\n" not in said
