"""A step gives the same results in every parallel mode."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gcl_jax.collectives import pmean
from gcl_jax.engine import cluster, compile_ahead, distributed, parallel, state
from gcl_jax.errors import ConfigError

pytestmark = pytest.mark.compiles

ROWS, WIDTH, STEPS = 16, 5, 4
OPTIMIZER = optax.adamw(0.05)
TEMPERATURE = 0.5


def init(key):
  params = {"kernel": jax.random.normal(key, (WIDTH, 3))}
  return state.create(params, OPTIMIZER, key, {"mean": jnp.zeros(WIDTH)})


def gather(x, axis_name):
  return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def contrastive_loss(params, images, labels, axis_name):
  """SupCon of the local anchors against the whole batch."""
  features = images @ params["kernel"]
  features /= jnp.linalg.norm(features, axis=1, keepdims=True)
  others, classes = gather(features, axis_name), gather(labels, axis_name)
  first = 0 if axis_name is None else lax.axis_index(axis_name) * len(labels)
  itself = jnp.arange(len(classes)) == first + jnp.arange(len(labels))[:, None]
  logits = jnp.where(itself, -1e9, features @ others.T / TEMPERATURE)
  log_prob = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
  positive = (labels[:, None] == classes) & ~itself
  count = jnp.maximum(positive.sum(1), 1)
  return -((log_prob * positive).sum(1) / count).mean()


def step(current, batch, *, axis_name):
  key = jax.random.fold_in(current.key, current.step)
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["index"])
  noise = jax.vmap(lambda k: jax.random.normal(k, (WIDTH,)))(keys)
  images = batch["image"] + 0.1 * noise
  value_and_grad = jax.value_and_grad(contrastive_loss)
  loss, gradients = value_and_grad(
    current.params, images, batch["label"], axis_name
  )
  mean = images.mean(0)
  loss, gradients, mean = pmean((loss, gradients, mean), axis_name)
  following = state.update(current, gradients, OPTIMIZER, {"mean": mean})
  return following, {"loss": loss, "norm": optax.tree.norm(gradients)}


def batch_at(number):
  rng = np.random.default_rng(number)
  return {
    "image": rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
    "label": rng.integers(0, 4, ROWS).astype(np.int32),
    "index": np.arange(ROWS) + ROWS * number,
  }


def run(mode, devices):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  current = parallel.init_replicated(init, mesh, jax.random.key(3))
  compiled = parallel.compile_step(step, mesh, mode)
  metrics = []
  for number in range(STEPS):
    batch = parallel.put_batch(batch_at(number), mesh, mode)
    current, measured = compiled(current, batch)
    metrics.append(jax.device_get(measured))
  return jax.device_get((current.params, current.extra, metrics))


def run_vmap(shards=8):
  """Runs the mapped form on one device by a named vmap."""
  mapped = jax.vmap(
    functools.partial(step, axis_name=parallel.AXIS),
    in_axes=(None, 0),
    out_axes=(0, 0),
    axis_name=parallel.AXIS,
  )
  current, metrics = init(jax.random.key(3)), []
  for number in range(STEPS):
    batch = jax.tree.map(
      lambda x: x.reshape((shards, -1) + x.shape[1:]), batch_at(number)
    )
    current, measured = jax.tree.map(lambda x: x[0], mapped(current, batch))
    metrics.append(jax.device_get(measured))
  return jax.device_get((current.params, current.extra, metrics))


@functools.cache
def reference():
  """The whole batch on one device, no collectives anywhere."""
  return run("jit", 1)


def largest_difference(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return max(np.abs(np.subtract(a, b)).max() for a, b in pairs)


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("mode", parallel.MODES)
def test_modes_agree(mode, devices):
  assert largest_difference(reference(), run(mode, devices)) < 2e-6


def test_named_vmap_agrees():
  assert largest_difference(reference(), run_vmap()) < 2e-6


def test_loss_is_the_double_loop():
  """The toy loss itself, against numpy in float64."""
  batch = batch_at(0)
  kernel = np.asarray(init(jax.random.key(3)).params["kernel"], np.float64)
  features = batch["image"].astype(np.float64) @ kernel
  features /= np.linalg.norm(features, axis=1, keepdims=True)
  total = 0.0
  for i in range(ROWS):
    others = [j for j in range(ROWS) if j != i]
    logits = {j: features[i] @ features[j] / TEMPERATURE for j in others}
    log_sum = np.log(sum(np.exp(v) for v in logits.values()))
    same = [j for j in others if batch["label"][j] == batch["label"][i]]
    if same:
      total -= np.mean([logits[j] - log_sum for j in same])
  found = contrastive_loss(
    {"kernel": jnp.asarray(kernel, jnp.float32)},
    batch["image"],
    batch["label"],
    None,
  )
  assert abs(float(found) - total / ROWS) < 1e-5


@pytest.mark.parametrize("mode", parallel.MODES)
def test_state_is_donated_and_keeps_its_shapes(mode):
  mesh = parallel.make_mesh()
  current = parallel.init_replicated(init, mesh, jax.random.key(0))
  batch = parallel.put_batch(batch_at(0), mesh, mode)
  shapes = jax.tree.map(jnp.shape, current)
  compiled = parallel.compile_step(step, mesh, mode)
  memory = compiled.lower(current, batch).compile().memory_analysis()
  following, _ = compiled(current, batch)
  assert jax.tree.map(jnp.shape, following) == shapes
  changed = (current.params, current.opt_state)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(changed))
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(changed))
  assert memory.alias_size_in_bytes >= size


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_collectives_of_the_step(mode):
  """Two gathers (features, labels) and nothing that talks to the host."""
  mesh = parallel.make_mesh()
  current = parallel.init_replicated(init, mesh, jax.random.key(0))
  batch = parallel.put_batch(batch_at(0), mesh, mode)
  text = parallel.compile_step(step, mesh, mode).lower(current, batch).as_text()
  assert len(re.findall(r"stablehlo\.all_gather", text)) == 2
  assert not re.search("callback|infeed|outfeed", text)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_the_step_needs_no_hidden_copies(mode):
  mesh = parallel.make_mesh()
  current = parallel.init_replicated(init, mesh, jax.random.key(0))
  compiled = parallel.compile_step(step, mesh, mode)
  batch = parallel.put_batch(batch_at(0), mesh, mode)
  compiled = compiled.lower(current, batch).compile()
  with jax.transfer_guard("disallow"):
    current, _ = compiled(current, batch)
    current, _ = compiled(current, parallel.put_batch(batch_at(1), mesh, mode))
  assert int(current.step) == 2


def test_replicate_copies_what_is_shared_or_not_ours():
  mesh = parallel.make_mesh()
  best = jnp.arange(3.0)
  copy = parallel.replicate({"params": best, "best": best}, mesh)
  double = jax.jit(lambda t: jax.tree.map(lambda x: 2 * x, t), donate_argnums=0)
  doubled = double(copy)
  np.testing.assert_array_equal(doubled["best"], [0, 2, 4])
  np.testing.assert_array_equal(best, [0, 1, 2])  # the original lives
  assert copy["best"].is_deleted()
  assert doubled["params"].sharding.is_equivalent_to(
    NamedSharding(mesh, PartitionSpec()), 1
  )


class Chip:
  """Stand-in for an absent device, with JAX's attributes."""

  def __init__(self, number, process, slice_index, platform="tpu"):
    self.id, self.process_index = number, process
    self.slice_index, self.platform = slice_index, platform
    self.device_kind = "TPU v5 lite" if platform == "tpu" else "NVIDIA H100"
    self.client = None


def owners(mesh):
  return [device.process_index for device in mesh.devices.flat]


def torus(side):
  """Chips of a v5e slice, four neighbours a host, along the rows of a torus."""
  hosts = side // 2
  return [
    Chip(side * y + x, hosts * (y // 2) + x // 2, 0)
    for y in range(side)
    for x in range(side)
  ]


@pytest.mark.parametrize("side", [4, 8, 16])
def test_a_mesh_keeps_the_chips_of_a_host_together(side):
  chips = torus(side)
  along_the_torus = [chip.process_index for chip in chips]
  found = owners(parallel.make_mesh(chips))
  assert found == sorted(along_the_torus) != along_the_torus


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_devices_of_several_slices_make_a_mesh(platform):
  """XLA gives every GPU host a slice_index of its own."""
  chips = [Chip(n, n // 8, n // 8, platform) for n in range(16)]
  mesh = parallel.make_mesh(chips[::-1])
  assert owners(mesh) == [0] * 8 + [1] * 8
  assert mesh.axis_names == (parallel.AXIS,)
  assert mesh.axis_types == (AxisType.Auto,)
  assert [device.id for device in mesh.devices.flat] == list(range(16))


def test_unequal_numbers_of_devices_are_refused():
  chips = [Chip(n, n // 3, 0) for n in range(8)]
  with pytest.raises(ConfigError, match="process 0: 3, process 1: 3, proces"):
    parallel.make_mesh(chips)


@pytest.mark.skipif(
  not importlib.util.find_spec("libtpu"), reason="needs the extra tpu"
)
@pytest.mark.parametrize(
  ("name", "slices"),
  [("v5e:4x4", 1), ("v5e:8x8", 1), ("v5p:2x2x2", 1), ("v5e:4x4", 2)],
)
def test_the_mesh_of_a_real_topology_is_in_process_order(name, slices):
  script = """
import sys
from jax.experimental import topologies
from gcl_jax.engine import parallel
name, slices = sys.argv[1], int(sys.argv[2])
found = topologies.get_topology_desc(name, "tpu", num_slices=slices)
print([d.process_index for d in parallel.make_mesh(found.devices).devices])
"""
  done = subprocess.run(
    [sys.executable, "-c", script, name, str(slices)],
    env=os.environ | compile_ahead.HOST | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found == sorted(found) and len(set(found)) > 1


def test_a_batch_that_cannot_be_shared_is_refused():
  mesh = parallel.make_mesh()
  with pytest.raises(ConfigError, match=r"\(10, 2\).*8 devices"):
    parallel.put_batch({"image": np.zeros((10, 2))}, mesh)
  with pytest.raises(ConfigError, match="unknown parallel mode 'pmpa'"):
    parallel.compile_step(step, mesh, "pmpa")


def test_the_largest_batch_the_devices_can_share():
  mesh = parallel.make_mesh()
  assert [parallel.divisible(n, mesh) for n in (8, 15, 16)] == [8, 8, 16]
  with pytest.raises(ConfigError, match="7 rows cannot be shared by 8 devices"):
    parallel.divisible(7, mesh)


def test_devices_for_a_cpu(monkeypatch):
  assert distributed.usable_devices([32, 24], 6) == 4
  assert distributed.usable_devices([7], 4) == 1
  monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
  assert distributed.cpu_devices() == 4
  monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 5})
  assert distributed.cpu_devices() == 2


def test_half_told_processes_are_refused(monkeypatch):
  cluster.join(cluster.find())  # alone: nothing happens
  assert distributed.is_main() and jax.process_count() == 1
  monkeypatch.setenv("GCL_NUM_PROCESSES", "2")
  with pytest.raises(ConfigError, match="GCL_COORDINATOR, GCL_PROCESS_ID not"):
    cluster.find()
  monkeypatch.setenv("GCL_COORDINATOR", "localhost:1")
  monkeypatch.setenv("GCL_PROCESS_ID", "2")
  with pytest.raises(ConfigError, match="is 2 of GCL_NUM_PROCESSES 2"):
    cluster.find()


def test_programs_are_kept_where_that_works(monkeypatch, tmp_path):
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  try:
    distributed.keep_programs(tmp_path / "a")
    assert jax.config.jax_compilation_cache_dir is None  # a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    distributed.keep_programs(tmp_path / "a")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a")
    distributed.keep_programs(tmp_path / "b")  # somebody chose already
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a")
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
