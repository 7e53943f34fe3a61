"""Atomic replacement of files, and syncs before renames."""

import os
import pathlib

import pytest

from gcl_jax import disk
from gcl_jax.errors import UserError


def recorded(monkeypatch):
  """Syncs and renames, in order."""
  done, sync, replace = [], disk.sync, os.replace

  def note_sync(path):
    sync(path)
    done.append(("sync", pathlib.Path(path).name))

  def note_replace(old, new):
    replace(old, new)
    done.append(("replace", pathlib.Path(new).name))

  monkeypatch.setattr(disk, "sync", note_sync)
  monkeypatch.setattr(os, "replace", note_replace)
  return done


def test_text_is_synced_before_it_takes_the_old_ones_place(
  tmp_path, monkeypatch
):
  done = recorded(monkeypatch)
  path = tmp_path / "über.txt"
  disk.write_text(path, "one")
  assert [kind for kind, _ in done] == ["sync", "replace", "sync"]
  assert done[1:] == [("replace", "über.txt"), ("sync", tmp_path.name)]
  disk.write_text(path, "two ä")
  assert path.read_text(encoding="utf-8") == "two ä"
  assert os.listdir(tmp_path) == ["über.txt"]


@pytest.mark.parametrize("broken", ["sync", "replace"])
def test_a_failure_leaves_the_old_text_and_nothing_else(
  tmp_path, monkeypatch, broken
):
  path = tmp_path / "x"
  disk.write_text(path, "old")

  def fail(*args):
    raise OSError("full")

  monkeypatch.setattr(disk if broken == "sync" else os, broken, fail)
  with pytest.raises(OSError, match="full"):
    disk.write_text(path, "new")
  assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_a_folder_is_synced_to_the_last_file_before_it_is_renamed(
  tmp_path, monkeypatch
):
  temporary, folder = tmp_path / "a.tmp", tmp_path / "a"
  (temporary / "deep").mkdir(parents=True)
  (temporary / "deep" / "leaf").write_text("new")
  folder.mkdir()
  (folder / "old").write_text("old")
  done = recorded(monkeypatch)
  disk.replace_folder(temporary, folder)
  assert {p.name for p in folder.rglob("*")} == {"deep", "leaf"}
  at = done.index(("replace", "a"))
  before = {name for kind, name in done[:at] if kind == "sync"}
  assert {"leaf", "deep", "a.tmp"} <= before
  assert ("sync", tmp_path.name) in done[at:]


def test_lines_are_appended(tmp_path):
  for line in ("one", "two"):
    disk.append(tmp_path / "log", line)
  assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write to .*file/x .*--workdir"):
    disk.make_writable(tmp_path / "file" / "x")
  disk.make_writable(tmp_path / "new" / "deep")
  assert list((tmp_path / "new/deep").iterdir()) == []
