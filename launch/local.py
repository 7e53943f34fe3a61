"""Starts several processes on this machine, like the launcher of a cluster.

  python launch/local.py --processes=2 --devices_per_process=2 -- \
      --config=configs/severity.py:tiny --workdir=runs/a

Every process is `python -m gcl_jax.main` with the arguments after `--`, on
virtual CPU devices, and finds the others by GCL_COORDINATOR, GCL_NUM_PROCESSES
and GCL_PROCESS_ID. Output lines are prefixed with the number of the process.
When one fails the others are stopped. After exit codes 75 (stopped after
saving), 4 (lost a peer) and 134, 137, 139 (killed) all of them are restarted,
at most --restarts times; any other code is returned. --preempt=20:1 sends
SIGTERM to process 1 after 20 seconds, once.

Results are bitwise independent of the number of processes that hold the same
devices: even a single process reduces through gloo, and all have the same
number of threads, which sets XLA's order of summation in a device (NPROC).
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

PREEMPTED = 75
AGAIN = (PREEMPTED, 4, 134, 137, 139)
GRACE_S = 20  # between SIGTERM and SIGKILL, when the others are stopped


def main() -> int:
  """Runs the processes until they finish, fail or exceed the restarts."""
  arguments = parse()
  preempt = arguments.preempt
  for attempt in range(arguments.restarts + 1):
    code = run_once(arguments, preempt)
    preempt = None
    if code not in AGAIN or attempt == arguments.restarts:
      break
    print(f"local: ended with {code}; starting again", flush=True)
  return code


def parse() -> argparse.Namespace:
  """Command line; arguments after `--` go to gcl_jax.main."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--devices_per_process", type=int, default=1)
  parser.add_argument("--restarts", type=int, default=3)
  parser.add_argument(
    "--preempt", type=moment, default=None, metavar="SECONDS:PROCESS"
  )
  parser.add_argument("main", nargs="*", help="arguments of gcl_jax.main")
  arguments = parser.parse_args()
  for name in ("processes", "devices_per_process"):
    if getattr(arguments, name) < 1:
      parser.error(f"--{name} must be 1 or more")
  if arguments.preempt and arguments.preempt[1] >= arguments.processes:
    parser.error(f"--preempt names process {arguments.preempt[1]} of too few")
  return arguments


def moment(text: str) -> tuple[float, int]:
  """Parses "20:1" as (seconds, process)."""
  seconds, process = text.split(":")
  return float(seconds), int(process)


def run_once(arguments: argparse.Namespace, preempt: tuple | None) -> int:
  """Starts all processes once; returns the exit code of the first failure."""
  port = free_port()
  children = [
    start(number, port, arguments) for number in range(arguments.processes)
  ]
  try:
    if preempt:
      terminate = children[preempt[1]].terminate
      timer = threading.Timer(preempt[0], terminate)
      timer.daemon = True
      timer.start()
    return wait(children)
  finally:
    stop(children)


def free_port() -> int:
  """Number of an unused port."""
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def start(
  number: int, port: int, arguments: argparse.Namespace
) -> subprocess.Popen:
  """Starts one process, and a thread that copies its output."""
  environment = os.environ | {
    "GCL_COORDINATOR": f"127.0.0.1:{port}",
    "GCL_NUM_PROCESSES": str(arguments.processes),
    "GCL_PROCESS_ID": str(number),
    "GCL_CPU_DEVICES": str(arguments.devices_per_process),
    "NPROC": str(threads(arguments)),
    "JAX_PLATFORMS": "cpu",
  }
  command = [sys.executable, "-u", "-m", "gcl_jax.main", *arguments.main]
  child = subprocess.Popen(
    command,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
  )
  threading.Thread(target=copy, args=(number, child), daemon=True).start()
  return child


def threads(arguments: argparse.Namespace) -> int:
  """Threads of XLA's pool, independent of the number of processes."""
  devices = arguments.processes * arguments.devices_per_process
  return max(devices, len(os.sched_getaffinity(0)))


def copy(number: int, child: subprocess.Popen) -> None:
  """Prints the output lines of a process, prefixed with its number."""
  for line in child.stdout:
    print(f"[{number}] {line.rstrip()}", flush=True)


def wait(children: list[subprocess.Popen]) -> int:
  """Returns 0 when all have finished, or the exit code of the first failure.

  After exit code 75 the others get time to save the same step.
  """
  deadline = None
  while True:
    codes = [child.poll() for child in children]
    failed = [code for code in codes if code not in (None, 0, PREEMPTED)]
    if failed:
      return failed[0] if failed[0] > 0 else 128 - failed[0]
    if None not in codes:
      return PREEMPTED if PREEMPTED in codes else 0
    if PREEMPTED in codes and deadline is None:
      deadline = time.monotonic() + GRACE_S
    if deadline is not None and time.monotonic() > deadline:
      return PREEMPTED
    time.sleep(0.05)


def stop(children: list[subprocess.Popen]) -> None:
  """Sends SIGTERM to running processes, and SIGKILL after `GRACE_S`."""
  for child in children:
    if child.poll() is None:
      child.send_signal(signal.SIGTERM)
  deadline = time.monotonic() + GRACE_S
  for child in children:
    try:
      child.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      child.kill()
      child.wait()


if __name__ == "__main__":
  try:
    sys.exit(main())
  except KeyboardInterrupt:
    sys.exit(130)
