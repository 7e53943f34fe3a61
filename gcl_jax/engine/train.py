"""The only training loop."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gcl_jax.engine import feed, parallel, pools, preemption
from gcl_jax.engine.checkpoint import Checkpoints
from gcl_jax.engine.dispatch import Dispatch
from gcl_jax.engine.skipped import Skipped
from gcl_jax.engine.state import State
from gcl_jax.engine.telemetry import Stopwatch, Telemetry
from gcl_jax.errors import (
  ConfigError,
  NonFiniteError,
  Preempted,
  UserError,
)

Step = Callable[..., tuple[State, dict[str, jax.Array]]]

FAILED_SAVES = 3  # failures in a row that end the run
SLOW_SAVE_S = 30.0  # a save that takes longer is reported


class Training(NamedTuple):
  """The parts of a fit: its step, its first state, the shapes of a batch.

  Attributes:
    step: (state, batch, *, axis_name) -> (state, metrics).
    init: (key, *arguments) -> the state before the first step.
    batch: ShapeDtypeStructs [B, ...] of one batch over all devices, from
      `batch_of`: a dict of arrays, or of several pools of them.
    arguments: of `init`: arrays, so that fits which differ in nothing else
      share a program.
  """

  step: Step
  init: Callable[..., State]
  batch: Any
  arguments: tuple = ()


def batch_of(size: int, **columns: tuple) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of a batch: `index` int32[B] and the given columns.

  >>> sorted(batch_of(8, image=(np.uint8, 32, 32, 1)))
  ['image', 'index']

  A batch of several pools is a dict of them, each of its own size:

  >>> pools = {"anchor": batch_of(8), "negative": batch_of(24)}
  >>> pools["negative"]["index"].shape
  (24,)

  Args:
    size: B, rows of the batch over all devices and processes.
    **columns: name -> (dtype, *shape of one row).
  """
  columns = {"index": (np.int32,), **columns}
  return {
    name: jax.ShapeDtypeStruct((size, *shape), dtype)
    for name, (dtype, *shape) in columns.items()
  }


def fit(
  step: Step,
  state: State,
  batches: Callable[[int], Iterator[dict]],
  *,
  steps: int,
  mesh: jax.sharding.Mesh,
  mode: str = "shard_map",
  name: str = "train",
  telemetry: Telemetry | None = None,
  checkpoints: Checkpoints | None = None,
  save_every: int = 0,
  log_every: int = 20,
  every: int = 0,
  on_every: Callable | None = None,
  steps_per_dispatch: int = 1,
  max_skipped: int = 10,
  ids: np.ndarray | dict[str, np.ndarray] | None = None,
  dispatch: Dispatch | None = None,
) -> State:
  """Trains from `state`, or from the newest checkpoint, up to `steps` updates.

  Compiled once; two batches are on their way to the device while a step runs;
  metrics are read one step late, so that the device never waits for the host.
  A resume is exact: same state, same batches, same result as without a stop.
  A step whose loss or parameters are not finite changes nothing but the step
  number; it is counted, and its images are written to `skipped.jsonl`.

  Args:
    step: (state, batch, *, axis_name) -> (state with step + 1, dict of scalar
      metrics averaged over the batch, `loss` among them).
    state: the state to begin with; it is copied, not donated.
    batches: number of steps done -> iterator of the host batches that follow,
      dicts of arrays, or of several pools of them, whose shapes never change.
    steps: total number of updates, those before a resume included.
    mesh: devices, from `parallel.make_mesh`.
    mode: "shard_map", "pmap" or "jit".
    name: of the progress bar, the messages and the throughput record.
    telemetry: where metrics and throughput go; None drops them.
    checkpoints: where to resume from and save to; None does neither.
    save_every: updates between checkpoints; 0 saves at the end only (and when
      asked to stop).
    log_every: updates between logged metrics.
    every: updates between calls of `on_every`; 0 never.
    on_every: state -> (state, dict of metrics, stop): validation; keep the best
      so far in `state.extra` (same shapes and dtypes as before), and return
      stop=True to end early.
    steps_per_dispatch: updates in one program, for steps so short that the
      device waits for the host between them. What falls due inside a program
      (a log line, a checkpoint, `on_every`, a request to stop) is done at its
      end. Worth nothing on a CPU, whose convolutions are slow inside loops.
    max_skipped: steps skipped in a row that end the run.
    ids: name of every row that `batches` may hold in `index`, for the list of
      skipped images; None lists the rows. Of several pools {"anchor": ids,
      "negative": ids}, or one array where all pools are rows of the same data
      set; a pool without ids lists its rows.
    dispatch: `Dispatch(step, mesh, mode)` kept from fit to fit of the same
      step and shapes, so that they are compiled once.

  Returns:
    The last state, on the devices of the mesh.

  Raises:
    ConfigError: `steps_per_dispatch` below 1.
    NonFiniteError: `max_skipped` steps in a row, or all there are, were not
      finite. What was saved is finite.
    Preempted: SIGTERM or SIGINT came; the state is saved. A second SIGINT
      raises KeyboardInterrupt at once.
    UserError: the batches ended early, or the disk refused three saves in a
      row.
  """
  if steps_per_dispatch < 1:
    raise ConfigError(
      f"{name}: steps_per_dispatch must be 1 or more, got {steps_per_dispatch}"
    )
  telemetry = telemetry or Telemetry()
  state = parallel.replicate(state, mesh)
  if checkpoints is not None and checkpoints.latest() is not None:
    state = checkpoints.restore(state)
    telemetry.say(f"{name}: resumed at step {int(state.step)} of {steps}")
    if checkpoints.finished:
      return state
  start = int(state.step)
  if start >= steps:
    return state
  patience = min(max_skipped, steps - start)
  run = _Run(name, telemetry, checkpoints, mesh, Skipped(patience, ids, mode))
  dispatch = dispatch or Dispatch(step, mesh, mode)
  groups = feed.groups(batches(start), steps_per_dispatch, steps - start)
  number = start
  with contextlib.ExitStack() as stack:
    asked_by = stack.enter_context(preemption.watch())
    queue = stack.enter_context(feed.prefetch(groups, dispatch.put))
    bar = stack.enter_context(telemetry.progress(steps, name, start))
    stack.callback(run.record)
    while number < steps:
      group = run.watch.wait(queue)
      if group is None:
        raise UserError(
          f"{name}: the data ended after step {number} of {steps}"
        )
      dispatch.compile(state, group, run.watch)
      before, number = number, number + len(group)
      with run.watch.busy(len(group), group.rows):
        state, metrics = dispatch(state, group)
        run.after(number, metrics, group, _due(log_every, before, number))
      bar.update(len(group))
      stop = False
      if _due(every, before, number):
        state, stop = run.evaluate(number, state, on_every)
      last, asked = stop or number == steps, asked_by()
      if last or asked or _due(save_every, before, number):
        run.settle(number, state)
        if checkpoints is not None:
          run.save(number, state, finished=stop, must=last or bool(asked))
      if asked:
        raise Preempted(_how_to_go_on(name, number, asked, checkpoints))
      if last:
        break
  return state


def _due(every: int, before: int, number: int) -> bool:
  """Whether a multiple of `every` lies in (before, number]."""
  return bool(every) and number // every > before // every


def _index_of(pool: dict[str, Any]) -> Any:
  """The rows of one pool of a batch; None where it has no `index`."""
  return pool.get("index")


class _Run:
  """Metrics, checkpoints and skipped steps of one `fit`."""

  def __init__(self, name, telemetry, checkpoints, mesh, skipped):
    self.name, self.telemetry = name, telemetry
    self.checkpoints, self.mesh, self.skipped = checkpoints, mesh, skipped
    self.watch = Stopwatch(mesh)
    self.pending = []  # (step, metrics, batches, due) still on the device
    self.failed_saves = 0

  def after(self, number, metrics, group, due):
    """Reads the metrics before these when they are due."""
    if self.pending:
      # At most two programs in flight: batches and signals do not pile up.
      jax.block_until_ready(self.pending[-1][1])
      if self.pending[-1][3]:
        self.read()
    rows = [pools.each(_index_of, batch) for batch in group]
    self.pending.append((number, metrics, rows, due))

  def read(self):
    """Logs the newest metrics at hand and counts what was skipped."""
    if not self.pending:
      return
    numbers, metrics, rows, _ = zip(*self.pending, strict=True)
    self.pending = []
    newest = {
      k: np.ravel(v)[-1] for k, v in jax.device_get(metrics[-1]).items()
    }
    self.telemetry.log(numbers[-1], newest, self.name)
    flags = jax.device_get([m["skipped"] for m in metrics])
    for last, skipped, indices in zip(numbers, flags, rows, strict=True):
      first = last - len(indices) + 1
      for number, flag, index in zip(
        range(first, last + 1), np.ravel(skipped), indices, strict=True
      ):
        self.look(number, bool(flag), index)

  def look(self, number, skipped, index):
    """Records a skipped step; ends the run after too many in a row."""
    found = self.skipped.look(number, skipped, index)
    if found is None:
      return
    self.telemetry.note_skipped({"name": self.name} | found)
    if self.skipped.in_a_row >= self.skipped.patience:
      raise self.not_finite(
        f"{self.skipped.in_a_row} steps in a row were not finite, the last"
        f" step {number}"
      )

  def drain(self):
    """Reads all metrics at hand: the steps in flight still count as busy."""
    with self.watch.busy():
      self.read()

  def settle(self, number, state):
    """Waits for the state and reads every metric, before the state is saved."""
    self.drain()
    if int(state.step) != number:
      raise ValueError(
        f"{self.name}: the step function must add 1 to state.step: it is"
        f" {int(state.step)} after step {number}"
      )

  def not_finite(self, what):
    newest = None if self.checkpoints is None else self.checkpoints.latest()
    kept = "" if newest is None else f"; step {newest} is saved and finite"
    return NonFiniteError(
      f"{self.name}: {what}{kept}: lower the learning rate or look at the"
      " images listed in skipped.jsonl"
    )

  def evaluate(self, number, state, on_every):
    self.drain()
    state, metrics, stop = on_every(state)
    self.telemetry.log(number, metrics, self.name)
    # The new leaves may lie anywhere and may share memory: see `replicate`.
    return parallel.replicate(state, self.mesh), bool(stop)

  def save(self, number, state, *, finished, must):
    """Saves the state; only the third failure in a row ends the run.

    With `must`, the first one does.
    """
    begin = time.monotonic()
    try:
      self.checkpoints.save(number, state, finished=finished)
      self.failed_saves = 0
      if (took := time.monotonic() - begin) > SLOW_SAVE_S:
        self.telemetry.say(
          f"{self.name}: saving step {number} took {took:.0f} s: the file"
          " system is slow"
        )
    except (OSError, ValueError) as error:
      self.failed_saves += 1
      line = str(error).splitlines()[0][:200]
      text = f"{self.name}: step {number} could not be saved: {line}"
      if must or self.failed_saves >= FAILED_SAVES:
        raise UserError(text) from error
      self.telemetry.say(f"{text}; going on")

  def record(self):
    record = self.watch.record() | {"skipped": self.skipped.count}
    self.telemetry.throughput[self.name] = record


def _how_to_go_on(name, number, signal_name, checkpoints: Any):
  stopped = f"{name}: stopped by {signal_name}"
  if checkpoints is None:
    return f"{stopped} after step {number}; nothing was saved"
  return (
    f"{stopped} after step {number}, which is saved:"
    " run the same command again to go on"
  )
