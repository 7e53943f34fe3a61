"""Stage quality: who is degraded, what is written, and what is refused."""

import hashlib

import comcl_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.augment import degradations
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.methods.comcl import quality
from gcl_jax.pipeline.prepared import Prepared

pytestmark = pytest.mark.compiles

COUNT, TRAIN, SIZE = 36, 24, 32


def context_of(workdir, native=None, **settings):
  """The context of the stage, of 24 training images and 12 for evaluation."""
  config = comcl_cases.config_of(SIZE)
  config.update_from_flattened_dict({"quality.train_share": 0.5} | settings)
  pixels, _ = comcl_cases.images_of(COUNT, SIZE)
  columns = {"grade": np.arange(COUNT) % 3.0}
  if native is not None:
    columns["quality"] = native
  data = comcl_cases.dataset_of(pixels, None, **columns)
  part = np.where(np.arange(COUNT) < TRAIN, "train", "eval")
  if not (workdir / "data").exists():
    comcl_cases.prepare_stage(workdir, config, "data", data, part)
  context = comcl_cases.context_of(workdir, config, ("data",), "quality")
  context.folder.mkdir(exist_ok=True)
  return context


def done(context) -> tuple[dict, quality.Quality]:
  """The artifact, and what later stages open."""
  found = quality.run(context)
  comcl_cases.finish(context.workdir, "quality", found)
  inputs = ("data", "quality")
  later = comcl_cases.context_of(
    context.workdir, context.config, inputs, "patches"
  )
  return found, quality.Quality(later)


def test_all_are_degraded_and_half_of_the_training_images_are_low(tmp_path):
  context = context_of(tmp_path, **{"seed": 5, "quality.seed": 2})
  found, both = done(context)
  assert not found["native"].any()
  assert found["low"][:TRAIN].sum() == 12
  np.testing.assert_array_equal(found["order"][:TRAIN], 2)
  draws = []
  for name in Prepared(context).ids[TRAIN:]:
    digest = hashlib.sha256(f"2:{name}".encode()).digest()
    draws.append(int.from_bytes(digest[:7], "little"))
  rank = np.argsort(np.argsort(draws))
  np.testing.assert_allclose(found["order"][TRAIN:], (rank + 0.5) / 12)
  np.testing.assert_array_equal(found["low"][TRAIN:], rank < 4)
  for share, count in ((0.33, 4), (0.7, 8), (1.0, 12)):
    here = both.condition(share)
    assert not here[:TRAIN].any()
    np.testing.assert_array_equal(here[TRAIN:], rank < count)
  for row in range(COUNT):
    low = found["low"][row]
    wanted = (both.degraded if low else both.clean)[row]
    np.testing.assert_array_equal(both.seen[row], wanted)


def test_each_image_is_degraded_by_its_id_and_the_seed_alone(tmp_path):
  context = context_of(tmp_path, **{"quality.seed": 2})
  _, both = done(context)
  for row, name in enumerate(Prepared(context).ids[:5]):
    start = hashlib.sha256(str(name).encode()).digest()[:4]
    code = jnp.uint32(int.from_bytes(start, "little"))
    key = jax.random.fold_in(jax.random.key(2), code)
    one = degradations.degrade(key[None], both.clean[row : row + 1])[0]
    gap = np.abs(np.asarray(one) - both.degraded[row])
    assert gap.max() <= 0.51
  changed = np.any(both.degraded != both.clean, axis=(1, 2, 3))
  assert changed.mean() > 0.7  # a weak blur changes nothing at 32 pixels


def test_images_low_by_the_table_stay_as_they_are_in_every_condition(tmp_path):
  native = np.where(np.arange(COUNT) % 4 == 1, 2.0, 0.0)
  native[2] = np.nan
  found, both = done(context_of(tmp_path, native))
  of_table = np.arange(COUNT) % 4 == 1
  np.testing.assert_array_equal(found["native"], of_table)
  # With low training images in the table, no other one is degraded.
  np.testing.assert_array_equal(found["low"][:TRAIN], of_table[:TRAIN])
  np.testing.assert_array_equal(both.clean[of_table], both.degraded[of_table])
  others = (both.clean[~of_table] != both.degraded[~of_table]).any((1, 2, 3))
  assert others.mean() > 0.7
  held = np.arange(COUNT) >= TRAIN
  for share, count in ((0.1, 3), (0.33, 4), (1.0, 12)):
    here = both.condition(share)
    assert here.sum() == count and not here[~held].any()
    assert here[held & of_table].all()


def test_a_damaged_file_is_refused(tmp_path):
  context = context_of(tmp_path)
  done(context)
  path = tmp_path / "quality" / "degraded.npy"
  values = np.load(path, mmap_mode="r+")
  values[-1, -1, -1, -1] ^= 1
  values.flush()
  inputs = ("data", "quality")
  later = comcl_cases.context_of(tmp_path, context.config, inputs, "patches")
  for _ in range(2):
    with pytest.raises(DataError, match="not what stage quality wrote"):
      quality.Quality(later)
    path.unlink(missing_ok=True)


def test_chunks_and_a_stopped_stage_leave_the_same_file(tmp_path, monkeypatch):
  """Killed while it degrades, and run again in chunks of 7."""
  context = context_of(tmp_path)
  whole, _ = done(context)
  monkeypatch.setattr(quality, "_HELD", 7)
  path, calls = tmp_path / "quality" / "degraded.npy", []
  mapped = Context.map

  def stopped(self, *arguments, **more):
    calls.append(len(calls))
    if len(calls) == 3:
      raise InterruptedError
    return mapped(self, *arguments, **more)

  path.unlink()
  monkeypatch.setattr(Context, "map", stopped)
  with pytest.raises(InterruptedError):
    quality.run(context)
  again = quality.run(context)
  assert len(calls) == 3 + 6
  for name in ("low", "order", "native", "degraded_sha256"):
    np.testing.assert_array_equal(whole[name], again[name])


def test_only_process_0_writes(tmp_path, monkeypatch):
  context = context_of(tmp_path)
  monkeypatch.setattr(quality.distributed, "is_main", lambda: False)
  found = quality.run(context)
  assert not (tmp_path / "quality" / "degraded.npy").exists()
  assert found["low"][:TRAIN].sum() == 12
