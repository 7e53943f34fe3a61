"""Rules of the package that concern several modules."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gcl_jax"
FLOORS = {
  "main": 5,
  "methods": 4,
  "pipeline": 3,
  "engine": 2,
  **dict.fromkeys(
    (
      *("gradients", "losses", "models", "data", "report", "augment"),
      *("binning", "evaluation"),
    ),
    1,
  ),
  "disk": 0.5,
  "collectives": 0,
  "errors": 0,
}
# Rooms of the ground floor that may look into a neighbour.
NEIGHBOURS = {("gradients", "models"), ("evaluation", "data")}


def python_files() -> list[pathlib.Path]:
  return sorted(PACKAGE.rglob("*.py"))


@functools.cache
def imports_of(path: pathlib.Path) -> set[str]:
  """Dotted names imported anywhere in a file, functions included."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def room(dotted: str) -> str:
  parts = dotted.split(".")
  return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", python_files(), ids=str)
def test_imports_point_down(path):
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  here = parts[0]
  if here == "__init__":
    return
  for name in imports_of(path):
    if not name.startswith("gcl_jax."):
      continue
    there = room(name)
    if there == here:
      continue
    assert there in FLOORS, f"{name} is in no floor"
    down = FLOORS[there] < FLOORS[here]
    assert down or (here, there) in NEIGHBOURS, f"{here} imports {name}"


def test_no_method_imports_another():
  for path in (PACKAGE / "methods").rglob("*.py"):
    method = path.relative_to(PACKAGE / "methods").parts[0]
    for name in imports_of(path):
      if name.startswith("gcl_jax.methods."):
        assert name.split(".")[2] == method, f"{path.name} imports {name}"


@pytest.mark.parametrize(
  ("library", "allowed"),
  [
    ("orbax", {"engine/checkpoint.py"}),
    ("flax.linen", {"gradients/capture.py"}),
    ("matplotlib", set()),
    ("tensorflow", set()),
  ],
)
def test_libraries_stay_in_their_room(library, allowed):
  rooms = {"flax.linen": "models", "matplotlib": "report"}
  for path in python_files():
    here = path.relative_to(PACKAGE).as_posix()
    used = any(
      name == library or name.startswith(library + ".")
      for name in imports_of(path)
    )
    if not used:
      continue
    inside = here.startswith(f"{rooms.get(library)}/")
    assert inside or here in allowed, f"{here} imports {library}"


def test_only_parallel_maps_over_devices():
  for path in python_files():
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {
      node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    if path.relative_to(PACKAGE).as_posix() != "engine/parallel.py":
      assert not calls & {"shard_map", "pmap"}, path


def test_public_functions_have_docstrings():
  for path in python_files():
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef):
        if not node.name.startswith("_"):
          assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_slow_libraries_are_imported_where_they_are_used():
  """A run starts without them; scikit-learn alone takes a second."""
  modules = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in python_files()
    if path.name != "__init__.py"
  ]
  code = (
    "import importlib, sys\n"
    f"for name in {modules!r}: importlib.import_module(name)\n"
    "print(*sys.modules)"
  )
  found = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  ).stdout.split()
  assert "gcl_jax.main" in found and "numpy" in found
  slow = {"tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"}
  assert slow & set(found) == set()


def test_no_module_imports_itself_in_a_circle():
  names = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in python_files()
  }
  edges = {
    name: {
      found
      for found in names
      for used in imports_of(path)
      if used == found or used.startswith(f"{found}.")
    }
    for name, path in names.items()
  }

  def reaches(start, goal, seen):
    for following in edges[start] - seen:
      seen.add(following)
      if following == goal or reaches(following, goal, seen):
        return True
    return False

  circles = [name for name in names if reaches(name, name, set())]
  assert not circles
