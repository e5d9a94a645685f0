# SPDX-License-Identifier: Apache-2.0
"""Tests of reading texts to predict."""

import gzip
import itertools
import os
import threading
import tracemalloc

import pytest

from processors import unlabelled


def write(path, text):
  data = text if isinstance(text, bytes) else text.encode("utf-8")
  if str(path).endswith(".gz"):
    data = gzip.compress(data)
  path.write_bytes(data)
  return str(path)


def read(path, form=None, **options):
  path = str(path)
  return list(unlabelled.read_texts(path, form, options))


def error_of(*args, **kwargs):
  with pytest.raises(ValueError) as raised:
    read(*args, **kwargs)
  message = str(raised.value)
  assert message and "\n" not in message
  return message


@pytest.mark.parametrize("path, form", [
    ("a.csv", "csv"), ("a.CSV", "csv"), ("a.tsv.gz", "tsv"),
    ("a.jsonl", "jsonl"), ("a.b.jsonl.gz", "jsonl"), ("a.txt", "text"),
    ("csv", "csv"), ("-", "text"), ("a.json", "json"), ("a.gz", "text"),
    ("a.ndjson.gz", "jsonl"), ("a.parquet", "parquet"), ("a.pq", "parquet"),
    ("a.xlsx", "xlsx"), ("a.XLSM", "xlsx"), ("a.ndjson", "jsonl"),
    ("x.csv/a", "text")])
def test_guess_form(path, form):
  assert unlabelled.guess_form(path) == form


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_lines(name, tmp_path):
  path = write(tmp_path / name, u"\ufeffone\r\n\n  \u732b\t\U0001f680 \n"
                                u"{\"text\": 1}\na\u2028b\u0085c\nlast")
  assert read(path, "text") == [
      ("1", "one", None), ("2", "", None),
      ("3", u"  \u732b\t\U0001f680 ", None), ("4", u"{\"text\": 1}", None),
      ("5", u"a\u2028b\u0085c", None), ("6", "last", None)]


def test_empty_files(tmp_path):
  assert read(write(tmp_path / "a.txt", u"")) == []
  assert read(write(tmp_path / "a.jsonl", u"")) == []
  assert "is empty" in error_of(write(tmp_path / "a.csv", u""))
  assert read(write(tmp_path / "b.csv", u"text\n")) == []


@pytest.mark.parametrize("name, delimiter", [
    ("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ","), ("a.tsv.gz", "\t")])
def test_tables(name, delimiter, tmp_path):
  rows = [["id", "label", "sentence", "text_pair"],
          ["x 1", "b", u"\u732b", "pair"],
          [" ", "", u'"two\n""lines"""', ""],
          ["7", "b", "", u"\U0001f680"]]
  path = write(tmp_path / name,
               u"".join(delimiter.join(row) + "\r\n" for row in rows))
  assert read(path) == [
      ("x 1", u"\u732b", "pair"), ("2", u'two\n"lines"', ""),
      ("7", "", u"\U0001f680")]


def test_options_of_tables(tmp_path):
  path = write(tmp_path / "a.csv", u"text;body;name\n1;2;3\n")
  assert read(path, delimiter=";") == [("1", "1", None)]
  assert read(path, delimiter=";", text_column="body", id_column="name",
              text_pair_column="text") == [("3", "2", "1")]
  assert read(path, form="tsv", delimiter=";") == [("1", "1", None)]
  message = error_of(path, delimiter=";", text_column="bdy")
  for part in (path, "'bdy'", "'text', 'body', 'name'"):
    assert part in message
  assert "--delimiter=';;'" in error_of(path, delimiter=";;")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_options_that_mean_nothing(name, tmp_path):
  path = write(tmp_path / name, u'{"text": "a"}\n')
  message = error_of(path, text_column="text")
  assert "--text_column is for tables" in message
  assert path in message
  form = unlabelled.guess_form(path)
  assert len(read(path, form, text_column=None, delimiter=None)) == 1


def test_jsonl(tmp_path):
  path = write(tmp_path / "a.jsonl", u"\n".join([
      u'{"text": "one"}', u'{"id": 5, "text": "", "text_pair": "p", "x": [1]}',
      u'{"text": "\\ud83d\\ude80 \\ud800", "id": null, "text_pair": null}',
      u'{"id": "\u732b", "text": "a\\nb"}']))
  assert read(path) == [
      ("1", "one", None), ("5", "", "p"), ("3", u"\U0001f680 \ufffd", None),
      (u"\u732b", "a\nb", None)]


@pytest.mark.parametrize("name, text, where, what", [
    ("a.txt", b"one\ntwo\xff\n", ":2: ", "0xff is not UTF-8"),
    ("a.txt", b"one\n\0two\n", ":2: ", "0x00"),
    ("a.txt.gz", b"one\n\xe7\x8c\n", ":2: ", "0xe7"),
    ("a.csv", b"text\none\n\xfe\n", ":3: ", "0xfe"),
    ("a.csv", u"text,b\n1,2\n1,2,3\n", ":3: ", "3 fields"),
    ("a.csv", u'text\n"open\n', ":2: ", "quotation mark"),
    ("a.csv", u"a,b\n1,2\n", "", "has no column"),
    ("a.csv", u"text,text\n1,2\n", ":1: ", "'text'"),
    ("a.jsonl", u'{"text": "a"}\n{"text": 5}\n', ":2: ", '"text" is a number'),
    ("a.jsonl", u'{"text": "a"}\n{"txt": "a"}\n', ":2: ", 'no key "text"'),
    ("a.jsonl", u'{"text": "a"}\n[]\n', ":2: ", "a list"),
    ("a.jsonl", u'{"text": "a"\n', ":1: ", "broken JSON"),
])
def test_broken_files(name, text, where, what, tmp_path):
  path = write(tmp_path / name, text)
  message = error_of(path)
  assert message.startswith(path + where)
  assert what in message


def test_file_that_is_not_there(tmp_path):
  for name in ("a.txt", "a.csv", "a.jsonl", "a.txt.gz"):
    assert str(tmp_path / name) in error_of(tmp_path / name)


def test_broken_gzip(tmp_path):
  path = tmp_path / "a.txt.gz"
  path.write_bytes(gzip.compress(b"one\n" * 1000)[:-9])
  assert "%s: broken gzip data" % path in error_of(path)
  path.write_bytes(b"plain text\n")
  assert "%s: broken gzip data" % path in error_of(path)


@pytest.mark.parametrize("name, head, row", [
    ("a.txt", u"", u"some words of a text\n"),
    ("a.csv", u"text,id\n", u"some words of a text,7\n"),
    ("a.jsonl", u"", u'{"text": "some words of a text"}\n')])
def test_rows_come_as_they_are_read(name, head, row, tmp_path):
  path = write(tmp_path / name, head + row * 100000)
  rows = unlabelled.read_texts(path)
  next(rows)
  tracemalloc.start()
  assert sum(1 for _ in itertools.islice(rows, 50000)) == 50000
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 500000


@pytest.mark.parametrize("bad, words", [
    (b"\xff", "byte 0xff is not UTF-8 ("), (b"\0", "byte 0x00 is not text.")])
def test_bad_byte_in_a_pipe_names_its_line(bad, words, tmp_path):
  path = str(tmp_path / "pipe")
  os.mkfifo(path)
  lines = [b"line %d\n" % number for number in range(1, 20001)]
  lines[3000] = b"bad " + bad + b"\n"

  def fill():
    try:
      with open(path, "wb") as pipe:
        pipe.write(b"".join(lines))
    except BrokenPipeError:
      pass

  writer = threading.Thread(target=fill)
  writer.start()
  message = error_of(path)
  writer.join()
  assert message.startswith("%s:3001: %s" % (path, words))


# What looks like another form.


@pytest.mark.parametrize("line, form", [
    ('{"text": "a"}', "jsonl"), ("{'text': 'a'}", "jsonl"), ("{", "jsonl"),
    ('  { "text": "a"}', "jsonl"),
    ('[{"text": "a"}]', "json"), ('["a", "b"]', "json"), ("[", "json"),
    ("id,text,labels", "csv"), ('"id","text"', "csv"), ("text", "csv"),
    ("comment_text", "csv"), ("text\tlabel", "tsv"),
    ("Id;Text;Labels", "csv --delimiter=';'")])
def test_lines_that_look_like_another_form(line, form, tmp_path):
  for name in ("a.txt", "a", "a.dat.gz"):
    path = write(tmp_path / name, line + "\nmore\n")
    message = error_of(path)
    assert message.startswith(path + ":1: the line looks like ")
    assert message.endswith(
        ": give --input_format=%s, or --input_format=text if it is a text." %
        form)
    assert read(path, form="text") == [("1", line, None), ("2", "more", None)]


@pytest.mark.parametrize("first", [
    "The text, a label", "Text.", "a, b, c", "[1] see the text", "{curly}",
    "{'text' 1}", "a <html> tag", "", "texts", "[note] \"x\"",
    "text me, please call back!",
    "review"])
def test_lines_that_are_texts(first, tmp_path):
  assert read(write(tmp_path / "a.txt", first + "\n[\nid,text\n{\n")) == [
      ("1", first, None), ("2", "[", None), ("3", "id,text", None),
      ("4", "{", None)]


@pytest.mark.parametrize("line", [
    "<!DOCTYPE html>", "<html lang=en>", u"\ufeff<?xml version='1.0'?>"])
def test_markup(line, tmp_path):
  path = write(tmp_path / "a.html", line + "\n<p>text\n")
  assert error_of(path).startswith(path + ":1: the line looks like HTML or XML")
  assert len(read(path, form="text")) == 2


def test_json_lines_further_down(tmp_path):
  path = write(tmp_path / "a.txt", 'fine\n{"text": "a"}\n')
  assert error_of(path).startswith(path + ":2: the line looks like JSON lines")


def test_line_ends_of_texts(tmp_path):
  for ends in ("\n", "\r\n", "\r"):
    assert [text for _, text, _ in read(write(
        tmp_path / "a.txt", ends.join(["a", "", "b", "c"])))] == [
            "a", "", "b", "c"]
  assert [text for _, text, _ in read(write(
      tmp_path / "a.txt", "a\r\nb\nc\r\n"))] == ["a", "b", "c"]
  path = write(tmp_path / "a.txt", "a\nhalf\rhalf\n")
  assert error_of(path).startswith(path + ":2: a carriage return stands alone")


# JSON.


@pytest.mark.parametrize("name, content", [
    ("a.json", '["one", "two"]'), ("a.json", '[{"text": "one"},"two"]'),
    ("a.json", '{"text": "one", "labels": [3, null]}\n{"text": "two"}\n'),
    ("a.ndjson", '{"text": "one"}\n{"text": "two"}\n'),
    ("a.jsonl", '"one"\n{"text": "two", "labels": "x"}\n'),
    ("a.json.gz", '[\n"one",\n"two"\n]\n')])
def test_json(name, content, tmp_path):
  assert read(write(tmp_path / name, content)) == [
      ("1", "one", None), ("2", "two", None)]


def test_labels_are_not_looked_at(tmp_path):
  rows = ['{"text": "a", "labels": ["x"]}', '{"text": "b"}',
          '{"text": "c", "labels": null}', '{"text": "d", "labels": [1]}']
  path = write(tmp_path / "a.jsonl", "\n".join(rows))
  assert [text for _, text, _ in read(path)] == ["a", "b", "c", "d"]
  path = write(tmp_path / "a.csv", "text,toxic\na,1\nb,\nc,-1\n")
  assert [text for _, text, _ in read(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("content, part", [
    ('["a", 5]', ':1: the line holds a number, not an object'),
    ('[{"text": "a"},\n{"txt": "b"}]', ':2: there is no key "text"'),
    ('{"data": ["a"]}', ":1: the file holds one object (keys: 'data')"),
    ('["a"', ":1: broken JSON")])
def test_broken_json(content, part, tmp_path):
  path = write(tmp_path / "a.json", content)
  assert error_of(path).startswith(path + part)


# Tables.


def test_flags_of_text_tables(tmp_path):
  path = write(tmp_path / "a.tsv", 'id\ttext\n1\t"one\n2\ttwo"\n')
  assert "--quoting=none" in error_of(path)
  assert read(path, quoting="none") == [("1", '"one', None),
                                        ("2", 'two"', None)]
  path = write(tmp_path / "b.csv", u"id,text\n1,今天天气很好\n".encode("gbk"))
  assert "--encoding=gb18030" in error_of(path)
  assert read(path, encoding="gb18030") == [("1", u"今天天气很好", None)]
  for name in ("a.txt", "a.jsonl", "a.json"):
    text = u"今天天气很好" if name == "a.txt" else u'"今天天气很好"'
    path = write(tmp_path / name, text.encode("gbk"))
    assert read(path, encoding="gbk", quoting="auto") == [
        ("1", u"今天天气很好", None)]
    assert "--quoting is for tables" in error_of(path, quoting="none")
