# SPDX-License-Identifier: Apache-2.0
"""A server in a separate process, and a cheap client."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Client(object):
  """One connection that is kept; opened again when it was closed."""

  def __init__(self, port, timeout=60):
    self._port = port
    self._timeout = timeout
    self._sock = None

  def send(self, request):
    """Sends the bytes of a request.

    Returns:
      (status, body): int and bytes.
    """
    for attempt in range(2):
      fresh = self._sock is None
      try:
        if fresh:
          self._sock = socket.create_connection(
              ("127.0.0.1", self._port), self._timeout)
          self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(request)
        return self._read()
      except (ConnectionError, EOFError):
        self.close()
        # A kept connection may have been closed meanwhile; a new one not.
        if fresh or attempt:
          raise

  def _read(self):
    answer = b""
    while b"\r\n\r\n" not in answer:
      part = self._sock.recv(65536)
      if not part:
        raise EOFError("the server closed the connection")
      answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    head = head.lower()
    length = int(re.search(br"content-length: (\d+)", head).group(1))
    while len(body) < length:
      part = self._sock.recv(65536)
      if not part:
        raise EOFError("the server cut off its response")
      body += part
    if b"connection: close" in head:
      self.close()
    return int(head[9:12]), body

  def close(self):
    if self._sock is not None:
      self._sock.close()
      self._sock = None


def post(path, body, close=False):
  """Returns the bytes of a request; `body` is bytes, or made JSON."""
  if not isinstance(body, bytes):
    body = json.dumps(body).encode("ascii")
  return ("POST %s HTTP/1.1\r\nHost: localhost\r\n%s"
          "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
              path, "Connection: close\r\n" if close else "", len(body))
         ).encode("ascii") + body


@contextlib.contextmanager
def start_server(model_dir, *flags):
  """Runs serve_http.py on a free port.

  Args:
    model_dir: str.
    *flags: str, more flags.

  Yields:
    (port, `subprocess.Popen`).
  """
  process = subprocess.Popen(
      [sys.executable, "serve_http.py",
       "--model_dir=" + os.path.abspath(model_dir), "--port=0"] + list(flags),
      cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
  try:
    found = re.search(r"://[^ ]*:(\d+)/",
                      process.stdout.readline().decode("utf-8"))
    if not found:
      raise ValueError("the server did not start; its output is above.")
    yield int(found.group(1)), process
  finally:
    process.send_signal(signal.SIGTERM)
    process.wait()
    process.stdout.close()


def resident_memory(process):
  """Bytes of a process and of those that it started."""
  total = 0
  listed = subprocess.run(
      ["ps", "-o", "rss=", "-p", str(process.pid), "--ppid",
       str(process.pid)], stdout=subprocess.PIPE, check=False).stdout
  for size in listed.split():
    total += int(size) * 1024
  return total


def children(process):
  """The ids of the processes that a process started, sorted."""
  listed = subprocess.run(
      ["ps", "-o", "pid=", "--ppid", str(process.pid)], stdout=subprocess.PIPE,
      check=False).stdout
  return sorted(int(line) for line in listed.split())


def is_alive(pid):
  """Whether there is such a process, and it has not ended."""
  state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)],
                         stdout=subprocess.PIPE, check=False).stdout.strip()
  return bool(state) and not state.startswith(b"Z")


def words_of(model_dir):
  """Words of a model's vocabulary, list of str."""
  with open(os.path.join(model_dir, "vocab.txt"), encoding="utf-8") as reader:
    lines = reader.read().split("\n")
  return [line for line in lines
          if line and not line.startswith(("[", "##"))]


def percentile(values, share):
  """Returns the value below which that share of `values` is."""
  ordered = sorted(values)
  return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
