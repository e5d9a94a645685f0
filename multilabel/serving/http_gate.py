# SPDX-License-Identifier: Apache-2.0
"""What every request passes through: key, origin, counts, log, and a catch-all.

No exception leaves it: unexpected ones are logged with their traceback and
answered with status 500 and one sentence.
"""

import asyncio
import hmac
import ipaddress
import time

from absl import logging
import msgspec
from starlette.exceptions import HTTPException

from multilabel.serving import http_body
from multilabel.serving import http_errors


# Status in the counts of a request whose client disconnected; as in nginx.
CLIENT_GONE = 499

_HEADERS = [(b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store")]

# Kinds of errors in the counts; others by class (4xx, 5xx).
_KINDS = {CLIENT_GONE: "client_gone", 401: "unauthorized", 403: "forbidden",
          408: "timeout", 413: "too_large", 503: "overloaded", 504: "timeout"}


class Gate(object):
  """An ASGI application around another one."""

  def __init__(self, app, routes, metrics, keys, open_paths=(),
               loopback=False, log_requests=False, max_discarded=1 << 20):
    """Wraps `app`.

    Args:
      app: `starlette.routing.Router`; leaves `endpoint` in the scope.
      routes: dict of endpoint to str, its path with {names} for the variable
        parts.
      metrics: `http_metrics.Metrics`.
      keys: function without arguments that returns a list of bytes, one of
        which a request must have; empty: no key needed.
      open_paths: collection of str, paths that need no key.
      loopback: bool, whether the server listens on this machine alone.
      log_requests: bool.
      max_discarded: int, bytes of a body that are read after the request was
        rejected.
    """
    self._max_discarded = max_discarded
    self._app = app
    self._routes = routes
    self._metrics = metrics
    self._keys = keys
    self._open_paths = frozenset(open_paths)
    self._loopback = loopback
    self._log_requests = log_requests

  async def __call__(self, scope, receive, send):
    started = time.perf_counter()
    status = 0

    async def send_noting_status(message):
      nonlocal status
      if message["type"] == "http.response.start":
        status = message["status"]
        message["headers"] = list(message.get("headers", ())) + _HEADERS
      await send(message)

    body = http_body.Remainder(receive)
    try:
      self._check_sender(scope)
      scope["app"] = self  # makes the router raise instead of responding itself
      await self._app(scope, body.receive, send_noting_status)
    except http_errors.Refused as refused:
      await self._refuse(scope, body, send_noting_status, refused)
    except HTTPException as error:
      await self._refuse(scope, body, send_noting_status, _refused(error))
    except http_errors.ClientGone:
      # Or its body was broken, and it is still reading.
      await send_error(send, http_errors.Refused(
          400, "the request was aborted.", [("Connection", "close")]))
      status = CLIENT_GONE
    except asyncio.CancelledError:
      # The server is stopping and its grace period is over.
      if not status:
        await send_error(send_noting_status, http_errors.overloaded(
            "the server is stopping."))
    except Exception:  # pylint: disable=broad-except
      logging.exception("a request of %s failed", self._route(scope))
      if status:
        raise ConnectionError("the response was cut off")
      await send_error(send_noting_status, http_errors.Refused(
          500, "the server failed; see its log."))
    finally:
      self._note(scope, status, time.perf_counter() - started)

  async def _refuse(self, scope, body, send, refused):
    """Responds; most clients read the response only after sending
    everything."""
    if not any(name == "Connection" for name, _ in refused.headers):
      await body.discard(scope["headers"], self._max_discarded)
    await send_error(send, refused)

  def _check_sender(self, scope):
    """Rejects requests without a needed key, or from other web pages."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if scope["http_version"] == "1.1" and (len(hosts) != 1 or not hosts[0]):
      raise http_errors.bad_request(
          "the request must have exactly one Host header.")
    host = hosts[0].decode("latin-1").lower() if hosts else ""
    keys = self._keys()
    if keys:
      if scope["path"] not in self._open_paths:
        _check_key(scope["headers"], keys)
      return
    if self._loopback and host and not _is_loopback(host):
      # A name that points here through someone else's DNS.
      raise http_errors.Refused(
          403, "without API keys, this server accepts only requests for "
               "localhost; Host is another name.")
    if scope["path"] not in self._open_paths:
      for name, value in scope["headers"]:
        origin = value.decode("latin-1").lower()
        if (name == b"sec-fetch-site" and origin == "cross-site") or (
            name == b"origin" and origin.partition("://")[2] != host):
          raise http_errors.Refused(
              403, "without API keys, this server rejects requests from pages "
                   "of other sites.")

  def _route(self, scope):
    return self._routes.get(scope.get("endpoint"), "other")

  def _note(self, scope, status, seconds):
    route = self._route(scope)
    self._metrics.requests.labels(route, str(status or CLIENT_GONE)).inc()
    self._metrics.seconds.labels(route).observe(seconds)
    if not status or status >= 400:
      kind = _KINDS.get(status or CLIENT_GONE, "server" if status >= 500
                        else "bad_request")
      self._metrics.errors.labels(route, kind).inc()
    if self._log_requests:
      client = scope.get("client") or ("?",)
      logging.info("%s %s %s %d %.1f ms", client[0], scope["method"], route,
                   status, 1000 * seconds)


def _check_key(headers, keys):
  for name, value in headers:
    if name == b"authorization" and value[:7].lower() == b"bearer ":
      given = value[7:].strip()
    elif name == b"x-api-key":
      given = value.strip()
    else:
      continue
    # All are compared, so that timing reveals nothing.
    if sum([hmac.compare_digest(given, key) for key in keys]):
      return
  raise http_errors.Refused(
      401, "an API key is needed: Authorization: Bearer KEY, or X-API-Key.",
      [("WWW-Authenticate", "Bearer")])


def _is_loopback(host):
  """Whether a Host, with or without a port, names this machine."""
  name = host[1:].partition("]")[0] if host[:1] == "[" else (
      host.partition(":")[0])
  if name == "localhost" or name.endswith(".localhost"):
    return True
  try:
    return ipaddress.ip_address(name).is_loopback
  except ValueError:
    return False


def _refused(error):
  """`Refused` for an unknown path or method."""
  headers = error.headers or {}
  sentence = ("this path supports %s." % headers["Allow"] if "Allow" in headers
              else "there is nothing here; GET /openapi.json lists all paths.")
  return http_errors.Refused(error.status_code, sentence, headers.items())


async def send_error(send, refused):
  """Sends the response to a rejected request."""
  body = msgspec.json.encode({"error": refused.sentence})
  headers = [(b"content-type", b"application/json"),
             (b"content-length", str(len(body)).encode())]
  headers += [(name.lower().encode("latin-1"), value.encode("latin-1"))
              for name, value in refused.headers]
  await send({"type": "http.response.start", "status": refused.status,
              "headers": headers})
  await send({"type": "http.response.body", "body": body})
