# SPDX-License-Identifier: Apache-2.0
"""granian with this server's settings: one port, worker processes, signals.

This process holds the port and watches the workers, each of which loads its own
model (`worker.py`); it never imports TensorFlow.

SIGTERM and SIGINT end it when requests in flight are done; a second one ends it
at once. SIGHUP is passed on to the workers.
"""

import collections
import contextlib
import functools
import logging
import multiprocessing
import os
import pathlib
import resource
import shutil
import socket
import tempfile
import threading
import time

from absl import logging as absl_logging
from granian import Granian
from granian.constants import HTTPModes
from granian.constants import Interfaces
from granian.constants import SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels


# Maximum bytes of a request's head, and of one read from a connection.
_MAX_BUFFER = 32768

# Open files of a process besides its connections.
_OTHER_FILES = 512

# granian's own log goes to stderr; stdout says when the server is ready.
_LOG = {"handlers": {
    name: {"class": "logging.StreamHandler", "formatter": "generic",
           "stream": "ext://sys.stderr"} for name in ("console", "access")}}

# How a server is run. `workers`: int; `max_connections`: int, of each worker;
# `head_timeout`, `grace_seconds`: float; certificate and key: str or None.
Settings = collections.namedtuple("Settings", [
    "workers", "max_connections", "head_timeout", "grace_seconds",
    "tls_certificate", "tls_key"])


class Port(object):
  """A port of this machine, reserved for this process.

  granian shares its port with any process that asks for the same, such as a
  second server started by mistake. This socket is bound first, exclusively, and
  then shared with the workers; it does not listen.
  """

  def __init__(self, host, port):
    """Binds.

    Args:
      host: str, a name or an address.
      port: int; 0: any free port.

    Raises:
      ValueError: there is no such host, or the port is not available.
    """
    try:
      family, kind, protocol, _, address = socket.getaddrinfo(
          host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
      raise ValueError("--host %s is not an address of this machine: %s." % (
          host, getattr(error, "strerror", None) or error))
    self._socket = socket.socket(family, kind, protocol)
    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      self._socket.bind(address)
    except OSError as error:
      self._socket.close()
      raise ValueError("port %d of %s is not available: %s." % (
          port, host, error.strerror))
    # With it, others could bind as long as nobody listens.
    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    self.host, self.port = self._socket.getsockname()[:2]

  def url(self, tls):
    """Returns the URL of a server at this port."""
    return "%s://%s:%d/" % ("https" if tls else "http", "[%s]" % self.host
                            if ":" in self.host else self.host, self.port)

  def is_listening(self):
    """Whether a connection to the port can be made."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
    try:
      socket.create_connection((host, self.port), 1).close()
      return True
    except OSError:
      return False

  def close(self):
    self._socket.close()


class _Server(Granian):
  """granian with different signal handling.

  Attributes:
    is_stopping: bool, whether a signal has told it to end.
  """

  is_stopping = False

  def signal_handler_interrupt(self, signum, frame):
    if self.is_stopping:
      for worker in self.wrks:
        worker.kill()
      os._exit(128 + signum)
    self.is_stopping = True
    super().signal_handler_interrupt(signum, frame)

  def signal_handler_reload(self, signum, frame):
    del frame
    # granian would replace the workers, even by ones that cannot load.
    for worker in self.wrks:
      if worker.is_alive():
        os.kill(worker.inner.pid, signum)


def run(load, port, settings, on_ready):
  """Serves until a signal.

  Args:
    load: function of `Reports`, picklable; called in each worker, returns the
      ASGI application.
    port: `Port`.
    settings: `Settings`.
    on_ready: function without arguments, called when all workers serve.

  Raises:
    ValueError: a worker reports that its model is broken.
    RuntimeError: a worker failed, or dies as soon as it starts.
  """
  connections = allowed_connections(settings.max_connections)
  if connections < settings.max_connections:
    absl_logging.warning(
        "At most %d connections per process instead of %d: the system limits "
        "open files.", connections, settings.max_connections)
  receiver, sender = multiprocessing.Pipe(duplex=False)
  server = _Server(
      "multilabel", address=port.host, port=port.port,
      interface=Interfaces.ASGI, http=HTTPModes.http1, websockets=False,
      workers=settings.workers, backlog=1024,
      backpressure=connections,
      http1_settings=HTTP1Settings(
          header_read_timeout=max(1, int(1000 * settings.head_timeout)),
          max_buffer_size=_MAX_BUFFER),
      # Not before all have loaded: a replacement would fail like the first.
      respawn_failed_workers=False,
      workers_kill_timeout=max(0.1, settings.grace_seconds),
      # Its messages on broken connections would let clients fill the log.
      log_level=LogLevels.critical, log_dictconfig=_LOG,
      ssl_cert=_path(settings.tls_certificate), ssl_key=_path(settings.tls_key),
      ssl_protocol_min=SSLProtocols.tls12)
  waiting = _Waiting(receiver, server, port, on_ready)
  waiting.start()
  with _metrics_folder(settings.workers):
    try:
      server.serve(
          target_loader=functools.partial(load, Reports(sender, os.getpid())),
          wrap_loader=False)
    except SystemExit:
      if server.is_stopping:
        return
      waiting.join(1)
      raise waiting.failure or RuntimeError(
          "the worker processes exit as soon as they start.")


class Reports(object):
  """A worker's channel to the process that started it.

  Attributes:
    parent: int, the id of that process.
  """

  def __init__(self, sender, parent):
    self._sender = sender
    self.parent = parent

  def ready(self):
    """Reports that requests are accepted."""
    self._sender.send(None)

  def failed(self, error):
    """Reports why the worker cannot load."""
    self._sender.send((isinstance(error, ValueError), str(error)))


class _Waiting(threading.Thread):
  """Waits for the workers' reports.

  Attributes:
    failure: exception of a worker that could not load, or None.
  """

  def __init__(self, receiver, server, port, on_ready):
    super().__init__(name="reports", daemon=True)
    self.failure = None
    self._receiver = receiver
    self._server = server
    self._port = port
    self._on_ready = on_ready

  def run(self):
    try:
      for _ in range(self._server.workers):
        self._take(self._receiver.recv())
        if self.failure is not None:
          return
      while not self._port.is_listening():
        time.sleep(0.01)
      self._server.respawn_failed_workers = True
      log = logging.getLogger("_granian")
      log.setLevel(logging.ERROR)
      self._on_ready()
      while True:  # replacements for workers that have ended
        self._take(self._receiver.recv())
        log.error("%s", "Another process has taken its place."
                  if self.failure is None else self.failure)
    except EOFError:
      pass  # the server ends

  def _take(self, report):
    self.failure = None
    if report is not None:
      is_users, sentence = report
      self.failure = (ValueError if is_users else RuntimeError)(sentence)


def allowed_connections(wanted):
  """Raises this process's limit of open files for that many connections.

  Processes that it starts have the same limit.

  Args:
    wanted: int.

  Returns:
    int, how many the system allows, at most `wanted`.

  Raises:
    ValueError: it allows none.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  files = wanted + _OTHER_FILES
  if hard != resource.RLIM_INFINITY:
    files = min(files, hard)
  if files <= _OTHER_FILES:
    raise ValueError(
        "the system allows %d open files per process, but the server needs "
        "more than %d; raise the limit (`ulimit -Hn`)." % (hard, _OTHER_FILES))
  if soft != resource.RLIM_INFINITY and soft < files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
  return files - _OTHER_FILES


@contextlib.contextmanager
def _metrics_folder(workers):
  """Folder where several workers sum their counts; removed at the end."""
  if workers == 1:
    yield
    return
  folder = tempfile.mkdtemp(prefix="multilabel-metrics-")
  # Read by prometheus_client when a worker imports it.
  os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
  try:
    yield
  finally:
    del os.environ["PROMETHEUS_MULTIPROC_DIR"]
    shutil.rmtree(folder, ignore_errors=True)


def _path(name):
  return None if name is None else pathlib.Path(name)
