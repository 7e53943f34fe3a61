"""Rows 10, 11 and 28: nothing is unpickled, believed or extracted."""

import ast
import io
import os
import pathlib
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest

import gcl_jax
from gcl_jax.data import files, formats, tables
from gcl_jax.data.medmnist import medmnist
from gcl_jax.data.public.kermany import kermany
from gcl_jax.data.public.octdl import octdl
from gcl_jax.data.public.olives import olives
from gcl_jax.errors import DataError

SOURCES = sorted(pathlib.Path(gcl_jax.__file__).parent.rglob("*.py"))
UNPICKLERS = {
  "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal",
  "shelve",
}  # fmt: skip


# The code


def faults_in(source: str) -> list[str]:
  """Every way in which the source could run what a file holds."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found += [a.name for a in node.names if top(a.name) in UNPICKLERS]
    elif isinstance(node, ast.ImportFrom):
      found += [node.module] if top(node.module or "") in UNPICKLERS else []
    elif isinstance(node, ast.Call):
      found += bad_call(node)
  return found


def top(module: str) -> str:
  return module.partition(".")[0]


def bad_call(node: ast.Call) -> list[str]:
  name = ast.unparse(node.func)
  given = {word.arg: ast.unparse(word.value) for word in node.keywords}
  imported = name.endswith("import_module") or name == "__import__"
  wrong = {
    "runs text": name in ("eval", "exec", "compile", "builtins.eval"),
    "imports an unpickler": imported
    and node.args
    and top(ast.unparse(node.args[0]).strip("'\"")) in UNPICKLERS,
    # Also as a positional argument: load(file, mmap_mode, allow_pickle).
    "unpickles": given.get("allow_pickle", "False") != "False"
    or (name in ("np.load", "numpy.load") and len(node.args) > 2),
    "loads with torch": name == "torch.load",
    "loads any YAML": name in ("yaml.load", "yaml.unsafe_load")
    and "SafeLoader" not in given.get("Loader", ""),
    "unpickles with pandas": name.endswith(("read_pickle", "read_hdf")),
  }
  return [f"{name}: {what}" for what, yes in wrong.items() if yes]


def test_row10_no_module_unpickles_or_runs_text():
  assert len(SOURCES) > 50
  found = {
    str(path): faults
    for path in SOURCES
    if (faults := faults_in(path.read_text("utf-8")))
  }
  assert not found


@pytest.mark.parametrize(
  "source",
  [
    "import pickle",
    "from pickle import loads",
    "import os, joblib as j",
    "importlib.import_module('dill')",
    "eval(text)",
    "np.load(path, allow_pickle=True)",
    "np.load(path, allow_pickle=choice)",
    "np.load(path, None, True)",
    "torch.load(path, weights_only=True)",
    "yaml.load(text)",
    "yaml.load(text, Loader=yaml.Loader)",
  ],
)
def test_row10_the_search_finds(source):
  assert faults_in(source)


def test_row10_the_search_lets_pass():
  assert not faults_in(
    "np.load(path, mmap_mode='r', allow_pickle=False)\n"
    "yaml.load(text, Loader=yaml.SafeLoader)\nmodel.eval()\nre.compile(text)"
  )


# Files that would run code


class Payload:
  """Unpickling it makes a file."""

  def __init__(self, mark: pathlib.Path):
    self.mark = mark

  def __reduce__(self):
    return os.mkdir, (str(self.mark),)


def loaded_files(mark: pathlib.Path) -> dict[str, bytes]:
  """Name -> a file that runs the payload in whoever unpickles it."""
  payload = np.array([Payload(mark)], object)
  single, several, member = io.BytesIO(), io.BytesIO(), io.BytesIO()
  np.save(single, payload, allow_pickle=True)
  np.savez(several, train_images=payload, images=payload)
  with zipfile.ZipFile(member, "w") as archive:
    archive.writestr("train_images.npy", pickle.dumps(Payload(mark)))
    archive.writestr("archive/data.pkl", pickle.dumps(Payload(mark)))
  return {
    "object.npy": single.getvalue(),
    "object.npz": several.getvalue(),
    "torch.pth": member.getvalue(),
    "pickle.pkl": pickle.dumps(Payload(mark)),
  }


READERS = {
  "read_npz": (files.read_npz, ".npz"),
  "medmnist": (medmnist, ".npz"),
  "octdl": (octdl, ".npz"),
  "olives": (olives, ".npz"),
  "kermany": (kermany, ".npz"),
  "image": (formats.read_image, ".png"),
  "dicom": (formats.read_image, ".dcm"),
  "nifti": (formats.read_volume, ".nii"),
  "table": (tables.read_table, ".csv"),
  "workbook": (tables.read_table, ".xlsx"),
}


@pytest.mark.parametrize("reader", READERS)
def test_row10_a_pickle_is_refused_and_does_not_run(tmp_path, reader):
  read, suffix = READERS[reader]
  mark = tmp_path / "ran"
  for name, content in loaded_files(mark).items():
    for path in (tmp_path / name, tmp_path / f"{name}{suffix}"):
      path.write_bytes(content)
      with pytest.raises(DataError, match=name.partition(".")[0]):
        read(path)
      assert not mark.exists(), f"{reader} ran what {path.name} holds"


@pytest.mark.parametrize("reader", ["read_npz", "medmnist", "octdl"])
def test_row10_an_object_array_is_refused_by_its_header(
  tmp_path, monkeypatch, reader
):
  path = tmp_path / "object.npz"
  path.write_bytes(loaded_files(tmp_path / "ran")["object.npz"])
  monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("was loaded"))
  with pytest.raises(DataError, match="pickled Python objects"):
    READERS[reader][0](path)


def test_row10_the_payload_is_live(tmp_path):
  mark = tmp_path / "ran"
  for name in ("object.npy", "pickle.pkl"):
    # The reader that all of the above must not be.
    np.load(io.BytesIO(loaded_files(mark)[name]), allow_pickle=True)
    assert mark.is_dir(), name
    mark.rmdir()


# Headers that lie


def npy(shape: str, dtype: str = "'|u1'", data: bytes = bytes(80)) -> bytes:
  """An npy file whose header is the given text."""
  header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"
  text = header.encode().ljust(117) + b"\n"
  return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


def npz(path: pathlib.Path, member: bytes, name: str = "x.npy") -> pathlib.Path:
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(name, member)
  return path


@pytest.mark.parametrize(
  "member",
  [
    npy("(4294967296, 4294967296)"),
    npy("(18446744073709551616,)"),
    npy("(9223372036854775807, 2)"),
    npy("(-80,)"),
    npy("(-1, -80)"),
    npy("(81,)"),
    npy("(79,)"),
    npy("(80.0,)"),
    npy("[80]"),
    npy("(" * 60 + ")" * 60),
    npy("(10,)", "'|O'"),
    npy("(10,)", "[('a', '<i4'), ('b', '|O')]"),
    npy("(10,)", "'<f999999999'"),
    npy("(80,)", "__import__('os').abort()"),
    npy("(80,)").replace(b"NUMPY\x01", b"NUMPY\x07"),
    npy("(80,)")[:40],
    b"",
  ],
)
def test_row11_npz_headers_that_lie(tmp_path, member):
  path = npz(tmp_path / "a.npz", member)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for read in (files.read_npz, medmnist, octdl):
    with pytest.raises(DataError, match="a.npz"):
      read(path)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 100_000, "kilobytes taken for a lie"


def test_row11_an_honest_npz_of_the_same_make_is_read(tmp_path):
  read = files.read_npz(npz(tmp_path / "a.npz", npy("(8, 10)")))
  np.testing.assert_array_equal(read["x"], np.zeros((8, 10), np.uint8))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_row11_arrays_that_share_a_name_or_their_bytes(tmp_path, monkeypatch):
  path = tmp_path / "a.npz"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("x.npy", npy("(80,)"))
    archive.writestr("x.npy", npy("(80,)", data=b"\1" * 80))
  with pytest.raises(DataError, match="more than once"):
    files.read_npz(path)
  # Each member is within the limit, their sum is not.
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name in "abc":
      archive.writestr(f"{name}.npy", npy("(4000,)", data=bytes(4000)))
  monkeypatch.setattr(files, "MAX_NPZ_BYTES", 10_000)
  with pytest.raises(DataError, match="limit of 10000"):
    files.read_npz(path)


def test_row11_octdl_and_medmnist_arrays_that_do_not_fit(tmp_path):
  good = dict(
    images=np.zeros((2, 96, 264), np.uint8), labels=np.array([0, 6]),
    group=np.array([1, 2]), names=np.array(["a", "b"]),
    is_val=np.array([True, False]), overlay=np.array([0, 1]),
    source_width_height=np.ones((2, 2)),
  )  # fmt: skip
  path = tmp_path / "o.npz"
  np.savez(path, **good)
  assert len(octdl(path)) == 2
  for name, values in (
    ("images", np.zeros((2, 96, 264))),
    ("images", np.zeros((2, 96, 200), np.uint8)),
    ("images", np.zeros((3, 96, 264), np.uint8)),
    ("labels", np.array([0, -1])),
    ("labels", np.array([0, 7])),
    ("labels", np.array([0.0, 1.0])),
    ("labels", np.array(["a", "b"])),
    ("labels", np.array([], int)),
    ("group", np.array([1])),
    ("overlay", np.array(["x", "y"])),
    ("source_width_height", np.ones(2)),
  ):
    np.savez(path, **(good | {name: values}))
    with pytest.raises(DataError, match="o.npz"):
      octdl(path)
  flags = np.array([[False], [True]])
  np.savez(path, train_images=good["images"], train_labels=flags)
  np.testing.assert_array_equal(medmnist(path).column("class_1"), [0, 1])


def test_row28_no_module_extracts_an_archive():
  extracting = ("extract", "extractall", "unpack_archive", "extractfile")
  for path in SOURCES:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
      if isinstance(node, (ast.Import, ast.ImportFrom)):
        module = getattr(node, "module", "") or ""
        names = {top(module), *(top(alias.name) for alias in node.names)}
        assert not names & {"tarfile", "rarfile", "py7zr"}, path
      if isinstance(node, ast.Call):
        called = ast.unparse(node.func).rpartition(".")[2]
        assert called not in extracting, f"{path}: {ast.unparse(node)}"


@pytest.mark.parametrize("name", ["../x.npy", "/x.npy", "a/../../x.npy"])
def test_row28_a_member_outside_the_archive_writes_nothing(tmp_path, name):
  inner = tmp_path / "inner"
  inner.mkdir()
  read = files.read_npz(npz(inner / "a.npz", npy("(80,)"), name))
  assert [array.shape for array in read.values()] == [(80,)]
  left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
  assert left == ["inner", "inner/a.npz"]
