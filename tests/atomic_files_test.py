# SPDX-License-Identifier: Apache-2.0
"""Tests of files that a kill leaves whole."""

import os

import pytest

import atomic_files


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
    (b"[]", "holds no JSON object"), (b"3", "holds no JSON object")])
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


def test_unwritable_folder(tmp_path):
  (tmp_path / "file").write_bytes(b"")
  for name in ("", "new", "new/and/deep"):
    assert atomic_files.unwritable_folder(str(tmp_path / name)) is None
  for name in ("file", "file/below", "file/far/below"):
    assert atomic_files.unwritable_folder(str(tmp_path / name)) == str(
        tmp_path / "file")
