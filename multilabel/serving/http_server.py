# SPDX-License-Identifier: Apache-2.0
"""uvicorn with what a server among strangers needs beyond it.

Time-outs for clients that send their request's head, or read their answer,
slowly or never; an upper bound of connections, beyond which those that wait
longest give way; errors of the protocol in JSON; SIGTERM as operators know it.
"""

import asyncio
import contextlib
import itertools
import json
import logging as python_logging
import os
import re
import resource
import signal
import socket

from absl import logging
import httptools
import uvicorn
from uvicorn.protocols.http import httptools_impl


try:
  import uvloop
except ImportError:  # Not everywhere to be had; all works without it, slower.
  uvloop = None

# Bytes of a request's head.
_MAX_HEAD = 32768

# How often connections are looked at, seconds.
_SWEEP = 0.25

# A connection younger than this never gives way to another, seconds.
_MIN_AGE = 0.5


class _BadRequest(Exception):
  """Something that is no request, or more of a head than is taken."""


class Connection(httptools_impl.HttpToolsProtocol):
  """A connection that knows how long its client has kept it waiting."""

  _numbers = itertools.count()

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    # Since when a request's head is awaited; None while one is answered, and
    # between two requests, when uvicorn's own timer runs.
    self.waiting_since = self.loop.time()
    # The loop's clock gives the same time to all that come at once.
    self.number = next(self._numbers)
    # The request that is answered; `cycle` is the last one that was read.
    self._answered = None
    self._head_bytes = 0  # of the head that is awaited, as they came
    self._fields_bytes = 0  # of what the parser has kept of a request
    self._is_over = False  # nothing more is read
    self._unsent_since = None

  def connection_made(self, transport):
    super().connection_made(_OneWrite(transport, self.loop))
    self.config.connection_limit.make_room(self)

  def data_received(self, data):
    if self._is_over:
      return
    if self.waiting_since is None and (
        self.cycle is None or self.cycle.response_complete):
      self.waiting_since = self.loop.time()
    if self.cycle is None or not self.cycle.more_body:
      self._head_bytes += len(data)
    self._unset_keepalive_if_required()
    try:
      while data:
        data = self._feed(data)
    except httptools.HttpParserError:
      self.send_400_response("")
    if self._head_bytes > _MAX_HEAD:
      self.send_400_response("")

  def _feed(self, data):
    """Parses; returns what is to be parsed after that, mostly nothing."""
    try:
      self.parser.feed_data(data)
      return b""
    except httptools.HttpParserUpgrade as offer:
      # To go on in another protocol, which is passed over (RFC 9110, 7.8); the
      # parser would take the body for that protocol, so it gets the request
      # again without the offer.
      head = b"".join(
          b"%s: %s\r\n" % (name, re.sub(br"(?i)\bupgrade\b", b"", value)
                           if name == b"connection" else value)
          for name, value in self.headers if name != b"upgrade")
      first = b"%s %s HTTP/%s\r\n" % (
          self.parser.get_method(), self.url,
          self.parser.get_http_version().encode("ascii"))
      self.parser = httptools.HttpRequestParser(self)
      return first + head + b"\r\n" + data[offer.args[0]:]

  # What the parser calls.

  def on_message_begin(self):
    super().on_message_begin()
    self._fields_bytes = 0

  def on_url(self, url):
    super().on_url(url)
    self._count_field(url)

  def on_header(self, name, value):
    # Those after a body, too, which nobody reads.
    super().on_header(name, value)
    self._count_field(name + value)

  def _count_field(self, field):
    self._fields_bytes += len(field) + 4
    if self._fields_bytes > _MAX_HEAD:
      raise _BadRequest()

  def on_headers_complete(self):
    if (self.parser.get_http_version() == "1.1" and
        sum(name == b"host" for name, _ in self.headers) != 1):
      raise _BadRequest()  # RFC 9112, 3.2
    if self.parser.should_upgrade():
      if self.parser.get_method() == b"CONNECT":
        raise _BadRequest()
      return  # It comes once more, see `_feed`.
    super().on_headers_complete()
    self.waiting_since, self._head_bytes = None, 0

  def on_message_complete(self):
    if not self.parser.should_upgrade():
      super().on_message_complete()

  def _start_asgi_task(self, cycle, app):
    self._answered = cycle
    super()._start_asgi_task(cycle, app)

  def send_400_response(self, msg):
    del msg
    if self._answered is not None and not self._answered.response_complete and (
        self._answered is not self.cycle or not self.cycle.more_body):
      # What is broken came after it: it is answered, and no other.
      self._answered.keep_alive = False
      self._is_over = True
      self.pipeline.clear()
    else:
      self.refuse(400, "this is no HTTP request, or its head is too long.")

  def refuse(self, status, sentence):
    """Answers, if no answer has begun, and closes the connection."""
    self._is_over = True
    cycle = self._answered
    is_begun = False
    if cycle is not None and not cycle.response_complete:
      # The application is not to answer any more.
      is_begun = cycle.response_started
      cycle.disconnected = True
      cycle.message_event.set()
    if not is_begun:
      body = json.dumps({"error": sentence}).encode("ascii")
      self.transport.write(
          httptools_impl.STATUS_LINE[status] +
          b"content-type: application/json\r\ncontent-length: %d\r\n"
          b"retry-after: 1\r\nconnection: close\r\n\r\n" % len(body) + body)
    self.transport.close()

  def has_begun(self):
    """Whether any of the head that is awaited has come."""
    return self._head_bytes > 0

  def is_stuck(self, now, seconds):
    """Whether something has been waiting for so long to be read."""
    if not self.transport.get_write_buffer_size():
      self._unsent_since = None
    elif self._unsent_since is None:
      self._unsent_since = now
    return self._unsent_since is not None and (
        now - self._unsent_since > seconds)


class _OneWrite(object):
  """A transport that sends head and body of an answer in one piece.

  uvicorn writes them one after the other, a system call and a packet each.
  """

  def __init__(self, transport, loop):
    self._transport = transport
    self._loop = loop
    self._pending = []

  def __getattr__(self, name):
    return getattr(self._transport, name)

  def write(self, data):
    if not self._pending:
      self._loop.call_soon(self._flush)
    self._pending.append(data)

  def close(self):
    self._flush()
    self._transport.close()

  def _flush(self):
    if self._pending:
      self._transport.write(b"".join(self._pending))
      self._pending = []


class ConnectionLimit(object):
  """Ends connections whose clients are too slow, or too many."""

  def __init__(self, most, head_timeout, send_timeout, note):
    """Sets the limits.

    Args:
      most: int, connections at a time.
      head_timeout: float, seconds for a request's head.
      send_timeout: float, seconds within which an answer must be read.
      note: function of str, the reason, called for each that is ended.
    """
    self._most = most
    self._head_timeout = head_timeout
    self._send_timeout = send_timeout
    self._note = note

  def make_room(self, newcomer):
    """Ends the connection that waits longest if there are too many."""
    connections = newcomer.connections
    if len(connections) <= self._most:
      return
    now = newcomer.loop.time()
    waiting = [connection for connection in connections
               if now - _idle_since(connection, now) > _MIN_AGE]
    if waiting:
      min(waiting, key=lambda connection: (
          _idle_since(connection, now), connection.number)).transport.abort()
      self._note("gave_way")
    else:
      newcomer.refuse(503, "too many connections; try again later.")
      self._note("refused")

  def sweep(self, connections, now):
    """Ends those that have been too slow."""
    for connection in list(connections):
      if connection.is_stuck(now, self._send_timeout):
        connection.transport.abort()
        self._note("slow_reader")
      elif connection.waiting_since is not None and (
          now - connection.waiting_since > self._head_timeout):
        if connection.has_begun() and not connection.transport.is_closing():
          connection.refuse(
              408, "the request's head did not come within %g seconds." %
              self._head_timeout)
          connection.waiting_since = now  # time to read it
        else:
          connection.transport.abort()
        self._note("slow_head")


def _idle_since(connection, now):
  """Since when nothing is asked for; `now` while an answer is made or read."""
  if connection.waiting_since is not None:
    return connection.waiting_since
  cycle = connection.cycle
  if cycle is None or not cycle.response_complete or (
      connection.transport.get_write_buffer_size()):
    return now
  return 0.0  # between two requests


class Server(uvicorn.Server):
  """Serves one application until a signal ends it."""

  @contextlib.contextmanager
  def capture_signals(self):
    # uvicorn would end the process with the signal; here it ends with 0.
    yield

  def stop(self, signal_number):
    """Begins to stop; asked again, the process ends at once."""
    if self.should_exit:
      # pylint: disable=protected-access
      os._exit(128 + signal_number)
    logging.info("Stopping: %d connections, at most %g seconds.",
                 len(self.server_state.connections),
                 self.config.timeout_graceful_shutdown)
    self.config.application.stopping = True
    self.should_exit = True


class _Config(uvicorn.Config):
  """uvicorn's settings and what `Connection` needs to know."""

  def __init__(self, application, connection_limit, **settings):
    super().__init__(application.asgi, **settings)
    self.application = application
    self.connection_limit = connection_limit


class _Loop(uvloop.Loop if uvloop else asyncio.SelectorEventLoop):
  """An event loop whose TLS handshakes have a time-out of their own."""

  handshake_timeout = None

  async def create_server(self, *args, **kwargs):
    if kwargs.get("ssl") is not None:
      kwargs.setdefault("ssl_handshake_timeout", self.handshake_timeout)
    return await super().create_server(*args, **kwargs)


def run(application, sock, options, on_ready, on_reload=None,
        stop_when_readable=None):
  """Serves until SIGTERM or SIGINT, then finishes what is in flight.

  A second signal ends the process at once. SIGHUP calls `on_reload`.

  Args:
    application: `http_app.Application`.
    sock: bound socket; it listens once this runs.
    options: object with `max_connections`, `head_timeout`, `send_timeout`,
      `keep_alive`, `grace_seconds`, `tls_certificate` and `tls_key` (or None).
    on_ready: function without arguments, called when it listens.
    on_reload: function without arguments, run in a thread, or None.
    stop_when_readable: file descriptor; when there is something to be read,
      its end included, the server stops; or None.
  """
  _raise_file_limit(options.max_connections)
  # What it says of broken requests would let strangers fill the log.
  python_logging.getLogger("uvicorn.error").setLevel(python_logging.CRITICAL)
  limit = ConnectionLimit(
      options.max_connections, options.head_timeout, options.send_timeout,
      lambda reason: application.metrics.count(
          "connections_closed_total", (("reason", reason),)))
  config = _Config(
      application, limit, http=Connection, ws="none", lifespan="off",
      log_config=None, access_log=False, proxy_headers=False,
      server_header=False, timeout_keep_alive=options.keep_alive,
      timeout_graceful_shutdown=options.grace_seconds,
      backlog=1024,
      ssl_certfile=options.tls_certificate, ssl_keyfile=options.tls_key)
  server = Server(config)
  application.gauges = lambda: {
      "connections": len(server.server_state.connections)}
  loop = _Loop()
  loop.handshake_timeout = options.head_timeout
  asyncio.set_event_loop(loop)
  try:
    for number in (signal.SIGTERM, signal.SIGINT):
      loop.add_signal_handler(number, server.stop, number)
    if on_reload is not None:
      loop.add_signal_handler(
          signal.SIGHUP, lambda: loop.run_in_executor(None, on_reload))
    if stop_when_readable is not None:
      loop.add_reader(stop_when_readable, _stop_once, server, loop,
                      stop_when_readable)
    watcher = loop.create_task(_watch(server, application, limit, on_ready))
    loop.run_until_complete(server.serve([sock]))
    watcher.cancel()
    # Requests that were cut when time was over still say so.
    loop.run_until_complete(asyncio.wait(
        [watcher] + list(server.server_state.tasks), timeout=1.0))
  finally:
    asyncio.set_event_loop(None)
    loop.close()


def _stop_once(server, loop, descriptor):
  loop.remove_reader(descriptor)
  if not server.should_exit:
    server.stop(signal.SIGTERM)


async def _watch(server, application, limit, on_ready):
  """Looks after the connections, and tells when the server listens."""
  while not server.started:
    await asyncio.sleep(0.01)
  on_ready()
  loop = asyncio.get_running_loop()
  rounds = 0
  while True:
    limit.sweep(server.server_state.connections, loop.time())
    rounds += 1
    if rounds % 4 == 0:
      application.write_metrics()
    await asyncio.sleep(_SWEEP)


def _raise_file_limit(connections):
  """Lets the process have as many files open as connections need."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = connections + 256
  if soft != resource.RLIM_INFINITY and soft < wanted:
    if hard != resource.RLIM_INFINITY and hard < wanted:
      raise ValueError("--max_connections is %d, but the system lets a process "
                       "have %d files open; lower it, or raise `ulimit -n`." %
                       (connections, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(host, port):
  """Returns a socket that is bound, and does not listen yet.

  Args:
    host: str, a name or an address.
    port: int; 0: any that is free.

  Raises:
    ValueError: there is no such host, or the port cannot be had.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
  except socket.gaierror as error:
    raise ValueError("--host %s is no address: %s." % (host, error.strerror))
  sock = socket.socket(family, kind, protocol)
  sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    sock.bind(address)
  except OSError as error:
    sock.close()
    raise ValueError("port %d of %s cannot be had: %s." % (
        port, host, error.strerror))
  return sock


def url(sock, tls):
  """Returns the URL of a bound socket."""
  host, port = sock.getsockname()[:2]
  return "%s://%s:%d/" % ("https" if tls else "http",
                          "[%s]" % host if ":" in host else host, port)
