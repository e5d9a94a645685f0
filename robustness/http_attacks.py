# SPDX-License-Identifier: Apache-2.0
"""Starts a server on this machine, attacks it, and shows what happens.

  python -m robustness.http_attacks --model_dir=DIR

Each row starts a server, attacks it, and counts how many of 100 well-behaved
clients are served meanwhile: a new connection each, ten seconds for a response.
Exits with 1 if a row fails. All traffic stays on 127.0.0.1.
"""

import collections
import contextlib
import functools
import os
import resource
import selectors
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

from absl import flags

from multilabel.common import command_line
from robustness import http_client


FLAGS = flags.FLAGS

# Seconds within which a well-behaved client must get its response.
PATIENCE = 10

# Bytes of memory beyond which a row fails.
MAX_GROWTH = 1 << 30

TEXT = "a few words"
GOOD = http_client.post("/v1/label", {"texts": [TEXT]}, close=True)
HEAD = (b"POST /v1/label HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\n")
UNFINISHED = HEAD + b'Content-Length: 999\r\n\r\n{"texts'

# name: str; served, clients: int; slowest: float, seconds; growth: int, bytes
# of memory; held: bool; note: str.
Row = collections.namedtuple("Row", [
    "name", "served", "clients", "slowest", "growth", "held", "note"])


class Crowd(object):
  """Many connections, kept open and fed by one thread."""

  def __init__(self, port, number, data, reads=False):
    """Opens them.

    Args:
      port: int.
      number: int.
      data: bytes that each sends as far as the server reads.
      reads: bool, whether responses are read and discarded.
    """
    # As many files as a process may open.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    self._reads = reads
    self._sockets = []
    self._selector = selectors.DefaultSelector()
    self._is_over = threading.Event()
    for _ in range(number):
      sock = socket.socket()
      sock.setblocking(False)
      sock.connect_ex(("127.0.0.1", port))
      self._sockets.append(sock)
      if data:
        self._selector.register(
            sock, selectors.EVENT_WRITE |
            (selectors.EVENT_READ if reads else 0), [data, 0])
    self._thread = threading.Thread(target=self._feed, daemon=True)

  def __enter__(self):
    self._thread.start()
    time.sleep(0.5)
    return self

  def _feed(self):
    while not self._is_over.is_set():
      if not self._selector.get_map():
        self._is_over.wait(0.1)
        continue
      for key, ready in self._selector.select(0.1):
        try:
          self._exchange(key, ready)
        except BlockingIOError:
          pass
        except OSError:
          self._selector.unregister(key.fileobj)

  def _exchange(self, key, ready):
    data, start = key.data
    if ready & selectors.EVENT_READ and not key.fileobj.recv(1 << 20):
      self._selector.unregister(key.fileobj)
    elif ready & selectors.EVENT_WRITE:
      key.data[1] += key.fileobj.send(data[start:start + 65536])
      if key.data[1] >= len(data):
        self._selector.unregister(key.fileobj)
        if self._reads:
          self._selector.register(key.fileobj, selectors.EVENT_READ, key.data)

  def __exit__(self, *unused_args):
    self._is_over.set()
    self._thread.join()
    for sock in self._sockets:
      sock.close()
    self._selector.close()


class Good(object):
  """Well-behaved clients: eight at a time, over some seconds."""

  def __init__(self, port, number, tls=None, at_a_time=8, pause=0.4):
    self.number = number
    self.seconds = []
    self.failures = collections.Counter()
    self._port = port
    self._tls = tls
    self._pause = pause
    self._left = number
    self._lock = threading.Lock()
    self._threads = [threading.Thread(target=self._work)
                     for _ in range(at_a_time)]

  def run(self):
    for thread in self._threads:
      thread.start()
    for thread in self._threads:
      thread.join()
    return self

  def _work(self):
    while True:
      with self._lock:
        if not self._left:
          return
        self._left -= 1
      time.sleep(self._pause)
      started = time.monotonic()
      outcome = self._ask()
      with self._lock:
        if outcome == b"200":
          self.seconds.append(time.monotonic() - started)
        else:
          self.failures[outcome] += 1

  def _ask(self):
    try:
      with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(
            ("127.0.0.1", self._port), PATIENCE))
        if self._tls:
          sock = stack.enter_context(self._tls.wrap_socket(sock))
        sock.sendall(GOOD)
        return sock.recv(65536)[9:12]
    except OSError as error:
      return type(error).__name__


class Memory(threading.Thread):
  """Watches the memory of a process and of those that it started.

  Attributes:
    growth: int, bytes at the highest, above those at the start.
  """

  def __init__(self, process):
    super().__init__(daemon=True)
    self._process = process
    self._before = http_client.resident_memory(process)
    self.growth = 0
    self._is_over = threading.Event()

  def run(self):
    while not self._is_over.wait(0.2):
      self.growth = max(
          self.growth,
          http_client.resident_memory(self._process) - self._before)

  def __enter__(self):
    self.start()
    return self

  def __exit__(self, *unused_args):
    self._is_over.set()
    self.join()


def under(name, start, attack, clients, tls=None, pause=0.4, **options):
  """One row: good clients during an attack and after it.

  Args:
    name: str.
    start: context manager that yields (port, process); `options` are its.
    attack: context manager of a port.
    clients: int.
    tls: ssl.SSLContext of the good clients, or None.
    pause: float, seconds between two requests of a good client.

  Returns:
    `Row`.
  """
  with start(**options) as (port, process):
    # So that everything has been used once.
    Good(port, 8, tls, pause=pause).run()
    with Memory(process) as memory:
      with attack(port):
        good = Good(port, clients, tls, pause=pause).run()
      after = Good(port, 8, tls, pause=pause).run()
  note = ", ".join("%s %d" % item for item in (
      good.failures + after.failures).items())
  return Row(name, len(good.seconds), clients, max(good.seconds or [0.0]),
             memory.growth, not note and memory.growth < MAX_GROWTH, note)


@contextlib.contextmanager
def bodies(port, number, body):
  """Sends whole bodies from as many threads, and waits for their answers."""
  request = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (
      len(body)) + body
  def send():
    try:
      with contextlib.closing(socket.create_connection(
          ("127.0.0.1", port), 60)) as sock:
        sock.sendall(request)
        while sock.recv(65536):
          pass
    except OSError:
      pass
  threads = [threading.Thread(target=send) for _ in range(number)]
  for thread in threads:
    thread.start()
  yield
  for thread in threads:
    thread.join()


@contextlib.contextmanager
def resets(port, number):
  """Connections that send a request and are reset before the response."""
  for _ in range(number):
    with contextlib.closing(socket.create_connection(
        ("127.0.0.1", port), PATIENCE)) as sock:
      sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                      struct.pack("ii", 1, 0))
      sock.sendall(GOOD)
  yield


def ends_in_order(start, requests):
  """SIGTERM while bodies are half sent: all get a response, the port is closed.
  """
  with start() as (port, process):
    Good(port, 8).run()
    body = b'{"texts": ["%s"]}' % TEXT.encode()
    head = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    waiting = [socket.create_connection(("127.0.0.1", port), PATIENCE)
               for _ in range(requests)]
    for sock in waiting:
      sock.sendall(head + body[:5])
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    is_closed = _is_closed(port)
    answers = []
    for sock in waiting:
      try:
        sock.sendall(body[5:])
        answers.append(sock.recv(65536)[9:12])
      except OSError:
        pass
      sock.close()
    status = process.wait(30)
  served = answers.count(b"200")
  return Row("SIGTERM with %d requests in flight" % requests, served, requests,
             0.0, 0, served == requests and is_closed and status == 0,
             "port closed: %s, exit status %d" % (is_closed, status))


def _is_closed(port):
  try:
    socket.create_connection(("127.0.0.1", port), 1).close()
    return False
  except OSError:
    return True


def replaces_killed(start, clients):
  """One of two workers is killed; the other serves, another takes its place."""
  with start(workers=2) as (port, process):
    Good(port, 8).run()
    before = http_client.children(process)
    os.kill(before[0], signal.SIGKILL)
    time.sleep(0.2)  # what it had accepted is lost
    good = Good(port, clients).run()
    end = time.monotonic() + 60
    while time.monotonic() < end and (
        len(http_client.children(process)) < 2 or
        http_client.children(process) == before):
      time.sleep(0.2)
    now = http_client.children(process)
  is_replaced = len(now) == 2 and before[0] not in now
  return Row("one of two workers killed", len(good.seconds), clients,
             max(good.seconds or [0.0]), 0,
             is_replaced and not good.failures,
             "replaced: %s" % is_replaced)


def leaves_no_orphans(start):
  """The process that holds the port is killed: its workers end too."""
  with start(workers=2) as (port, process):
    Good(port, 8).run()
    pids = http_client.children(process)
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while time.monotonic() < end and any(map(http_client.is_alive, pids)):
      time.sleep(0.2)
    left = sum(map(http_client.is_alive, pids))
  return Row("the parent process killed", 0, 0, 0.0, 0,
             not left and _is_closed(port), "%d orphans" % left)


@contextlib.contextmanager
def certificate():
  """Yields the paths of a certificate for localhost and of its key."""
  with tempfile.TemporaryDirectory() as folder:
    paths = [os.path.join(folder, name) for name in ("cert.pem", "key.pem")]
    subprocess.check_call(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-out", paths[0], "-keyout", paths[1]],
        stderr=subprocess.DEVNULL)
    yield paths


def crowd(number, data=b"", reads=False):
  return lambda port: Crowd(port, number, data, reads)


def rows(start, scale=1.0):
  """Yields a `Row` for each attack.

  Args:
    start: context manager that yields (port, process); takes `workers=2` and
      `tls=(certificate, key)`.
    scale: float, share of the connections, requests and bytes of each.
  """
  def scaled(number):
    return max(1, int(scale * number))

  tried = functools.partial(under, pause=0.4 * scale)
  clients = scaled(100)
  many, bytes_sent = scaled(10000), scaled(4 << 20)
  ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
  nested = b"[]," * (bytes_sent // 3)
  for number, reads in ((scaled(40), False), (scaled(100), False),
                        (scaled(40), True)):
    yield tried("%d connections of %d pipelined requests%s" % (
        number, many, ", read" if reads else ""), start,
                crowd(number, ask * many, reads), clients)
  for number in (scaled(1000), scaled(3000)):
    for what, data in (("unfinished bodies", UNFINISHED),
                       ("unfinished heads", UNFINISHED[:60]),
                       ("idle connections", b"")):
      yield tried("%d %s" % (number, what), start, crowd(number, data), clients)
  yield tried(
      "64 bodies of %d bytes without their end" % bytes_sent, start,
      crowd(64, HEAD + b"Content-Length: %d\r\n\r\n" % bytes_sent +
            b" " * (bytes_sent - 1)), clients)
  for number in (1, 32):
    yield tried("%d bodies of %d bytes of nested lists" % (number, bytes_sent),
                start, lambda port, number=number: bodies(
                    port, number, b'{"texts": [' + nested + b"[]]}"), clients)
  yield tried("%d reset connections" % scaled(1000), start,
              lambda port: resets(port, scaled(1000)), clients)
  with certificate() as paths:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    yield tried("%d TLS connections without a handshake" % scaled(1000), start,
                crowd(scaled(1000)), clients, tls=tls, certificate=paths)
  yield ends_in_order(start, scaled(20))
  yield replaces_killed(start, clients)
  yield leaves_no_orphans(start)


def format_row(row):
  """Returns a line of the table."""
  return "| %-50s | %3d of %3d | %5.2f | %5d | %-4s | %s |" % (
      row.name, row.served, row.clients, row.slowest, row.growth >> 20,
      "yes" if row.held else "NO", row.note)


TITLES = """\
| attack | served | slowest, s | memory, MB | held | |
| --- | --- | --- | --- | --- | --- |"""


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Attacks"):
    flags.DEFINE_string("model_dir", "demo_work/output",
                        "--output_dir of a training run; a small model is "
                        "enough.")
    flags.DEFINE_float("scale", 1.0,
        "Fraction of the connections, requests and bytes of each attack.")


def main(argv):
  del argv
  if not 0 < FLAGS.scale <= 1:
    raise ValueError("--scale is %s; it must be above 0 and at most 1." %
                     FLAGS.scale)

  def start(workers=1, certificate=None):  # pylint: disable=redefined-outer-name
    options = ["--workers=%d" % workers]
    if certificate:
      options += ["--tls_certificate=" + certificate[0],
                  "--tls_key=" + certificate[1]]
    return http_client.start_server(FLAGS.model_dir, *options)

  print(TITLES)
  is_held = True
  for row in rows(start, FLAGS.scale):
    is_held = is_held and row.held
    print(format_row(row))
    sys.stdout.flush()
  if not is_held:
    sys.exit(1)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
