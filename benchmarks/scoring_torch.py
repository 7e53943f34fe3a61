"""GradCON scoring in PyTorch: the published loop and batched algorithms.

All modes return recon - beta * mean cosine for the same weights:

  loop      one image at a time through the whole model, as published
  loop_dec  the same, gradients of the decoder's weights alone
  vmap      torch.func: vmap(grad) over the decoder
  hooks     one batched backward, per-sample matrices from unfolded patches
  mixed     Gram norms and one convolution by the reference where that is less
            arithmetic than writing the matrix, matrices elsewhere
  tilemix   the same with matrices one kernel offset at a time
"""

import numpy as np
import torch
import torch.nn.functional as F

MODES = ("loop", "loop_dec", "vmap", "hooks", "mixed", "tilemix")
EPS = 1e-8


class Scorer:
  """Autoencoder with given weights, with the modes as methods.

  Args:
    params: our parameters; kernels are converted to PyTorch's layout.
    reference: our four reference gradients.
    paddings: paddings of the four encoder and the four decoder layers.
    beta: weight of the gradient term.
    device: "cpu" or "cuda".
    dtype: "float32" or "bfloat16".
  """

  def __init__(self, params, reference, paddings, beta, device, dtype):
    def tensor(array):
      array = torch.tensor(np.ascontiguousarray(array))
      return array.to(device, getattr(torch, dtype))

    self.beta, (self.down_pad, self.up_pad) = beta, paddings
    self.down = [
      tensor(np.transpose(params[f"e{i}"]["kernel"], (3, 2, 0, 1)))
      for i in range(1, 5)
    ]
    self.down_bias = [tensor(params[f"e{i}"]["bias"]) for i in range(1, 5)]
    self.up = [tensor(_transposed(params[f"d{i}"]["kernel"])) for i in _FOUR]
    self.up_bias = [tensor(params[f"d{i}"]["bias"]) for i in _FOUR]
    self.reference = [tensor(_transposed(r)) for r in reference]

  def encode(self, x):
    layers = zip(self.down, self.down_bias, self.down_pad, strict=True)
    for weight, bias, pad in layers:
      x = F.relu(F.conv2d(x, weight, bias, 2, pad))
    return x

  def decode(self, z, weights):
    layers = zip(weights, self.up_bias, self.up_pad, strict=True)
    for i, (weight, bias, pad) in enumerate(layers):
      z = F.conv_transpose2d(z, weight, bias, 2, pad)
      z = torch.sigmoid(z) if i == 3 else F.relu(z)
    return z

  def score(self, losses, cosines):
    return losses.float() - self.beta * sum(cosines) / 4

  def loop(self, x, decoder_only=False):
    """Scores image by image, waiting for each on the host, as published."""
    weights = [w.detach().requires_grad_() for w in self.up]
    if not decoder_only:
      self.down = [w.detach().requires_grad_() for w in self.down]
    found = []
    for image in x.split(1):
      with torch.set_grad_enabled(not decoder_only):
        z = self.encode(image)
      loss = F.mse_loss(self.decode(z, weights), image)
      if decoder_only:
        gradients = torch.autograd.grad(loss, weights)
      else:
        gradients = torch.autograd.grad(loss, [*weights, *self.down])[:4]
      cosines = [
        F.cosine_similarity(g.flatten(), r.flatten(), dim=0, eps=EPS)
        for g, r in zip(gradients, self.reference, strict=True)
      ]
      found.append(self.score(loss, cosines).item())
    self.down = [w.detach() for w in self.down]
    return torch.tensor(found)

  def loop_dec(self, x):
    return self.loop(x, decoder_only=True)

  def vmap(self, x):
    def loss(weights, z, image):
      return F.mse_loss(self.decode(z[None], weights)[0], image)

    with torch.no_grad():
      z = self.encode(x)
    gradients, losses = torch.func.vmap(
      torch.func.grad_and_value(loss), in_dims=(None, 0, 0)
    )(self.up, z, x)
    cosines = []
    for gradient, reference in zip(gradients, self.reference, strict=True):
      g, r = gradient.flatten(1), reference.flatten()
      cosines.append(_cosine(g @ r, g.square().sum(1), r))
    return self.score(losses, cosines)

  def batched(self, x, measure):
    """Runs one backward pass of the decoder, then `measure` for every layer."""
    with torch.no_grad():
      h = self.encode(x)
    inputs, outputs = [], []
    layers = zip(self.up, self.up_bias, self.up_pad, strict=True)
    for i, (weight, bias, pad) in enumerate(layers):
      inputs.append(h.detach())
      y = F.conv_transpose2d(h, weight, bias, 2, pad)
      if not i:
        y = y.detach().requires_grad_()
      outputs.append(y)
      h = torch.sigmoid(y) if i == 3 else F.relu(y)
    losses = (h - x).square().flatten(1).mean(1)
    gradients = torch.autograd.grad(losses.sum(), outputs)
    cosines = []
    with torch.no_grad():
      for a, u, r, pad in zip(
        inputs, gradients, self.reference, self.up_pad, strict=True
      ):
        dot, square = measure(a, u, r, pad)
        cosines.append(_cosine(dot, square, r))
      return self.score(losses.detach(), cosines)

  def hooks(self, x):
    return self.batched(x, _matrix)

  def mixed(self, x):
    return self.batched(x, _cheaper(_matrix))

  def tilemix(self, x):
    return self.batched(x, _cheaper(_tiles))


_FOUR = range(1, 5)


def _transposed(kernel):
  """Converts [4, 4, Cin, Cout] to PyTorch's mirrored [Cin, Cout, 4, 4]."""
  return np.asarray(kernel)[::-1, ::-1].transpose(2, 3, 0, 1)


def _cosine(dot, square, reference):
  norm = square.clamp_min(0).sqrt().clamp_min(EPS)
  return dot / (norm * reference.norm().clamp_min(EPS))


def _matrix(a, u, r, pad):
  patches = F.unfold(u, 4, padding=pad, stride=2)
  g = (a.flatten(2) @ patches.transpose(1, 2)).flatten(1)
  return g @ r.flatten(), g.square().sum(1)


def _tiles(a, u, r, pad):
  rows, columns = a.shape[2:]
  tall, wide = 2 * rows + 2, 2 * columns + 2
  u = F.pad(u, (pad, wide - pad - u.shape[3], pad, tall - pad - u.shape[2]))
  flat, dot, square = a.flatten(2), 0.0, 0.0
  for i in range(4):
    for j in range(4):
      part = u[:, :, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
      g = flat @ part.flatten(2).transpose(1, 2)
      square = square + g.square().sum((1, 2))
      dot = dot + g.flatten(1) @ r[:, :, i, j].flatten()
  return dot, square


def _gram(a, u, r, pad):
  dot = (F.conv2d(u, r, None, 2, pad) * a).flatten(1).sum(1)
  flat, patches = a.flatten(2), F.unfold(u, 4, padding=pad, stride=2)
  square = (flat.mT @ flat) * (patches.mT @ patches)
  return dot, square.flatten(1).sum(1)


def _cheaper(formed):
  """Uses Gram products if they need less arithmetic than the matrix."""

  def measure(a, u, r, pad):
    positions, depth = a.shape[2] * a.shape[3], a.shape[1]
    rows = r[0].numel()
    ghost = positions * (depth + rows) < depth * rows
    return (_gram if ghost else formed)(a, u, r, pad)

  return measure
