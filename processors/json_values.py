# SPDX-License-Identifier: Apache-2.0
"""JSON values of a file one by one: JSON lines, or the elements of an array.

Only one value is in memory at a time, however large the file.
"""

import json
import re

from processors import text_lines
from processors.text_lines import list_names


_SPACE = re.compile("[ \t\r\n\ufeff]*")


def is_array_file(path):
  """Whether a file's name implies one JSON text, not lines."""
  return path.endswith((".json", ".json.gz"))


def numbered_texts(path, encoding=None, is_json=None, log=None):
  """Yields (line, JSON text) of each value of a file.

  Args:
    path: str, a text file, as for `text_lines.read_lines`.
    encoding: str, as for `text_lines.read_lines`.
    is_json: bool, whether the file holds an array, or consecutive objects,
      instead of one value per line; None: `is_array_file`.
    log: function of a message and its arguments, told of blank lines, which are
      passed over; None: nobody is.

  Yields:
    (int, str): the line where the value starts, and the value as it is there;
    of JSON lines, whatever the line holds.

  Raises:
    ValueError: what is there is broken; a value has more than
      `text_lines.MAX_LINE` characters; or as `text_lines.read_lines`.
  """
  if is_array_file(path) if is_json is None else is_json:
    return _Scanner(path, encoding).values()
  return ((number, line[1:] if line[0] == "\ufeff" else line)
          for number, line in text_lines.numbered_lines(
              path, encoding, log or (lambda *unused: None)))


class _Scanner(object):
  """Splits a text that comes in pieces into JSON values."""

  def __init__(self, path, encoding):
    self._path = path
    self._pieces = text_lines.read_pieces(path, encoding)
    self._decode = json.JSONDecoder().raw_decode
    self._text = ""
    self._at = 0  # all before it is done with
    self._line = 1  # of what is there

  def values(self):
    """Yields (line, text) of the elements of an array, or of all objects."""
    if self._next_char() == "[":
      self._pass(1)
      return self._elements()
    return self._objects()

  def _elements(self):
    separator = None
    while True:
      char = self._next_char()
      if char == "]" and separator != ",":
        break
      if separator == "":
        raise self._broken("Expecting ',' or ']' between elements")
      yield self._value()
      separator = self._next_char()
      if separator == ",":
        self._pass(1)
      elif separator != "]":
        separator = ""
    self._pass(1)
    if self._next_char():
      raise ValueError(
          "%s:%d: something follows the end of the array: the file must hold "
          "one array, or objects one behind the other." % (
              self._path, self._line))

  def _objects(self):
    first = True
    while self._next_char():
      line, text = self._value()
      if first and not self._next_char():
        self._check_only(line, text)
      first = False
      yield line, text

  def _check_only(self, line, text):
    """Rejects a single object that contains the rows in some other form."""
    value = self._decode(text)[0]
    if not isinstance(value, dict) or isinstance(value.get("text"), str):
      return
    if any(isinstance(more, (dict, list)) for more in value.values()):
      raise ValueError(
          "%s:%d: the file holds one object (keys: %s): it must hold an array "
          "of objects with a \"text\" each, as pandas writes with "
          'orient="records", or such objects one per line.' % (
              self._path, line, list_names(value, 5)))

  def _next_char(self):
    """The next character that is not white space; empty at the end."""
    while True:
      self._pass(_SPACE.match(self._text, self._at).end() - self._at)
      if self._at < len(self._text) or not self._read_more(1):
        return self._text[self._at:self._at + 1]

  def _value(self):
    """(line, text) of the value that stands here."""
    while True:
      error = None
      try:
        end = self._decode(self._text, self._at)[1]
        # A number may continue in the next piece.
        if end < len(self._text) or not self._read_more(1):
          break
        continue
      except RecursionError:
        raise ValueError("%s:%d: JSON is nested too deeply." % (
            self._path, self._line))
      except json.JSONDecodeError as found:
        error = found
      except ValueError as found:  # a number of too many digits
        raise ValueError("%s:%d: %s." % (
            self._path, self._line, text_lines.one_line(found)))
      size = len(self._text) - self._at
      if size > text_lines.MAX_LINE:
        raise ValueError("%s:%d: the value has more than %d characters." % (
            self._path, self._line, text_lines.MAX_LINE))
      before = self._at
      if not self._read_more(size):
        self._pass(error.pos - before)
        raise self._broken(error.msg)
    line, text = self._line, self._text[self._at:end]
    self._pass(end - self._at)
    return line, text

  def _pass(self, size):
    self._line += self._text.count("\n", self._at, self._at + size)
    self._at += size

  def _read_more(self, size):
    """Reads that many more characters, or fewer at the end; False at the
    end."""
    pieces = [self._text[self._at:]]
    for piece in self._pieces:
      pieces.append(piece)
      size -= len(piece)
      if size <= 0:
        break
    if len(pieces) == 1:
      return False
    self._text, self._at = "".join(pieces), 0
    return True

  def _broken(self, reason):
    return ValueError("%s:%d: broken JSON at character %d of the line (%s)." % (
        self._path, self._line,
        self._at - self._text.rfind("\n", 0, self._at), reason))
