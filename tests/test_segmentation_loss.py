"""Cross-entropy and soft Dice against loops, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.losses.segmentation import cross_entropy_dice, inverse_frequency

pytestmark = pytest.mark.compiles

CLASSES = 4


def batch(images=4, size=(3, 5), seed=0, classes=CLASSES):
  random = np.random.default_rng(seed)
  logits = jnp.float32(2 * random.normal(size=(images, *size, classes)))
  masks = jnp.asarray(random.integers(0, classes, (images, *size)), jnp.int32)
  return logits, masks


def reference(logits, masks, weight=1.0, class_weights=None, background=False):
  """Pixel by pixel, class by class, in float64."""
  logits = np.asarray(logits, np.float64)
  masks, classes = np.asarray(masks), logits.shape[-1]
  weights = np.ones(classes) if class_weights is None else class_weights
  above = below = 0.0
  overlap, volume, size = (np.zeros(classes) for _ in range(3))
  for place in np.ndindex(masks.shape):
    label = int(masks[place])
    if not 0 <= label < classes:
      continue
    terms = np.exp(logits[place] - logits[place].max())
    share = terms / terms.sum()
    above -= weights[label] * np.log(share[label])
    below += weights[label]
    for c in range(classes):
      overlap[c] += share[c] * (label == c)
      volume[c] += share[c] + (label == c)
      size[c] += label == c
  kept = [c for c in range(0 if background else 1, classes) if size[c]]
  dice = [2 * overlap[c] / volume[c] for c in kept]
  cross_entropy = above / below if below else 0.0
  return cross_entropy + weight * (1 - np.mean(dice) if dice else 0.0)


def loss(**options):
  return jax.jit(functools.partial(cross_entropy_dice, **options))


@pytest.mark.parametrize("class_weights", [None, (0.2, 1.0, 3.0, 0.0)])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0, 0.7, 2.0])
def test_equals_loops(weight, background, class_weights):
  logits, masks = batch()
  options = {"class_weights": class_weights, "background": background}
  found = loss(dice_weight=weight, **options)(logits, masks)
  expected = reference(logits, masks, weight, **options)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert found.dtype == jnp.float32 and found.shape == ()


def test_gradient_equals_finite_differences():
  logits, masks = batch(2, (2, 3))
  masks = masks.at[0, 0, 0].set(255)
  weights = (0.5, 1.0, 2.0, 1.0)
  run = jax.jit(jax.grad(functools.partial(
    cross_entropy_dice, dice_weight=0.8, class_weights=weights
  )))  # fmt: skip
  found = run(logits, masks)
  exact = np.asarray(logits, np.float64)
  for place in np.ndindex(logits.shape):
    ends = []
    for step in (1e-5, -1e-5):
      moved = exact.copy()
      moved[place] += step
      ends.append(reference(moved, masks, 0.8, weights))
    np.testing.assert_allclose(
      found[place], (ends[0] - ends[1]) / 2e-5, atol=2e-6
    )


def test_worked_by_hand():
  # Two pixels, two classes, even odds: CE = log 2, Dice of class 1 is
  # 2 * 0.5 / (1 + 1), of class 0 the same.
  logits, masks = jnp.zeros((1, 2, 2)), jnp.array([[0, 1]])
  np.testing.assert_allclose(loss()(logits, masks), np.log(2) + 0.5, rtol=1e-6)
  sure = 50 * jax.nn.one_hot(masks, 2)
  np.testing.assert_allclose(loss()(sure, masks), 0, atol=1e-6)
  np.testing.assert_allclose(loss()(-sure, masks), 51, rtol=1e-6)


@pytest.mark.parametrize("absent", [(3,), (2, 3), (0,), (1, 2, 3)])
@pytest.mark.parametrize("background", [False, True])
def test_classes_without_a_pixel_are_left_out_of_dice(absent, background):
  logits, masks = batch()
  others = [c for c in range(CLASSES) if c not in absent]
  for c in absent:
    masks = jnp.where(masks == c, others[0], masks)
  run = jax.jit(jax.value_and_grad(functools.partial(
    cross_entropy_dice, background=background
  )))  # fmt: skip
  value, gradient = run(logits, masks)
  expected = reference(logits, masks, background=background)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert np.all(np.isfinite(gradient))
  # Cross-entropy still keeps the absent class down at every pixel.
  plain = jax.grad(functools.partial(cross_entropy_dice, dice_weight=0))
  assert np.all(plain(logits, masks)[..., absent[0]] > 0)


def test_a_class_given_up_is_pulled_back():
  """Where cross-entropy hardly minds a missing small class, Dice does."""
  masks = jnp.zeros((1, 40, 40), jnp.int32).at[0, :2, :2].set(3)
  logits = jnp.zeros((1, 40, 40, CLASSES)).at[..., 0].set(6.0)
  place = (0, 0, 0, 3)

  def pull(**options):
    run = functools.partial(cross_entropy_dice, **options)
    return -float(jax.grad(run)(logits, masks)[place])

  rare = inverse_frequency(np.array([0] * 1596 + [1, 2] * 400 + [3] * 4), 4)
  assert pull(dice_weight=0, class_weights=rare) > 10 * pull(dice_weight=0)
  assert pull() > pull(dice_weight=0) > 0


def test_other_labels_are_ignored():
  logits, masks = batch()
  masks = masks.at[:, 0].set(255).at[:, 1, 0].set(-1)
  for background in (False, True):
    found = loss(background=background)(logits, masks)
    expected = reference(logits, masks, background=background)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
  run = jax.jit(jax.grad(cross_entropy_dice))
  gradient = run(logits, masks)
  assert not np.any(gradient[:, 0]) and not np.any(gradient[:, 1, 0])
  assert np.any(gradient[:, 1, 1])
  narrow = loss()(logits, masks.astype(jnp.uint8))
  np.testing.assert_allclose(narrow, loss()(logits, masks))
  value, gradient = jax.value_and_grad(cross_entropy_dice)(
    logits, jnp.full_like(masks, 255)
  )
  assert value == 0 and not np.any(gradient)


def test_any_number_of_axes_and_types():
  logits, masks = batch(2, (2, 3, 2), seed=1)
  np.testing.assert_allclose(
    loss()(logits, masks), reference(logits, masks), rtol=1e-5
  )
  rough = loss()(logits.astype(jnp.bfloat16), masks)
  assert rough.dtype == jnp.float32
  np.testing.assert_allclose(rough, loss()(logits, masks), rtol=0.02)
  with jax.enable_x64(True):
    exact = cross_entropy_dice(jnp.asarray(logits, jnp.float64), masks)
    assert exact.dtype == jnp.float64
    np.testing.assert_allclose(exact, reference(logits, masks), rtol=1e-12)
  far = 1000 * logits
  value, gradient = jax.value_and_grad(cross_entropy_dice)(far, masks)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("weighted", [False, True])
def test_eight_devices_equal_one(weighted):
  """Shards differ in classes, weights and ignored pixels."""
  logits, masks = batch(16, (4, 4), seed=2)
  masks = masks.at[:2].set(0).at[2:4].set(3).at[4:6].set(255)
  options = {"class_weights": (0.1, 1.0, 2.0, 5.0)} if weighted else {}
  kernel = jnp.eye(CLASSES)

  def step(kernel, logits, masks, axis_name=None):
    def objective(kernel):
      return cross_entropy_dice(
        logits @ kernel, masks, axis_name=axis_name, **options
      )

    result = jax.value_and_grad(objective)(kernel)
    return lax.pmean(result, axis_name) if axis_name else result

  expected = jax.jit(step)(kernel, logits, masks)
  weights = options.get("class_weights")
  value = reference(logits, masks, class_weights=weights)
  np.testing.assert_allclose(expected[0], value, rtol=1e-5)
  local = functools.partial(step, axis_name="data")
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(P(), P("data"), P("data")),
    out_specs=P(),
    check_vma=False,
  )
  split = (x.reshape(8, 2, *x.shape[1:]) for x in (logits, masks))
  named = jax.vmap(local, (None, 0, 0), axis_name="data")
  several = jax.jit(named)(kernel, *split)
  for found in (
    jax.jit(mapped)(kernel, logits, masks),
    jax.tree.map(lambda x: x[5], several),
  ):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)


def test_vmap_is_one_loss_per_entry():
  logits, masks = batch(6)
  split = (x.reshape(3, 2, *x.shape[1:]) for x in (logits, masks))
  found = jax.jit(jax.vmap(cross_entropy_dice))(*split)
  expected = [reference(logits[i : i + 2], masks[i : i + 2]) for i in (0, 2, 4)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_inverse_frequency():
  masks = np.array([[0, 0, 0, 0, 255], [1, 1, 2, 2, 2]], np.uint8)
  found = inverse_frequency(masks, 3)
  np.testing.assert_allclose(found, [9 / 12, 9 / 6, 9 / 9], rtol=1e-6)
  counts = np.array([4, 2, 3])
  np.testing.assert_allclose(counts @ found / 9, 1, rtol=1e-6)
  signed = np.where(masks == 255, -1, masks.astype(np.int64))
  np.testing.assert_array_equal(inverse_frequency(signed, 3), found)
  # Classes that the few labelled patients do not have weigh nothing.
  np.testing.assert_allclose(
    inverse_frequency(masks + (masks == 2), 5), [*found[:2], 0, found[2], 0]
  )


def test_what_does_not_fit_is_refused():
  logits, masks = batch()
  for bad, message in (
    ((logits, masks[:, :2]), "masks must be int"),
    ((logits, masks / 1), "masks must be integers"),
    ((logits[..., :1], masks), "K of at least 2"),
  ):
    with pytest.raises(ValueError, match=message):
      cross_entropy_dice(*bad)
  with pytest.raises(ValueError, match="class_weights must be"):
    cross_entropy_dice(logits, masks, class_weights=(1.0, 2.0))
