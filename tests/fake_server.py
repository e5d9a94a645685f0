# SPDX-License-Identifier: Apache-2.0
"""The HTTP server around a model that is none: starts at once, knows no TF.

  with fake_server.start() as server:
    status, headers, answer = server.call("POST", "/v1/label", {...})

As a script it is the server. Its model computes with ids what
`probabilities` does; a text `sleep 0.5` takes half a second of the one thread
that runs batches, `fail` breaks its batch.
"""

import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np

from multilabel import decisions


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

LABELS = ["fruit", u"\u52a8\u7269", 'a "quoted" one']
VOCAB_SIZE = 1000
CLS, SEP = 2, 3
MAX_SEQ_LENGTH = 16
MAX_POSITIONS = 24
THRESHOLDS = [0.5, 0.25, 0.75]

_SLEEP = 900  # id of a row that takes as many milliseconds as the next id / 10
_FAIL = 901

Described = collections.namedtuple("Described", ["labels", "probabilities"])
Decision = collections.namedtuple(
    "Decision", ["thresholds", "top_k", "always_one_label"])


def encode(text):
  """(ids, segments) of a text or a pair."""
  parts = list(text) if isinstance(text, (tuple, list)) else [text]
  ids, segments = [CLS], [0]
  for number, part in enumerate(parts):
    found = re.match(r"sleep ([\d.]+)", part)
    if found:
      made = [_SLEEP, int(float(found.group(1)) * 100)]
    elif part == "fail":
      made = [_FAIL]
    else:
      made = [5 + ord(char) % 800 for char in part][:MAX_SEQ_LENGTH // 2 - 2]
    ids += made + [SEP]
    segments += [number] * (len(made) + 1)
  return ids, segments


def probabilities(ids, segments=None):
  """float32 `[3]` that depends on every id, its place and its segment."""
  segments = segments or [0] * len(ids)
  total = sum((place + 1) * (number + 7 * segment)
              for place, (number, segment) in enumerate(zip(ids, segments)))
  return np.array([(total * factor % 997) / 997.0 for factor in (1, 3, 5)],
                  np.float32)


class Predictor(object):
  """Stands for `SessionPredictor`."""

  def __init__(self):
    self.labels = list(LABELS)
    self.decision = Decision(THRESHOLDS, None, False)
    self.max_seq_length = MAX_SEQ_LENGTH
    self.vocab_size = VOCAB_SIZE
    self.step = 7
    self.checkpoint = "model.ckpt-7"

  def encode(self, texts):
    from multilabel.serving import http_requests
    return [[http_requests.Features(ids, [1] * len(ids), segments, [])]
            for ids, segments in map(encode, texts)]

  def check_features(self, features):
    return [[row] for row in features]

  def describe(self, rows, threshold=None, top_k=None, always_one_label=None,
               which=decisions.ALL):
    thresholds = np.broadcast_to(
        np.float32(THRESHOLDS if threshold is None else threshold), [3])
    results = []
    for row in rows:
      chosen = [i for i in np.argsort(-row, kind="stable")
                if row[i] >= thresholds[i]][:top_k]
      if always_one_label and not chosen:
        chosen = [int(row.argmax())]
      results.append(Described(
          [(LABELS[i], float(row[i])) for i in chosen],
          collections.OrderedDict(
              (LABELS[i], float(row[i])) for i in
              decisions.columns(row, np.isin(range(3), chosen),
                                            which))))
    return results

  def reload(self):
    self.step += 1
    return True


class QueueFull(Exception):
  pass


class Batcher(object):
  """Stands for `MicroBatcher`: one thread, batches of what is waiting."""

  def __init__(self, max_queue, max_batch_size=8):
    self._max_queue = max_queue
    self._max_batch_size = max_batch_size
    self._queue = queue.Queue()
    self._waiting = 0
    self._lock = threading.Lock()
    self._sizes = collections.Counter()
    threading.Thread(target=self._work, daemon=True).start()

  def submit(self, encoded, timeout=None):
    del timeout  # the server keeps it, too
    features = [row for row, in encoded]
    future = concurrent.futures.Future()
    with self._lock:
      if self._waiting + len(features) > self._max_queue:
        raise QueueFull()
      self._waiting += len(features)
    self._queue.put((features, future))
    return future

  def _work(self):
    while True:
      items = [self._queue.get()]
      while (not self._queue.empty() and
             sum(len(item[0]) for item in items) < self._max_batch_size):
        items.append(self._queue.get())
      with self._lock:
        self._waiting -= sum(len(item[0]) for item in items)
      self._run([item for item in items
                 if item[1].set_running_or_notify_cancel()])

  def _run(self, items):
    if not items:
      return
    self._sizes[sum(len(features) for features, _ in items)] += 1
    for features, future in items:
      rows = []
      for row in features:
        # What reaches the model has been checked.
        if not all(0 <= i < VOCAB_SIZE for i in row.input_ids):
          os.abort()
        if len(row.input_ids) > 2 and row.input_ids[1] == _SLEEP:
          time.sleep(row.input_ids[2] / 100.0)
        kept = [i * bit for i, bit in zip(row.input_ids, row.input_mask)]
        rows.append(probabilities(kept, row.segment_ids))
      if any(_FAIL in row.input_ids for row in features):
        future.set_exception(RuntimeError("secret of the inside"))
      else:
        future.set_result(np.array(rows))

  def stats(self):
    return {"queue_texts": self._waiting, "batch_sizes": dict(self._sizes)}


class Running(object):
  """A server in a process of its own."""

  def __init__(self, process, port, tls=None):
    self.process = process
    self.port = port
    self._tls = tls

  def connect(self):
    """A socket to it, 10 s a read."""
    return socket.create_connection(("127.0.0.1", self.port), 10)

  def call(self, method, path, body=None, headers=()):
    """(status, headers, answer) of one request; JSON is made and read."""
    connection = (
        http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20,
                                    context=self._tls) if self._tls else
        http.client.HTTPConnection("127.0.0.1", self.port, timeout=20))
    try:
      if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode("ascii")
      connection.request(method, path, body, dict(headers))
      response = connection.getresponse()
      content = response.read()
      if response.getheader("content-type") == "application/json":
        content = json.loads(content.decode("utf-8"))
      return response.status, response.headers, content
    finally:
      connection.close()

  def metric(self, metric_name, **labels):
    """The number of a line of /metrics, 0 if there is none."""
    described = ",".join('%s="%s"' % item for item in labels.items())
    line = "multilabel_%s%s " % (
        metric_name, "{%s}" % described if labels else "")
    for found in self.call("GET", "/metrics")[2].decode("utf-8").split("\n"):
      if found.startswith(line):
        return float(found[len(line):])
    return 0


@contextlib.contextmanager
def start(command=None, tls=None, **options):
  """Runs a server until the block ends.

  Args:
    command: list of str, another server's command line; None: the fake one.
    tls: ssl.SSLContext of the client, where it serves https.
    **options: settings of the fake one, see `main`.
  """
  process = subprocess.Popen(
      command or [sys.executable, os.path.abspath(__file__),
                  json.dumps(options)],
      cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=ROOT))
  try:
    line = process.stdout.readline().decode("utf-8")
    found = re.search(r"https?://[^ ]*:(\d+)/", line)
    if not found:
      raise RuntimeError("the server did not start: %r %s" % (
          line, process.communicate()[1].decode("utf-8")))
    yield Running(process, int(found.group(1)), tls)
  finally:
    if process.poll() is None:
      process.send_signal(signal.SIGTERM)
      try:
        process.wait(15)
      except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()


def main(options, as_worker=None):
  """Serves until a signal; returns the exit status."""
  from absl import logging

  from multilabel.serving import http_app
  from multilabel.serving import http_requests
  from multilabel.serving import http_server
  from multilabel.serving import http_workers
  from multilabel.serving import word_importance
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  chosen = dict(
      max_body_bytes=100000, max_texts=8, max_characters=1000, max_queue=32,
      body_timeout=5, request_timeout=10, max_words=20, keys=[],
      log_requests=False, log_texts=False, max_connections=100, head_timeout=5,
      send_timeout=5, keep_alive=5, grace_seconds=5, tls_certificate=None,
      tls_key=None, version=None, workers=1, broken=False)
  chosen.update(options)
  options = collections.namedtuple("Options", sorted(chosen))(**chosen)
  sock = None if as_worker else http_server.bind("127.0.0.1", 0)

  def say_ready():
    print("at %s" % http_server.url(sock, bool(options.tls_certificate)))
    sys.stdout.flush()

  if options.workers > 1 and not as_worker:
    return http_workers.Workers(
        [sys.executable] + sys.argv, sock, options.workers,
        options.grace_seconds, min_life=0.0).run(say_ready)
  if options.broken:
    return 2
  folder = line = None
  if as_worker:
    sock, line, folder = http_workers.read_shared(as_worker.split("=", 1)[1])
  predictor = Predictor()
  application = http_app.Application(
      predictor, Batcher(options.max_queue), QueueFull,
      word_importance.explain, http_app.Settings(
          "multilabel", options.version, options.max_body_bytes,
          options.body_timeout, options.request_timeout, options.max_words,
          [key.encode() for key in options.keys], options.log_requests,
          options.log_texts),
      http_requests.Limits(VOCAB_SIZE, 2, MAX_POSITIONS, CLS,
                           options.max_texts, options.max_characters), folder)
  http_server.run(application, sock, options,
                  (lambda: line.send(b"r")) if line else say_ready,
                  predictor.reload, line.fileno() if line else None)
  application.close()
  return 0


if __name__ == "__main__":
  sys.exit(main(json.loads(sys.argv[1]), *sys.argv[2:]))
