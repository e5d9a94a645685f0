# SPDX-License-Identifier: Apache-2.0
"""Keeps a server busy for long, and checks its responses and memory.

  python -m robustness.http_soak --requests=100000

Texts of mixed lengths come from the model's vocabulary; the predictor computes
the expected responses in advance. Some requests are malformed. Exits with 1 if
a response was wrong, had status 5xx, or was missing, or if memory grew.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import collections
import json
import random
import sys
import threading
import time

from absl import flags
import numpy as np

from robustness import http_client


FLAGS = flags.FLAGS

# Largest difference of a probability: different batches are computed in a
# different order.
TOLERANCE = 1e-5

MALFORMED = [
    b"", b"{", b"\xff\xfe", b"[" * 50000, b'{"texts": NaN}', b'{"texts": []}',
    b'{"texts": [1]}', b'{"texts": ["\\ud800"]}', b'{"texts": ["a"], "b": 1}',
    b'{"instances": [{"input_ids": [999999999]}]}',
    b'{"signature_name": "ids_only", "instances": [[-1]]}',
    b'{"signature_name": "ids_only", "instances": [[1.5]]}',
    b'{"signature_name": "none", "instances": [[1]]}',
    b'{"texts": ["' + b"a" * 30000 + b'"]}']

PATHS = ["/v1/label", "/v1/models/multilabel:predict",
         "/v1/models/multilabel:classify"]

Case = collections.namedtuple("Case", ["request", "status", "rows"])


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Soak"):
    flags.DEFINE_string("model_dir", "demo_work/output",
                        "--output_dir of a training run.")
    flags.DEFINE_integer("requests", 100000, "Total number of requests.")
    flags.DEFINE_integer("clients", 16, "Concurrent connections.")
    flags.DEFINE_integer("texts", 500, "Number of different texts.")
    flags.DEFINE_float("malformed", 0.05, "Fraction of malformed requests.")
    flags.DEFINE_float("growth", 0.03, "Fraction by which memory in the second "
                                       "half may exceed that in the first.")
    flags.DEFINE_integer("seed", 1, "Seed of the texts and their order.")


def make_texts(words, count, rng):
  """Texts of 0 to 150 words, short ones more often: list of str."""
  texts = [u"", u"\u4f60\u597d \U0001f600", u"a" * 300]
  while len(texts) < count:
    size = int(150 * rng.random() ** 3)
    texts.append(u" ".join(rng.choice(words) for _ in range(size)))
  return texts


def make_cases(predictor, texts, rng):
  """Valid requests of each form and the predictor's results: list of `Case`."""
  cases = []
  for text, windows in zip(texts, predictor.encode(texts)):
    forms = [(PATHS[0], {"texts": [text]}),
             (PATHS[1], {"signature_name": "text", "instances": [text]})]
    if len(windows) == 1:
      ids = list(windows[0].input_ids)
      forms += [(PATHS[1], {"instances": [{
          "input_ids": ids, "input_mask": [1] * len(ids),
          "segment_ids": [0] * len(ids)}]}),
                (PATHS[2], {"examples": [{"input_ids": ids}]})]
    row, = predictor.predict([text])
    cases.extend(Case(http_client.post(path, body), 200, [row])
                 for path, body in forms)
  for _ in range(len(texts) // 4):
    some = [rng.choice(texts) for _ in range(rng.randint(2, 16))]
    cases.append(Case(http_client.post(PATHS[0], {"texts": some}), 200,
                      predictor.predict(some)))
  return cases


def read_rows(body):
  """The probabilities in an answer of any form: list of list of float."""
  answer = json.loads(body.decode("utf-8"))
  if "predictions" in answer:
    return [row["probabilities"] if isinstance(row, dict) else row
            for row in answer["predictions"]]
  results = answer["results"]
  if isinstance(results[0], dict):
    return [list(result["probabilities"].values()) for result in results]
  return [[score for _, score in result] for result in results]


class Soak(object):
  """Clients that share a list of cases."""

  def __init__(self, port, cases, bad_cases, malformed, total, seed):
    self._port = port
    self._cases = cases
    self._bad_cases = bad_cases
    self._malformed = malformed
    self._left = total
    self._seed = seed
    self._lock = threading.Lock()
    self.counts = collections.Counter()
    self.largest = 0.0

  def run(self, clients):
    """Sends all; returns after the last response."""
    threads = [threading.Thread(target=self._client, args=(number,))
               for number in range(clients)]
    for thread in threads:
      thread.start()
    return threads

  def _client(self, number):
    rng = random.Random(self._seed * 1000 + number)
    client = http_client.Client(self._port)
    while True:
      with self._lock:
        if not self._left:
          client.close()
          return
        self._left -= 1
      case = rng.choice(self._bad_cases if rng.random() < self._malformed
                        else self._cases)
      outcome, difference = self._ask(client, case)
      with self._lock:
        self.counts[outcome] += 1
        self.largest = max(self.largest, difference)

  def _ask(self, client, case):
    """(outcome of a case, largest difference of a probability)."""
    try:
      status, body = client.send(case.request)
    except (OSError, EOFError):
      return "no answer", 0.0
    if status >= 500:
      return "status %d" % status, 0.0
    if status != case.status:
      return "wrong status", 0.0
    if case.rows is None:
      return "malformed, refused", 0.0
    rows = np.array(read_rows(body), np.float32)
    if rows.shape != np.shape(case.rows):
      return "wrong answer", 0.0
    difference = float(np.abs(rows - case.rows).max())
    return ("right answer" if difference <= TOLERANCE else "wrong answer",
            difference)


def main(argv):
  del argv
  import predict_onnx
  rng = random.Random(FLAGS.seed)
  with predict_onnx.open_predictor(FLAGS.model_dir) as predictor:
    texts = make_texts(http_client.words_of(FLAGS.model_dir), FLAGS.texts, rng)
    cases = make_cases(predictor, texts, rng)
  bad_cases = [Case(http_client.post(path, body), 400, None)
               for path in PATHS for body in MALFORMED]
  with http_client.start_server(FLAGS.model_dir) as (port, process):
    warm_up = Soak(port, cases, bad_cases, FLAGS.malformed,
                   max(200, FLAGS.requests // 50), 99)
    for thread in warm_up.run(FLAGS.clients):
      thread.join()
    soak = Soak(port, cases, bad_cases, FLAGS.malformed, FLAGS.requests,
                FLAGS.seed)
    started = time.time()
    threads = soak.run(FLAGS.clients)
    sizes = []
    while any(thread.is_alive() for thread in threads):
      sizes.append(http_client.resident_memory(process))
      time.sleep(0.5)
    seconds = time.time() - started
  for outcome, count in sorted(soak.counts.items()):
    print("%-20s %d" % (outcome, count))
  first, last = np.mean(sizes[:len(sizes) // 2 or 1]), np.mean(
      sizes[len(sizes) // 2:])
  print("largest difference   %.2g" % soak.largest)
  print("resident memory      %.1f MB in the first half, %.1f MB in the last "
        "(%+.2f%%)" % (first / 1e6, last / 1e6, 100 * (last / first - 1)))
  print("requests per second  %.1f" % (FLAGS.requests / seconds))
  wrong = set(soak.counts) - {"right answer", "malformed, refused"}
  if wrong or last > first * (1 + FLAGS.growth):
    sys.exit(1)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
