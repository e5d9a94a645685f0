# SPDX-License-Identifier: Apache-2.0
"""Reads the body of a request within limits of size, time and memory."""

import asyncio

from multilabel.serving import http_errors


# What curl and simple clients send when they are not told otherwise is taken
# for JSON, as TensorFlow Serving does.
_CONTENT_TYPES = frozenset([
    "", "application/json", "text/json", "text/plain",
    "application/octet-stream", "application/x-www-form-urlencoded"])

# A body that is too long is read to its end, and forgotten, up to so many
# times the limit: most clients look at the answer only then.
_MAX_DISCARDED = 32

_CLOSE = [("Connection", "close")]


class BodyReader(object):
  """Reads bodies; counts what is held at a time."""

  def __init__(self, max_bytes, timeout, max_held=None):
    """Sets the limits.

    Args:
      max_bytes: int, most bytes of one body.
      timeout: float, seconds within which a body must have come.
      max_held: int, most bytes of all bodies at a time; default: 32 bodies.
    """
    self._max_bytes = max_bytes
    self._timeout = timeout
    self._max_held = max_held or 32 * max_bytes
    self._held = 0

  async def read(self, request):
    """Reads a body; `release` must be called with it in the end.

    Args:
      request: `starlette.requests.Request`.

    Returns:
      bytes.

    Raises:
      http_errors.Refused: 408, 413, 415, or 503 for too many at a time.
      http_errors.ClientGone: the client closed the connection.
    """
    length = self._check_headers(request.headers)
    if length > self._max_bytes and "expect" in request.headers:
      raise self._too_long()  # the client has not begun to send it
    try:
      return await _within(self._timeout, self._read(
          request.receive, length > self._max_bytes))
    except asyncio.TimeoutError:
      raise http_errors.Refused(
          408, "the body did not come within %g seconds." % self._timeout,
          _CLOSE)

  def release(self, body):
    """Says that a body of `read` is no longer held."""
    self._held -= len(body)

  def _check_headers(self, headers):
    """Returns the length that is announced, 0 if none is."""
    content_type, _, parameters = headers.get("content-type", "").partition(";")
    content_type = content_type.strip().lower()
    if content_type not in _CONTENT_TYPES and not content_type.endswith(
        "+json"):
      raise http_errors.Refused(
          415, "the Content-Type must be application/json.")
    charset = parameters.replace(" ", "").replace('"', "").lower()
    if "charset=" in charset and "charset=utf-8" not in charset:
      raise http_errors.Refused(415, "the charset must be UTF-8.")
    if headers.get("content-encoding", "identity").lower() != "identity":
      raise http_errors.Refused(
          415, "the body must come without Content-Encoding.")
    length = headers.get("content-length", "0")
    # The server has refused what is no number.
    return int(length) if len(length) < 19 else self._max_bytes + 1

  async def _read(self, receive, too_long):
    parts, size = [], 0
    try:
      while True:
        message = await receive()
        if message["type"] != "http.request":
          raise http_errors.ClientGone()
        part = message.get("body", b"")
        size += len(part)
        too_long = too_long or size > self._max_bytes
        if too_long:
          self._held -= sum(map(len, parts))
          del parts[:]
          if size > _MAX_DISCARDED * self._max_bytes:
            raise self._too_long()
        else:
          parts.append(part)
          self._held += len(part)
          if self._held > self._max_held:
            raise http_errors.overloaded(
                "too many large requests at a time; send it again later.")
        if not message.get("more_body"):
          if too_long:
            raise self._too_long()
          return b"".join(parts)
    except BaseException:
      self._held -= sum(map(len, parts))
      raise

  def _too_long(self):
    return http_errors.Refused(
        413, "the body is too long; it may have %d bytes." % self._max_bytes,
        _CLOSE)


async def _within(seconds, awaitable):
  """`asyncio.wait_for`, without a task of its own where Python can."""
  if not hasattr(asyncio, "timeout"):  # before Python 3.11
    return await asyncio.wait_for(awaitable, seconds)
  async with asyncio.timeout(seconds):
    return await awaitable
