"""Memory used to read files, measured in a separate process."""

import subprocess
import sys
import textwrap

_READ = """
  import resource, sys, warnings
  warnings.simplefilter("ignore")
  import nibabel, pydicom, pydicom.pixels
  from gcl_jax.data import formats
  from gcl_jax.errors import DataError

  def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

  start, read = peak(), getattr(formats, sys.argv[1])
  for name in sys.argv[2:]:
    try:
      read(name)
      print("READ", name)
    except DataError as error:
      print("refused", error)
  print(peak() - start)
"""


def reading(reader: str, paths: list) -> tuple[list[str], int]:
  """Reads files by a function of `formats`.

  Returns:
    A line for each, "refused ..." or "READ ...", and the kilobytes by which
    the process grew at its largest.
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(_READ), reader, *map(str, paths)],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  *lines, grown = done.stdout.splitlines()
  return lines, int(grown)
