# SPDX-License-Identifier: Apache-2.0
"""Tests of the strict JSON reader."""

import json

import pytest

from processors import delimited
from processors import jsonl
from processors import strict_json


def error_of(function, *args, **kwargs):
  with pytest.raises(strict_json.JsonError) as raised:
    function(*args, **kwargs)
  assert "\n" not in str(raised.value)
  return raised.value


@pytest.mark.parametrize("text", [
    "{}", ' [1, -2.5e3, "\\ud800\\u00e9", null, true, {"a": {"a": []}}] ',
    '"\u732b"', "0", '{"a": 1, "A": 2}'])
def test_values_are_those_of_json(text):
  assert strict_json.Decoder().decode(text) == json.loads(text)


@pytest.mark.parametrize("text, message", [
    ('{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}',
     "key 'c' stands twice in one object"),
    ('{"a": NaN}', "NaN is not JSON"),
    ('[-Infinity]', "-Infinity is not JSON"),
    ("[" * 100000, "JSON is nested too deeply"),
    ('{"a": ' + "9" * 4301 + "}", "a number has 4301 digits"),
    ('{"a" 1}', "broken JSON at character 6 of the line (Expecting ':' "
     "delimiter)"),
    ('{"a": 1,\n "b" 2}', "broken JSON at line 2, character 6 (Expecting ':' "
     "delimiter)"),
    ("", "broken JSON at character 1 of the line (Expecting value)"),
    ("1 2", "broken JSON at character 3 of the line (Extra data)")])
def test_what_json_has_not(text, message):
  assert str(error_of(strict_json.Decoder().decode, text)) == message


def test_errors_know_where():
  error = error_of(strict_json.Decoder().decode, '[\n1,\n  x]')
  assert (error.line, error.column, error.position) == (3, 3, 7)
  assert error.reason == "Expecting value"
  error = error_of(strict_json.Decoder().decode, '{"a": 1, "a": 1}')
  assert (error.line, error.column, error.position) == (None, None, None)


def test_a_value_within_a_text():
  decoder = strict_json.Decoder()
  assert decoder.decode_from('[{"a": 1}, 2]', 1) == ({"a": 1}, 9)
  assert error_of(decoder.decode_from, '[{"a": 1', 1).position == 8


@pytest.mark.parametrize("data, message", [
    (b'{"a": "\xff"}', "byte 0xff at position 7 is not UTF-8"),
    (b"[1]", "it holds a list, not an object"),
    (b"null", "it holds null, not an object"),
    (b'{"a": 123}', "a number has 3 digits")])
def test_objects_in_bytes(data, message):
  assert str(error_of(strict_json.read_object, data, 2)) == message


def test_object_of_bytes():
  assert strict_json.read_object(u'{"\u732b": 12}'.encode("utf-8"), 2) == {
      u"\u732b": 12}


# 200,000 names take quadratic readers longer than anybody waits.
_MANY = 200000


def test_many_keys_are_read_in_linear_time():
  keys = ['"k%d": 0' % number for number in range(_MANY)]
  line = '{"text": "a", "labels": [], %s}' % ", ".join(keys)
  assert jsonl.line_parser(True)(line) == ("", "a", None, ())
  with pytest.raises(ValueError) as raised:
    jsonl.line_parser(True)(line[:-1] + ', "k%d": 0}' % (_MANY - 1))
  assert str(raised.value) == "key 'k%d' stands twice in one object" % (
      _MANY - 1)


def test_many_columns_are_read_in_linear_time(tmp_path):
  names = ["c%d" % number for number in range(_MANY)]
  path = tmp_path / "train.csv"
  rows = ["text," + ",".join(names)] + [
      "x," + ",".join("1" if column % 50000 == row else "0"
                      for column in range(_MANY)) for row in range(2)]
  path.write_text("\n".join(rows) + "\n")
  processor = delimited.DelimitedProcessor()
  assert processor.get_labels(str(tmp_path)) == names
  assert [example.labels for example in
          processor.get_train_examples(str(tmp_path))] == [
              ("c0", "c50000", "c100000", "c150000"),
              ("c1", "c50001", "c100001", "c150001")]
  path.write_text("text," + ",".join(names + names[-1:]) + "\n")
  with pytest.raises(ValueError) as raised:
    processor.get_labels(str(tmp_path))
  assert str(raised.value) == (
      "%s:1: two columns are called 'c199999'." % path)
