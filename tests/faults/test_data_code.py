"""Rows 10, 11, 28, 49: nothing is unpickled, believed, extracted, imported."""

import ast
import contextlib
import importlib
import io
import json
import os
import pathlib
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gcl_jax
from gcl_jax.data import files, formats, table_files, tfds_folder
from gcl_jax.data.prepare import prepare
from gcl_jax.data.readers.kermany import read as kermany
from gcl_jax.data.readers.medmnist import read as medmnist
from gcl_jax.data.readers.octdl import read as octdl
from gcl_jax.data.readers.olives import read as olives
from gcl_jax.data.readers.tfds import read as tfds_source
from gcl_jax.data.source import Dataset
from gcl_jax.engine.checkpoint import (
  Checkpoints,
  load_artifact,
  save_artifact,
)
from gcl_jax.engine.manifest import read_manifest, write_manifest
from gcl_jax.errors import DataError, UserError

pytestmark = pytest.mark.compiles

SOURCES = sorted(pathlib.Path(gcl_jax.__file__).parent.rglob("*.py"))
UNPICKLERS = {
  "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal",
  "shelve",
}  # fmt: skip


# The code


def faults_in(source: str) -> list[str]:
  """Calls in the source that could execute contents of a file."""
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
  "table": (table_files.read_table, ".csv"),
  "workbook": (table_files.read_table, ".xlsx"),
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


# Files that name code

EVIL = "evil.Thing"
FEATURES = "tensorflow_datasets.core.features"
DICT = f"{FEATURES}.features_dict.FeaturesDict"
TEXT = f"{FEATURES}.text_feature.Text"
# Names that are also fields of the files that describe a data set.
COLUMNS = ("id", "group", "type", "content", "json", "pythonClassName")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A data set as `prepare` writes it; its features have awkward names."""
  values = np.array(["a.b", "{"])
  table = {name: values for name in COLUMNS}
  shots = np.zeros((2, 4, 5), np.uint8)
  dataset = Dataset("small", table, lambda row: shots[row], (), COLUMNS[2:])
  return prepare(dataset, tmp_path_factory.mktemp("prepared"))[0]


@pytest.fixture
def received(prepared, tmp_path):
  return shutil.copytree(prepared, tmp_path / "small" / "1.0.0")


@pytest.fixture
def ran(tmp_path, monkeypatch):
  """File that exists once `evil`, in the current folder, was imported."""
  mark = tmp_path / "ran"
  source = "import pathlib\npathlib.Path(__file__).with_name('ran').mkdir()\n"
  (tmp_path / "evil.py").write_text(source)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  yield mark
  sys.modules.pop("evil", None)


def nested(feature: dict) -> dict:
  """Description of features that contains the given one."""
  return {"pythonClassName": DICT, "featuresDict": {"features": {"x": feature}}}


LEGACY = {"type": EVIL, "content": {}}
LEGACY_TEXT = {"json": json.dumps({"x": LEGACY})}
THING = {"pythonClassName": EVIL, "text": {}}
NAMED = {
  "top": {"pythonClassName": EVIL, "featuresDict": {}},
  "nested": nested(THING),
  "deeper": nested(nested(nested(THING))),
  "other_spelling": nested({"python_class_name": EVIL, "text": {}}),
  "in_a_sequence": nested(
    {
      "pythonClassName": f"{FEATURES}.sequence_feature.Sequence",
      "sequence": {"feature": THING},
    }
  ),
  "legacy": LEGACY,
  "legacy_nested": {"type": DICT, "content": {"x": LEGACY}},
  "legacy_text": {
    "type": DICT,
    "content": json.dumps({"features": {"x": THING}}),
    "proto_cls": "tensorflow_datasets.FeaturesDict",
  },
  "text_in_text": nested({"pythonClassName": DICT, "jsonFeature": LEGACY_TEXT}),
}


def edit(path: pathlib.Path, **fields) -> None:
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


NAMING = [("features.json", variant) for variant in NAMED]
NAMING += [  # which has no old form
  ("dataset_info.json", v) for v in NAMED if not v.startswith("legacy")
]


@pytest.mark.parametrize(("file", "variant"), NAMING)
def test_row49_a_class_named_by_a_data_set_is_not_imported(
  received, ran, file, variant
):
  import tensorflow_datasets as tfds

  if file == "features.json":
    (received / file).write_text(json.dumps(NAMED[variant]))
  else:
    edit(received / file, features=NAMED[variant])
  for path, name in ((received, ""), (received.parents[1], "small")):
    with pytest.raises(DataError, match=f"{file}: .*'{EVIL}'"):
      tfds_source(path, name)
    assert not ran.exists()
  # The payload is live: without the look at the file it runs.
  with contextlib.suppress(Exception):
    tfds.builder_from_directory(received)
  assert ran.exists()


@pytest.mark.parametrize(
  "name",
  [
    "tensorflow_datasets.core.featuresx.Text",
    "tensorflow_datasets.core.features..evil.Thing",
    f"{FEATURES}.",
    f"{TEXT}\n",
    f" {TEXT}",
    f"{FEATURES}.t\u00e9xt.Text",
    "tensorflow_datasets.testing.Text",
    ".",
  ],
)
def test_row49_names_that_are_nearly_right(received, name):
  edit(received / "features.json", pythonClassName=name)
  with pytest.raises(DataError, match="pythonClassName is '.*expected a class"):
    tfds_folder.check_names(received)


OKAY = json.dumps(nested({"pythonClassName": TEXT, "text": {}}))
READ_TWO_WAYS = {
  "equal_keys": OKAY.replace('"text": {}', '"text": {}, "text": {}'),
  "equal_keys_escaped": OKAY.replace(
    '"text": {}', '"text": {}, "t\\u0065xt": {}'
  ),
  "mark_of_order": "\ufeff" + OKAY,
  "utf16": OKAY.encode("utf-16"),
  "not_utf8": b'"\xff"' + OKAY.encode(),
  "cut_short": OKAY[:-1],
  "two_values": OKAY + OKAY,
  "empty": "",
  "too_deep": "[" * 100_000,
  "text_cut_short": OKAY.replace('"text": {}', '"jsonFeature": {"json": "{"}'),
}


@pytest.mark.parametrize("variant", READ_TWO_WAYS)
def test_row49_files_that_two_readers_may_read_differently(received, variant):
  content = READ_TWO_WAYS[variant]
  content = content if isinstance(content, bytes) else content.encode()
  for file in ("features.json", "dataset_info.json"):
    before = (received / file).read_bytes()
    (received / file).write_bytes(content)
    with pytest.raises(DataError, match=file):
      tfds_source(received)
    (received / file).write_bytes(before)
  assert len(tfds_source(received)) == 2


def test_row49_files_that_are_missing_or_no_files(received, monkeypatch):
  monkeypatch.setattr(tfds_folder, "MAX_BYTES", 100)
  with pytest.raises(DataError, match="json: the file has .* limit of 100"):
    tfds_source(received)
  monkeypatch.undo()
  (received / "features.json").unlink()
  with pytest.raises(DataError, match="features.json: No such file"):
    tfds_source(received)
  os.mkfifo(received / "features.json")
  with pytest.raises(DataError, match="features.json: is a FIFO"):
    tfds_source(received)


@pytest.mark.parametrize("key", ["filepathTemplate", "filepath_template"])
@pytest.mark.parametrize(
  "template", ["{DATASET.__class__}", "{SPLIT[0]}", "{SPLIT!r}", "{SPLIT:>99}"]
)
def test_row49_attributes_named_by_a_file_name(received, key, template):
  split = {"name": "images", "shardLengths": ["2"], key: template}
  edit(received / "dataset_info.json", splits=[split])
  with pytest.raises(DataError, match=f"{key} is .* a plain file name"):
    tfds_source(received)


def test_row49_features_may_have_any_name_and_unused_names_do_nothing(
  received, ran
):
  statistics = {"features": [{"name": "x", "type": "BYTES"}]}
  info = json.loads((received / "dataset_info.json").read_text())
  split = info["splits"][0] | {"statistics": statistics}
  edit(
    received / "dataset_info.json",
    moduleName=EVIL, configName=EVIL, splits=[split], description=EVIL,
  )  # fmt: skip
  edit(received / "metadata.json", module=EVIL, __class__=EVIL)
  found = tfds_source(received)
  for name in COLUMNS:
    np.testing.assert_array_equal(found.column(name), ["a.b", "{"])
  assert found.read(1).shape == (4, 5)
  assert not ran.exists()


@pytest.mark.parametrize(
  ("name", "version"),
  [
    ("small", "10.0.0"), ("small:1.*.*", "1.2.0"), ("small:1.0.0", "1.0.0"),
    ("one/only", "2.0.0"), ("one", "2.0.0"), ("two/b:3.0.0", "3.0.0"),
  ],
)  # fmt: skip
def test_row49_a_name_is_a_folder(
  prepared, tmp_path, monkeypatch, name, version
):
  root = pathlib.Path("~")  # here, not at home
  monkeypatch.chdir(tmp_path)
  for place in ("1.0.0", "1.2.0", "9.0.0", "10.0.0", "notes"):
    shutil.copytree(prepared, root / "small" / place)
  for place in ("one/only/2.0.0", "two/a/1.0.0", "two/b/3.0.0"):
    shutil.copytree(prepared, root / place)
  found = tfds_folder.prepared_folder(root, name)
  assert found.name == version and found.is_relative_to(tmp_path)
  for wrong, why in (
    ("two", "2 configurations; name one of two/a, two/b"),
    ("small:2.*.*", "its versions are 1.0.0, 1.2.0, 9.0.0, 10.0.0"),
    ("small/other", "no data set 'small/other'"),
    ("mnist", "no data set 'mnist' here"),
    ("evil:small", "does not name"), ("huggingface:small", "does not name"),
    ("../small", "does not name"), ("small/..", "does not name"),
    ("small/a=1", "does not name"), ("small:1", "does not name"),
  ):  # fmt: skip
    with pytest.raises(DataError, match=why):
      tfds_folder.prepared_folder(root, wrong)


def test_row49_a_name_that_tensorflow_datasets_knows(prepared, tmp_path):
  folder = shutil.copytree(prepared, tmp_path / "mnist" / "3.0.1")
  edit(folder / "dataset_info.json", name="mnist", version="3.0.1")
  name = "small-images.array_record-00000-of-00001"
  (folder / name).rename(folder / name.replace("small", "mnist"))
  for asked in ("mnist", "mnist:3.0.1"):
    assert len(tfds_source(tmp_path, asked)) == 2
  assert not [name for name in sys.modules if "mnist" in name.split(".")]


def test_row49_the_command_in_the_folder_of_the_data(received, ran):
  (received / "features.json").write_text(json.dumps(NAMED["nested"]))
  root = pathlib.Path(__file__).resolve().parents[2]
  command = [
    sys.executable, "-m", "gcl_jax.main", "--workdir=run",
    f"--config={root}/configs/severity.py:tiny",
    "--config.data.name=tfds", "--config.data.path=small",
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2, done.stderr
  started, refused = done.stderr.splitlines()  # and no traceback
  assert "process 0 of 1" in started and f"is '{EVIL}'" in refused
  assert not ran.exists()


def texts(value) -> set[str]:
  """Keys of nested JSON whose values are text."""
  if isinstance(value, list):
    return {key for item in value for key in texts(item)}
  if not isinstance(value, dict):
    return set()
  deeper = {key for item in value.values() for key in texts(item)}
  return deeper | {key for key, item in value.items() if is_text(item)}


def is_text(value) -> bool:
  return isinstance(value, str) or (
    isinstance(value, list) and any(map(is_text, value))
  )


def renamed(value, key: str, inside: bool = False):
  """The same JSON, with another name as every text under the key."""
  if isinstance(value, dict):
    return {k: renamed(item, key, k == key) for k, item in value.items()}
  if isinstance(value, list):
    return [renamed(item, key, inside) for item in value]
  return EVIL if inside and isinstance(value, str) else value


def harmed(path: pathlib.Path) -> list[str]:
  """Versions of a JSON file, each with one field that names code."""
  found = json.loads(path.read_text())
  versions = [renamed(found, key) for key in texts(found)]
  if path.name == "_METADATA":  # how orbax describes a named tuple
    tree = {"category": "namedtuple", "module": "evil", "clazz": "Thing"}
    versions += [found | {"value_metadata_tree": tree | {"entries": []}}]
  if path.name == "_sharding":  # JSON in the texts of JSON
    one = json.dumps({"sharding_type": EVIL, "device_str": EVIL})
    versions += [dict.fromkeys(found, one)]
  return [json.dumps(version) for version in versions]


def test_row49_checkpoints_and_artifacts_name_no_code(tmp_path, ran):
  state = {"w": jnp.arange(4.0), "key": jax.random.key(0), "n": (jnp.ones(2),)}
  saved = Checkpoints(tmp_path / "saved")
  saved.save(1, state)
  saved.close()
  save_artifact(tmp_path / "artifact", {"x": np.arange(3), "t": "text"})
  write_manifest(tmp_path, {"schema": 1, "stage": "data"})
  described = [path for path in tmp_path.rglob("*") if is_json(path)]
  assert {"_METADATA", "_CHECKPOINT_METADATA", "_sharding", "values.json"} <= {
    path.name for path in described
  }
  for path in described:
    before = path.read_text()
    for version in harmed(path):
      path.write_text(version)
      with (
        contextlib.closing(
          Checkpoints(tmp_path / "saved", strict=True)
        ) as again,
        contextlib.suppress(UserError),
      ):
        again.restore(state)
      with contextlib.suppress(UserError):
        load_artifact(tmp_path / "artifact")
      read_manifest(tmp_path)
      assert not ran.exists(), f"{path} ran what it names: {version}"
    path.write_text(before)
  importlib.import_module("evil")  # the payload is live
  assert ran.exists()


def is_json(path: pathlib.Path) -> bool:
  with contextlib.suppress(ValueError, OSError):
    return isinstance(json.loads(path.read_bytes()), dict)
  return False
