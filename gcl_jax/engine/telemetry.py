"""Progress bar, JSON lines, TensorBoard and throughput.

A log that cannot be written does not stop a training: logging ends with one
line on stderr.
"""

import contextlib
import json
import math
import pathlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tqdm

from gcl_jax import disk
from gcl_jax.engine import alive, distributed, flops, pools, programs

# Dense bfloat16 peak of one chip in FLOP/s, from the makers' data sheets
# (read November 2026). A run in float32 cannot reach it.
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "NVIDIA A100": 312e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
}


class Telemetry:
  """Progress, metrics and throughput of one stage.

  Attributes:
    throughput: name of a fit or map -> dict of `images_per_s` (rows of all
      pools together), `data_wait` (share of the time spent waiting for data, 0
      to 1), `steps`, `compile_s`, `peak_bytes` with `peak_kind` ("device" or
      "process"), and `mfu` (None where the peak of the device is unknown, as
      on a CPU).
  """

  def __init__(self, directory: str | pathlib.Path | None = None, name=""):
    """Writes to `directory`; with None, writes and shows nothing."""
    self.throughput: dict[str, dict[str, Any]] = {}
    self._name = name
    self._loud = directory is not None and distributed.is_main()
    self._directory = pathlib.Path(directory) if self._loud else None
    self._board = None
    self._broken = False

  def log(
    self, step: int, metrics: dict[str, Any], name: str | None = None
  ) -> None:
    """Writes a line {"name", "step", "time", metric: float or null, ...}.

    `name` tells the fits of one stage apart; the default is the stage's. After
    a resume a step may come a second time: `read_metrics` keeps the later line.
    """
    if not self._loud or self._broken:
      return
    values = {name: float(value) for name, value in metrics.items()}
    self._guard(self._write, name or self._name, int(step), values)

  def note_skipped(self, record: dict[str, Any]) -> None:
    """Reports a skipped step on stderr and in skipped.jsonl.

    Args:
      record: {"name", "step"} and, of a batch with `index`, "images": a list
        of ids, or {pool: list of ids}.
    """
    name, step = record["name"], record["step"]
    self.say(f"{name}: step {step} skipped, it was not finite")
    if self._loud:
      self._guard(self._append, "skipped.jsonl", record)

  def progress(self, total: int, desc: str = "", initial: int = 0) -> tqdm.tqdm:
    """A progress bar on stderr: a context manager with `update(n)`."""
    return _Bar(
      total=total,
      initial=initial,
      desc=desc or self._name,
      disable=not self._loud,
      file=sys.stderr,
      mininterval=0.5 if sys.stderr.isatty() else 10,
      dynamic_ncols=True,
    )

  def say(self, line: str) -> None:
    """Prints one line on stderr, in process 0."""
    if self._loud:
      tqdm.tqdm.write(line, file=sys.stderr)

  def close(self) -> None:
    """Ends the TensorBoard file."""
    if self._board is not None:
      self._guard(self._board.close)
    self._board = None

  def _open(self):
    from tensorboardX import SummaryWriter

    self._directory.mkdir(parents=True, exist_ok=True)
    self._board = SummaryWriter(str(self._directory / "tensorboard"))

  def _write(self, name, step, values):
    if self._board is None:
      self._open()
    clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
    record = {"name": name, "step": step, "time": time.time()} | clean
    self._append("metrics.jsonl", record)
    for metric, value in clean.items():
      if value is not None:
        self._board.add_scalar(f"{name}/{metric}", value, step)

  def _append(self, name, record):
    disk.append(self._directory / name, json.dumps(record))

  def _guard(self, function, *args):
    try:
      function(*args)
    except OSError as error:
      self._broken = True
      self.say(f"logs are no longer written to {self._directory}: {error}")


class _Bar(tqdm.tqdm):
  """A progress bar that also marks this process as alive."""

  def update(self, n=1):
    alive.moved()
    return super().update(n)


def read_metrics(directory: str | pathlib.Path) -> list[dict[str, Any]]:
  """Records of metrics.jsonl in the order of their steps.

  Of two with the same name, step and metrics the later one is kept; a line cut
  off by a kill is left out.
  """
  path = pathlib.Path(directory) / "metrics.jsonl"
  records = {}
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      continue
    key = record["name"], record["step"], frozenset(record)
    records[key] = record
  return sorted(records.values(), key=lambda record: record["step"])


def peak_flops(device: jax.Device) -> float | None:
  """The dense bfloat16 peak of a device in FLOP/s; None if unknown."""
  matches = [n for n in PEAK_FLOPS if device.device_kind.startswith(n)]
  return PEAK_FLOPS[max(matches, key=len)] if matches else None


def peak_memory(devices) -> tuple[int, str]:
  """The peak memory in bytes, and "device" or "process".

  "device": of the device with the largest peak. "process": the peak resident
  memory of this process, where devices report none (a CPU).
  """
  stats = [device.memory_stats() or {} for device in devices]
  peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
  if peaks:
    return max(peaks), "device"
  unit = 1 if sys.platform == "darwin" else 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * unit, "process"


class Stopwatch:
  """Times the steps of one fit or map and sums up their throughput."""

  def __init__(self, mesh: jax.sharding.Mesh):
    self._devices = list(mesh.local_devices)
    self._count = mesh.size
    self.compile_s = self.wait_s = self.busy_s = 0.0
    self.images = self.steps = 0
    self.flops = None

  def compile(self, function, *args, steps: int = 1):
    """Compiles `function`, `steps` steps, for these arguments ahead of time.

    Notes the seconds (few for a program that another fit or map compiled),
    and the FLOPs of a step over all devices.
    """
    begin = time.perf_counter()
    compiled = programs.compile_once(function, *args)
    self.compile_s += time.perf_counter() - begin
    self.flops = flops.count(function, *args) / steps or None
    return compiled

  def wait(self, batches):
    """`next(batches, None)`, timed as waiting for data."""
    begin = time.perf_counter()
    batch = next(batches, None)
    self.wait_s += time.perf_counter() - begin
    return batch

  @contextlib.contextmanager
  def busy(self, steps: int = 0, images: int = 0) -> Iterator[None]:
    """Times its block as work on so many steps and images."""
    begin = time.perf_counter()
    yield
    self.busy_s += time.perf_counter() - begin
    self.steps += steps
    self.images += images

  def record(self) -> dict[str, Any]:
    """The entry of `Telemetry.throughput`; rates are None without a step."""
    seconds, steps = self.wait_s + self.busy_s, self.steps
    peak = peak_flops(self._devices[0])
    mfu = None
    if peak and self.flops and seconds:
      mfu = self.flops * steps / seconds / (peak * self._count)
    peak_bytes, peak_kind = peak_memory(self._devices)
    return {
      "images_per_s": self.images / seconds if seconds else None,
      "data_wait": self.wait_s / seconds if seconds else None,
      "steps": steps,
      "seconds": seconds,
      "compile_s": self.compile_s,
      "flops_per_step": self.flops,
      "mfu": mfu,
      "peak_bytes": peak_bytes,
      "peak_kind": peak_kind,
    }


def count_rows(batch: dict[str, Any]) -> int:
  """Rows of a host batch: of all its pools together, over all processes."""
  rows = pools.each(_rows_of, batch)
  return sum(jax.tree.leaves(rows)) * jax.process_count()


def _rows_of(pool: dict[str, Any]) -> int:
  return len(np.asarray(next(iter(pool.values()))))
