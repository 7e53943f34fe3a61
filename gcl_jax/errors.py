"""The ways a run can end early, each with its exit code."""


class UserError(ValueError):
  """A mistake a user can mend: one line that says what, where and what to do.

  `main` prints the line without a traceback and exits with code 2.
  """

  exit_code = 2


class ConfigError(UserError):
  """A setting that is unknown, of the wrong type or out of range."""


class DataError(UserError):
  """A file, table or split that cannot be used as it stands."""


class NonFiniteError(RuntimeError):
  """Training met losses that are not finite and stopped."""

  exit_code = 3


class Preempted(RuntimeError):
  """The run was asked to stop, saved its state and can be started again."""

  exit_code = 75


class PeerLost(RuntimeError):
  """Another process died or hangs: what runs across processes cannot go on."""

  exit_code = 4


class MainProcessFailed(RuntimeError):
  """Raised in the other processes when process 0 failed, with its code."""

  def __init__(self, exit_code: int):
    super().__init__("process 0 stopped: its message says why")
    self.exit_code = exit_code
