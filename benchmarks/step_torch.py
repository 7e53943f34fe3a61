"""SupCon step in PyTorch, in its usual modes."""

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {"resnet18": ((2, 2, 2, 2), 1), "resnet50": ((3, 4, 6, 3), 4)}


class Block(nn.Module):
  """Residual block, v1.5; the output is four times as wide for ResNet-50."""

  def __init__(self, inputs, width, stride, widen):
    super().__init__()
    if widen == 1:
      shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
    else:
      shapes = [(inputs, width, 1, 1), (width, width, 3, stride)]
      shapes.append((width, widen * width, 1, 1))
    layers = []
    for shape in shapes:
      layers += [conv(*shape), nn.BatchNorm2d(shape[1]), nn.ReLU()]
    self.body = nn.Sequential(*layers[:-1])
    self.shortcut = nn.Identity()
    if stride > 1 or inputs != widen * width:
      self.shortcut = nn.Sequential(
        conv(inputs, widen * width, 1, stride), nn.BatchNorm2d(widen * width)
      )

  def forward(self, x):
    return F.relu(self.body(x) + self.shortcut(x))


class Encoder(nn.Module):
  """ResNet and projection head with unit vectors as output."""

  def __init__(self, arch, stem):
    super().__init__()
    first = (1, 64, 3, 1) if stem == "cifar" else (1, 64, 7, 2)
    layers = [conv(*first), nn.BatchNorm2d(64), nn.ReLU()]
    if stem == "imagenet":
      layers.append(nn.MaxPool2d(3, 2, 1))
    counts, widen = BLOCKS[arch]
    channels = 64
    for stage, count in enumerate(counts):
      for index in range(count):
        stride = 2 if stage and not index else 1
        layers.append(Block(channels, 64 << stage, stride, widen))
        channels = (64 << stage) * widen
    self.body = nn.Sequential(*layers)
    self.head = nn.Sequential(
      nn.Linear(channels, 512), nn.ReLU(), nn.Linear(512, 128)
    )

  def forward(self, x):
    return F.normalize(self.head(self.body(x).mean((2, 3))).float(), dim=1)


def conv(inputs, outputs, kernel, stride):
  """Convolution without bias, padded to halve or keep the size."""
  return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def augmented(images):
  """Crops, flips, changes brightness and contrast of each uint8 image."""
  count, channels, rows, columns = images.shape
  device = images.device
  scale = torch.empty(count, device=device).uniform_(0.2, 1.0).sqrt()
  shift = (torch.rand(count, 2, device=device) * 2 - 1) * (1 - scale)[:, None]
  flip = (torch.rand(count, device=device) < 0.5) * 2 - 1
  theta = torch.zeros(count, 2, 3, device=device)
  theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * flip, scale, shift
  grid = F.affine_grid(theta, images.shape, align_corners=False)
  x = F.grid_sample(images.float() / 255, grid, align_corners=False)
  gain = torch.empty(count, 1, 1, 1, device=device).uniform_(0.6, 1.4)
  offset = torch.empty(count, 1, 1, 1, device=device).uniform_(-0.4, 0.4)
  return (x * gain + offset - 0.5) / 0.25


def supcon(z, labels, temperature=0.07):
  """Supervised contrastive loss of unit vectors [N, D] over all pairs."""
  logits = z @ z.T / temperature
  itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
  share = logits.masked_fill(itself, -torch.inf).log_softmax(1)
  positive = (labels[:, None] == labels[None]) & ~itself
  total = share.masked_fill(~positive, 0).sum(1)
  return -(total / positive.sum(1).clamp_min(1)).mean()


def step(arguments, mode, images, labels):
  """Function that makes one step and waits for its end."""
  torch.set_num_threads(arguments.threads)
  torch.manual_seed(0)
  device = arguments.device
  images = torch.tensor(images).movedim(3, 1).contiguous().to(device)
  labels = torch.arange(len(images), device=device) % labels
  encoder = Encoder(arguments.arch, arguments.stem).to(device).train()
  last = mode in ("channels_last", "best")
  form = torch.channels_last if last else torch.contiguous_format
  encoder = encoder.to(memory_format=form)
  optimizer = torch.optim.SGD(
    encoder.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4
  )
  forward = torch.compile(encoder) if arguments.compile else encoder
  half = mode in ("bfloat16", "best")

  def call():
    views = torch.cat([augmented(images), augmented(images)])
    views = views.contiguous(memory_format=form)
    with torch.autocast(device, torch.bfloat16, enabled=half):
      z = forward(views)
    loss = supcon(z, labels.repeat(2))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

  return call
