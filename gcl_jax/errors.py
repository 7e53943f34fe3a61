"""Exceptions that end a run early, each with its exit code."""

import sys
from collections.abc import Callable


class UserError(ValueError):
  """Mistake that the user can correct: one line with the place and the remedy.

  `main` prints the line without a traceback and exits with code 2.
  """

  exit_code = 2


class ConfigError(UserError):
  """Setting that is unknown, of the wrong type or out of range."""


class DataError(UserError):
  """File, table or split that cannot be used."""


class NonFiniteError(RuntimeError):
  """Training that stopped because of non-finite losses."""

  exit_code = 3


class Preempted(RuntimeError):
  """Interrupted run that saved its state and can be resumed."""

  exit_code = 75


class PeerLost(RuntimeError):
  """Death or hang of another process: collective operations cannot complete."""

  exit_code = 4


class MainProcessFailed(RuntimeError):
  """Raised in the other processes when process 0 failed; has its exit code."""

  def __init__(self, exit_code: int):
    super().__init__("process 0 stopped: its message says why")
    self.exit_code = exit_code


def command(main: Callable[[], object]) -> None:
  """Prints what a small command returns; for a mistake of the user one line and
  exit code 2.

  Args:
    main: the command; parses its own arguments.
  """
  try:
    print(main())
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
