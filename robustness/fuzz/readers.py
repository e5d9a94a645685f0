# SPDX-License-Identifier: Apache-2.0
"""Targets: files of texts and labels, against Python's own readers."""

import collections
import csv
import io
import json
import os
import re

from multilabel.inference import prediction_writers
import processors
from processors import table_reader
from robustness.fuzz import checks


DELIMITERS = ",\t;|"

_Described = collections.namedtuple("_Described", ["probabilities"])


def _csv_rows(data, delimiter):
  """[(line, row)] as csv reads them, or None where it is not a CSV file."""
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError:
    return None
  if "\0" in text:
    return None
  limit = csv.field_size_limit(1 << 26)
  reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter,
                      strict=True)
  rows, line = [], 1
  try:
    for row in reader:
      rows.append((line, row))
      line = reader.line_num + 1
  except csv.Error:
    return None
  finally:
    csv.field_size_limit(limit)
  while rows and not rows[-1][1]:
    rows.pop()
  return rows


def _is_table(rows, delimiter, content):
  """Whether a table is regular, so that it must be read unchanged."""
  if not rows or not rows[0][1] or re.search(b"\r(?!\n)", content):
    return False
  if delimiter == "\t" and b'"' in content:
    return False
  header = [name.strip() for name in rows[0][1]]
  if "" in header or len(set(header)) != len(header) or header[0].lower(
      ).startswith("sep="):
    return False
  for _, row in rows[1:]:
    if len(row) != len(header) or row[0].startswith("\ufeff"):
      return False
    if sorted(cell.strip().lower() for cell in row) == sorted(
        name.lower() for name in header):
      return False
  return True


def _is_part(row, found):
  """Whether a row is one of csv's, or that without columns at its ends."""
  return found is not None and any(
      found[first:first + len(row)] == row for first in (0, 1))


def read_delimited(data):
  """The first byte chooses the delimiter; the rest is the file."""
  delimiter = DELIMITERS[data[0] % len(DELIMITERS)] if data else ","
  content = data[1:]
  path = checks.write("train.csv", content)
  expected = _csv_rows(content, delimiter)
  is_table = _is_table(expected, delimiter, content)
  try:
    rows = list(table_reader.read_table(path, delimiter))
  except ValueError as error:
    checks.check_sentence(error, path)
    checks.expect(not is_table, "a table that csv reads is refused", str(error),
                  content)
    checks.expect(re.search(r" is |:\d+: ", str(error)), "no line", str(error))
    rows = None
  else:
    if is_table:
      expected[0] = (expected[0][0], [name.strip() for name in expected[0][1]])
      checks.expect(rows == expected, "other rows than csv's", rows, expected)
    elif expected is not None and content.find(b"\xef\xbb\xbf", 1) < 0:
      by_line = dict(expected)
      for line, row in rows[1:]:
        checks.expect(_is_part(row, by_line.get(line)), "a row from nowhere",
                      row, line, content)
    _write_again(rows)
  _read_examples("delimited", rows, {"delimiter": delimiter})


def _read_examples(task, rows, options):
  """The examples of train are the rows' texts, or there is an error
  sentence."""
  processor = processors.create_processor(task, options=options)
  try:
    labels = processors.get_labels(processor, checks.folder())
    examples = list(processor.get_train_examples(checks.folder()))
  except ValueError as error:
    checks.check_sentence(error)
    return None
  checks.expect(rows is not None, "examples of a broken table", examples)
  header = rows[0][1]
  column = [header.index(name) for name in ("text", "comment_text", "sentence")
            if name in header][0]
  checks.expect([e.text_a for e in examples] ==
                [row[column] for _, row in rows[1:]], "other texts", rows)
  for example in examples:
    checks.expect(set(example.labels) <= set(labels), "a label from nowhere",
                  example.labels, labels)
  return examples


def _write_again(rows):
  """Ids and labels of a prediction's table are read back as they were."""
  labels = rows[0][1]
  stream = io.BytesIO()
  write = prediction_writers.tsv_writer(stream, labels)
  names = [row[0] for _, row in rows[1:]]
  for name in names:
    write((name, "", None), _Described({label: 0.5 for label in labels}))
  text = stream.getvalue().decode("utf-8")
  again = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t",
                          strict=True))
  checks.expect(again == [["id"] + labels] + [
      [name] + ["0.5"] * len(labels) for name in names],
                "the table is read as another", again, labels, names)
  for cell in labels + names:
    safe = prediction_writers.neutralised(cell)
    checks.expect(safe.endswith(cell) and not re.match(
        r"[=+\-@\t\r\n]", safe.strip(" ")), "a formula", cell)


def _json_rows(data):
  """[object or None where json refuses it], a line each, or None."""
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError:
    return None
  lines = re.split("\r\n|\r|\n", text)
  while lines and not lines[-1].strip():
    lines.pop()
  rows = []
  for line in lines:
    try:
      # A file that was joined to another may begin with a mark.
      rows.append(json.loads(line[line.startswith(u"\ufeff"):]))
    except (ValueError, RecursionError):
      rows.append(None)
  return rows


def read_jsonl(data):
  """The bytes are train.jsonl."""
  path = checks.write("train.jsonl", data)
  expected = _json_rows(data)
  processor = processors.create_processor("jsonl")
  rows = []
  try:
    for row in processor.read_rows(path, "train", checks.folder()):
      rows.append(row)
  except ValueError as error:
    checks.check_sentence(error, path)
    line = re.search(re.escape(path) + r":(\d+): ", str(error))
    checks.expect(line, "no line", str(error))
    if " byte 0x" in str(error):
      # Bytes are looked at before lines, some thousands at a time.
      checks.expect(int(line.group(1)) == _line_of_bad_byte(data),
                    "another line", str(error), data)
    else:
      checks.expect(expected is None or None not in expected or
                    int(line.group(1)) <= expected.index(None) + 1,
                    "the error is behind the broken line", str(error), data)
  else:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
      return  # UTF-16, which is not read otherwise
    checks.expect(expected is not None and len(rows) == len(expected),
                  "other lines than json's", rows, expected)
  for number, (line, name, text_a, text_b, labels) in enumerate(rows):
    record = expected[number] if expected is not None else None
    if expected is None:  # bytes further on are not UTF-8
      continue
    checks.expect(line == number + 1 and isinstance(record, dict),
                  "no object", record, line)
    checks.expect(text_a == _valid(record["text"]) and
                  text_b == _valid(record.get("text_pair")),
                  "other texts", record, text_a, text_b)
    checks.expect(list(labels) == list(dict.fromkeys(
        _valid(label).strip() for label in record["labels"])),
                  "other labels", record, labels)
    given = record.get("id")
    checks.expect(name == ("" if given is None else _valid(
        str(given)).strip()), "another id", record, name)
  os.remove(path)


def _line_of_bad_byte(data):
  """The line of the first byte that no text has, or None."""
  text = data.decode("utf-8", "surrogateescape")
  before = re.split("[\0\udc80-\udcff]", text, maxsplit=1)
  return len(re.split("\r\n|\r|\n", before[0])) if len(before) > 1 else None


def _valid(text):
  return text and re.sub("[\ud800-\udfff]", "\ufffd", text)
