# SPDX-License-Identifier: Apache-2.0
"""Reads request bodies within limits of size, time and memory."""

import asyncio

from multilabel.serving import http_errors


# The default content types of curl and simple clients are treated as JSON, as
# in TensorFlow Serving.
_CONTENT_TYPES = frozenset([
    "", "application/json", "text/json", "text/plain",
    "application/octet-stream", "application/x-www-form-urlencoded"])

# A body that is too long is read to its end and discarded, up to this many
# times the limit: most clients read the response only then.
_MAX_DISCARDED = 32

# Seconds for the rest of the body of a rejected request.
_DISCARD_SECONDS = 2.0

_CLOSE = [("Connection", "close")]

class BodyReader(object):
  """Reads bodies, and limits the total of unfinished ones.

  Beyond the limits an unfinished body is dropped: the oldest if there are too
  many, the largest if they are too big. So slow clients only affect each other,
  never a client that sends at once.
  """

  def __init__(self, max_bytes, timeout, max_unfinished=2048, max_held=None):
    """Sets the limits.

    Args:
      max_bytes: int, maximum number of bytes of one body.
      timeout: float, seconds within which a body must arrive.
      max_unfinished: int, bodies that may be unfinished at a time.
      max_held: int, maximum number of bytes of these together; default: 32
        bodies.
    """
    self._max_bytes = max_bytes
    self._timeout = timeout
    self._max_unfinished = max_unfinished
    self._max_held = max_held or 32 * max_bytes
    self._unfinished = {}  # _Unfinished to None, in the order of arrival
    self._held = 0

  async def read(self, request):
    """Reads a body.

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
    unfinished = _Unfinished(self._timeout)
    self._unfinished[unfinished] = None
    self._make_room()
    try:
      return await unfinished.within(self._collect(
          unfinished, request.receive, length > self._max_bytes))
    finally:
      self._drop(unfinished)

  def _check_headers(self, headers):
    """Returns the announced length, 0 if there is none."""
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
          415, "Content-Encoding is not supported.")
    length = headers.get("content-length", "0")
    # The server has already rejected other values.
    return int(length) if len(length) < 19 else self._max_bytes + 1

  async def _collect(self, unfinished, receive, too_long):
    """Reads to the end."""
    size = 0
    while True:
      message = await receive()
      if message["type"] != "http.request":
        raise http_errors.ClientGone()
      part = message.get("body", b"")
      size += len(part)
      if too_long or size > self._max_bytes:
        too_long = True
        self._forget(unfinished)
        if size > _MAX_DISCARDED * self._max_bytes:
          raise self._too_long()
      else:
        unfinished.body += part
        self._held += len(part)
      if not message.get("more_body"):
        if too_long:
          raise self._too_long()
        return bytes(unfinished.body)
      # Not after the last part: a complete body is never dropped.
      self._make_room()

  def _make_room(self):
    if len(self._unfinished) > self._max_unfinished:
      self._drop(next(iter(self._unfinished))).give_way()
    if self._held > self._max_held:
      self._drop(max(self._unfinished,
                     key=lambda body: len(body.body))).give_way()

  def _drop(self, unfinished):
    self._unfinished.pop(unfinished, None)
    self._forget(unfinished)
    return unfinished

  def _forget(self, unfinished):
    self._held -= len(unfinished.body)
    unfinished.body = bytearray()

  def _too_long(self):
    return http_errors.Refused(
        413, "the body is too long; the maximum is %d bytes." % self._max_bytes,
        _CLOSE)


class Remainder(object):
  """The rest of a request's body.

  A server that closes a connection with unread data resets it, and the client
  may never see the response.
  """

  def __init__(self, receive):
    self._receive = receive
    self._is_read = False

  async def receive(self):
    """ASGI's `receive`."""
    message = await self._receive()
    if message["type"] != "http.request" or not message.get("more_body"):
      self._is_read = True
    return message

  async def discard(self, headers, max_bytes):
    """Reads and discards the rest, if it arrives soon and is not too long.

    Args:
      headers: list of (bytes, bytes), the request's.
      max_bytes: int.
    """
    names = {name for name, _ in headers}
    if b"expect" in names or not names & {b"content-length",
                                          b"transfer-encoding"}:
      return  # it is not sent, or there is none
    try:
      await asyncio.wait_for(self._discard(max_bytes), _DISCARD_SECONDS)
    except asyncio.TimeoutError:
      pass

  async def _discard(self, max_bytes):
    while not self._is_read and max_bytes >= 0:
      max_bytes -= len((await self.receive()).get("body", b""))


class _Unfinished(object):
  """One unfinished body; its task is ended on timeout."""

  def __init__(self, timeout):
    self.body = bytearray()
    self._timeout = timeout
    self._reason = None
    self._task = asyncio.current_task()

  async def within(self, awaitable):
    """Awaits, and raises `Refused` if the task was ended by this object."""
    timer = asyncio.get_running_loop().call_later(
        self._timeout, self._end, 408,
        "the body did not arrive within %g seconds." % self._timeout)
    try:
      return await awaitable
    except asyncio.CancelledError:
      if self._reason is None:
        raise
      if hasattr(self._task, "uncancel"):  # from Python 3.11 on
        self._task.uncancel()
      # Nothing may keep this exception: its traceback keeps the rest of the
      # body, and thus the connection, alive.
      raise http_errors.Refused(*self._reason)
    finally:
      timer.cancel()

  def give_way(self):
    """Ends it in favor of others."""
    self._end(503, "too many unfinished requests; try again "
                   "later.", [("Retry-After", "1")])

  def _end(self, status, sentence, headers=()):
    if self._reason is None:
      self._reason = (status, sentence, _CLOSE + list(headers))
      self._task.cancel()
