# SPDX-License-Identifier: Apache-2.0
"""Reads JSON of strangers, and writes JSON.

Stricter than Python's `json`: UTF-8 alone, no NaN and no Infinity, no key
twice, an object at the top. Whatever the bytes, the outcome is a dict or one
sentence.
"""

import json

from multilabel.serving import http_errors


# A name that is repeated in a sentence is cut to so many characters.
_MAX_SHOWN = 40


def parse(body):
  """Parses a request's body.

  Args:
    body: bytes.

  Returns:
    dict of str to what JSON can hold; str may hold lone surrogates.

  Raises:
    http_errors.Refused: status 400, with what is wrong.
  """
  if not body:
    raise http_errors.bad_request("the body is empty; it must be JSON.")
  try:
    text = body.decode("utf-8")
  except UnicodeDecodeError as error:
    raise http_errors.bad_request(
        "the body is not UTF-8: byte 0x%02x at position %d." % (
            body[error.start], error.start))
  try:
    value = json.loads(text, object_pairs_hook=_object,
                       parse_constant=_constant)
  except RecursionError:
    raise http_errors.bad_request("the body is nested too deeply.")
  except json.JSONDecodeError as error:
    raise http_errors.bad_request(
        "the body is not JSON at line %d, column %d: %s." % (
            error.lineno, error.colno, error.msg))
  except ValueError:
    # Python reads whole numbers up to a number of digits only.
    raise http_errors.bad_request("the body has a number of too many digits.")
  if not isinstance(value, dict):
    raise http_errors.bad_request("the body must be a JSON object.")
  return value


def dump(value):
  """Returns JSON as bytes, ASCII alone; ValueError for NaN."""
  return json.dumps(value, allow_nan=False, separators=(",", ":")).encode(
      "ascii")


def shown(text):
  """Returns a client's str in quotes, on one line, cut if it is long."""
  cut = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
  return json.dumps(cut)


def _object(pairs):
  found = dict(pairs)
  if len(found) != len(pairs):
    seen = set()
    for key, _ in pairs:
      if key in seen:
        raise http_errors.bad_request("the key %s is there twice." %
                                      shown(key))
      seen.add(key)
  return found


def _constant(name):
  raise http_errors.bad_request("%s is no number that JSON has." % name)
