# SPDX-License-Identifier: Apache-2.0
"""Tests of files that a kill leaves whole."""

import errno
import hashlib
import json
import os
import stat

import pytest
import tiny_bert

from multilabel.common import atomic_files


def read_bytes(path):
  with open(path, "rb") as reader:
    return reader.read()


def test_text_is_replaced_whole(tmp_path, monkeypatch):
  path = str(tmp_path / "x")
  atomic_files.write_text(path, u"one")
  atomic_files.write_text(path, u"\u4e8c\r\n")
  assert read_bytes(path) == b"\xe4\xba\x8c\r\n"
  assert os.listdir(str(tmp_path)) == ["x"]

  def fail(*unused_args):
    raise OSError("killed")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError):
    atomic_files.write_text(path, u"three")
  assert read_bytes(path) == b"\xe4\xba\x8c\r\n"


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_what_cannot_be_synced_takes_no_place(tmp_path, monkeypatch, name):
  path = str(tmp_path / "x")
  atomic_files.write_text(path, u"one")

  def fail(*unused_args):
    raise OSError(errno.EIO, "Input/output error")

  monkeypatch.setattr(os, name, fail)
  with pytest.raises(OSError) as raised:
    atomic_files.write_text(path, u"two")
  assert raised.value.filename == path
  assert read_bytes(path) == b"one" and os.listdir(str(tmp_path)) == ["x"]


# Files of others.


def write_two(path, other, content):
  """Writes a file while another writer, at the same path, is half done."""
  with atomic_files.replacing(path) as writer:
    writer.write(b"x" * 100000)
    other()
    writer.write(content)


def test_two_writers_do_not_disturb_each_other(tmp_path):
  path = str(tmp_path / "out.jsonl")
  write_two(path, lambda: write_two(path, lambda: None, b"inner"), b"outer")
  assert read_bytes(path) == b"x" * 100000 + b"outer"
  assert os.listdir(str(tmp_path)) == ["out.jsonl"]


@pytest.mark.parametrize("name", [
    "out.jsonl.tmp", ".out.jsonl.tmp", ".out.jsonl.0123456789ab.tmp"])
def test_names_of_others_are_left_alone(tmp_path, name, monkeypatch):
  path = str(tmp_path / "out.jsonl")
  (tmp_path / name).write_bytes(b"thesis")
  tries = iter([b"\x01\x23\x45\x67\x89\xab", b"\xff" * 6])
  monkeypatch.setattr(os, "urandom", lambda size: next(tries))
  atomic_files.write_text(path, u"one")
  assert read_bytes(str(tmp_path / name)) == b"thesis"
  assert read_bytes(path) == b"one"
  assert sorted(os.listdir(str(tmp_path))) == sorted(["out.jsonl", name])


def test_links(tmp_path, monkeypatch):
  (tmp_path / "folder").mkdir()
  for target in ("folder/real", "folder/new", "/dev/null"):
    link = str(tmp_path / "link")
    os.symlink(str(tmp_path / target), link)
    if target == "/dev/null":
      with pytest.raises(ValueError):
        atomic_files.write_text(link, u"one")
    else:
      atomic_files.write_text(link, u"one")
      assert read_bytes(str(tmp_path / target)) == b"one"
      assert os.path.islink(link)
    os.remove(link)
  # A link that waits under the very name that is taken next.
  (tmp_path / "victim").write_bytes(b"thesis")
  os.symlink(str(tmp_path / "victim"),
             str(tmp_path / ".out.000000000000.tmp"))
  tries = iter([b"\0" * 6, b"\xff" * 6])
  monkeypatch.setattr(os, "urandom", lambda size: next(tries))
  atomic_files.write_text(str(tmp_path / "out"), u"one")
  assert (tmp_path / "victim").read_bytes() == b"thesis"


def test_what_is_no_file_is_not_replaced(tmp_path):
  pipe = str(tmp_path / "pipe")
  os.mkfifo(pipe)
  (tmp_path / "folder").mkdir()
  for path in (pipe, str(tmp_path / "folder"), "/dev/null"):
    with pytest.raises(ValueError) as raised:
      atomic_files.write_text(path, u"one")
    assert str(raised.value).startswith(path + " is not a file")
  assert stat.S_ISFIFO(os.stat(pipe).st_mode)
  assert sorted(os.listdir(str(tmp_path))) == ["folder", "pipe"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_modes_are_kept(tmp_path, mode):
  path = str(tmp_path / "x")
  before = os.umask(0o027)
  try:
    atomic_files.write_text(path, u"one")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    os.chmod(path, mode)
    with atomic_files.replacing(path) as writer:
      writer.write(b"two")
      writer.flush()
      hidden, = set(os.listdir(str(tmp_path))) - {"x"}
      # No moment in which more people can read it.
      assert stat.S_IMODE(os.stat(
          str(tmp_path / hidden)).st_mode) == mode
      assert atomic_files.is_temporary(hidden)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode
    assert read_bytes(path) == b"two"
  finally:
    os.umask(before)


@pytest.mark.parametrize("name, expected", [
    (".vocab.txt.0123456789ab.tmp", True), ("vocab.txt.tmp", False),
    ("thesis.tmp", False), (".thesis.tmp", False),
    ("a.0123456789ab.tmp", False),
    (".a.0123456789AB.tmp", False), (".a.0123456789ab.tmp.gz", False),
    (".a.0123456789abc.tmp", False), (".0123456789ab.tmp", False)])
def test_which_names_are_ours(name, expected):
  assert atomic_files.is_temporary(name) == expected


def test_long_names(tmp_path):
  path = str(tmp_path / (u"\u4e8c" * 84))  # 252 bytes
  atomic_files.write_text(path, u"one")
  assert read_bytes(path) == b"one"


def test_errors_name_the_file(tmp_path):
  path = str(tmp_path / "none" / "x")
  with pytest.raises(EnvironmentError) as raised:
    atomic_files.write_text(path, u"one")
  assert raised.value.filename == path


def test_file_then_rename_then_folder(tmp_path, monkeypatch):
  order = []
  fsync, replace = os.fsync, os.replace

  def kind(descriptor):
    return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

  monkeypatch.setattr(os, "fsync", lambda descriptor: (
      order.append(kind(descriptor)), fsync(descriptor)))
  monkeypatch.setattr(os, "replace", lambda a, b: (
      order.append("rename"), replace(a, b)))
  atomic_files.write_text(str(tmp_path / "x"), u"one")
  with atomic_files.replacing(str(tmp_path / "y"), text=True) as writer:
    writer.write(u"\u4e8c\r\n")
  atomic_files.copy_file(str(tmp_path / "x"), str(tmp_path / "z"))
  assert order == ["file", "rename", "folder"] * 3
  assert read_bytes(str(tmp_path / "y")) == b"\xe4\xba\x8c\r\n"
  assert read_bytes(str(tmp_path / "z")) == b"one"


def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch):
  for number, raises in ((errno.EINVAL, False), (errno.EIO, True)):
    def fail(unused_descriptor, number=number):
      raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fail)
    if raises:
      with pytest.raises(OSError):
        atomic_files.sync_folder(str(tmp_path))
    else:
      atomic_files.sync_folder(str(tmp_path))


def test_a_sealed_file(tmp_path):
  path = str(tmp_path / "x")
  value = {"b": [1, 0.1, None], "a": u"\u4e8c", "sha256": "of old"}
  atomic_files.write_sealed(path, value)
  del value["sha256"]
  assert atomic_files.read_sealed(path, True) == value
  text = read_bytes(path).decode("utf-8")
  plain = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
  assert json.loads(text)["sha256"] == hashlib.sha256(
      (plain + "\n").encode("utf-8")).hexdigest()
  # As another program may have laid it out.
  tiny_bert.write_text(path, json.dumps(json.loads(text)))
  assert atomic_files.read_sealed(path, True) == value


@pytest.mark.parametrize("old,new", [
    (u"0.1", u"0.2"), (u"null", u"NaN"), (u'"a"', u'"c"'),
    (u'"sha256"', u'"sha257"'), (u"\u4e8c", u"\u4e09"),
    (u'"b"', u'"a": "\u4e09", "b"')])
def test_a_changed_sealed_file(tmp_path, old, new):
  path = str(tmp_path / "x")
  atomic_files.write_sealed(path, {"b": [1, 0.1, None], "a": u"\u4e8c"})
  text = read_bytes(path).decode("utf-8")
  assert old in text
  tiny_bert.write_text(path, text.replace(old, new, 1))
  with pytest.raises(ValueError) as raised:
    atomic_files.read_sealed(path, True)
  assert path + " was changed" in str(raised.value)


def test_what_was_never_sealed(tmp_path):
  path = str(tmp_path / "x")
  tiny_bert.write_text(path, u'{"a": 1}')
  assert atomic_files.read_sealed(path) == {"a": 1}
  with pytest.raises(ValueError, match="was changed"):
    atomic_files.read_sealed(path, True)


def test_json(tmp_path):
  path = str(tmp_path / "x")
  value = {"b": [1, 0.5, None], "a": u"\u4e8c"}
  atomic_files.write_text(path, atomic_files.to_json(value))
  assert atomic_files.read_json(path) == value
  text = read_bytes(path).decode("utf-8")
  assert text.startswith(u'{\n  "a": "\u4e8c"') and text.endswith("}\n")
  with pytest.raises(ValueError):
    atomic_files.to_json({"a": float("nan")})


@pytest.mark.parametrize("content,words", [
    (b"", "is not JSON"), (b"{", "is not JSON"), (b"\xff", "is not JSON"),
    (b"[" * 100000, "is not JSON"), (b"[]", "must hold a JSON object"),
    (b"3", "must hold a JSON object")])
def test_what_is_no_json_object(tmp_path, content, words):
  (tmp_path / "x").write_bytes(content)
  with pytest.raises(ValueError) as raised:
    atomic_files.read_json(str(tmp_path / "x"))
  assert words in str(raised.value) and "\n" not in str(raised.value)
  assert str(tmp_path / "x") in str(raised.value)


def test_sha256(tmp_path):
  (tmp_path / "x").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
  assert atomic_files.file_sha256(str(tmp_path / "x")) == (
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_make_folder(tmp_path, monkeypatch):
  synced = []
  monkeypatch.setattr(atomic_files, "sync_folder", synced.append)
  for _ in range(2):
    atomic_files.make_folder(str(tmp_path / "a" / "b"))
    assert os.listdir(str(tmp_path / "a")) == ["b"]
  assert synced == [str(tmp_path), str(tmp_path / "a")]


def test_unwritable_folder(tmp_path):
  (tmp_path / "file").write_bytes(b"")
  for name in ("", "new", "new/and/deep"):
    assert atomic_files.unwritable_folder(str(tmp_path / name)) is None
  for name in ("file", "file/below", "file/far/below"):
    assert atomic_files.unwritable_folder(str(tmp_path / name)) == str(
        tmp_path / "file")
