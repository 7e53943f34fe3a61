"""Compiler flags for each platform, with the reason for each.

  eval "$(python launch/xla_flags.py gpu)"
  python -m gcl_jax.main ...

prints `export VARIABLE=...` for a shell. The previous value of the variable
comes after these flags and so takes precedence. GPU flags go into XLA_FLAGS and
TPU flags into LIBTPU_INIT_ARGS: XLA stops the program on an unknown flag, also
on a CPU, and every xla_tpu_ flag is unknown to it. We have not measured them on
such machines; omit them to compare.
"""

import sys
from typing import NamedTuple


class Flag(NamedTuple):
  """Name, value and reason of one flag."""

  name: str
  value: str
  reason: str


GPU = (
  Flag(
    "xla_gpu_enable_latency_hiding_scheduler",
    "true",
    "sums gradients between devices while others are still computed",
  ),
  Flag(
    "xla_gpu_enable_highest_priority_async_stream",
    "true",
    "what other devices wait for is not queued behind our own kernels",
  ),
  Flag(
    "xla_gpu_all_reduce_combine_threshold_bytes",
    "134217728",
    "few large sums instead of one a layer: all gradients are below 128 MiB",
  ),
  Flag(
    "xla_gpu_all_gather_combine_threshold_bytes",
    "134217728",
    "features and labels of a batch cross in one transfer",
  ),
  Flag(
    "xla_gpu_reduce_scatter_combine_threshold_bytes",
    "134217728",
    "the same for the gradient of that gathering",
  ),
)
REPEATABLE = (
  Flag(
    "xla_gpu_deterministic_ops",
    "true",
    "the same figures in every run, at some cost in speed",
  ),
)
TPU = (
  Flag(
    "xla_tpu_enable_async_collective_fusion",
    "true",
    "transfers run beside the arithmetic instead of between it",
  ),
  Flag(
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
    "true",
    "the same for gathered features, which the contrastive loss needs",
  ),
  Flag(
    "xla_tpu_overlap_compute_collective_tc",
    "true",
    "lets the core compute while its transfers are under way",
  ),
)
# What to ask for -> the variable and its flags.
PLATFORMS = {
  "gpu": ("XLA_FLAGS", GPU),
  "gpu-repeatable": ("XLA_FLAGS", GPU + REPEATABLE),
  "tpu": ("LIBTPU_INIT_ARGS", TPU),
}


def arguments(platform: str) -> str:
  """Flags of a platform as one line: `--name=value --name=value`."""
  _, flags = PLATFORMS[platform]
  return " ".join(f"--{flag.name}={flag.value}" for flag in flags)


def export(platform: str) -> str:
  """Line to be evaluated by a shell."""
  variable, _ = PLATFORMS[platform]
  return f'export {variable}="{arguments(platform)} ${{{variable}:-}}"'


def main(argv: list[str]) -> int:
  """Prints the line for the platform given in argv."""
  if len(argv) != 2 or argv[1] not in PLATFORMS:
    print(f"usage: {argv[0]} {'|'.join(PLATFORMS)}", file=sys.stderr)
    return 2
  print(export(argv[1]))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
