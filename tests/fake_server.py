# SPDX-License-Identifier: Apache-2.0
"""The HTTP server around a model that is none: starts at once, knows no TF.

  with fake_server.start() as server:
    status, headers, answer = server.call("POST", "/v1/label", {...})

As a script it is the server. Its model computes with ids what
`probabilities` does; a text `sleep 0.5` takes half a second of the one thread
that runs batches, `fail` breaks its batch.
"""

import collections
import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from multilabel import decisions
from multilabel.inference import predictor


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

  def __init__(self, step=7):
    self.labels = list(LABELS)
    self.decision = decisions.DecisionRule(THRESHOLDS)
    self.max_seq_length = MAX_SEQ_LENGTH
    self.vocab_size = VOCAB_SIZE
    self.type_vocab_size = 2
    self.max_position_embeddings = MAX_POSITIONS
    self.step = step

  def warm_up(self):
    pass

  def close(self):
    pass

  def encode(self, texts):
    from multilabel.serving import http_requests
    return [[http_requests.Features(ids, [1] * len(ids), segments, [])]
            for ids, segments in map(encode, texts)]

  def check_features(self, features):
    return [[row] for row in features]

  decision_for = predictor.Predictor.decision_for

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

  def predict_encoded(self, encoded, timeout=None):
    del timeout  # the server keeps it, too
    for row, in encoded:
      # What reaches the model has been checked.
      if not all(0 <= i < VOCAB_SIZE for i in row.input_ids):
        os.abort()
      if len(row.input_ids) > 2 and row.input_ids[1] == _SLEEP:
        time.sleep(row.input_ids[2] / 100.0)
    if any(_FAIL in row.input_ids for row, in encoded):
      raise RuntimeError("secret of the inside")
    return np.array([
        probabilities([i * bit for i, bit in zip(row.input_ids,
                                                 row.input_mask)],
                      row.segment_ids) for row, in encoded])


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
    described = ",".join('%s="%s"' % item for item in sorted(labels.items()))
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


def open_model(folder):
  """The predictor; its step is what stands in the file `step` of a folder."""
  if folder is None:
    return Predictor()
  with open(os.path.join(folder, "step")) as reader:
    return Predictor(int(reader.read()))


def read_keys(path):
  if path is None:
    return []
  with open(path, "rb") as reader:
    return reader.read().split()


def main(options):
  """Serves until a signal."""
  from absl import logging

  from multilabel.serving import granian_server
  from multilabel.serving import http_app
  from multilabel.serving import worker
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  chosen = dict(
      example="an example", max_body_bytes=100000, max_texts=8,
      max_characters=1000, max_queue=32, max_batch_size=8, body_timeout=5,
      request_timeout=10, max_words=20, max_unfinished=50,
      loopback=False, key_file=None, folder=None,
      log_requests=False, log_texts=False, max_connections=200, head_timeout=5,
      grace_seconds=5, tls_certificate=None, tls_key=None, version=None,
      workers=1)
  chosen.update(options)
  options = collections.namedtuple("Options", sorted(chosen))(**chosen)
  port = granian_server.Port("127.0.0.1", 0)

  def say_ready():
    print("at %s" % port.url(bool(options.tls_certificate)))
    sys.stdout.flush()

  application = http_app.Settings("multilabel", *[
      getattr(options, name) for name in http_app.Settings._fields[1:]])
  granian_server.run(
      functools.partial(worker.load, worker.Options(
          functools.partial(open_model, options.folder),
          functools.partial(read_keys, options.key_file), options.version,
          options.max_texts, options.max_characters, options.max_batch_size,
          2.0, options.max_queue, options.grace_seconds, options.workers,
          application)),
      port, granian_server.Settings(
          options.workers, options.max_connections, options.head_timeout,
          options.grace_seconds, options.tls_certificate, options.tls_key),
      say_ready)


if __name__ == "__main__":
  main(json.loads(sys.argv[1]))
