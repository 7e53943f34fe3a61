"""The convolutional autoencoder of GradCON (ECCV 2020).

Four convolutions down and four transposed convolutions up, kernel 4 and
stride 2, biases everywhere, ReLU between and a sigmoid at the end. There is
no batch normalisation, because the gradient of one image would then depend on
the other images of the batch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcl_jax.models.layers import draw_kernels
from gcl_jax.models.transposed import TransposedConv

Params = dict[str, dict[str, jax.Array]]

# Paddings of the released code, valid for sides 12, 28, 44, ... only.
PAPER28 = "paper28"
INITIALISERS = ("torch", "he")
_PADDINGS = {
  1: ((1, 1, 1, 1), (1, 1, 1, 1)),
  PAPER28: ((2, 2, 2, 2), (2, 1, 2, 1)),
}
_DECODER = ("d1", "d2", "d3", "d4")


class Autoencoder(NamedTuple):
  """An autoencoder as pure functions.

  Attributes:
    init: `init(key, image_shape)` with image_shape (H, W, C) -> params, a
      dict layer name ("e1".."e4", "d1".."d4") -> {"kernel", "bias"}.
      ValueError for a size that the decoder would not restore.
    apply: `apply(params, images)`, images float[B, H, W, C] in [0, 1] ->
      reconstructions of the same shape, in (0, 1).
    encode: `encode(params, images)` -> latents float[B, h, w, widths[3]].
    decode: `decode(params, latents)` -> reconstructions.
    decoder_weights: `decoder_weights(params)` -> kernels of d1..d4, float
      [4, 4, Cin, Cout] each, no biases. Applies to gradients too, which have
      the tree of params.
    with_decoder_weights: `with_decoder_weights(params, weights)` -> params
      with these four kernels instead of their own.
    decoder_layers: names of the decoder's layers, "d1" to "d4".
  """

  init: Callable[[jax.Array, Sequence[int]], Params]
  apply: Callable[[Params, jax.Array], jax.Array]
  encode: Callable[[Params, jax.Array], jax.Array]
  decode: Callable[[Params, jax.Array], jax.Array]
  decoder_weights: Callable[[Params], tuple[jax.Array, ...]]
  with_decoder_weights: Callable[[Params, Sequence[jax.Array]], Params]
  decoder_layers: tuple[str, ...] = _DECODER


def autoencoder(
  channels: int = 1,
  padding: int | str = 1,
  widths: Sequence[int] = (32, 32, 64, 64),
  initialiser: str = "torch",
) -> Autoencoder:
  """The autoencoder of GradCON (Kwon et al., ECCV 2020).

  With the default widths it has 230,721 parameters at one channel and 232,771
  at three.

  Args:
    channels: channels of the images, 1 or more.
    padding: 1, for sides that are multiples of 16, or "paper28", the paddings
      of the authors' code (encoder 2, 2, 2, 2, decoder 2, 1, 2, 1), for sides
      12, 28, 44, ...: a 28x28 image has a 3x3 latent.
    widths: channels after each of the four encoder layers; the decoder
      mirrors them.
    initialiser: "torch", the authors': kernels and biases uniform in
      +-1/sqrt(fan_in). "he": biases 0 and kernels normal with variance 2 / n,
      n the number of inputs of an output (16 Cin in the encoder, 4 Cin in the
      decoder), which preserves the scale of activations (He et al. 2015).

  Returns:
    Autoencoder, a NamedTuple of pure functions.

  Raises:
    ValueError: unknown padding or initialiser, not four widths, a width below
      1; from init, apply and encode, an invalid image size or channel count.
  """
  if initialiser not in INITIALISERS:
    raise ValueError(
      f"initialiser must be one of {INITIALISERS}, got {initialiser!r}"
    )
  if padding not in _PADDINGS:
    raise ValueError(f'padding must be 1 or "{PAPER28}", got {padding!r}')
  widths = tuple(widths)
  if len(widths) != 4 or min(widths + (channels,)) < 1:
    raise ValueError(
      "the autoencoder wants at least one channel and four widths of at "
      f"least 1, got channels={channels} and widths={widths}"
    )
  module = _Autoencoder(channels, padding, widths)

  def encode(params, images):
    if images.ndim != 4:
      raise ValueError(f"images must be [B, H, W, C], got {images.shape}")
    check_size(images.shape[1:], channels, padding)
    return module.apply({"params": params}, images, method="encode")

  def decode(params, latents):
    return module.apply({"params": params}, latents, method="decode")

  def init(key, image_shape):
    check_size(image_shape, channels, padding)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(module.init, key, images)["params"]
    draw = _draw_uniform if initialiser == "torch" else _draw_he
    return jax.jit(lambda key: draw(key, shapes))(key)

  return Autoencoder(
    init=init,
    apply=lambda params, images: decode(params, encode(params, images)),
    encode=encode,
    decode=decode,
    decoder_weights=_decoder_weights,
    with_decoder_weights=_with_decoder_weights,
  )


def check_size(
  image_shape: Sequence[int], channels: int, padding: int | str
) -> None:
  """Checks that the decoder restores the size of an image.

  Args:
    image_shape: (H, W, C).
    channels: the required C.
    padding: 1 (sides 16, 32, ...) or "paper28" (sides 12, 28, ...).

  Raises:
    ValueError: another size or channel count; the message names valid sizes.
  """
  if len(image_shape) != 3 or image_shape[2] != channels:
    raise ValueError(
      f"this autoencoder takes images (H, W, {channels}), got "
      f"{tuple(image_shape)}"
    )
  offset = 12 if padding == PAPER28 else 0
  for name, side in zip(("height", "width"), image_shape[:2], strict=True):
    if side < 12 or side % 16 != offset:
      below = (side - offset) // 16 * 16 + offset
      near = [str(size) for size in (below, below + 16) if size >= 12]
      raise ValueError(
        f"image {name} {side} is not restored after four strides of 2 with "
        f"padding {padding!r}: valid sizes nearby are {' and '.join(near)}"
      )


def _draw_uniform(key: jax.Array, shapes: Any) -> Params:
  """Kernels and biases uniform in +-1/sqrt(fan_in), PyTorch's default.

  PyTorch counts fan_in of a transposed convolution on its outputs.
  """

  def bound(path, shape):
    _, _, cin, cout = shapes[path[0]]["kernel"].shape
    return (16 * (cout if path[0] in _DECODER else cin)) ** -0.5

  uniform = functools.partial(jax.random.uniform, minval=-1.0)
  drawn = ("kernel", "bias")
  return draw_kernels(key, shapes, bound, drawn=drawn, sample=uniform)


def _draw_he(key: jax.Array, shapes: Any) -> Params:
  """Normal kernels for layers with ReLU (He et al. 2015), zero biases."""

  def spread(path, shape):
    # At stride 2 an output of the decoder reads 2 x 2 input positions.
    positions = 4 if path[0] in _DECODER else 16
    return (2 / (positions * shape[2])) ** 0.5

  return draw_kernels(key, shapes, spread)


def _decoder_weights(params: Params) -> tuple[jax.Array, ...]:
  return tuple(params[name]["kernel"] for name in _DECODER)


def _with_decoder_weights(params: Params, weights: Any) -> Params:
  params = dict(params)
  for name, weight in zip(_DECODER, weights, strict=True):
    params[name] = {**params[name], "kernel": weight}
  return params


class _Autoencoder(nn.Module):
  channels: int
  padding: int | str
  widths: tuple[int, ...]

  def setup(self):
    down, up = _PADDINGS[self.padding]
    self.encoder = [
      nn.Conv(width, (4, 4), strides=2, padding=pad, name=f"e{i}")
      for i, (width, pad) in enumerate(zip(self.widths, down, strict=True), 1)
    ]
    outputs = (*self.widths[-2::-1], self.channels)
    self.decoder = [
      TransposedConv(width, pad, name=name)
      for name, width, pad in zip(_DECODER, outputs, up, strict=True)
    ]

  def __call__(self, images):
    return self.decode(self.encode(images))

  def encode(self, images):
    for layer in self.encoder:
      images = nn.relu(layer(images))
    return images

  def decode(self, latents):
    for layer in self.decoder[:-1]:
      latents = nn.relu(layer(latents))
    return nn.sigmoid(self.decoder[-1](latents))
