# SPDX-License-Identifier: Apache-2.0
"""Tests of versions: each is whole or not there, whatever happens."""

import os
import shutil
import time

import tiny_bert
from tiny_bert import error_of
import tiny_export

import export_saved_model
from multilabel.export import conformance
from multilabel.export import export_folder
from multilabel.export import warmup_requests


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
  assert "version 5 already exists in" in message
  assert "not overwritten" in message
  assert (tmp_path / "5" / "saved_model.pb").read_bytes() == b"mine"


def test_version_that_comes_meanwhile(tmp_path):
  export_dir = str(tmp_path)
  with export_folder.WorkFolder(export_dir) as first:
    with export_folder.WorkFolder(export_dir) as second:
      for work in (first, second):
        with open(os.path.join(work.path, "saved_model.pb"), "w") as writer:
          writer.write("x")
      first.publish(8)
      assert "was created in" in error_of(second.publish, 8)
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


def test_two_that_choose_the_same_version(tmp_path, monkeypatch):
  """The second knows nothing of the first when it chooses."""
  export_dir = str(tmp_path)
  monkeypatch.setattr(export_folder.time, "time", lambda: 1000.5)
  versions = export_folder.versions
  answers = [[], []]
  monkeypatch.setattr(export_folder, "versions", lambda folder: (
      answers.pop() if answers else versions(folder)))
  with export_folder.WorkFolder(export_dir) as first:
    with export_folder.WorkFolder(export_dir) as second:
      for name, work in (("first", first), ("second", second)):
        tiny_bert.write_text(os.path.join(work.path, "saved_model.pb"), name)
      assert first.publish(None).endswith("/1000")
      assert second.publish(None).endswith("/1001")
  assert not answers and sorted(os.listdir(export_dir)) == ["1000", "1001"]
  assert [(tmp_path / number / "saved_model.pb").read_text()
          for number in ("1000", "1001")] == ["first", "second"]
