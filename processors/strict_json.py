# SPDX-License-Identifier: Apache-2.0
"""The strict JSON reader: rejects what Python's `json` accepts beyond JSON.

No duplicate keys, no NaN or Infinity, no numbers with thousands of digits. For
any text, the outcome is a value or one `JsonError`, in linear time.
"""

import json

from processors.text_lines import one_line
from processors.text_lines import shown


# Older Pythons take quadratic time for longer numbers, newer ones reject them.
MAX_DIGITS = 4300


class JsonError(ValueError):
  """Text that is not strict JSON; str() is a sentence without its full stop.

  Attributes:
    reason: str, what is wrong, without the position.
    position: int, characters before the fault; None where it is not known.
    line, column: int, from 1 on; None where the position is not known.
  """

  def __init__(self, reason, text=None, position=None):
    self.reason = reason
    self.position = position
    self.line = self.column = None
    message = reason
    if position is not None:
      self.line = text.count("\n", 0, position) + 1
      self.column = position - text.rfind("\n", 0, position)
      message = "broken JSON at %s (%s)" % (
          "line %d, character %d" % (self.line, self.column)
          if "\n" in text.strip() else
          "character %d of the line" % self.column, reason)
    super(JsonError, self).__init__(message)


class Decoder(object):
  """Reads JSON values from texts; reusable."""

  def __init__(self, max_digits=MAX_DIGITS):
    """Makes a decoder.

    Args:
      max_digits: int, maximum number of digits of an integer.
    """
    def read_int(digits):
      if len(digits) > max_digits:
        raise JsonError("a number has %d digits" % len(digits))
      return int(digits)

    self._decoder = json.JSONDecoder(
        object_pairs_hook=_make_object, parse_int=read_int,
        parse_constant=_refuse_constant)

  def decode(self, text):
    """Returns the value of an entire str.

    Args:
      text: str.

    Returns:
      a JSON value; strings in it may have lone surrogates.

    Raises:
      JsonError: it is not strict JSON.
    """
    return self._guarded(self._decoder.decode, text)

  def decode_from(self, text, start):
    """Returns (value, where it ends) of the value that begins at `start`."""
    return self._guarded(self._decoder.raw_decode, text, start)

  def _guarded(self, function, text, *more):
    try:
      return function(text, *more)
    except JsonError:
      raise
    except RecursionError:
      raise JsonError("JSON is nested too deeply")
    except json.JSONDecodeError as error:
      raise JsonError(error.msg, text, error.pos)
    except ValueError as error:
      raise JsonError(one_line(error))


def read_object(data, max_digits=MAX_DIGITS):
  """Reads bytes that must be UTF-8 and hold one object.

  Args:
    data: bytes.
    max_digits: int, maximum number of digits of an integer.

  Returns:
    dict.

  Raises:
    JsonError: they are not, or do not.
  """
  try:
    text = data.decode("utf-8")
  except UnicodeDecodeError as error:
    raise JsonError("byte 0x%02x at position %d is not UTF-8" % (
        data[error.start], error.start))
  value = Decoder(max_digits).decode(text)
  if not isinstance(value, dict):
    raise JsonError("it holds %s, not an object" % type_name(value))
  return value


_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string",
               bool: "true or false", int: "a number", float: "a number",
               type(None): "null"}


def type_name(value):
  """Returns what a value is called in JSON, with its article."""
  return _TYPE_NAMES[type(value)]


def _make_object(pairs):
  found = dict(pairs)
  if len(found) != len(pairs):
    seen = set()
    for key, _ in pairs:
      if key in seen:
        raise JsonError("key %s stands twice in one object" % shown(key))
      seen.add(key)
  return found


def _refuse_constant(name):
  raise JsonError("%s is not JSON" % name)
