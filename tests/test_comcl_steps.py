"""Steps on windows: views, losses by loops, devices, queues, pace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax import augment
from gcl_jax.collectives import pmean
from gcl_jax.engine import parallel
from gcl_jax.engine.manifest import array_hashes
from gcl_jax.methods.comcl import arms, levels, pretrain, steps, windows
from gcl_jax.methods.comcl.config import get_config
from gcl_jax.models import heads
from gcl_jax.models.layers import Model
from gcl_jax.pipeline import monitors
from gcl_jax.pipeline.contrast import Networks

pytestmark = pytest.mark.compiles

SIZE, SIDE, REGION, ROWS = 24, 8, 16, 8
CROP = dict(crop_scale=(0.8, 1.0), mean=0.5, std=0.25)
VIEWS = windows.Views(SIDE, SIZE, CROP)
RATE = 0.003


def network() -> Model:
  """A linear map of centred pixels: the mean is over the whole batch."""

  def init(key, shape):
    size = int(np.prod(shape))
    weights = jax.random.normal(key, (size, 6)) / np.sqrt(size)
    return {
      "params": {"weights": weights},
      "batch_stats": {"mean": jnp.zeros(size)},
    }

  def apply(variables, images, *, train=False, axis_name=None):
    flat = images.reshape(len(images), -1)
    stats = variables["batch_stats"]
    if train:
      stats = {"mean": pmean(jnp.mean(flat, 0), axis_name)}
    features = (flat - stats["mean"]) @ variables["params"]["weights"]
    return jnp.tanh(features), stats

  return Model(init, apply, 6)


NETWORKS = Networks(network(), heads.projection(8, 5), optax.sgd(RATE))


def batch_of(names, rows=ROWS, seed=0):
  random, found = np.random.default_rng(seed), {}
  for name in names:
    first = random.uniform(0, 10, (rows, 2))
    box = np.concatenate([first, first + random.uniform(1, 5, (rows, 2))], 1)
    found[name] = {
      "image": random.integers(0, 255, (rows, REGION, REGION, 3), np.uint8),
      "box": np.float32(box),
      "corner": np.float32(random.integers(0, 8, (rows, 2))),
      "index": random.permutation(100)[:rows].astype(np.int32),
    }
  return found


def rules_of(loss="levels", first="high_low", **changes):
  settings = dict(steps=8, epoch=2, temperature=0.5, fewest=0.3) | changes
  return levels.Rules(levels.pairs_of(loss, first), **settings)


def made(kind, rules, networks=NETWORKS):
  """Step, first state (a function of a key) and names of the pools."""
  if kind == "simclr":
    step = steps.simclr_step(networks, VIEWS, 0.5)
    extra, names, queues = (
      {"rank": monitors.no_ranks({"window": 2})},
      ["window"],
      {},
    )
  else:
    counts = steps.views_of(rules.pairs)
    extra = {"pace": levels.pace(rules), "rank": monitors.no_ranks(counts)}
    names, queues = list(counts), {}
    step = steps.levels_step(networks, rules, VIEWS)
  if kind == "queue":
    queues = {negative: 12 for _, negative in rules.pairs}
    step = steps.queue_step(networks, rules, VIEWS, 0.9)
  init = pretrain.initial(networks, (SIDE, SIDE, 3), extra, queues)
  return step, init, names


def start(init, devices=1):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  return mesh, parallel.init_replicated(init, mesh, jax.random.key(0))


def several(kind, rules, count=1, devices=1, mode="jit"):
  """States before and after `count` steps, and the metrics of each."""
  step, init, names = made(kind, rules)
  mesh, state = start(init, devices)
  compiled = parallel.compile_step(step, mesh, mode)
  found = [(jax.device_get(without_key(state)), None)]
  for number in range(count):
    batch = parallel.put_batch(batch_of(names, seed=number), mesh, mode)
    state, metrics = compiled(state, batch)
    found.append(jax.device_get((without_key(state), metrics)))
  return found


def without_key(state):
  return {
    "step": state.step,
    "params": state.params,
    "extra": dict(state.extra),
  }


def embedded(before, batch, counts, params=None):
  """{pool: float64[B, V, D]} of a state's views, through its network."""
  step_state = begin_state(before)
  images = windows.batch_views(step_state, batch, counts, VIEWS)
  z, _ = steps._encode(
    NETWORKS,
    before["params"] if params is None else params,
    before["extra"]["batch_stats"],
    images,
    None,
  )
  found = windows.by_pool(z, batch, counts)
  return {name: np.asarray(each, np.float64) for name, each in found.items()}


def begin_state(before):
  """What `batch_views` reads of a state."""
  key = jax.random.split(jax.random.key(0), 3)[2]

  class Read:
    step = jnp.int32(before["step"])

  Read.key = key
  return Read


def slow(rules, step, q0, anchors, positives, negatives):
  """Loss of a pair, its share of anchors that count, its median: by loops."""
  size, losses = len(negatives), []
  count = int(np.floor(size * np.cos(np.pi * step / (2 * rules.steps)) + 1e-6))
  fewest = max(1, int(np.ceil(rules.fewest * size)))
  count = max(0 if rules.pacing == "literal" else fewest, count)
  for anchor, positive in zip(anchors, positives, strict=True):
    cosines = sorted((anchor @ other for other in negatives), reverse=True)
    if rules.hard_negatives == "topk":
      cosines = cosines[:count]
    right = np.exp(anchor @ positive / rules.temperature)
    wrong = sum(np.exp(cosine / rules.temperature) for cosine in cosines)
    losses.append(-np.log(right / (right + wrong)))
  threshold = np.inf
  if rules.pacing == "literal" and count:
    threshold = 1 / count
  if rules.pacing == "scaled" and step >= rules.epoch:
    threshold = q0 * size / count
  kept = [loss for loss in losses if loss <= threshold]
  value = sum(kept) / max(1, len(kept))
  return value, len(kept) / len(losses), np.median(losses)


# -- views ------------------------------------------------------------


def test_views_depend_on_their_row_alone_and_every_view_has_its_window():
  batch, counts = batch_of(["a", "b"]), {"a": 2, "b": 1}
  state = begin_state({"step": 3})
  draw = jax.jit(
    lambda batch: windows.by_pool(
      windows.batch_views(state, batch, counts, VIEWS), batch, counts
    )
  )
  found = draw(batch)
  assert found["a"].shape == (ROWS, 2, SIDE, SIDE, 3)
  assert found["b"].shape == (ROWS, 1, SIDE, SIDE, 3)
  apart = np.abs(found["a"][:, 0] - found["a"][:, 1]).max(axis=(1, 2, 3))
  assert apart.min() > 0
  order = np.random.default_rng(0).permutation(ROWS)
  again = draw(jax.tree.map(lambda x: x[order], batch))
  for name in counts:
    np.testing.assert_allclose(again[name], found[name][order], atol=1e-5)
  # One pool's row with the index of another's has views of its own.
  same = draw({"a": batch["a"], "b": batch["a"]})
  assert np.abs(same["b"][:, 0] - same["a"][:, 0]).max(axis=(1, 2, 3)).min() > 0
  # Windows, without the crop: each view cuts its own.
  keys = jax.random.split(jax.random.key(1), 2 * ROWS)
  each = [
    np.asarray(windows.views(part, batch["a"], VIEWS))
    for part in (keys[:ROWS], keys[ROWS:])
  ]
  assert np.mean(np.any(each[0] != each[1], axis=(1, 2, 3))) > 0.7


def test_views_are_degraded_as_parts_of_their_image(monkeypatch):
  seen = {}

  def degrade(keys, images, **options):
    seen.update(options, keys=keys)
    return images.astype(jnp.float32) * 0 + 7

  monkeypatch.setattr(windows.degradations, "degrade", degrade)
  pool = batch_of(["a"])["a"]
  keys = jax.random.split(jax.random.key(0), ROWS)
  options = VIEWS._replace(degrade=0.5, family="xray")
  assert np.all(windows.views(keys, pool, options) == 7)
  np.testing.assert_array_equal(seen["corner"], pool["corner"])
  assert seen["size"] == (SIZE, SIZE) and seen["family"] == "xray"
  assert seen["probability"] == 0.5 and len(seen["keys"]) == ROWS
  seen.clear()
  windows.views(keys, pool, VIEWS)
  assert not seen


# -- loss ------------------------------------------------------------


VARIANTS = {
  "scaled": dict(temperature=0.1),
  "literal": dict(pacing="literal"),
  "all": dict(pacing="off", hard_negatives="off"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_monitors_are_the_loops(variant):
  """Four steps: two of the first epoch, and two with a pace."""
  rules = rules_of(**VARIANTS[variant])
  counts = steps.views_of(rules.pairs)
  assert counts == {
    "lesion_high": 2,
    "lesion_low": 2,
    "healthy_high": 1,
    "healthy_low": 1,
  }
  states = several("levels", rules, 4)
  medians = {pair: [] for pair in rules.pairs}
  kept = []
  for number, (before, _) in enumerate(states[:-1]):
    after, metrics = states[number + 1]
    z = embedded(before, batch_of(counts, seed=number), counts)
    total = 0.0
    for pair in rules.pairs:
      anchor, negative = (z[name] for name in pair)
      value, share, median = slow(
        rules,
        number,
        np.mean(medians[pair]) if number else 0.0,
        anchor[:, 0],
        anchor[:, 1],
        negative[:, 0],
      )
      if number < rules.epoch:
        medians[pair].append(median)
      name = "|".join(pair)
      np.testing.assert_allclose(metrics[f"loss/{name}"], value, rtol=1e-4)
      np.testing.assert_allclose(metrics[f"kept/{name}"], share, rtol=1e-5)
      kept.append(share)
      total += value
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)
    q0 = after["extra"]["pace"]["medians"] / after["extra"]["pace"]["batches"]
    expected = [np.mean(medians[pair]) for pair in rules.pairs]
    np.testing.assert_allclose(q0, expected, rtol=1e-4)
    for name, each in z.items():
      variance = 1 - np.sum(each[:, 0].mean(axis=0) ** 2)
      found = metrics[f"variance/{name}"]
      np.testing.assert_allclose(found, variance, atol=1e-5)
      if not number:
        values = np.linalg.svd(each[:, 0], compute_uv=False)
        shares = values / values.sum()
        rank = np.exp(-np.sum(shares * np.log(shares)))
        np.testing.assert_allclose(metrics[f"rank/{name}"], rank, rtol=1e-4)
  counts_ = [float(metrics["negatives"]) for _, metrics in states[1:]]
  if variant == "all":
    assert counts_ == [ROWS] * 4 and set(kept) == {1.0}
  else:
    assert counts_ == [8, 7, 7, 6]
  if variant == "scaled":
    assert set(kept[:6]) == {1.0} and 0 < min(kept[6:]) < 1
  if variant == "literal":
    # Nobody is selected, and the network stays as it was.
    assert set(kept) == {0.0}
    jax.tree.map(
      np.testing.assert_array_equal,
      states[0][0]["params"],
      states[-1][0]["params"],
    )


def gradients(rules, step, before, vectors):
  """d loss_i / d anchors, and the loss's own gradient."""
  anchors, positives, negatives = vectors

  def value(anchors):
    return levels.contrast(
      rules, step, before, anchors, positives, negatives
    ).value

  return jax.value_and_grad(value)(anchors)


@pytest.fixture(scope="module")
def vectors():
  random = np.random.default_rng(2)

  def unit(rows):
    z = random.normal(size=(rows, 4))
    return np.float32(z / np.linalg.norm(z, axis=1, keepdims=True))

  names = ("lesion_high", "lesion_low", "healthy_high", "healthy_low")
  return tuple({name: unit(6) for name in names} for _ in range(3))


def test_anchors_of_a_level_are_no_negatives_of_one_another(vectors):
  rules = rules_of("lesions", pacing="off", hard_negatives="off")
  before = levels.pace(rules)
  anchors, positives, negatives = (
    dict(lesion=v["lesion_high"], healthy=v["healthy_high"]) for v in vectors
  )

  def value(rows, others):
    part = [dict(lesion=v["lesion"][rows]) for v in (anchors, positives)]
    found = levels.contrast(
      rules, 0, before, *part, dict(healthy=negatives["healthy"][others])
    )
    return float(found.value)

  every, alone = np.arange(6), [value([k], np.arange(6)) for k in range(6)]
  np.testing.assert_allclose(value(every, every), np.mean(alone), rtol=1e-6)
  for k in range(6):
    assert value([k], every[:5]) < alone[k]
  _, slopes = gradients(rules, 0, before, (anchors, positives, negatives))
  one = {name: each.copy() for name, each in anchors.items()}
  one["lesion"][3] = one["lesion"][3][::-1]
  _, moved = gradients(rules, 0, before, (one, positives, negatives))
  same = np.isclose(slopes["lesion"], moved["lesion"]).all(axis=1)
  np.testing.assert_array_equal(same, np.arange(6) != 3)


def test_negatives_run_out_as_published_or_stay(vectors):
  for pace, left in (("literal", 0), ("scaled", 2), ("off", 2)):
    rules = rules_of(pacing=pace)  # 30 % of 6
    found = levels.contrast(rules, rules.steps, levels.pace(rules), *vectors)
    assert found.metrics["negatives"] == left
    if pace == "literal":  # all anchors count then, with nothing to lose
      assert found.value == 0
      assert found.metrics["kept/lesion_high|lesion_low"] == 1


def test_anchors_left_out_get_no_gradient(vectors):
  rules = rules_of()
  q0 = 0.6 * np.ones(3, np.float32)
  before = {"medians": 2 * q0, "batches": np.float32(2)}
  anchors, positives, negatives = vectors
  _, slopes = gradients(rules, 3, before, vectors)
  size, left_out = 6, 0
  count = int(np.floor(size * np.cos(np.pi * 3 / 16)))
  touched = {name: np.zeros(6, bool) for name in anchors}
  for anchor, negative in rules.pairs:
    for k in range(6):
      cosines = np.sort(negatives[negative] @ anchors[anchor][k])[-count:]
      right = anchors[anchor][k] @ positives[anchor][k]
      loss = np.log1p(np.sum(np.exp((cosines - right) / 0.5)))
      touched[anchor][k] |= loss <= 0.6 * size / count
  for name in ("lesion_high", "lesion_low"):
    found = np.any(slopes[name] != 0, axis=1)
    np.testing.assert_array_equal(found, touched[name])
    left_out += np.sum(~found)
  assert 0 < left_out < 12


# -- devices ------------------------------------------------------------


@functools.cache
def alone(kind):
  return several(kind, RULES[kind], 3)[-1]


RULES = {
  "levels": rules_of(temperature=0.1),
  "queue": rules_of(first="low_high", hard_negatives="hcl"),
  "simclr": None,
}


@pytest.mark.parametrize(
  ("kind", "mode"),
  [
    ("levels", "shard_map"),
    ("levels", "pmap"),
    ("queue", "shard_map"),
    ("queue", "pmap"),
    ("simclr", "shard_map"),
  ],
)
def test_four_devices_equal_one(kind, mode):
  expected = alone(kind)
  if kind == "levels":
    assert 0 < expected[1]["kept/lesion_low|healthy_low"] < 1
  found = several(kind, RULES[kind], 3, 4, mode)[-1]
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
    found,
    expected,
  )


def test_simclr_takes_each_window_apart_from_all_others():
  (before, _), (_, metrics) = several("simclr", None)
  batch = batch_of(["window"])
  z = embedded(before, batch, {"window": 2})["window"].reshape(-1, 5)
  logits, losses = z @ z.T / 0.5, []
  for k in range(len(z)):
    others = [a for a in range(len(z)) if a != k]
    losses.append(np.log(np.sum(np.exp(logits[k, others]))) - logits[k, k ^ 1])
  np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)


# -- queues ------------------------------------------------------------


def test_queue_holds_healthy_keys_alone_and_evaluation_changes_nothing():
  """The authors' code filled its queue with lesions while it evaluated."""
  config = get_config("tiny")
  section, _ = arms.settings_of(config, "authors_code")
  rules = pretrain.rules_of(section, pretrain.Plan(1, 3))
  assert rules.pairs == (("lesion", "healthy"),)
  step, init, names = made("queue", rules)
  assert names == ["lesion", "healthy"]
  mesh, state = start(init)
  first, queue = without_key(jax.device_get(state)), None
  compiled = parallel.compile_step(step, mesh, "jit")
  slow = first["params"]  # the momentum encoder begins as the encoder
  for number in range(3):
    before = without_key(jax.device_get(state))
    queue = dict(before["extra"]["queue"])
    batch = batch_of(names, seed=number)
    state, metrics = compiled(state, parallel.put_batch(batch, mesh, "jit"))
    after = jax.device_get(state.extra)
    slow = jax.tree.map(
      lambda old, new: 0.9 * old + 0.1 * new, slow, before["params"]
    )
    # Keys of both pools pass the momentum encoder in one call.
    images = windows.by_pool(
      windows.batch_views(
        begin_state(before), batch, {"lesion": 2, "healthy": 1}, VIEWS
      ),
      batch,
      {"lesion": 2, "healthy": 1},
    )
    images = jnp.concatenate([images[name][:, -1] for name in names])
    keys, _ = steps._encode(NETWORKS, slow, None, images, None)
    pushed = np.concatenate([keys[ROWS:], queue["healthy"]])[:12]
    assert after["queue"].keys() == {"healthy"}
    np.testing.assert_allclose(after["queue"]["healthy"], pushed, atol=1e-5)
    # The loss is against the queue from before this step.
    query = windows.by_pool(
      windows.batch_views(
        begin_state(before), batch, {"lesion": 2, "healthy": 1}, VIEWS
      ),
      batch,
      {"lesion": 2, "healthy": 1},
    )["lesion"][:, 0]
    z, _ = steps._encode(NETWORKS, before["params"], None, query, None)
    right = np.sum(z * keys[:ROWS], axis=1) / section.temperature
    wrong = np.asarray(z @ queue["healthy"].T) / section.temperature
    losses = np.log1p(np.exp(wrong - np.asarray(right)[:, None]).sum(axis=1))
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-3)
    assert metrics["negatives"] == 12 and metrics["kept/lesion|healthy"] == 1
  hashes = array_hashes(without_key(jax.device_get(state)))
  lesions = np.float32(batch["lesion"]["image"][:, :SIDE, :SIDE])
  NETWORKS.encoder.apply(
    {
      "params": state.params["encoder"],
      "batch_stats": state.extra["batch_stats"],
    },
    augment.normalise(lesions, 0.5, 0.25),
    train=False,
  )
  assert array_hashes(without_key(jax.device_get(state))) == hashes
