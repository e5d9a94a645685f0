# SPDX-License-Identifier: Apache-2.0
"""JSON lines: one object per line; or an array of such objects."""

import functools
import os
import re

from processors import base
from processors import json_values
from processors import label_cells
from processors import strict_json
from processors.strict_json import type_name
from processors.text_lines import list_names
from processors.text_lines import shown


# Key -> names under which other tools write the same.
_NEAR_MISSES = {
    "text": ("text", "sentence", "comment_text", "comment", "content", "body",
             "text_a", "texts"),
    "text_pair": ("text_pair", "text_b"),
    "labels": ("labels", "label"),
}
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonlProcessor(base.FileProcessor):
  """`train`, `dev`, `test` as `.jsonl`, `.ndjson` or `.json`, `.gz` or not.

  A `.json` file holds an array of objects, or consecutive objects, the others
  one object per line. An object is `{"text": ..., "text_pair": ..., "labels":
  [...], "id": ...}`; only `text` must be there, and `labels` in train and dev;
  a row of test without them is not labelled. `id` is a string or an integer.
  Other keys are ignored, unless one looks like a wrong name for a key that is
  missing. Null means absent. Blank lines are passed over.

  `labels` may also be lists of numbers, as data sets of Hugging Face hold
  them: a 0 or 1 for each label (`[0.0, 1.0]`), or label numbers from 0
  (`[0, 2]`), one of both in all rows. Then `labels.txt` names the labels, or
  a first line `{"label_names": ["a", "b", "c"]}`.
  """

  extensions = (".jsonl", ".ndjson", ".json")
  options_used = ("dev_fraction", "encoding")

  def __init__(self, options=None):
    super(JsonlProcessor, self).__init__(options)
    self._number_names = {}  # (path, time, size) -> function of a list

  def known_labels(self, data_dir):
    """See `FileProcessor`; `label_names` of the train file count, too."""
    known = super(JsonlProcessor, self).known_labels(data_dir)
    train = self.find_file(data_dir, "train") if data_dir else None
    named = None if train is None else self._read_names(train)
    if known is not None and named is not None and known != named:
      raise ValueError("%s/labels.txt and the label_names of %s differ: keep "
                       "one of them." % (data_dir, train))
    return named if known is None else known

  def read_rows(self, path, part, data_dir):
    """See `FileProcessor`."""
    parse = line_parser(part != "test")
    names_of = None
    for line, text in json_values.numbered_texts(
        path, self.options["encoding"], log=self.log_once):
      if line == 1 and _is_label_names(text):
        self._check_label_names(path, data_dir)
        continue
      try:
        row = parse(text)
        if _are_numbers(row[3]) and data_dir is not None:
          names_of = names_of or self._read_numbers(path, line, part, data_dir)
          row = row[:3] + (names_of(row[3]),)
      except _WholeError:
        raise
      except ValueError as error:
        raise ValueError("%s:%d: %s." % (path, line, error))
      yield (line,) + row

  def _read_names(self, path):
    return read_label_names(path, self.options["encoding"])

  def _check_label_names(self, path, data_dir):
    """Rejects a part whose `label_names` differ from the others."""
    known = None if data_dir is None else self.known_labels(data_dir)
    if known is not None and self._read_names(path) != known:
      raise ValueError("%s:1: label_names are not the labels of %s." % (
          path, data_dir))

  def _read_numbers(self, path, line, part, data_dir):
    """Returns the function from a list of numbers to names of labels.

    The meaning of the numbers is determined from all of train. The line is the
    first one with numbers.
    """
    try:
      train = path if part == "train" else (
          self.find_file(data_dir, "train") or path)
      known = self.known_labels(data_dir)
      known = self._read_names(path) if known is None else known
      known = self.trained_labels if known is None else known
      if known is None:
        raise ValueError("%s:%d: %s." % (
            path, line, label_cells.explain_unknown_numbers(
                data_dir, ', or begin the train file with a line '
                '{"label_names": ["a", "b"]}')))
      stat = os.stat(train)
      key = (train, stat.st_mtime_ns, stat.st_size)
      if key not in self._number_names:
        self._number_names[key] = _settle_numbers(
            train, known, self.options["encoding"])
      return self._number_names[key]
    except ValueError as error:
      raise _WholeError(error)


class _WholeError(ValueError):
  """A complete sentence, with its place and full stop."""


def _are_numbers(labels):
  """Whether labels (tuple or None) are numbers."""
  return bool(labels) and not isinstance(labels[0], str)


def _settle_numbers(path, known, encoding):
  """Reads all lists of numbers of a file; see `label_cells.NumberLists`."""
  numbers = label_cells.NumberLists(known)
  parse = line_parser(False)
  for line, text in json_values.numbered_texts(path, encoding):
    if line == 1 and _is_label_names(text):
      continue
    try:
      labels = parse(text)[3]
      if labels and not _are_numbers(labels):
        raise ValueError("the labels are names, in other rows they are "
                         "numbers: write all rows in one form")
    except ValueError as error:
      raise ValueError("%s:%d: %s." % (path, line, error))
    if labels is not None:
      numbers.add(line, labels)
  try:
    return numbers.settle()
  except ValueError as error:
    raise ValueError("%s: %s." % (path, error))


def _is_label_names(line):
  """Whether a file's first line (str) names the labels, and is not a row."""
  if '"label_names"' not in line:
    return False
  try:
    record = strict_json.Decoder().decode(line)
  except strict_json.JsonError:
    return False
  return (isinstance(record, dict) and "label_names" in record and
          "text" not in record)


def read_label_names(path, encoding=None):
  """Returns the labels of a first line `{"label_names": [...]}`, or None.

  Args:
    path: str, a file of JSON lines.
    encoding: str, as for `text_lines.read_lines`.

  Returns:
    list of distinct str, or None where the first line is a row.

  Raises:
    ValueError: the names are invalid, or one is a duplicate.
  """
  for line, text in json_values.numbered_texts(path, encoding):
    if line != 1 or not _is_label_names(text):
      return None
    names = strict_json.Decoder().decode(text)["label_names"]
    if not isinstance(names, list) or not names or not all(
        isinstance(name, str) for name in names):
      raise ValueError('%s:1: "label_names" must be a list of names.' % path)
    try:
      cleaned = list(base.clean_labels(names))
    except ValueError as error:
      raise ValueError('%s:1: %s in "label_names".' % (path, error))
    if len(cleaned) != len(names):
      raise ValueError('%s:1: "label_names" has a name twice.' % path)
    return cleaned
  return None


def line_parser(require_labels):
  """Makes the function that reads a line.

  Args:
    require_labels: bool, whether a line without labels is an error.

  Returns:
    Function of a str to (identifier, text_a, text_b, labels), as `read_rows`
    has them; its ValueError is a sentence without place and full stop.
  """
  decode = _decoder()
  return lambda line: _read_object(decode(line), line, require_labels)


def text_parser():
  """Makes the function that reads a line of which only the text is wanted.

  Returns:
    Function of a str to (identifier, text_a, text_b), as `line_parser`'s, but
    labels are ignored, and a plain string is a text.
  """
  decode = _decoder()

  def parse(line):
    record = decode(line)
    if isinstance(record, str):
      return "", _make_valid(record), None
    return _read_texts(record, line, False)
  return parse


def _decoder():
  """Returns the function from a line to what it holds."""
  decode = strict_json.Decoder().decode

  def read(line):
    try:
      return decode(line)
    except strict_json.JsonError as error:
      if line.strip() in ("[", "{", "]", "}"):
        raise ValueError("%s, each line must hold one whole object" % error)
      raise
  return read


def _read_texts(record, line, require_labels):
  """Returns (identifier, text_a, text_b) of one line's value."""
  if not isinstance(record, dict):
    raise ValueError("the line holds %s, not an object%s" % (
        type_name(record),
        " (a file that holds an array ends in .json)"
        if isinstance(record, list) else ""))
  _check_keys(tuple(record), require_labels)
  text_a = record["text"]
  text_b = record.get("text_pair")
  if not isinstance(text_a, str):
    raise ValueError('"text" is %s, not a string' % type_name(text_a))
  if text_b is not None and not isinstance(text_b, str):
    raise ValueError('"text_pair" is %s, not a string' % type_name(text_b))
  identifier = record.get("id")
  identifier = "" if identifier is None else _read_id(identifier)
  # Only an escape can bring a lone surrogate into a line of UTF-8.
  if "\\ud" in line or "\\uD" in line:
    text_a = _make_valid(text_a)
    text_b = None if text_b is None else _make_valid(text_b)
  return identifier, text_a, text_b


def _read_object(record, line, require_labels):
  """Returns (identifier, text_a, text_b, labels) of one line's value."""
  identifier, text_a, text_b = _read_texts(record, line, require_labels)
  labels = record.get("labels")
  if labels is not None:
    labels = _read_labels(labels)
  elif require_labels:
    raise ValueError('"labels" is null, but only test rows may lack labels')
  return identifier, text_a, text_b, labels


def _read_labels(labels):
  if not isinstance(labels, list):
    raise ValueError('"labels" is %s, not a list such as ["a", "b"]' %
                     type_name(labels))
  if labels and isinstance(labels[0], (int, float)):
    # Not through the cache, which treats 1 and 1.0 as equal.
    return label_cells.check_values(labels, '"labels"')
  try:
    return _clean_labels(tuple(labels))
  except TypeError:  # a list or an object among them cannot be looked up
    return _clean_labels.__wrapped__(labels)


# Most files have few combinations of labels: each is cleaned once.
@functools.lru_cache(maxsize=4096)
def _clean_labels(labels):
  for label in labels:
    if not isinstance(label, str):
      raise ValueError('"labels" holds %s (%s), not a string' % (
          type_name(label), shown(label)))
  return base.clean_labels([_make_valid(label) for label in labels])


def _read_id(value):
  if isinstance(value, str):
    return _make_valid(value).strip()
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  raise ValueError("\"id\" is %s (%s), not a string or an integer" % (
      type_name(value), shown(value)))


@functools.lru_cache(maxsize=256)
def _check_keys(keys, require_labels):
  """Rejects missing keys, and keys that look like them."""
  for key, names in _NEAR_MISSES.items():
    if key in keys:
      continue
    near = [other for other in keys if other.strip().lower() in names]
    if near:
      raise ValueError('there is a key %s, but no "%s": rename it' % (
          shown(near[0]), key))
    if key == "text" or (key == "labels" and require_labels):
      raise ValueError('there is no key "%s" (keys: %s)' % (
          key, list_names(keys)))


def _make_valid(text):
  return _SURROGATE.sub("\ufffd", text)
