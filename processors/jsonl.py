# SPDX-License-Identifier: Apache-2.0
"""JSON lines: one object a line."""

import functools
import re

from processors import base
from processors import strict_json
from processors import text_lines
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
  """`train.jsonl`, `dev.jsonl`, `test.jsonl`, `.gz` or not.

  A line is `{"text": ..., "text_pair": ..., "labels": [...], "id": ...}`;
  only `text` must be there, and `labels` in train and dev. In test, either all
  rows have `labels` or none has. `id` is a string or a whole number. Other
  keys are ignored, unless one looks like a wrong name for a key that is
  missing. Null means absent.
  """

  extensions = (".jsonl",)
  options_used = ("dev_fraction", "encoding")

  def read_rows(self, path, part, data_dir):
    """See `FileProcessor`."""
    parse = line_parser(part != "test")
    first = None  # line of the first row, and whether it is labelled
    for line, text in text_lines.numbered_lines(
        path, self.options["encoding"]):
      try:
        row = parse(text)
      except ValueError as error:
        raise ValueError("%s:%d: %s." % (path, line, error))
      labelled = row[3] is not None
      if first is None:
        first = (line, labelled)
      elif first[1] != labelled:
        raise ValueError(
            "%s:%d: the row has %s labels, line %d has %s: give all rows of a "
            "test file labels, or none." % (
                path, line, "some" if labelled else "no", first[0],
                "no" if labelled else "some"))
      yield (line,) + row


def line_parser(require_labels):
  """Makes the function that reads a line.

  Args:
    require_labels: bool, whether a line without labels is an error.

  Returns:
    Function of a str to (identifier, text_a, text_b, labels), as `read_rows`
    has them; its ValueError is a sentence without place and full stop.
  """
  decode = strict_json.Decoder().decode

  def parse(line):
    try:
      record = decode(line)
    except strict_json.JsonError as error:
      if line.strip() in ("[", "{", "]", "}"):
        raise ValueError("%s, each line must hold one whole object" % error)
      raise
    return _read_object(record, line, require_labels)
  return parse


def _read_object(record, line, require_labels):
  """Returns (identifier, text_a, text_b, labels) of one line's value."""
  if not isinstance(record, dict):
    raise ValueError("the line holds %s, not an object%s" % (
        type_name(record),
        " (write a list's objects one a line)"
        if isinstance(record, list) else ""))
  _check_keys(tuple(record), require_labels)
  text_a = record["text"]
  text_b = record.get("text_pair")
  labels = record.get("labels")
  if not isinstance(text_a, str):
    raise ValueError('"text" is %s, not a string' % type_name(text_a))
  if text_b is not None and not isinstance(text_b, str):
    raise ValueError('"text_pair" is %s, not a string' % type_name(text_b))
  if labels is not None:
    labels = _read_labels(labels)
  elif require_labels:
    raise ValueError('"labels" is null, but only test rows may lack labels')
  identifier = record.get("id")
  identifier = "" if identifier is None else _read_id(identifier)
  # Only an escape can bring a lone surrogate into a line of UTF-8.
  if "\\ud" in line or "\\uD" in line:
    text_a = _make_valid(text_a)
    text_b = None if text_b is None else _make_valid(text_b)
  return identifier, text_a, text_b, labels


def _read_labels(labels):
  if not isinstance(labels, list):
    raise ValueError('"labels" is %s, not a list such as ["a", "b"]' %
                     type_name(labels))
  try:
    return _clean_labels(tuple(labels))
  except TypeError:  # a list or an object among them cannot be looked up
    return _clean_labels.__wrapped__(labels)


# Few combinations of labels make up most files: each is cleaned once.
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
  raise ValueError('"id" is %s (%s), not a string or a whole number' % (
      type_name(value), shown(value)))


@functools.lru_cache(maxsize=256)
def _check_keys(keys, require_labels):
  """Refuses missing keys, and others that look like them."""
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
