"""The transposed convolution and the autoencoder of GradCON."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gcl_jax.models.autoencoder import autoencoder
from gcl_jax.models.transposed import transposed_conv

pytestmark = pytest.mark.compiles

# (height, width, Cin, Cout): the first two are multiplied after shifting,
# the last two before; 4 Cout < Cin decides.
SHAPES = [(5, 7, 3, 2), (2, 3, 8, 2), (4, 3, 9, 2), (3, 6, 5, 1)]
NARROW = (3, 4, 5, 6)


def _case(shape, seed=0):
  height, width, cin, cout = shape
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(2, height, width, cin)).astype(np.float32)
  kernel = rng.normal(size=(4, 4, cin, cout)).astype(np.float32)
  return images, kernel / 4


def _dilated(images, kernel, padding):
  return lax.conv_transpose(images, kernel, (2, 2), [(3 - padding,) * 2] * 2)


def _scatter(images, kernel, padding):
  """Every input pixel stamps its kernel, turned by 180 degrees."""
  batch, height, width, _ = images.shape
  full = np.zeros((batch, 2 * height + 2, 2 * width + 2, kernel.shape[3]))
  for i in range(height):
    for j in range(width):
      stamp = np.einsum("nc,abcd->nabd", images[:, i, j], kernel[::-1, ::-1])
      full[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += stamp
  return full[:, padding:-padding, padding:-padding]


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_transposed_conv_equals_scatter(shape, padding):
  images, kernel = _case(shape)
  got = transposed_conv(images, kernel, padding)
  height, width, _, cout = shape
  cut = 2 - 2 * padding
  assert got.shape == (2, 2 * height + cut, 2 * width + cut, cout)
  want = _scatter(images.astype(float), kernel.astype(float), padding)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_transposed_conv_gradients_equal_dilated(shape, padding):
  images, kernel = _case(shape, seed=1)
  out = np.shape(_dilated(images, kernel, padding))
  target = np.random.default_rng(2).normal(size=out).astype(np.float32)

  def results(layer):
    def total(images, kernel):
      return jnp.sum(layer(images, kernel, padding) * target)

    return jax.jit(jax.grad(total, argnums=(0, 1)))(images, kernel)

  for got, want in zip(
    results(transposed_conv), results(_dilated), strict=True
  ):
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


def test_transposed_conv_takes_one_pixel():
  images, kernel = _case((1, 1, 3, 2))
  np.testing.assert_allclose(
    transposed_conv(images, kernel, 1), _dilated(images, kernel, 1), atol=1e-5
  )


@pytest.mark.parametrize("padding", [1, 2])
def test_transposed_conv_second_order(padding):
  """Gradients of a function of gradients, and one gradient per image."""
  images, kernel = _case((4, 5, 3, 2), seed=3)

  def results(layer):
    def error(kernel, images):
      return jnp.sum(jnp.sin(layer(images, kernel, padding)))

    def bend(kernel, images):
      by_kernel, by_images = jax.grad(error, argnums=(0, 1))(kernel, images)
      return jnp.sum(by_kernel**3) + jnp.sum(jnp.cos(by_images))

    def alone(image):
      return jax.grad(error)(kernel, image[None])

    return jax.jit(
      lambda: (
        jax.grad(bend, argnums=(0, 1))(kernel, images),
        jax.vmap(alone)(images),
        jax.vmap(jax.grad(error), (0, None))(
          jnp.stack([kernel, -kernel]), images
        ),
      )
    )()

  for got, want in zip(
    jax.tree.leaves(results(transposed_conv)),
    jax.tree.leaves(results(_dilated)),
    strict=True,
  ):
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


def test_no_gradient_of_a_dilated_convolution_on_a_cpu():
  """XLA's slow case: a weight gradient through an input dilated with zeros."""
  images, kernel = _case((4, 5, 3, 2))

  def total(images, kernel):
    return jnp.sum(transposed_conv(images, kernel, 1) ** 2)

  gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
  text = gradient.lower(images, kernel).compile().as_text()
  assert "lhs_dilate" not in text
  assert text.count(" convolution(") == 2  # down and weigh; up is a product


@pytest.mark.parametrize(
  "images, kernel, padding, message",
  [
    ((2, 4, 4, 3), (4, 4, 3, 2), 3, "padding must be 1 or 2"),
    ((2, 4, 4, 3), (4, 4, 2, 2), 1, r"kernel must be \[4, 4, 3, Cout\]"),
    ((2, 4, 4, 3), (3, 3, 3, 2), 1, r"kernel must be \[4, 4, 3, Cout\]"),
    ((4, 4, 3), (4, 4, 3, 2), 1, "wants images"),
    ((2, 1, 4, 3), (4, 4, 3, 2), 2, "leaves nothing"),
  ],
)
def test_transposed_conv_names_the_wrong_shape(
  images, kernel, padding, message
):
  with pytest.raises(ValueError, match=message):
    transposed_conv(jnp.zeros(images), jnp.zeros(kernel), padding)


@pytest.mark.parametrize("channels, count", [(1, 230_721), (3, 232_771)])
def test_parameter_count_of_the_dossier(channels, count):
  model = autoencoder(channels)
  params = model.init(jax.random.key(0), (16, 16, channels))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
  sizes = [weight.size for weight in model.decoder_weights(params)]
  assert sizes == [65_536, 32_768, 16_384, 512 * channels]


@pytest.mark.parametrize(
  "padding, size, latent",
  [
    ("paper28", (28, 28), (3, 3)),
    ("paper28", (12, 44), (2, 4)),
    (1, (128, 128), (8, 8)),
    (1, (224, 224), (14, 14)),
    (1, (48, 128), (3, 8)),
    (1, (16, 16), (1, 1)),
  ],
)
def test_images_come_back_in_their_size(padding, size, latent):
  model = autoencoder(1, padding)
  params = model.init(jax.random.key(0), (*size, 1))
  images = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
  latents = jax.eval_shape(model.encode, params, images)
  assert latents.shape == (2, *latent, 64)
  assert jax.eval_shape(model.decode, params, latents).shape == images.shape
  assert jax.eval_shape(model.apply, params, images).shape == images.shape


def _reference(params, images, padding):
  """The layers of dossier table 2.1, through other operations."""
  down = [2] * 4 if padding == "paper28" else [1] * 4
  up = [2, 1, 2, 1] if padding == "paper28" else [1] * 4
  hidden = images
  for i in range(4):
    layer = params[f"e{i + 1}"]
    hidden = lax.conv_general_dilated(
      hidden,
      layer["kernel"],
      (2, 2),
      [(down[i], down[i])] * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    hidden = jnp.maximum(hidden + layer["bias"], 0)
  latents = hidden
  for i in range(4):
    layer = params[f"d{i + 1}"]
    hidden = _dilated(hidden, layer["kernel"], up[i]) + layer["bias"]
    hidden = jnp.maximum(hidden, 0) if i < 3 else 1 / (1 + jnp.exp(-hidden))
  return latents, hidden


@pytest.mark.parametrize("padding, side", [("paper28", 28), (1, 32)])
def test_autoencoder_equals_its_layers_in_order(padding, side):
  model = autoencoder(2, padding, NARROW)
  params = model.init(jax.random.key(3), (side, side, 2))
  images = jax.random.uniform(jax.random.key(4), (3, side, side, 2))
  latents, decoded = jax.jit(_reference, static_argnums=2)(
    params, images, padding
  )
  np.testing.assert_allclose(
    jax.jit(model.encode)(params, images), latents, atol=1e-6
  )
  got = jax.jit(model.apply)(params, images)
  np.testing.assert_allclose(got, decoded, atol=1e-6)
  assert 0 < got.min() < got.max() < 1
  assert latents.max() > 0


def test_initial_values_are_those_of_pytorch():
  model = autoencoder()
  params = model.init(jax.random.key(0), (16, 16, 1))
  # Kernel 4x4 times the input channels, or a transposed layer's outputs.
  fan_in = dict(e1=16, e2=512, e3=512, e4=1024)
  fan_in |= dict(d1=1024, d2=512, d3=512, d4=16)
  assert set(params) == set(fan_in)
  for name, layer in params.items():
    bound = fan_in[name] ** -0.5
    for part in ("kernel", "bias"):
      values = np.asarray(layer[part])
      assert np.abs(values).max() <= bound, (name, part)
      if values.size > 30:
        assert np.abs(values).max() > 0.9 * bound, (name, part)
        assert abs(values.std() / (bound / 3**0.5) - 1) < 0.15, (name, part)
  other = model.init(jax.random.key(1), (16, 16, 1))
  assert not np.array_equal(params["e1"]["bias"], other["e1"]["bias"])
  assert not np.array_equal(params["e3"]["bias"], params["e4"]["bias"])


def test_decoder_weights_go_out_and_in():
  model = autoencoder(1, 1, NARROW)
  params = model.init(jax.random.key(0), (16, 16, 1))
  weights = model.decoder_weights(params)
  names = ["d1", "d2", "d3", "d4"]
  for name, weight in zip(names, weights, strict=True):
    assert weight is params[name]["kernel"]
  changed = model.with_decoder_weights(params, [2 * w for w in weights])
  for name in params:
    factor = 2 if name in names else 1
    np.testing.assert_array_equal(
      changed[name]["kernel"], factor * params[name]["kernel"]
    )
    np.testing.assert_array_equal(changed[name]["bias"], params[name]["bias"])
  np.testing.assert_array_equal(params["d1"]["kernel"], weights[0])


@pytest.mark.parametrize(
  "padding, shape, message",
  [
    (1, (100, 32, 1), "height 100 .* 96 and 112"),
    (1, (32, 28, 1), "width 28 .* 16 and 32"),
    (1, (8, 16, 1), "height 8 .* nearby are 16"),
    ("paper28", (28, 32, 1), "width 32 .* 28 and 44"),
    ("paper28", (224, 28, 1), "height 224 .* 220 and 236"),
    (1, (32, 32, 3), r"takes images \(H, W, 1\), got \(32, 32, 3\)"),
    (1, (32, 32), r"takes images \(H, W, 1\)"),
  ],
)
def test_a_size_that_cannot_come_back_is_named(padding, shape, message):
  model = autoencoder(1, padding, NARROW)
  with pytest.raises(ValueError, match=message):
    model.init(jax.random.key(0), shape)
  if len(shape) == 3:
    with pytest.raises(ValueError, match=message):
      model.apply({}, jnp.zeros((2, *shape)))
    with pytest.raises(ValueError, match="must be"):
      model.encode({}, jnp.zeros(shape))


@pytest.mark.parametrize(
  "arguments, message",
  [
    (dict(padding=2), "padding must be 1"),
    (dict(padding="paper"), "padding must be 1"),
    (dict(widths=(4, 4, 8)), "four widths"),
    (dict(widths=(4, 4, 0, 8)), "four widths"),
    (dict(channels=0), "at least one channel"),
  ],
)
def test_an_impossible_autoencoder_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    autoencoder(**arguments)


def test_he_initialisation_keeps_the_scale_through_the_layers():
  model = autoencoder(1, widths=(64, 64, 64, 64), initialiser="he")
  params = model.init(jax.random.key(0), (32, 32, 1))
  for name, layer in params.items():
    seen = (16 if name.startswith("e") else 4) * layer["kernel"].shape[2]
    spread = float(np.std(layer["kernel"]))
    assert spread == pytest.approx(np.sqrt(2 / seen), rel=0.1), name
    assert not np.any(layer["bias"]), name
  with pytest.raises(ValueError, match="initialiser"):
    autoencoder(initialiser="zeros")
