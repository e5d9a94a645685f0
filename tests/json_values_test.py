# SPDX-License-Identifier: Apache-2.0
"""Tests of JSON files that hold an array, or objects one behind the other."""

import json
import tracemalloc

import packed_data
import pytest

import processors
from processors import json_values
from processors import text_lines


def write(tmp_path, content, name="train.json"):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else
                   content.encode("utf-8"))
  return str(path)


def read(path, **options):
  return list(json_values.numbered_texts(path, **options))


def error_of(path, **options):
  with pytest.raises(ValueError) as raised:
    read(path, **options)
  message = str(raised.value)
  assert message.startswith(path + ":") and message.endswith(".")
  return message[len(path):]


@pytest.mark.parametrize("content, expected", [
    ('[{"a": 1}, "b", [2]]', [(1, {"a": 1}), (1, "b"), (1, [2])]),
    ('\ufeff \n[\r\n {"a":\n [1]},\n\n"b" ,7\n]\n\n',
     [(3, {"a": [1]}), (6, "b"), (6, 7)]),
    ("[]", []), (" [ ] ", []), ("", []), ("\n", []),
    # JSON lines, and objects over several lines.
    ('{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
    ('{"a": 1}\n\n\n{\n "a": 2\n}{"a": "]"}',
     [(1, {"a": 1}), (4, {"a": 2}), (6, {"a": "]"})]),
    (u'{"text": "\u732b"}', [(1, {"text": u"\u732b"})])])
def test_values(tmp_path, content, expected):
  path = write(tmp_path, content)
  assert [(line, json.loads(text)) for line, text in read(path)] == expected
  packed = write(tmp_path, packed_data.gzipped(content.encode("utf-8")),
                 "a.json.gz")
  assert [line for line, _ in read(packed)] == [line for line, _ in expected]


def test_values_are_given_as_they_stand(tmp_path):
  path = write(tmp_path, '[ {"a" : 1,"a":2} , NaN, "\\ud800"]')
  assert [text for _, text in read(path)] == [
      '{"a" : 1,"a":2}', "NaN", '"\\ud800"']


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1 << 16])
def test_values_across_pieces(tmp_path, size, monkeypatch):
  monkeypatch.setattr(text_lines, "_PIECE", size)
  values = [{"text": u'a "\\ \u732b\n]}', "n": [1.5e3, -12345, None, {}]},
            "x", 123456, "", True, [], u"\U0001f600"]
  path = write(tmp_path, json.dumps(values, indent=1, ensure_ascii=False))
  assert [json.loads(text) for _, text in read(path)] == values


@pytest.mark.parametrize("content, message", [
    ('[{"a": 1},\n {"b" 2}]', ":2: broken JSON at character 7 of the line "
     "(Expecting ':' delimiter)."),
    ('[{"a": 1}\n {"b": 2}]', ":2: broken JSON at character 2 of the line "
     "(Expecting ',' or ']' between elements)."),
    ('[{"a": 1},]', ":1: broken JSON at character 11 of the line (Expecting "
     "value)."),
    ('[{"a": 1}', ":1: broken JSON at character 10 of the line (Expecting "
     "',' or ']' between elements)."),
    ('["a", ', ":1: broken JSON at character 7 of the line (Expecting value)."),
    ('["a"] ["b"]', ":1: something follows the end of the array: the file must "
     "hold one array, or objects one behind the other."),
    ("[" * 100000, ":1: JSON is nested too deeply."),
    ('{"data": [{"text": "a"}], "version": 1}',
     ":1: the file holds one object (keys: 'data', 'version'): it must hold an "
     'array of objects with a "text" each, as pandas writes with '
     'orient="records", or such objects one per line.'),
    ('{\n"text": {"0": "a"}, "labels": {"0": "x"}}\n',
     ":1: the file holds one object (keys: 'text', 'labels'): it must hold an "
     'array of objects with a "text" each, as pandas writes with '
     'orient="records", or such objects one per line.'),
    ("text\nabc\n", ":1: broken JSON at character 1 of the line (Expecting "
     "value).")])
def test_what_is_broken(tmp_path, content, message):
  if content == "[" * 100000:
    content = "[" + content
  assert error_of(write(tmp_path, content)) == message


def test_long_numbers_and_values(tmp_path, monkeypatch):
  path = write(tmp_path, '[{"text": "a", "labels": [], "n": %s}]' % (
      "9" * 100000))
  with pytest.raises(ValueError) as raised:
    list(processors.create_processor("jsonl").get_train_examples(str(tmp_path)))
  assert str(raised.value).startswith(path + ":1: ")
  assert "digits" in str(raised.value)
  monkeypatch.setattr(text_lines, "MAX_LINE", 1 << 17)
  path = write(tmp_path, '["a", "%s"]' % ("x" * (1 << 18)))
  assert error_of(path) == ":1: the value has more than 131072 characters."


def test_a_large_array_on_one_line_is_read_piece_by_piece(tmp_path):
  path = write(tmp_path, "[%s]" % ", ".join(
      ['{"text": "some words of a text", "labels": ["a"]}'] * 60000))
  processor = processors.create_processor("jsonl")
  examples = processor.get_train_examples(str(tmp_path))
  next(examples)
  tracemalloc.start()
  assert sum(1 for _ in examples) == 59999
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2000000
  assert path.endswith(".json")


def test_training_data(tmp_path):
  rows = [{"text": u"\u732b", "labels": ["b", "a"], "id": 7},
          {"text": "x", "labels": []}]
  expected = [("7", u"\u732b", ("b", "a")), ("train-2", "x", ())]
  for name, content in (
      ("train.json", json.dumps(rows, indent=2)),
      ("train.json", "\n".join(json.dumps(row) for row in rows)),
      ("train.ndjson", "\n".join(json.dumps(row) for row in rows)),
      ("train.jsonl", u"\ufeff" + u"\n\ufeff".join(
          json.dumps(row) for row in rows)),
      ("train.ndjson.gz", packed_data.gzipped(
          "\n".join(json.dumps(row) for row in rows).encode("utf-8")))):
    path = write(tmp_path, content, name)
    processor = processors.create_processor("jsonl")
    assert [(e.guid, e.text_a, e.labels) for e in
            processor.get_train_examples(str(tmp_path))] == expected
    (tmp_path / name).unlink()
  path = write(tmp_path, json.dumps(rows).replace('"id": 7', '"text": "y"'))
  with pytest.raises(ValueError) as raised:
    list(processor.get_train_examples(str(tmp_path)))
  assert str(raised.value) == (
      path + ":1: key 'text' stands twice in one object.")
  write(tmp_path, json.dumps(rows), "train.jsonl")
  with pytest.raises(ValueError) as raised:
    processor.get_train_examples(str(tmp_path))
  assert "holds both train.jsonl and train.json" in str(raised.value)


def test_a_line_of_jsonl_that_is_an_array(tmp_path):
  write(tmp_path, '[{"text": "a", "labels": []}]', "train.jsonl")
  with pytest.raises(ValueError) as raised:
    list(processors.create_processor("jsonl").get_train_examples(str(tmp_path)))
  assert str(raised.value).endswith(
      "train.jsonl:1: the line holds a list, not an object (a file that holds "
      "an array ends in .json).")
