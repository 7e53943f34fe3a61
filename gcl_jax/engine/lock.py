"""Lock that allows one run per folder."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator

from gcl_jax.engine import distributed
from gcl_jax.errors import UserError


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
  """Locks the folder against a second run; process 0 holds the lock.

  The kernel frees the lock of a dead process, so a killed run leaves only its
  name in the file, and the next run takes over.

  Raises:
    UserError: another run holds the lock, an owner on another host (whose lock
      may be invisible here) did not release it, or no run wrote the file.
  """
  if not distributed.is_main():
    yield
    return
  path = pathlib.Path(workdir) / ".lock"
  with open(path, "a+") as file:
    _acquire(file, path)
    try:
      yield
    finally:
      file.truncate(0)


def _acquire(file, path):
  me = {"host": socket.gethostname(), "pid": os.getpid()}
  visible = held = False  # whether flock works, whether another run holds it
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    visible = True
  except BlockingIOError:
    held = True
  except OSError:
    pass  # a file system without locks: the process id decides
  owner = _read(file)
  if owner is None and _is_foreign(file):
    raise UserError(
      f"{path} was not written by a run and would be replaced: choose another"
      " --workdir"
    )
  if owner and owner["host"] != me["host"]:
    held = True
  elif owner and not visible and owner["pid"] != me["pid"]:
    held = held or _is_alive(owner["pid"])
  if held:
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another"
    raise UserError(
      f"{path.parent} is in use by {who}: wait for it or choose another"
      f" --workdir (if that run is gone: delete {path})"
    )
  file.truncate(0)
  file.write(json.dumps(me))
  file.flush()


def _read(file):
  file.seek(0)
  try:
    owner = json.loads(file.read())
    return {"host": str(owner["host"]), "pid": int(owner["pid"])}
  except (ValueError, KeyError, TypeError):
    return None  # released, or truncated by a kill


def _is_foreign(file):
  """Whether the file holds anything but the beginning of an owner's line."""
  file.seek(0)
  try:
    return not '{"host":'.startswith(file.read(8))
  except ValueError:  # no text
    return True


def _is_alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True
