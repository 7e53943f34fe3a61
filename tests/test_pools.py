"""Batches of several pools, from the arrays to the parameters."""

import doctest
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pool_cases
import pytest

from gcl_jax.engine import compile_ahead, feed, parallel, pools, train
from gcl_jax.engine.checkpoint import Checkpoints
from gcl_jax.engine.telemetry import Telemetry, count_rows
from gcl_jax.errors import ConfigError, DataError, NonFiniteError
from gcl_jax.pipeline import sampling

pytestmark = pytest.mark.compiles

ARRAYS, ROWS_AT, SIZES = (
  pool_cases.ARRAYS,
  pool_cases.ROWS_AT,
  pool_cases.SIZES,
)
IDS = {name: np.array([f"{name} {row}" for row in range(40)]) for name in SIZES}


def mesh_of(devices):
  return parallel.make_mesh(jax.devices()[:devices])


@functools.cache
def whole_fit():
  """On one device, where no row is anywhere else."""
  return pool_cases.fit(mesh_of(1), mode="jit")


@pytest.mark.parametrize("module", [feed, pools, sampling, train])
def test_the_examples_of_the_docstrings(module):
  assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_and_values_of_every_pool(tmp_path, workers):
  """Memory maps travel to workers by name; a resume goes on the same."""
  np.save(tmp_path / "negative.npy", ARRAYS["negative"]["image"])
  mapped = np.load(tmp_path / "negative.npy", mmap_mode="r")
  arrays = ARRAYS | {"negative": {"image": mapped}}
  settings = {"start": 1, "steps": 3, "workers": workers}
  found = list(feed.batches_from(arrays, ROWS_AT, **settings))
  assert len(found) == 2
  for number, batch in enumerate(found, 1):
    expected = {
      name: {"index": rows}
      | {key: values[rows] for key, values in ARRAYS[name].items()}
      for name, rows in ROWS_AT(number).items()
    }
    chex.assert_trees_all_equal(batch, expected)
    assert {b["index"].dtype for b in batch.values()} == {np.dtype(np.int64)}
    assert count_rows(batch) == 20


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_pool(processes, monkeypatch):
  """Each holds an equal part of both; together they hold all, in order."""
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  parts = []
  for number in range(processes):
    monkeypatch.setattr(jax, "process_index", lambda number=number: number)
    parts.append(list(pool_cases.stream(0)))
  assert count_rows(parts[0][0]) == 20
  for number, shares in enumerate(zip(*parts, strict=True)):
    for name, rows in ROWS_AT(number).items():
      own = [share[name]["index"] for share in shares]
      assert {len(x) for x in own} == {SIZES[name] // processes}
      np.testing.assert_array_equal(np.concatenate(own), rows)


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_every_pool(mode, devices):
  mesh = mesh_of(devices)
  (host,) = pool_cases.stream(0, steps=1)
  batch = parallel.put_batch(host, mesh, mode)
  for name, rows in ROWS_AT(0).items():
    shares = np.split(rows, devices)
    for key, placed in batch[name].items():
      held = {s.device: np.asarray(s.data) for s in placed.addressable_shards}
      for device, share in zip(mesh.devices.flat, shares, strict=True):
        expected = share if key == "index" else ARRAYS[name][key][share]
        found = held[device].reshape(expected.shape)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_same_parameters_on_any_devices(mode, devices):
  found = pool_cases.fit(mesh_of(devices), mode=mode)
  assert int(found.step) == pool_cases.STEPS
  chex.assert_trees_all_close(found.params, whole_fit().params, atol=1e-6)


def test_the_loss_against_a_double_loop():
  state = pool_cases.init(jax.random.key(3))
  (host,) = pool_cases.stream(0, steps=1)
  _, metrics = pool_cases.step(state, host, axis_name=None)
  expected = pool_cases.loss_by_loops(state.params, ROWS_AT(0))
  assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("together", [1, 3])
def test_resume_is_exact(tmp_path, together):
  settings = {"mesh": mesh_of(2), "steps_per_dispatch": together}
  first = Checkpoints(tmp_path)
  pool_cases.fit(steps=3, checkpoints=first, **settings)
  first.close()
  again = Checkpoints(tmp_path)
  found = pool_cases.fit(steps=6, checkpoints=again, batches=six, **settings)
  whole = pool_cases.fit(steps=6, batches=six, **settings)
  chex.assert_trees_all_equal(found.params, whole.params)
  chex.assert_trees_all_equal(found.opt_state, whole.opt_state)


def six(start):
  return pool_cases.stream(start, steps=6)


def poisoned(start):
  """Batches of which the second has a negative that is not finite."""
  for number, batch in enumerate(pool_cases.stream(start), start + 1):
    if number == 2:
      batch["negative"]["image"][5] = np.nan
    yield batch


def skipped(tmp_path, ids, mode="shard_map", **settings):
  telemetry = Telemetry(tmp_path, "toy")
  pool_cases.fit(
    mesh_of(2),
    poisoned,
    mode=mode,
    ids=ids,
    telemetry=telemetry,
    **settings,
  )
  telemetry.close()
  record = telemetry.throughput["train"]
  assert record["skipped"] == 1
  assert record["images_per_s"] * record["seconds"] == pytest.approx(80)
  (line,) = (tmp_path / "skipped.jsonl").read_text().splitlines()
  return json.loads(line)


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("together", [1, 3])
def test_skipped_images_of_both_pools_are_listed(tmp_path, mode, together):
  record = skipped(tmp_path, IDS, mode, steps_per_dispatch=together)
  assert record["step"] == 2
  assert record["images"] == {
    name: IDS[name][rows].tolist() for name, rows in ROWS_AT(1).items()
  }


def test_ids_of_all_pools_or_of_one(tmp_path):
  rows = {name: own.tolist() for name, own in ROWS_AT(1).items()}
  shared = IDS["anchor"]
  assert skipped(tmp_path / "shared", shared)["images"] == {
    name: shared[own].tolist() for name, own in rows.items()
  }
  assert skipped(tmp_path / "none", None)["images"] == rows
  one = {"negative": IDS["negative"]}
  assert skipped(tmp_path / "one", one)["images"] == {
    "anchor": rows["anchor"],
    "negative": IDS["negative"][rows["negative"]].tolist(),
  }


def test_a_pool_without_rows_is_left_out_of_the_list(tmp_path):
  def batches(start):
    for batch in poisoned(start):
      del batch["anchor"]["index"]
      yield batch

  telemetry = Telemetry(tmp_path, "toy")
  with pytest.raises(NonFiniteError):
    pool_cases.fit(mesh_of(1), batches, telemetry=telemetry, max_skipped=1)
  record = json.loads((tmp_path / "skipped.jsonl").read_text())
  assert record["images"] == {"negative": ROWS_AT(1)["negative"].tolist()}


def test_shapes_and_programs_compiled_ahead():
  """What `batch_of` describes is what arrives."""
  batch = shapes(**SIZES)
  (host,) = pool_cases.stream(0, steps=1)
  placed = parallel.put_batch(host, mesh_of(2))
  chex.assert_trees_all_equal_shapes_and_dtypes(batch, placed)
  found = compile_ahead.compile_program(program(batch), mesh_of(4))
  assert found["collectives"]["all_gather"] == 1
  for sizes, name in (((8, 6), "negative"), ((6, 8), "anchor")):
    batch = shapes(**dict(zip(SIZES, sizes, strict=True)))
    with pytest.raises(
      ConfigError, match=f"^toy: a batch of 6 .* 4 devices.*pool '{name}'"
    ):
      compile_ahead.compile_program(program(batch), mesh_of(4))


def shapes(anchor, negative):
  return {
    "anchor": train.batch_of(
      anchor, image=(jnp.float32, 6), view=(jnp.float32, 6)
    ),
    "negative": train.batch_of(negative, image=(jnp.float32, 4, 2)),
  }


def program(batch):
  training = train.Training(pool_cases.step, pool_cases.init, batch)
  return compile_ahead.step_of("toy", training)


def test_a_pool_that_cannot_be_shared_is_named(monkeypatch):
  (host,) = pool_cases.stream(0, steps=1)
  with pytest.raises(ConfigError, match=r"\(12,\).* 8 devices.*'negative'"):
    parallel.put_batch(
      {n: {"index": host[n]["index"]} for n in host}, mesh_of(8)
    )
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  with pytest.raises(ConfigError, match="of 8 .* 3 processes.*'anchor'"):
    next(pool_cases.stream(0))


def test_arrays_that_do_not_fit_are_refused():
  uneven = {"image": range(5), "label": range(4)}
  with pytest.raises(DataError, match="'image': 5, 'label': 4.*'negative'"):
    feed.batches_from(ARRAYS | {"negative": uneven}, ROWS_AT, steps=1)
  with pytest.raises(ValueError, match="'anchor' is a dict where an array"):
    feed.batches_from(ARRAYS | {"image": range(4)}, ROWS_AT, steps=1)
  with pytest.raises(ValueError, match="'anchor' is a dict.*takes one pool"):
    feed.batches(ARRAYS, 2, seed=0, steps=1)
  rows = {"anchor": [0], "negatives": [1]}
  for other, found in ((rows, r"\['anchor', 'negatives'\]"), ([0], "list")):
    with pytest.raises(ValueError, match=rf"'negative'\] is needed.*{found}"):
      next(feed.batches_from(ARRAYS, lambda step, o=other: o, steps=1))
