# SPDX-License-Identifier: Apache-2.0
"""Reads the prediction files that evaluation and prediction write.

A line is a JSON object:

  {"id": "7", "text": "...", "labels": ["a"], "true_labels": ["a", "b"],
   "probabilities": {"a": 0.93, "b": 0.41}}

`true_labels` is in all lines or in none; null stands for none. Other keys are
ignored. Lines may name the labels in any order: the first line's counts.
"""

import array
import collections
import re

import numpy as np

from processors import strict_json
from processors import text_lines
from processors.text_lines import list_names
from processors.text_lines import shown


_SURROGATE = re.compile("[\ud800-\udfff]")


class PredictionFile(collections.namedtuple(
    "PredictionFile",
    ["ids", "texts", "labels", "predicted", "true", "probabilities"])):
  """What a file of N predictions over L labels holds.

  Attributes:
    ids: list of N str. An id may occur more than once.
    texts: list of N str, as the file has them (cut with --shorten_texts).
    labels: list of L str, the order of the columns.
    predicted: bool [N, L].
    true: bool [N, L], or None where the file has no true labels.
    probabilities: float64 [N, L] in 0..1.
  """

  __slots__ = ()

  @property
  def duplicate_ids(self):
    """List of the ids that occur more than once, in the file's order."""
    return [name for name, count in collections.Counter(self.ids).items()
            if count > 1]


def read(path):
  """Reads a file of predictions.

  Args:
    path: str, a UTF-8 file, `.gz` or not.

  Returns:
    `PredictionFile`.

  Raises:
    ValueError: the file cannot be read, is empty, or a line of it is broken,
      lacks a key, has other labels than the first line, or a probability that
      is not a number in 0..1.
  """
  decode = strict_json.Decoder().decode
  reader = None
  for line, text in text_lines.numbered_lines(path):
    try:
      record = decode(text)
      _check_keys(record)
      if reader is None:
        reader = _Reader(line, record)
      reader.add(record)
    except ValueError as error:
      raise ValueError("%s:%d: %s." % (path, line, error))
  if reader is None:
    raise ValueError("%s: the file is empty; it has no predictions." %
                     path)
  return reader.result()


class _Reader(object):
  """Collects lines; arrays of machine numbers keep large files small."""

  def __init__(self, line, record):
    self._first_line = line
    self._index = {name: i for i, name in enumerate(record["probabilities"])}
    self._is_labelled = record.get("true_labels") is not None
    self._ids, self._texts = [], []
    self._probabilities = array.array("d")
    self._cells = {"labels": array.array("q"), "true_labels": array.array("q")}

  def add(self, record):
    """Adds one line; raises ValueError without place and full stop."""
    self._add_probabilities(record["probabilities"])
    self._add_labels(record, "labels")
    is_labelled = record.get("true_labels") is not None
    if is_labelled != self._is_labelled:
      raise ValueError(
          "the line has %s \"true_labels\", line %d has %s: give true labels "
          "on all lines or on none" % (
              "some" if is_labelled else "no", self._first_line,
              "some" if self._is_labelled else "no"))
    if is_labelled:
      self._add_labels(record, "true_labels")
    self._ids.append(_read_id(record["id"]))
    if not isinstance(record["text"], str):
      raise ValueError('"text" is %s, not a string' % shown(record["text"]))
    self._texts.append(_make_valid(record["text"]))

  def _add_probabilities(self, probabilities):
    if probabilities.keys() != self._index.keys():
      raise ValueError(_describe_difference(self._index, probabilities,
                                            self._first_line))
    for name in self._index:
      value = probabilities[name]
      if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("the probability of %s is %s, not a number" % (
            shown(name), shown(value)))
      if not 0 <= value <= 1:
        raise ValueError("the probability of %s is %s, not in 0..1 (logits are "
                         "not probabilities)" % (shown(name), shown(value)))
      self._probabilities.append(value)

  def _add_labels(self, record, key):
    names = record[key]
    if not isinstance(names, list):
      raise ValueError('"%s" is %s, not a list such as ["a", "b"]' % (
          key, shown(names)))
    start = len(self._ids) * len(self._index)
    columns = []
    for name in names:
      if not isinstance(name, str) or name not in self._index:
        raise ValueError("\"%s\" has %s, which is not among the labels of "
                         "\"probabilities\" (%s)" % (
                             key, shown(name), list_names(self._index)))
      columns.append(start + self._index[name])
    if len(set(columns)) != len(columns):
      twice, _ = collections.Counter(names).most_common(1)[0]
      raise ValueError("\"%s\" has %s twice" % (key, shown(twice)))
    self._cells[key].extend(columns)

  def result(self):
    """The `PredictionFile` of all lines."""
    shape = (len(self._ids), len(self._index))
    on = {}
    for key, cells in self._cells.items():
      on[key] = np.zeros(shape, dtype=bool)
      on[key].ravel()[np.array(cells, dtype=np.int64)] = True
    return PredictionFile(
        ids=self._ids, texts=self._texts,
        labels=[_make_valid(name) for name in self._index],
        predicted=on["labels"],
        true=on["true_labels"] if self._is_labelled else None,
        probabilities=np.array(self._probabilities).reshape(shape))


def _check_keys(record):
  """Refuses what is not a line of a file of predictions."""
  if not isinstance(record, dict):
    raise ValueError("the line holds %s, not an object" % shown(record))
  for key in ("id", "text", "labels", "probabilities"):
    if key not in record:
      raise ValueError('there is no key "%s" (keys: %s)' % (
          key, list_names(record)))
  if not isinstance(record["probabilities"], dict):
    raise ValueError('"probabilities" is %s, not an object such as {"a": 0.5}'
                     % shown(record["probabilities"]))
  if not record["probabilities"]:
    raise ValueError("\"probabilities\" is empty")


def _describe_difference(first, here, first_line):
  missing = [name for name in first if name not in here]
  if missing:
    return ("the probability of %s is missing, but line %d has it; give every "
            "line the same labels" % (list_names(missing, 3), first_line))
  return ("there is a probability of %s, but line %d has none; give every line "
          "the same labels" % (
              list_names([name for name in here if name not in first], 3),
              first_line))


def _read_id(value):
  if isinstance(value, str):
    return _make_valid(value)
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  raise ValueError("\"id\" is %s, not a string or an integer" %
                   shown(value))


def _make_valid(text):
  """An escape can bring a lone surrogate into UTF-8; no file can hold it."""
  return _SURROGATE.sub("\ufffd", text)
