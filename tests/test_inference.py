"""A pass over the data gives every row its own value, whatever the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.engine import inference, parallel
from gcl_jax.engine.telemetry import Telemetry
from gcl_jax.errors import DataError

pytestmark = pytest.mark.compiles

LENGTH = 13
IMAGES = np.random.default_rng(0).integers(0, 256, (LENGTH, 4, 3), np.uint8)
WEIGHTS = np.linspace(-1, 1, 3, dtype=np.float32)


def one_score(weights, image):
  return jnp.sin(image.astype(jnp.float32) @ weights).sum()


def function(weights, batch):
  """Micro-batched, as the real scores are: two rows at a time."""
  score = jax.lax.map(
    lambda image: one_score(weights, image), batch["image"], batch_size=2
  )
  return {"score": score, "row": (batch["index"], batch["image"][:, 0])}


def expected_scores():
  values = IMAGES.astype(np.float64) @ WEIGHTS.astype(np.float64)
  return np.sin(values).sum(1)


def run(batch_size, devices=8, mode="shard_map", images=IMAGES, **settings):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  return inference.map_examples(
    function,
    WEIGHTS,
    {"image": images},
    mesh=mesh,
    mode=mode,
    batch_size=batch_size,
    **settings,
  )


@pytest.mark.parametrize(
  ("batch_size", "devices", "mode"),
  [
    (13, 1, "shard_map"),
    (4, 1, "pmap"),
    (1, 1, "jit"),
    (4, 2, "shard_map"),
    (6, 2, "pmap"),
    (5, 8, "shard_map"),
    (8, 8, "pmap"),
    (100, 8, "jit"),
  ],
)
def test_results_do_not_depend_on_batches_or_devices(batch_size, devices, mode):
  found = run(batch_size, devices, mode)
  np.testing.assert_allclose(found["score"], expected_scores(), atol=2e-4)
  np.testing.assert_array_equal(found["row"][0], np.arange(LENGTH))
  np.testing.assert_array_equal(found["row"][1], IMAGES[:, 0])
  reference = run(2, 1)
  np.testing.assert_allclose(
    found["score"], reference["score"], rtol=0, atol=1e-5
  )


def test_a_memory_map_is_swept(tmp_path):
  np.save(tmp_path / "images.npy", IMAGES)
  images = np.load(tmp_path / "images.npy", mmap_mode="r")
  found = run(8, images=images)
  np.testing.assert_array_equal(found["row"][1], IMAGES[:, 0])


@pytest.mark.parametrize("mode", parallel.MODES)
def test_no_collectives_and_an_equal_share_for_each_device(mode):
  mesh = parallel.make_mesh()
  batch = {"image": IMAGES[:8], "index": np.arange(8)}
  batch = parallel.put_batch(batch, mesh, mode)
  weights = parallel.replicate(WEIGHTS, mesh)
  lowered = parallel.compile_map(function, mesh, mode).lower(weights, batch)
  for text in (lowered.as_text(), lowered.compile().as_text()):
    for name in ("all_gather", "all_reduce", "reduce_scatter", "permute"):
      assert name not in text and name.replace("_", "-") not in text


def test_compiled_once_and_measured():
  traces = []

  def counted(weights, batch):
    traces.append(batch["image"].shape)
    return batch["image"].astype(jnp.float32).mean((1, 2))

  telemetry = Telemetry()
  mesh = parallel.make_mesh(jax.devices()[:2])
  inference.map_examples(
    counted,
    WEIGHTS,
    {"image": IMAGES},
    mesh=mesh,
    batch_size=4,
    name="score",
    telemetry=telemetry,
  )
  assert traces == [(2, 4, 3)]
  record = telemetry.throughput["score"]
  assert record["steps"] == 4 and record["images_per_s"] > 0
  assert 0 <= record["data_wait"] <= 1 and record["compile_s"] > 0
  assert record["mfu"] is None and record["peak_kind"] == "process"
  assert record["peak_bytes"] > 1e6


def test_bad_arrays_and_functions_are_refused():
  mesh = parallel.make_mesh(jax.devices()[:1])
  settings = {"mesh": mesh, "batch_size": 4}
  with pytest.raises(DataError, match="'image': 13, 'label': 2"):
    arrays = {"image": IMAGES, "label": np.zeros(2)}
    inference.map_examples(function, WEIGHTS, arrays, **settings)
  with pytest.raises(DataError, match="'image': 0"):
    inference.map_examples(function, WEIGHTS, {"image": IMAGES[:0]}, **settings)
  with pytest.raises(ValueError, match=r"one row per row.*\(1,\) for 4 rows"):
    inference.map_examples(
      lambda tree, batch: batch["image"].mean((1, 2))[:1],
      WEIGHTS,
      {"image": IMAGES},
      **settings,
    )
