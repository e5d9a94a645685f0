# SPDX-License-Identifier: Apache-2.0
"""Tests of versions: each is whole or not there, whatever happens."""

import os
import shutil
import subprocess
import sys
import time

import pytest
import tiny_bert
import tiny_export
import tiny_model

import export_saved_model
from multilabel.export import conformance
from multilabel.export import export_check
from multilabel.export import export_folder
from multilabel.export import warmup_requests


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A trained directory and its weights; not to be changed."""
  folder = str(tmp_path_factory.mktemp("made") / "model")
  return folder, tiny_model.make(folder)


@pytest.fixture
def unchecked(monkeypatch):
  """Leaves out the process that loads the export back: seconds each."""
  monkeypatch.setattr(export_check, "Checker", tiny_export.Unchecked)


def error_of(function, *args, **kwargs):
  """Returns the message of the ValueError that must come, one line."""
  with pytest.raises(ValueError) as raised:
    function(*args, **kwargs)
  message = str(raised.value)
  assert message and "\n" not in message
  return message


def test_default_version_is_the_time(made, tmp_path, unchecked):
  before = int(time.time())
  first = export_saved_model.export(made[0], str(tmp_path)).path
  version = int(os.path.basename(first))
  assert before <= version <= time.time()
  os.rename(first, str(tmp_path / str(version + 1000)))
  second = export_saved_model.export(made[0], str(tmp_path)).path
  # A server takes the highest, which must be the new one.
  assert os.path.basename(second) == str(version + 1001)


def test_version_is_never_overwritten(made, tmp_path, unchecked):
  (tmp_path / "5").mkdir()
  (tmp_path / "5" / "saved_model.pb").write_bytes(b"mine")
  message = error_of(export_saved_model.export, made[0], str(tmp_path), 5)
  assert "version 5 is in" in message and "not overwritten" in message
  assert (tmp_path / "5" / "saved_model.pb").read_bytes() == b"mine"


def test_version_that_comes_meanwhile(tmp_path):
  export_dir = str(tmp_path)
  with export_folder.WorkFolder(export_dir) as first:
    with export_folder.WorkFolder(export_dir) as second:
      for work in (first, second):
        with open(os.path.join(work.path, "saved_model.pb"), "w") as writer:
          writer.write("x")
      first.publish(8)
      assert "has come into" in error_of(second.publish, 8)
      second.publish(None)
  names = sorted(os.listdir(export_dir), key=int)
  assert len(names) == 2 and names[0] == "8" and int(names[1]) > 8


def test_keep_versions(made, tmp_path, unchecked):
  for version in (1, 2, 9, 20):
    (tmp_path / str(version)).mkdir()
    (tmp_path / str(version) / "saved_model.pb").write_bytes(b"old")
    (tmp_path / str(version) / "assets.extra").mkdir()
    (tmp_path / str(version) / "assets.extra" / "manifest.json").write_text(
        u"{}")
  (tmp_path / "3").mkdir()  # another program's
  (tmp_path / "3" / "saved_model.pb").write_bytes(b"theirs")
  (tmp_path / "note").write_text(u"mine")
  (tmp_path / "007").mkdir()  # no export
  export_saved_model.export(made[0], str(tmp_path), 21, keep_versions=3)
  assert sorted(os.listdir(str(tmp_path))) == [
      "007", "20", "21", "3", "9", "note"]
  # A new one below the others stays all the same.
  export_folder.remove_oldest(str(tmp_path), 1, "9")
  assert sorted(os.listdir(str(tmp_path))) == ["007", "3", "9", "note"]
  export_folder.remove_oldest(str(tmp_path), 1, "9")
  assert sorted(os.listdir(str(tmp_path))) == ["007", "3", "9", "note"]


# Each instant at which an exporter may be killed: what it calls then.
INSTANTS = [
    (export_saved_model, "_write_saved_model"),
    (export_saved_model.tf.saved_model.Builder, "add_meta_graph_and_variables"),
    (export_saved_model.tf.saved_model.Builder, "save"),
    (export_saved_model, "_write_extra"),
    (warmup_requests, "write"),
    (conformance, "problems"),
    (tiny_export.Unchecked, "check"),
    (export_folder.atomic_files, "sync_file"),
    (os, "replace"),
    (export_folder.shutil, "rmtree")]


def test_killed(made, tmp_path, unchecked, monkeypatch):
  """Whenever it comes, a version is whole or not there.

  What a kill would leave at an instant is a copy of the folder at it.
  """
  export_dir = tmp_path / "exports"
  left_by = {}

  def copy_before(owner, name):
    function = getattr(owner, name)

    def copy_and_call(*args, **kwargs):
      if name not in left_by and not str(args[-1]).endswith("manifest.json"):
        left_by[name] = tmp_path / name
        shutil.copytree(str(export_dir), str(left_by[name]))
      return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, copy_and_call)

  for owner, name in INSTANTS:
    copy_before(owner, name)
  export_saved_model.export(made[0], str(export_dir))
  assert sorted(left_by) == sorted(name for _, name in INSTANTS)
  last = left_by.pop("rmtree")
  for path in left_by.values():
    # One hidden folder, which may be another's that is at work.
    left, = os.listdir(str(path))
    assert left.startswith(".export-")
    os.utime(str(path / left), None)  # new, however slow the machine is
    export_folder.remove_left_over(str(path))
    assert os.listdir(str(path)) == [left]
  hidden, version = sorted(os.listdir(str(last)))
  assert hidden.startswith(".export-")
  conformance.check(str(last / version))


def test_left_over_is_removed_unless_it_is_locked(tmp_path, monkeypatch):
  theirs = [".export-config", ".export-settings", ".export-ab_12cde",
            ".removed-articles", ".removed-1-1", "1", ".other"]
  for name in theirs + [".export-dead_one"]:
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text(u"years of work")
  (tmp_path / ".export-dead_one" / ".bert_multilabel_export").write_text(u"")
  with export_folder.WorkFolder(str(tmp_path)) as work:
    now = time.time()
    monkeypatch.setattr(export_folder.time, "time", lambda: now + 100)
    export_folder.remove_left_over(str(tmp_path))
    assert sorted(os.listdir(str(tmp_path))) == sorted(
        theirs + [os.path.basename(work.scratch)])
  assert sorted(os.listdir(str(tmp_path))) == sorted(theirs)


# Two that write at the same time, by default into the same version.
TWO_AT_ONCE = u"""
import os, sys
sys.path[:0] = sys.argv[1:3]
import export_saved_model
import tiny_export
from multilabel.export import export_check
export_check.Checker = tiny_export.Unchecked
children = []
for _ in range(2):
  pid = os.fork()
  if not pid:
    export_saved_model.export(sys.argv[3], sys.argv[4])
    os._exit(0)
  children.append(pid)
for pid in children:
  assert os.waitpid(pid, 0)[1] == 0
"""


def test_two_exporters_at_once(made, tmp_path):
  subprocess.check_call(
      [sys.executable, "-W", "ignore", "-c", TWO_AT_ONCE, tiny_bert.ROOT,
       os.path.dirname(os.path.abspath(__file__)), made[0], str(tmp_path)],
      stderr=subprocess.DEVNULL)
  names = os.listdir(str(tmp_path))
  assert len(names) == 2
  for name in names:
    conformance.check(str(tmp_path / name))
