"""What a stage is, and what it is given to work with."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine import inference, manifest, parallel, train
from gcl_jax.engine.checkpoint import Checkpoints, load_artifact
from gcl_jax.engine.dispatch import Dispatch
from gcl_jax.engine.state import State
from gcl_jax.engine.telemetry import Telemetry
from gcl_jax.errors import UserError

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of a method, which reads and leaves artifacts only.

  Attributes:
    name: of the stage and its folder.
    run: context -> artifact: nested dict of arrays, strings and numbers.
    inputs: names of the stages whose artifacts it loads.
    sections: keys of the configuration that it depends on, whole sections or
      single fields ("probe.solver"). When one of them changes, a finished
      stage no longer fits.
    host: it works without the mesh, in process 0 alone.
    leaves: names of files that it writes into the folder of the run. When one
      of them is gone, the finished stage is run again; it has no checkpoints.
  """

  name: str
  run: Callable[["Context"], dict]
  inputs: tuple[str, ...] = ()
  sections: tuple[str, ...] = ()
  host: bool = False
  leaves: tuple[str, ...] = ()


def finished_manifest(workdir: pathlib.Path, name: str) -> dict:
  """The manifest of a finished stage; UserError where it is not finished."""
  found = manifest.read_manifest(workdir / name)
  if found is None:
    raise UserError(
      f"stage {name} is not finished in {workdir}: run it first"
      f" (--stage={name}, or no --stage to run all that is missing)"
    )
  return found


def read_stage(workdir: pathlib.Path, name: str) -> dict:
  """The artifact of a finished stage, checked against its manifest.

  Raises:
    UserError: it is not finished, or an array differs from what was left.
  """
  expected = finished_manifest(workdir, name)["arrays"]
  folder = workdir / name
  tree = load_artifact(folder / "artifact")
  changed = manifest.differing(expected, manifest.array_hashes(tree))
  if changed:
    raise UserError(
      f"{folder / 'artifact'} was changed after stage {name} had finished:"
      f" {changed[0]}; delete {folder} and run stage {name} again"
    )
  return tree


@dataclasses.dataclass
class Context:
  """What a stage is given.

  Attributes:
    config: the whole configuration, a ConfigDict with `method` and `seed`.
    workdir: the folder of the run.
    mesh: devices, from `parallel.make_mesh`.
    mode: "shard_map", "pmap" or "jit".
    data: {"fingerprint": str, "count": int} of the data set; a stage finished
      on other data is refused.
    datasets: {section: data set} of every section whose name ends in "data",
      for the stages; the engine never looks at them.
    stage: the stage being run, set by `run_stages`.
    telemetry: of the stage being run, set by `run_stages`.
  """

  config: ConfigDict
  workdir: pathlib.Path
  mesh: jax.sharding.Mesh
  mode: str = "shard_map"
  data: dict[str, Any] = dataclasses.field(default_factory=dict)
  datasets: dict[str, Any] = dataclasses.field(default_factory=dict)
  stage: Stage | None = None
  telemetry: Telemetry = dataclasses.field(default_factory=Telemetry)
  _kept: dict = dataclasses.field(
    default_factory=lambda: {"artifacts": {}, "steps": {}, "maps": {}},
    init=False,
    repr=False,
  )

  def __post_init__(self):
    # Absolute: a path joined to it stays inside, wherever the process goes.
    self.workdir = pathlib.Path(self.workdir).absolute()

  @property
  def folder(self) -> pathlib.Path:
    """The folder of the stage being run."""
    return self.workdir / self.stage.name

  def load(self, name: str) -> dict:
    """The artifact of an input stage, checked against its manifest.

    It is read once and then kept while the stage runs: treat it as read-only.

    Raises:
      UserError: it is not finished, or an array differs from what was left.
      ValueError: the stage does not list `name` among its inputs.
    """
    if name not in self.stage.inputs:
      raise ValueError(f"stage {self.stage.name} does not list input {name}")
    if name not in self._kept["artifacts"]:
      self._kept["artifacts"][name] = read_stage(self.workdir, name)
    return self._kept["artifacts"][name]

  def manifest(self, name: str) -> dict:
    """The manifest of a finished stage (wall time, throughput, hashes).

    Raises:
      UserError: the stage is not finished.
    """
    return finished_manifest(self.workdir, name)

  def checkpoints(self, name: str = "checkpoints", keep: int = 2):
    """Checkpoints of one fit of this stage; give each fit its own name."""
    strict = self.config.get("strict", False)
    return Checkpoints(self.folder / name, keep, strict)

  def fit(
    self,
    training: train.Training,
    batches: Callable[[int], Iterator[dict]],
    *,
    steps: int,
    name: str,
    seed: int,
    ids: np.ndarray | dict[str, np.ndarray],
    stream: int | None = None,
    checkpoints: Checkpoints | None = None,
    **more: Any,
  ) -> State:
    """`train.fit` from the first state, with all that the run decides.

    Mesh, mode, telemetry, checkpoints, `log_every`, `max_skipped` and
    `steps_per_dispatch` come from the context and its configuration. A step is
    compiled once a stage, whatever number of fits takes it.

    Args:
      training: what is trained.
      batches, steps, name, ids: as in `train.fit`.
      seed: of the key of `training.init`.
      stream: folded into that key, for several fits of one seed.
      checkpoints: from `checkpoints`; None makes `checkpoints()`.
      **more: `save_every`, `every` and `on_every` of `train.fit`.

    Returns:
      The last state.
    """
    key = jax.random.key(seed)
    if stream is not None:
      key = jax.random.fold_in(key, stream)
    steps_kept = self._kept["steps"]
    if training.step not in steps_kept:
      steps_kept[training.step] = Dispatch(training.step, self.mesh, self.mode)
    return train.fit(
      training.step,
      parallel.init_replicated(
        training.init, self.mesh, key, *training.arguments
      ),
      batches,
      steps=steps,
      name=name,
      ids=ids,
      mesh=self.mesh,
      mode=self.mode,
      telemetry=self.telemetry,
      checkpoints=checkpoints or self.checkpoints(),
      log_every=self.config.log_every,
      max_skipped=self.config.max_skipped,
      steps_per_dispatch=self.config.steps_per_dispatch,
      dispatch=steps_kept[training.step],
      **more,
    )

  def map(
    self,
    function: Callable,
    tree: PyTree,
    arrays: dict[str, Any],
    *,
    batch_size: int,
    name: str,
    quiet: bool = False,
  ) -> PyTree:
    """`inference.map_examples` on the devices of the run, with its telemetry.

    A function is compiled once a stage for the same shapes. `quiet` leaves out
    progress bar and throughput record, for a pass inside a fit.
    """
    return inference.map_examples(
      function,
      tree,
      arrays,
      batch_size=batch_size,
      name=name,
      mesh=self.mesh,
      mode=self.mode,
      telemetry=None if quiet else self.telemetry,
      compiled=self._kept["maps"].setdefault(function, {}),
    )
