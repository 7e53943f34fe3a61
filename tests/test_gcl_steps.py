"""One pre-training step against gradients taken one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax import augment
from gcl_jax.engine import parallel
from gcl_jax.gradients import mitigation
from gcl_jax.methods.gcl import branches, pretrain, rules, steps
from gcl_jax.methods.gcl.branches import Contrast, Networks, Pixels
from gcl_jax.models import heads
from gcl_jax.models.unet import pixel_projection, unet

pytestmark = pytest.mark.compiles

SIZE, BATCH = (8, 8), 16
LABELS = ("position<0.3", "patient", "phase")
VIEWS = dict(
  rotation=20.0, scale=(0.8, 1.2), flip_rows=0.0, shift=0.1, mean=0.4, std=0.2
)
RATE = 0.5
OPTIMIZER = optax.sgd(RATE)
# Of the first step: its order of labels, and of its views.
STEPS_KEY = jax.random.split(jax.random.key(0), 4)[3]
KEY = jax.random.fold_in(jax.random.split(STEPS_KEY)[1], 0)


@functools.cache
def contrast_of(labels=LABELS, pixel=""):
  network = unet((4, 6), 2)
  networks = Networks(
    network, heads.projection(6, 5), pixel_projection(network.feature_dim, 5)
  )
  pixels = Pixels(pixel, 0.5, 0, negatives=(8, 4)) if pixel else None
  found = tuple(rules.parse(text) for text in labels)
  return Contrast(networks, found, 0.2, False, pixels)


def batch():
  draw = np.random.default_rng(3)
  table = {
    "position": draw.uniform(0, 1, BATCH),
    "patient": np.repeat(np.arange(4), 4).astype(str),
    "phase": np.array(["ED", "ES"] * 8),
  }
  images = draw.integers(0, 255, (BATCH, *SIZE, 1)).astype(np.uint8)
  return {"image": images, "index": np.arange(BATCH, dtype=np.int32)} | {
    text: rules.values_of(rules.parse(text), table) for text in LABELS
  }


class Settings:
  heads = "per_label"


def initial(contrast, shared=False):
  settings = Settings()
  settings.heads = "shared" if shared else "per_label"
  return pretrain.initial(contrast, settings, OPTIMIZER, (*SIZE, 1))


def begin(contrast, devices=1, shared=False):
  """Mesh, and state before the first step."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  init = initial(contrast, shared)
  return mesh, parallel.init_replicated(init, mesh, jax.random.key(0))


def one_step(contrast, devices=1, mode="jit", shared=False, **settings):
  """State before, applied gradient and metrics, computed once per step."""
  settings = {"mitigator": "cone", "level": "parameters"} | settings
  of_step = tuple(sorted(settings.items()))
  return _one_step(contrast, devices, mode, shared, of_step)


@functools.cache
def _one_step(contrast, devices, mode, shared, settings):
  mesh, state = begin(contrast, devices, shared)
  before = jax.device_get((state.params, state.extra))
  step = steps.pretrain_step(contrast, OPTIMIZER, views=VIEWS, **dict(settings))
  compiled = parallel.compile_step(step, mesh, mode)
  after, metrics = compiled(state, parallel.put_batch(batch(), mesh, mode))
  gradient = jax.tree.map(
    lambda a, b: (a - np.asarray(b)) / RATE, before[0], after.params
  )
  return before, gradient, jax.device_get(metrics)


def maps_of(contrast, encoder, extra):
  """Maps of the two views of every slice."""
  data = batch()
  keys = augment.sample_keys(STEPS_KEY, jnp.int32(0), data["index"])
  images = augment.two_warps(keys, data["image"], **VIEWS)
  images = images.reshape(-1, *images.shape[2:])
  variables = {
    "params": {"encoder": encoder},
    "batch_stats": {"encoder": extra["batch_stats"]},
  }
  return contrast.networks.unet.encode(variables, images, train=True)[0][0]


def slow(contrast, params, extra, image=True):
  """Losses and gradients of all parameters, one label after the other."""
  data = jax.tree.map(jnp.asarray, batch())
  keys = augment.sample_keys(STEPS_KEY, jnp.int32(0), data["index"])

  def loss(params, k):
    maps = maps_of(contrast, params["encoder"], extra)
    hs = {k: v for k, v in params.items() if k != "encoder"}
    if image:
      return branches.image_losses(contrast, maps, hs, data, None, None)[k]
    return branches.pixel_losses(contrast, maps, hs, data, keys, None)[k]

  count = len(contrast.rules) or 1
  of_one = jax.jit(jax.value_and_grad(loss))
  found = [of_one(params, k) for k in range(count)]
  values, gradients = zip(*found, strict=True)
  return np.array(values), jax.tree.map(lambda *g: np.stack(g), *gradients)


def assert_close(one, other, tolerance=2e-5):
  scale = max(np.abs(x).max() for x in jax.tree.leaves(other))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * scale),
    one,
    other,
  )


@functools.cache
def reference(pixel="", image=True):
  contrast = contrast_of(pixel=pixel)
  state = jax.device_get(begin(contrast)[1])
  return slow(contrast, state.params, state.extra, image)


@pytest.mark.parametrize("mitigator", list(steps.MITIGATORS))
def test_the_update_is_the_mitigated_gradient_and_the_mean_for_heads(mitigator):
  values, gradients = reference()
  _, applied, metrics = one_step(contrast_of(), mitigator=mitigator)
  expected = steps.MITIGATORS[mitigator](gradients["encoder"], KEY, 0.5)
  assert_close(applied["encoder"], expected, 1e-3)
  assert_close(applied["head"], mitigation.mean(gradients["head"]))
  for k, text in enumerate(LABELS):
    np.testing.assert_allclose(metrics[f"loss/{text}"], values[k], rtol=1e-5)
  np.testing.assert_allclose(metrics["loss"], values.mean(), rtol=1e-5)


def test_conflicts_are_those_of_the_encoder_gradients():
  _, gradients = reference()
  _, _, metrics = one_step(contrast_of(), mitigator="mean")
  flat = [
    np.concatenate(
      [np.ravel(x[k]) for x in jax.tree.leaves(gradients["encoder"])]
    )
    for k in range(3)
  ]
  pairs = [(0, 1), (0, 2), (1, 2)]
  cosines = [
    flat[i] @ flat[j] / np.linalg.norm(flat[i]) / np.linalg.norm(flat[j])
    for i, j in pairs
  ]
  for (i, j), cosine in zip(pairs, cosines, strict=True):
    found = metrics[f"cos/{LABELS[i]}|{LABELS[j]}"]
    np.testing.assert_allclose(found, cosine, atol=1e-4)
  rate = np.mean(np.array(cosines) < 0)
  np.testing.assert_allclose(metrics["conflict_rate"], rate)


def test_one_backward_pass_gives_the_plain_mean_too():
  _, one, _ = one_step(contrast_of(), mitigator="mean", level="parameters")
  _, other, _ = one_step(contrast_of(), mitigator="mean", level="features")
  assert_close(one, other)


def test_features_are_mitigated_slice_by_slice():
  """Equals the cone of each slice, sent back in one pass, and the cosines of
  each slice."""
  contrast = contrast_of()
  before, applied, metrics = one_step(contrast, level="features")
  params, extra = before
  maps, back = jax.vjp(
    lambda encoder: maps_of(contrast, encoder, extra), params["encoder"]
  )
  heads = {"head": params["head"]}
  data = jax.tree.map(jnp.asarray, batch())
  of_maps = jax.jit(
    jax.jacrev(
      lambda m: branches.image_losses(contrast, m, heads, data, None, None)
    )
  )(maps)
  # What is 0 but for rounding, behind a dead head, has no direction.
  sizes = np.abs(of_maps).max(axis=(2, 3, 4), keepdims=True)
  of_maps = np.where(sizes > 1e-6 * sizes.max(), of_maps, 0)
  slices = [of_maps[:, i] for i in range(len(maps))]
  directions = jnp.stack([jax.jit(mitigation.cone)(one) for one in slices])
  assert_close(applied["encoder"], back(directions)[0], 1e-3)
  cosines = np.stack([jax.jit(mitigation.cosines)(one) for one in slices])
  found = metrics[f"cos/{LABELS[0]}|{LABELS[1]}"]
  np.testing.assert_allclose(found, cosines[:, 0, 1].mean(), atol=1e-4)
  upper = cosines[:, *np.triu_indices(3, 1)]
  np.testing.assert_allclose(
    metrics["conflict_rate"], (upper < 0).mean(), atol=1e-6
  )


def test_norm_comes_before_the_mitigator():
  _, gradients = reference()
  _, applied, _ = one_step(contrast_of(), mitigator="mean", norm=True)
  expected = mitigation.mean(mitigation.rescale(gradients["encoder"]))
  assert_close(applied["encoder"], expected, 1e-4)


def test_pixels_are_added_with_their_weight(monkeypatch):
  """With pairs chosen on fixed maps: a change of 1e-6 in the step's own turns
  some of them, which is not what is tested here."""
  select = branches.pixel_filter.select

  def on_fixed_maps(keys, head, maps, embeddings, *args, **settings):
    fixed = jax.random.normal(jax.random.key(5), maps.shape)
    other = jax.random.normal(jax.random.key(6), embeddings.shape)
    other /= jnp.linalg.norm(other, axis=-1, keepdims=True)
    return select(keys, head, fixed, other, *args, **settings)

  monkeypatch.setattr(branches.pixel_filter, "select", on_fixed_maps)
  _, of_images = reference()
  values, of_pixels = reference("F0", image=False)
  (params, _), applied, metrics = one_step(contrast_of(pixel="F0"))
  expected = jax.tree.map(
    lambda a, b: a + 0.5 * b,
    mitigation.cone(of_images["encoder"]),
    mitigation.cone(of_pixels["encoder"]),
  )
  assert_close(applied["encoder"], expected, 2e-3)
  pixel_head = mitigation.mean(of_pixels["pixel_head"])
  assert_close(
    applied["pixel_head"], jax.tree.map(lambda x: 0.5 * x, pixel_head), 1e-4
  )
  np.testing.assert_allclose(metrics["pixel_loss"], values.mean(), rtol=1e-4)
  assert params["pixel_head"]


def test_pixels_wait_for_their_start():
  late = contrast_of()._replace(pixels=Pixels("F0", 0.5, 1, negatives=(8, 4)))
  _, applied, metrics = one_step(late, mitigator="mean")
  _, gradients = reference()
  assert_close(applied["encoder"], mitigation.mean(gradients["encoder"]))
  assert metrics["pixel_loss"] > 0


def test_a_shared_head_is_one():
  (params, _), applied, _ = one_step(
    contrast_of(), shared=True, mitigator="mean"
  )
  assert set(params["head"]) == {branches.SHARED}
  values, gradients = slow(
    contrast_of(),
    params,
    {"batch_stats": one_step(contrast_of())[0][1]["batch_stats"]},
  )
  assert_close(applied, mitigation.mean(gradients))
  assert len(values) == 3


def test_without_labels_it_is_simclr():
  contrast = contrast_of(labels=())
  (params, extra), applied, metrics = one_step(contrast)
  values, gradients = slow(contrast, params, extra)
  assert_close(applied, jax.tree.map(lambda x: x[0], gradients))
  np.testing.assert_allclose(metrics["loss"], values[0], rtol=1e-5)
  assert "conflict_rate" not in metrics


@pytest.mark.parametrize("level", ["parameters", "features"])
@pytest.mark.parametrize(
  ("mode", "devices"), [("shard_map", 8), ("pmap", 2), ("shard_map", 2)]
)
def test_devices_change_nothing(mode, devices, level):
  settings = dict(mitigator="cone", level=level)
  _, one, said = one_step(contrast_of(), **settings)
  _, many, heard = one_step(contrast_of(), devices, mode, **settings)
  assert_close(many, one, 1e-3)
  for name in said:
    np.testing.assert_allclose(heard[name], said[name], atol=2e-3, err_msg=name)


def test_the_pace_goes_into_the_loss():
  """A bar so high that every pair counts fully changes nothing much; one so
  low that none does leaves the two views of a slice: SimCLR."""
  plain = one_step(contrast_of(), mitigator="mean")[2]
  high = one_step(contrast_of(), mitigator="mean", gamma=lambda step: 1e6)[2]
  low = one_step(contrast_of(), mitigator="mean", gamma=lambda step: 1e-6)[2]
  for text in LABELS:
    np.testing.assert_allclose(
      high[f"loss/{text}"], plain[f"loss/{text}"], rtol=1e-4
    )
  simclr_like = contrast_of()._replace(
    rules=tuple(rules.parse(text) for text in LABELS)
  )
  (params, extra), _, _ = one_step(simclr_like)
  for text in LABELS:
    alone = contrast_of(labels=())
    name = {"head": {branches.SHARED: params["head"][text]}}
    value = slow(alone, {"encoder": params["encoder"], **name}, extra)[0][0]
    np.testing.assert_allclose(low[f"loss/{text}"], value, rtol=1e-4)
