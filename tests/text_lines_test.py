# SPDX-License-Identifier: Apache-2.0
"""Tests of reading lines: encodings, packed files, files that are no text."""

import bz2
import codecs
import io
import lzma
import os
import tarfile
import threading
import zipfile

from absl import logging
import packed_data
import pytest

from processors import text_encoding
from processors import text_lines


CHINESE = u"今天天气很好，我们去公园吧。\n这部电影非常好看，推荐给大家！\n"
TAIWANESE = u"今天天氣很好，我們去公園吧。\n這部電影非常好看，推薦給大家！\n"
JAPANESE = u"今日はとても良い天気ですね。\nこの映画はおもしろい、テレビ\n"
KOREAN = u"오늘은 날씨가 매우 좋습니다.\n이 영화는 정말 재미있어요\n"
FRENCH = u"Il a été très déçu par le café à l’hôtel\nça va, garçon\n"
GERMAN = u"Müller fährt über die Straße\n"
RUSSIAN = u"Сегодня очень хорошая погода, пойдём в парк.\n"
EMOJI = u"fine \U0001f600\n\u2028same line\n"

WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE,
         "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE,
         "utf-32-be": codecs.BOM_UTF32_BE}


def write(tmp_path, data, name="a.txt"):
  path = tmp_path / name
  path.write_bytes(data)
  return str(path)


def read(path, encoding=None):
  return "".join(text_lines.read_lines(path, encoding))


def error_of(path, encoding=None):
  with pytest.raises(ValueError) as raised:
    read(path, encoding)
  assert not isinstance(raised.value, UnicodeError)
  message = str(raised.value)
  assert message.endswith(".") and "\n" not in message
  return message


# Encodings.


@pytest.mark.parametrize("encoding", sorted(MARKS))
@pytest.mark.parametrize("packed", [False, True])
def test_a_mark_says_the_encoding(tmp_path, encoding, packed):
  text = "text,id\r\n" + CHINESE + EMOJI
  data = MARKS[encoding] + text.encode(encoding)
  path = write(tmp_path, packed_data.gzipped(data) if packed else data,
               "a.txt.gz" if packed else "a.txt")
  assert read(path) == text
  assert read(path, "gb18030") == text  # the mark knows better


@pytest.mark.parametrize("text, encoding", [
    (CHINESE, "gb18030"), (CHINESE, "gbk"), (TAIWANESE, "big5"),
    (JAPANESE, "shift_jis"), (KOREAN, "cp949"), (FRENCH, "cp1252"),
    (RUSSIAN, "cp1251"), (GERMAN, "latin-1"), (CHINESE, "UTF-8"),
    (CHINESE, "utf-8-sig"), (EMOJI, "utf-16-le"), (EMOJI, "utf_32_be")])
def test_encodings_that_are_named(tmp_path, text, encoding):
  # Far more than what is read at once.
  text = "id,text\r\n" + text * 3000
  assert read(write(tmp_path, text.encode(encoding)), encoding) == text


@pytest.mark.parametrize("text, encoding, name", [
    (CHINESE, "gbk", "gb18030"), (u"体育,财经\n", "gbk", "gb18030"),
    (TAIWANESE, "big5", "big5"), (TAIWANESE, "gb18030", "gb18030"),
    (JAPANESE, "shift_jis", "shift_jis"), (KOREAN, "cp949", "cp949"),
    (FRENCH, "cp1252", "cp1252"), (GERMAN, "latin-1", "cp1252"),
    (u"¿Qué tal, señor?\n", "cp1252", "cp1252"), (RUSSIAN, "cp1251", "cp1251")])
@pytest.mark.parametrize("before", [0, 1, 5000])
def test_an_encoding_is_guessed(tmp_path, text, encoding, name, before):
  lines = "id,text\r\n" * before
  path = write(tmp_path, (lines + text).encode(encoding))
  message = error_of(path)
  byte = bytearray(text.encode(encoding))[
      next(i for i, char in enumerate(text) if ord(char) > 127)]
  assert message.startswith("%s:%d: byte 0x%02x is not UTF-8 (it may be %s" % (
      path, before + 1, byte, name))
  assert message.endswith("give --encoding=%s)." % name)
  # What it would read, for the eye.
  odd = next(i for i, char in enumerate(text) if ord(char) > 127)
  assert text[odd:odd + 4].split("\n")[0] in message
  assert read(path, name) == lines + text


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("text", [
    "text,id\nplain,1\n", "text,id\n" + CHINESE, CHINESE * 50, RUSSIAN])
def test_wide_encodings_without_a_mark(tmp_path, encoding, text):
  path = write(tmp_path, text.encode(encoding))
  message = error_of(path)
  assert message.startswith(path + ":1: byte 0x")
  assert message.endswith("give --encoding=%s)." % encoding)
  assert read(path, encoding) == text


@pytest.mark.parametrize("encoding", WIDE)
def test_the_order_of_bytes(tmp_path, encoding):
  path = write(tmp_path, ("text,id\n" + CHINESE).encode(encoding))
  assert read(path, encoding[:6]) == "text,id\n" + CHINESE
  other = encoding[:-2] + {"le": "be", "be": "le"}[encoding[-2:]]
  assert error_of(path, other) == (
      "%s reads as %s, not as --encoding=%s: give --encoding=%s." % (
          path, encoding, other, encoding))


def test_a_damaged_file_gets_no_other_encoding(tmp_path):
  good = (CHINESE * 20).encode("utf-8")
  path = write(tmp_path, good + b"caf\xe9 bar\n")
  assert error_of(path) == (
      "%s:41: byte 0xe9 is not UTF-8 (save the file as UTF-8, or name its "
      "encoding with --encoding)." % path)
  path = write(tmp_path, b"plain lines\n" * 50 + b"one\0zero\n")
  assert error_of(path).startswith(path + ":51: byte 0x00 is not text (save")


def test_the_first_bad_byte_counts(tmp_path):
  path = write(tmp_path, b"a\r\nb\rc\nzero\0\nx\xff\n")
  assert error_of(path).startswith(path + ":4: byte 0x00 is not text")
  path = write(tmp_path, b"a\r\nb\rc\nx\xff\nzero\0\n")
  assert error_of(path).startswith(path + ":4: byte 0xff is not UTF-8")
  # Line ends that a piece of the file divides.
  for size in range(65530, 65540):
    path = write(tmp_path, b"a" * size + b"\r\n" + b"b\r" * 10 + b"\xff")
    assert error_of(path).startswith(path + ":12: byte 0xff")


@pytest.mark.parametrize("data, encoding, line, byte", [
    (u"体育\n财经".encode("gbk")[:-1], "gbk", 2, "0xbe is not GBK"),
    (b"ab\nc\xc4", "utf-8", 2, "0xc4 is not UTF-8"),
    (u"a\nb".encode("utf-16-le")[:-1], "utf-16-le", 2, "0x62 is not UTF-16-LE"),
    (b"\xff\xfea\0\n\0\0\xd8a\0", None, 2, "0x00 is not UTF-16-LE")])
def test_characters_that_are_cut(tmp_path, data, encoding, line, byte):
  path = write(tmp_path, data)
  assert error_of(path, encoding).startswith("%s:%d: byte %s" % (
      path, line, byte))


def test_utf8_that_is_called_something_else_is_utf8(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(logging, "warning",
                      lambda message, *values: said.append(message % values))
  path = write(tmp_path, CHINESE.encode("utf-8"))
  assert read(path, "gb18030") == read(path, "cp1252") == CHINESE
  assert said == ["%s is UTF-8 and read as that, not as --encoding=%s." % (
      path, name) for name in ("gb18030", "cp1252")]
  assert read(write(tmp_path, u"é".encode("utf-8")), "cp1252") == u"Ã©"


@pytest.mark.parametrize("encoding", [
    "gb18031", "hex", "rot13", "base64", "unicode_escape", "idna", "a\0b",
    u"中文", "undefined"])
def test_encodings_that_are_none(encoding):
  with pytest.raises(ValueError) as raised:
    text_encoding.check(encoding)
  assert str(raised.value).startswith("--encoding=")
  assert "gb18030" in str(raised.value)


def test_no_encoding():
  assert text_encoding.check(None) is text_encoding.check("") is None


# Packed files.


def _zip(name, data):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w") as archive:
    archive.writestr(name, data)
  return stream.getvalue()


def _tar(data):
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode="w") as archive:
    member = tarfile.TarInfo("a.txt")
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
  return stream.getvalue()


TEXT = b"one\ntwo\n"
PACKED = packed_data.gzipped(TEXT)


@pytest.mark.parametrize("name, data, words", [
    ("a.gz", TEXT, "broken gzip data (it is not packed, take .gz off"),
    ("a.gz", b"", "broken gzip data (the file is empty)"),
    ("a.gz", _zip("a.txt", TEXT), "broken gzip data (it is a zip archive"),
    ("a.gz", bz2.compress(TEXT), "broken gzip data (it is bzip2 data"),
    ("a.gz", PACKED[:-9], "broken gzip data (Compressed file ended before"),
    ("a.gz", PACKED[:12] + b"\xff" * 9 + PACKED[21:], "broken gzip data ("),
    ("a.gz", PACKED[:-8] + b"\0" * 8, "broken gzip data (CRC check failed"),
    ("a.gz", PACKED + b"rest", "broken gzip data ("),
    ("a.gz", packed_data.gzipped(PACKED), "unpacked is gzip data again"),
    ("a.gz", packed_data.gzipped(_tar(TEXT)), "unpacked is a tar archive"),
    ("a.csv", PACKED, "is gzip data: end its name in .gz"),
    ("a.csv", _zip("xl/workbook.xml", TEXT), "end the name of a spreadsheet in "
     ".xlsx"),
    ("a.csv", b"PAR1\x15\x04", "is Parquet: end its name in .parquet"),
    ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel or Word file"),
    ("a.txt", lzma.compress(TEXT), "is xz data"),
    ("a.txt", bz2.compress(TEXT), "is bzip2 data"),
    ("a.txt", _tar(TEXT), "is a tar archive"),
    ("a.txt", b"%PDF-1.4\n", "a PDF file"),
    ("a.csv", b"SQLite format 3\0", "an SQLite database"),
    ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
     "git lfs pull")])
def test_files_that_are_no_text(tmp_path, name, data, words):
  path = write(tmp_path, data, name)
  message = error_of(path)
  assert message.startswith(path) and words in message


@pytest.mark.parametrize("data", [
    PACKED + packed_data.gzipped(b"three\n"), PACKED + b"\0" * 512,
    packed_data.gzipped(b"") + PACKED])
def test_members_and_padding(tmp_path, data):
  assert read(write(tmp_path, data, "a.gz")) in (
      "one\ntwo\n", "one\ntwo\nthree\n")
  assert read(write(tmp_path, PACKED * 3, "a.gz")) == "one\ntwo\n" * 3


def test_a_pipe_that_gives_little_at_a_time(tmp_path):
  path = str(tmp_path / "pipe")
  os.mkfifo(path)
  data = codecs.BOM_UTF16_LE + (u"one\r\n" + CHINESE).encode("utf-16-le")

  def fill():
    with open(path, "wb", buffering=0) as pipe:
      for start in range(len(data)):
        pipe.write(data[start:start + 1])

  writer = threading.Thread(target=fill)
  writer.start()
  assert read(path) == u"one\r\n" + CHINESE
  writer.join()
