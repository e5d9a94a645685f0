# SPDX-License-Identifier: Apache-2.0
"""Several processes behind one port: starts, watches and ends them.

The processes share the listening socket. Each has a line to the one that
started it: through it says that it is ready, and at its end, however that
comes, the process stops.
"""

import collections
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from absl import logging


Worker = collections.namedtuple("Worker", ["process", "line", "started"])

# What a process shares with the others: the listening socket, the line, and
# the folder of the counts.
Shared = collections.namedtuple("Shared", ["sock", "line", "folder"])


def read_shared(value):
  """Returns `Shared` of the value of --as_worker."""
  sock, line, folder = value.split(",", 2)
  return Shared(socket.socket(fileno=int(sock)),
                socket.socket(fileno=int(line)), folder)


class Workers(object):
  """The processes of one server."""

  def __init__(self, command, sock, number, grace_seconds, min_life=5.0):
    """Starts none yet.

    Args:
      command: list of str, what starts one; `--as_worker=...` is added, see
        `Shared`.
      sock: bound socket.
      number: int, how many there are to be.
      grace_seconds: float, how long they may take to stop.
      min_life: float, seconds from the start of one to that of the one that
        stands in for it, so that there is no loop without pause.
    """
    self._command = command
    self._sock = sock
    self._number = number
    self._grace_seconds = grace_seconds
    self._min_life = min_life
    self._folder = tempfile.mkdtemp(prefix="multilabel-server-")
    self._workers = []
    self._signals = []

  def run(self, on_ready):
    """Runs them until a signal comes.

    Args:
      on_ready: function without arguments, called when all serve.

    Returns:
      int, exit status: 0 after a signal; that of a process that cannot serve.
    """
    handlers = {
        number: signal.signal(number, lambda number, _: self._signals.append(
            number))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
      for _ in range(self._number):
        self._start()
      return self._watch(on_ready)
    finally:
      for worker in self._workers:
        if worker.process.poll() is None:
          worker.process.kill()
        worker.process.wait()
      for number, handler in handlers.items():
        signal.signal(number, handler)
      shutil.rmtree(self._folder, ignore_errors=True)

  def _start(self):
    """Starts one and tells it where to find what is shared."""
    line, other_end = socket.socketpair()
    line.setblocking(False)
    descriptors = [self._sock.fileno(), other_end.fileno()]
    process = subprocess.Popen(
        self._command + [
            "--as_worker=%d,%d,%s" % tuple(descriptors + [self._folder])],
        pass_fds=descriptors, stdin=subprocess.DEVNULL,
        # Ctrl-C is for this process, which tells the others.
        start_new_session=True)
    other_end.close()
    self._workers.append(Worker(process, line, time.time()))

  def _watch(self, on_ready):
    waiting = list(self._workers)
    while True:
      while self._signals:
        number = self._signals.pop(0)
        if number != signal.SIGHUP:
          return self._stop()
        self._send(signal.SIGHUP)
      if waiting:
        waiting = [worker for worker in waiting if not _is_ready(worker)]
        ended = [worker for worker in waiting
                 if worker.process.poll() is not None]
        if ended:
          # It has said why; another would say the same.
          return ended[0].process.returncode or 1
        if not waiting:
          on_ready()
      else:
        self._replace_ended()
      time.sleep(0.05)

  def _replace_ended(self):
    for worker in list(self._workers):
      if worker.process.poll() is None or (
          time.time() - worker.started < self._min_life):
        continue
      logging.error("Process %d has ended with status %d; starting another.",
                    worker.process.pid, worker.process.returncode)
      self._workers.remove(worker)
      worker.line.close()
      self._start()

  def _send(self, number):
    for worker in self._workers:
      if worker.process.poll() is None:
        worker.process.send_signal(number)

  def _stop(self):
    """Lets them finish; a second signal, or the end of the time, ends them."""
    self._send(signal.SIGTERM)
    # They keep the time themselves; this is for one that is stuck.
    end = time.time() + self._grace_seconds + 10
    while any(worker.process.poll() is None for worker in self._workers):
      again = [number for number in self._signals if number != signal.SIGHUP]
      if again or time.time() > end:
        self._send(signal.SIGKILL)
        return 128 + again[0] if again else 1
      time.sleep(0.02)
    return 0


def _is_ready(worker):
  try:
    return worker.line.recv(1) == b"r"
  except BlockingIOError:
    return False


def share_of_cores(workers):
  """Returns how many threads an operation of one of the processes may have."""
  try:
    cores = len(os.sched_getaffinity(0))
  except AttributeError:  # not on macOS
    cores = os.cpu_count() or 1
  return max(1, cores // workers)
