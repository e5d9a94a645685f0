# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted JSON.

Stricter than Python's `json`: only UTF-8, no NaN or Infinity, no duplicate
keys, no unpaired surrogates, an object at the top. A body with more tokens than
any request needs is rejected before parsing, since Python holds its lock while
parsing: 4 MB of `[],` would block all other requests for seconds.
"""

import collections
import json
import re

from multilabel.serving import http_errors
from processors import strict_json


# Names quoted in an error are cut to this many characters.
_MAX_SHOWN = 80

# Limits of a body: strings (including keys), objects and lists together, and
# commas.
Most = collections.namedtuple("Most", ["strings", "containers", "commas"])

_HALF_PAIR = re.compile(br"\\u[dD][89a-fA-F]")


def parse(body, most):
  """Parses a request's body.

  Args:
    body: bytes.
    most: `Most`.

  Returns:
    dict of str to JSON values.

  Raises:
    http_errors.Refused: status 400, with the reason.
  """
  if not body:
    raise http_errors.bad_request("the body is empty; it must be JSON.")
  _check_tokens(body, most)
  try:
    value = strict_json.read_object(body)
    if _HALF_PAIR.search(body):
      json.dumps(value, ensure_ascii=False).encode("utf-8")
  except UnicodeEncodeError:
    raise http_errors.bad_request(
        "the body has a string with an unpaired surrogate.")
  except strict_json.JsonError as error:
    raise http_errors.bad_request(
        "the body cannot be read%s: %s." % (
            "" if error.line is None else
            " at line %d, column %d" % (error.line, error.column),
            error.reason))
  return value


def shown(text):
  """Returns a client's str in one line of ASCII, cut if it is long."""
  cut = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
  return json.dumps(cut)[1:-1].replace('\\"', '"')


def _check_tokens(body, most):
  """Rejects a body with too many tokens outside of strings."""
  if _containers(body) <= most.containers and (
      body.count(b",") <= most.commas and
      body.count(b'"') <= 2 * most.strings):
    return
  if b"\\" in body:
    body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
  if body.count(b'"') <= 2 * most.strings:
    outside = b"".join(body.split(b'"')[::2])
    if _containers(outside) <= most.containers and (
        outside.count(b",") <= most.commas):
      return
  raise http_errors.bad_request(
      "the body has too many lists, objects or values.")


def _containers(body):
  return body.count(b"[") + body.count(b"{")
