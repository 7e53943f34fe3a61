"""GradCON: the training loss, the reference gradients and the scores.

Everything is compared with an independent implementation: an autoencoder of
dilated convolutions, one image or one batch at a time, in float64 where the
values should be exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from gcl_jax.gradients import gradcon
from gcl_jax.models.autoencoder import autoencoder

pytestmark = pytest.mark.compiles

ALPHA, BETA = 0.03, 0.12
NAMES = ("d1", "d2", "d3", "d4")
MODEL = autoencoder(1, 1, (3, 4, 6, 5))
AXIS = "data"
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


def _case(batch=8, dtype=np.float32, seed=0):
  """Parameters, images and a reference with history, as numpy-made arrays."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
    lambda key: MODEL.init(key, (16, 32, 1)), jax.random.key(0)
  )
  params = jax.tree.map(
    lambda leaf: jnp.asarray(
      rng.normal(size=leaf.shape) / np.sqrt(16.0 * leaf.shape[-1]), dtype
    ),
    shapes,
  )
  images = jnp.asarray(rng.uniform(size=(batch, 16, 32, 1)), dtype)
  arrays = tuple(
    jnp.asarray(rng.normal(size=weight.shape), dtype)
    for weight in MODEL.decoder_weights(params)
  )
  return params, images, gradcon.Reference(arrays, jnp.int32(3))


def _decode(weights, params, latents):
  hidden = latents
  for i, name in enumerate(NAMES):
    bias = params[name]["bias"]
    hidden = lax.conv_transpose(hidden, weights[i], (2, 2), "SAME") + bias
    hidden = jnp.maximum(hidden, 0) if i < 3 else 1 / (1 + jnp.exp(-hidden))
  return hidden


def _encode(params, images):
  hidden = images
  for name in ("e1", "e2", "e3", "e4"):
    hidden = lax.conv_general_dilated(
      hidden,
      params[name]["kernel"],
      (2, 2),
      [(1, 1), (1, 1)],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    hidden = jnp.maximum(hidden + params[name]["bias"], 0)
  return hidden


def _error(params, images):
  weights = [params[name]["kernel"] for name in NAMES]
  decoded = _decode(weights, params, _encode(params, images))
  return ((decoded - images) ** 2).mean()


def _reference_loss(params, images, arrays, alpha=ALPHA):
  """J of the paper's equation, with gradients for all parameters."""
  recon = _error(params, images)
  if arrays is None:
    return recon, 0.0
  gradients = jax.grad(_error)(params, images)
  cosines = []
  for name, array in zip(NAMES, arrays, strict=True):
    a, b = gradients[name]["kernel"].ravel(), array.ravel()
    cosines.append(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))
  return recon - alpha * sum(cosines) / 4, -sum(cosines) / 4


_jit_error = jax.jit(_error)


def _flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@functools.cache
def _grad(**options):
  """((J, aux), gradients) of (params, images, reference), compiled."""

  def total(params, images, reference):
    return gradcon.loss(MODEL, params, images, reference, **options)

  return jax.jit(jax.value_and_grad(total, has_aux=True))


@functools.partial(jax.jit, static_argnames=("engine", "chunk", "dtype"))
def _scores(params, images, reference, **options):
  return gradcon.scores(MODEL, params, images, reference, **options)


def test_first_steps_equal_the_method_by_hand():
  """Iteration 1 without history, then r = mean of all J gradients so far."""
  with jax.enable_x64(True):
    params, images, _ = _case(dtype=np.float64)
    reference = gradcon.start(MODEL.decoder_weights(params))
    ours = _grad()
    theirs = jax.jit(
      jax.value_and_grad(_reference_loss, has_aux=True),
      compiler_options=QUICK_COMPILE,
    )
    update = jax.jit(gradcon.update)
    history = []
    for k in range(3):
      arrays = None
      if history:
        arrays = [np.mean([h[i] for h in history], 0) for i in range(4)]
      (want, constraint), want_grads = theirs(params, images, arrays)
      (total, aux), grads = ours(params, images, reference)
      np.testing.assert_allclose(total, want, rtol=1e-12)
      np.testing.assert_allclose(aux["gradient"], constraint, atol=1e-10)
      np.testing.assert_allclose(-aux["cos"].mean(), constraint, atol=1e-10)
      np.testing.assert_allclose(_flat(grads), _flat(want_grads), atol=1e-10)
      assert (aux["gradient"] == 0) == (k == 0)
      assert abs(total - aux["recon"] - ALPHA * aux["gradient"]) < 1e-12

      history.append([np.asarray(want_grads[n]["kernel"]) for n in NAMES])
      reference = update(reference, MODEL.decoder_weights(grads))
      assert int(reference.count) == k + 1
      for i, mean in enumerate(reference.mean):
        exact = np.mean([h[i] for h in history], 0)
        np.testing.assert_allclose(mean, exact, atol=1e-10)
      params = jax.tree.map(
        lambda p, g: np.asarray(p) - 0.5 * np.asarray(g), params, grads
      )
      images = np.asarray(images)[:, ::-1] * 0.9


def test_loss_without_history_is_the_reconstruction_error():
  params, images, _ = _case()
  empty = gradcon.start(MODEL.decoder_weights(params))
  garbage = gradcon.Reference(
    tuple(mean + 1 for mean in empty.mean), jnp.int32(0)
  )
  (none, aux), none_grads = _grad()(params, images, None)
  assert aux["gradient"] == 0 and not aux["cos"].any()
  np.testing.assert_allclose(none, _jit_error(params, images), rtol=1e-6)
  for reference in (empty, garbage):
    (total, aux), grads = _grad()(params, images, reference)
    assert total == aux["recon"] and aux["gradient"] == 0
    np.testing.assert_allclose(total, none, rtol=1e-6)
    np.testing.assert_allclose(_flat(grads), _flat(none_grads), atol=1e-7)


def test_gradient_of_J_is_not_that_of_L_in_decoder_or_encoder():
  params, images, reference = _case()
  _, of_error = _grad()(params, images, None)
  _, of_total = _grad()(params, images, reference)
  for name in params:
    for part in ("kernel", "bias"):
      difference = of_total[name][part] - of_error[name][part]
      assert np.abs(difference).max() > 1e-6, (name, part)


@pytest.mark.parametrize("prefix", ["e", "d"])
def test_second_order_terms_agree_with_finite_differences(prefix):
  with jax.enable_x64(True):
    params, images, reference = _case(dtype=np.float64)
    rng = np.random.default_rng(5)
    direction = {
      name: jax.tree.map(
        lambda leaf, n=name: rng.normal(size=leaf.shape) * n.startswith(prefix),
        layer,
      )
      for name, layer in params.items()
    }

    def along(step):
      moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
      return grad(moved, images, reference)[0][0]

    # A large alpha, so that the constraint is most of the derivative.
    grad = _grad(alpha=10.0)
    _, gradient = grad(params, images, reference)
    want = (along(1e-6) - along(-1e-6)) / 2e-6
    got = _flat(gradient) @ _flat(direction)
    assert abs(want) > 1e-3
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_alpha_may_be_traced_and_a_plain_zero_is_free():
  params, images, reference = _case()

  def total(params, alpha):
    return gradcon.loss(MODEL, params, images, reference, alpha=alpha)[0]

  traced = jax.jit(total)
  (recon, gradient), _ = _grad()(params, images, reference)
  gradient = gradient["gradient"]
  recon -= ALPHA * gradient
  for alpha in (0.0, 0.5):
    want = recon + alpha * gradient
    np.testing.assert_allclose(traced(params, alpha), want, rtol=1e-6)
  assert abs(gradient) > 1e-3

  def convolutions(alpha):
    step = jax.jit(jax.grad(lambda params: total(params, alpha)))
    return step.lower(params).compile().as_text().count(" convolution(")

  # Encoder: four forward, three input and four weight gradients. Decoder, its
  # forward pass a product: four input and four weight gradients.
  assert convolutions(0) == convolutions(0.0) == 19 < convolutions(0.03)
  spared, aux = jax.jit(
    lambda: gradcon.loss(MODEL, params, images, reference, alpha=0.0)
  )()
  np.testing.assert_allclose(spared, recon, rtol=1e-6)
  assert aux["gradient"] == 0 and aux["cos"].shape == (4,)


def test_arrays_alone_are_a_constant_reference_with_history():
  params, images, reference = _case()
  total, gradient = jax.jit(
    jax.value_and_grad(
      lambda arrays: gradcon.loss(MODEL, params, images, arrays)[0]
    )
  )(reference.mean)
  (want, _), _ = _grad()(params, images, reference)
  np.testing.assert_allclose(total, want, rtol=1e-6)
  assert not _flat(gradient).any()
  _assert_scores(_scores(params, images, reference.mean))


def _mesh():
  return jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def _run_split(step, mode, params, images, reference):
  """Runs step(params, images, reference) on 8 shards; all results equal."""
  if mode == "shard_map":
    specs = (PartitionSpec(), PartitionSpec(AXIS), PartitionSpec())
    mapped = jax.shard_map(
      step,
      mesh=_mesh(),
      in_specs=specs,
      out_specs=PartitionSpec(),
      check_vma=False,
    )
    return jax.jit(mapped)(params, images, reference)
  shards = images.reshape(8, -1, *images.shape[1:])
  axes = dict(axis_name=AXIS, in_axes=(None, 0, None))
  stacked = jax.jit(jax.pmap(step, **axes))(params, shards, reference)
  for leaf in jax.tree.leaves(stacked):
    np.testing.assert_allclose(leaf[0], leaf[-1], atol=1e-7)
  return jax.tree.map(lambda leaf: leaf[0], stacked)


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_eight_devices_train_as_one(mode):
  params, images, reference = _case()
  grad = _grad(alpha=1.0, axis_name=AXIS)

  def step(params, images, reference):
    outputs, gradients = grad(params, images, reference)
    return outputs, lax.pmean(gradients, AXIS)

  (total, aux), grads = _run_split(step, mode, params, images, reference)
  (want, want_aux), want_grads = _grad(alpha=1.0)(params, images, reference)
  np.testing.assert_allclose(total, want, atol=1e-6)
  for name in want_aux:
    np.testing.assert_allclose(aux[name], want_aux[name], atol=1e-6)
  np.testing.assert_allclose(_flat(grads), _flat(want_grads), atol=1e-6)
  assert np.abs(_flat(want_grads)).max() > 1e-2


def test_eight_devices_without_history():
  params, images, _ = _case()

  def step(params, images, reference):
    del reference
    return gradcon.loss(MODEL, params, images, None, axis_name=AXIS)

  total, aux = _run_split(step, "shard_map", params, images, 0.0)
  np.testing.assert_allclose(total, _jit_error(params, images), atol=1e-6)
  assert total == aux["recon"]


@pytest.mark.parametrize("rule", ["mean", "unit", "ema"])
def test_update_rules(rule):
  rng = np.random.default_rng(0)
  sizes = [(4, 4, 3, 2), (4, 4, 2, 1)]
  steps = [
    [scale * rng.normal(size=size) for size in sizes]
    for scale in [100.0] + [1.0] * 29
  ]
  reference = gradcon.start([jnp.zeros(s) for s in sizes])
  update = jax.jit(functools.partial(gradcon.update, rule=rule))
  for gradients in steps:
    reference = update(reference, [jnp.float32(g) for g in gradients])
  assert reference.count.dtype == jnp.int32 and int(reference.count) == 30
  for i in range(2):
    arrays = [g[i] for g in steps]
    if rule == "unit":
      arrays = [a / np.sqrt((a**2).sum()) for a in arrays]
    want = np.mean(arrays, 0)
    if rule == "ema":
      want = np.mean(arrays[:20], 0)
      for array in arrays[20:]:
        want = 0.95 * want + 0.05 * array
    np.testing.assert_allclose(reference.mean[i], want, atol=1e-5)


def test_update_refuses_what_does_not_fit():
  reference = gradcon.start([jnp.zeros((4, 4, 3, 2))])
  with pytest.raises(ValueError, match="unknown rule 'sum'.*mean, unit, ema"):
    gradcon.update(reference, reference.mean, rule="sum")
  with pytest.raises(ValueError, match=r"\(4, 4, 3, 2\)"):
    gradcon.update(reference, [jnp.zeros((4, 4, 2, 3))])


@functools.cache
def _scores_by_hand():
  """One image at a time, gradients of everything, in float64."""
  params, images, reference = _case()
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda a: jnp.asarray(a, float), (params, reference))
    params, (arrays, _) = wide

    @functools.partial(jax.jit, compiler_options=QUICK_COMPILE)
    def one(image):
      total, _ = _reference_loss(params, image, arrays, BETA)
      return total, *jax.value_and_grad(_error)(params, image)

    rows = []
    for image in np.asarray(images, float):
      total, recon, gradients = one(image[None])
      cosines = []
      for name, array in zip(NAMES, arrays, strict=True):
        a, b = np.ravel(gradients[name]["kernel"]), np.ravel(array)
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
      rows.append((total, recon, np.array(cosines)))
  return [np.stack(column) for column in zip(*rows, strict=True)]


def _assert_scores(got, rows=slice(None)):
  score, recon, cos = _scores_by_hand()
  np.testing.assert_allclose(got.score, score[rows], atol=1e-6)
  np.testing.assert_allclose(got.recon, recon[rows], atol=1e-6)
  np.testing.assert_allclose(got.cos, cos[rows], atol=1e-5)
  assert np.ptp(score) > 1e-3


@pytest.mark.parametrize(
  "engine, chunk",
  [
    ("auto", None),
    ("vmap", None),
    ("vmap", 3),
    ("batched", 3),
    ("batched", 1),
    ("ghost", None),
    ("ghost", 4),
    ("each", 5),
    ("auto", 100),
  ],
)
def test_scores_equal_one_image_at_a_time(engine, chunk):
  params, images, reference = _case()
  got = _scores(params, images, reference, engine=engine, chunk=chunk)
  assert got.score.shape == got.recon.shape == (8,)
  assert got.cos.shape == got.norm.shape == (8, 4)
  _assert_scores(got)
  slow = _scores(params, images, reference, engine="vmap")
  np.testing.assert_allclose(got.norm, slow.norm, rtol=1e-5)


@pytest.mark.parametrize("engine", ["batched", "each", "ghost"])
def test_scores_in_bfloat16_stay_near(engine):
  params, images, reference = _case()
  got = _scores(params, images, reference, engine=engine, dtype="bfloat16")
  assert {x.dtype for x in got} == {jnp.dtype("float32")}
  _, recon, cos = _scores_by_hand()
  np.testing.assert_allclose(got.recon, recon, rtol=0.01)
  np.testing.assert_allclose(got.cos, cos, atol=0.03)
  assert np.abs(got.cos - cos).max() > 1e-4  # it did compute in bfloat16


def test_scores_do_not_depend_on_the_batch_mates():
  params, images, reference = _case()
  order = np.random.default_rng(1).permutation(8)
  _assert_scores(_scores(params, images[order], reference), order)
  padded = np.concatenate([images[:5], np.ones((3, 16, 32, 1), np.float32)])
  got = _scores(params, padded, reference)
  _assert_scores(jax.tree.map(lambda a: a[:5], got), slice(5))
  _assert_scores(_scores(params, images[5:6], reference), slice(5, 6))


@pytest.mark.parametrize(
  "mode, chunk",
  [("shard_map", None), ("shard_map", 1), ("pmap", None), ("vmap", None)],
)
def test_scores_on_eight_devices(mode, chunk):
  params, images, reference = _case()
  score = functools.partial(gradcon.scores, MODEL, chunk=chunk)
  if mode == "shard_map":
    specs = (PartitionSpec(), PartitionSpec(AXIS), PartitionSpec())
    mapped = jax.shard_map(
      score,
      mesh=_mesh(),
      in_specs=specs,
      out_specs=PartitionSpec(AXIS),
      check_vma=False,
    )
    return _assert_scores(jax.jit(mapped)(params, images, reference))
  mapper = jax.pmap if mode == "pmap" else jax.vmap
  mapped = jax.jit(mapper(score, in_axes=(None, 0, None)))
  got = mapped(params, images[:, None], reference)
  _assert_scores(jax.tree.map(lambda a: a[:, 0], got))


def test_beta_weighs_the_gradient_term():
  params, images, reference = _case()
  for beta in (0.0, 2.0):
    got = _scores(params, images, reference, beta=beta)
    _, recon, cos = _scores_by_hand()
    np.testing.assert_allclose(got.score, recon - beta * cos.mean(1), atol=1e-5)


def test_paper28_with_three_channels():
  model = autoencoder(3, "paper28", (3, 4, 5, 6))
  params = model.init(jax.random.key(0), (28, 28, 3))
  images = jax.random.uniform(jax.random.key(1), (2, 28, 28, 3))

  @jax.jit
  @jax.value_and_grad
  def error(params, image):
    return ((model.apply(params, image[None])[0] - image) ** 2).mean()

  reference = model.decoder_weights(error(params, images[0])[1])
  score = jax.jit(functools.partial(gradcon.scores, model))
  got = score(params, images, reference)
  # The first image's own gradient is the reference: all cosines are 1.
  np.testing.assert_allclose(got.cos[0], np.ones(4), atol=1e-5)
  np.testing.assert_allclose(
    got.recon[1], error(params, images[1])[0], rtol=1e-5
  )
  assert got.cos[1].mean() < 0.999


@pytest.mark.parametrize("engine", gradcon.ENGINES)
def test_a_dead_layer_has_cosine_zero_and_nothing_is_nan(engine):
  params, images, reference = _case()
  params["d3"] = {**params["d3"], "bias": params["d3"]["bias"] - 1e3}
  got = _scores(params, images, reference, engine=engine)
  assert not got.cos.any() and not got.norm.any()
  np.testing.assert_array_equal(got.score, got.recon)
  (total, aux), grads = _grad()(params, images, reference)
  assert np.isfinite(total) and aux["gradient"] == 0
  assert np.isfinite(_flat(grads)).all()


def test_no_reference_is_an_error_and_never_zero():
  params, images, reference = _case()
  empty = gradcon.start(reference.mean)
  for missing in (None, empty):
    with pytest.raises(ValueError, match="no reference gradients"):
      gradcon.scores(MODEL, params, images, missing)
  # The count of a traced reference is not known: NaN, which binning refuses.
  got = _scores(params, images, empty)
  assert np.isnan(got.score).all() and np.isfinite(got.recon).all()


def test_wrong_arguments_are_named():
  params, images, reference = _case(batch=2)
  score = functools.partial(gradcon.scores, MODEL, params)
  with pytest.raises(
    ValueError, match="unknown engine 'fast'.*auto, batched, each, ghost, vmap"
  ):
    score(images, reference, engine="fast")
  with pytest.raises(ValueError, match="chunk must be at least 1"):
    score(images, reference, chunk=0)
  for engine, dtype in (("auto", "float16"), ("vmap", "bfloat16")):
    with pytest.raises(ValueError, match=f"dtype '{dtype}'.*'{engine}'"):
      score(images, reference, engine=engine, dtype=dtype)
  with pytest.raises(ValueError, match="do not fit decoder weights"):
    score(images, reference.mean[:3])
  with pytest.raises(ValueError, match="do not fit decoder weights"):
    gradcon.loss(MODEL, params, images, reference.mean[::-1])
  for wrong in (images[0], (images * 255).astype(jnp.uint8)):
    with pytest.raises(ValueError, match=r"images must be float\[B, H, W, C\]"):
      score(wrong, reference)
    with pytest.raises(ValueError, match=r"images must be float\[B, H, W, C\]"):
      gradcon.loss(MODEL, params, wrong, reference)


def test_error_map_and_select():
  params, images, reference = _case()
  score, recon, cos = _scores_by_hand()
  errors = jax.jit(functools.partial(gradcon.error_map, MODEL))(params, images)
  assert errors.shape == images.shape
  np.testing.assert_allclose(errors.mean((1, 2, 3)), recon, atol=1e-6)
  got = _scores(params, images, reference)
  wants = dict(gradcon=score, recon=recon, grad=-cos.mean(1))
  for mode, want in wants.items():
    np.testing.assert_allclose(gradcon.select(got, mode), want, atol=1e-5)
  np.testing.assert_array_equal(gradcon.select(got), got.score)
  with pytest.raises(ValueError, match="unknown mode 'both'.*gradcon, grad"):
    gradcon.select(got, "both")
