# SPDX-License-Identifier: Apache-2.0
"""What HTTP costs compared with direct calls of the predictor.

  python -m robustness.http_latency

One short text at a time: the predictor in this process against /v1/label.
Many clients at a time, one text per request: texts per second against the
predictor's own over a list of texts (sorted by length, so with hardly any
padding), and against its micro-batcher's for as many threads.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import random
import threading
import time

from absl import flags
import numpy as np

from robustness import http_client
from robustness import http_soak


FLAGS = flags.FLAGS


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Latency"):
    flags.DEFINE_string("model_dir", "demo_work/output",
                        "--output_dir of a training run.")
    flags.DEFINE_string("text", "All shadow copies are deleted before the "
                        "files are encrypted.", "A short text.")
    flags.DEFINE_integer("calls", 400,
        "Calls with one text, for each interface.")
    flags.DEFINE_integer("clients", 16, "Concurrent connections.")
    flags.DEFINE_integer("texts", 1024, "Texts per throughput round.")
    flags.DEFINE_integer("rounds", 3, "Throughput rounds, interleaved.")
    flags.DEFINE_list("serve_flags", [], "Flags for the server.")


def one_text(predictor, port, text, calls):
  """Seconds of each call, predictor and HTTP alternately: two lists."""
  client = http_client.Client(port)
  request = http_client.post("/v1/label", {"texts": [text]})
  ways = [(lambda: predictor.predict([text]), []),
          (lambda: client.send(request), [])]
  for call in range(calls + 20):
    for way, seconds in ways:
      started = time.perf_counter()
      way()
      if call >= 20:
        seconds.append(time.perf_counter() - started)
  client.close()
  return ways[0][1], ways[1][1]


def many_clients(make_ask, texts, clients):
  """Asks for all texts, one at a time, from that many threads.

  Args:
    make_ask: function without arguments that returns a function of one text;
      called once a thread.
    texts: list of str.
    clients: int.

  Returns:
    (seconds in all, list of the seconds of each text).
  """
  left, times, lock = list(texts), [], threading.Lock()

  def work():
    ask = make_ask()
    while True:
      with lock:
        if not left:
          return
        text = left.pop()
      started = time.perf_counter()
      ask(text)
      times.append(time.perf_counter() - started)

  threads = [threading.Thread(target=work) for _ in range(clients)]
  started = time.perf_counter()
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return time.perf_counter() - started, times


def http_ask(port):
  """A function of one text that asks over its own connection."""
  client = http_client.Client(port)

  def ask(text):
    status, _ = client.send(http_client.post("/v1/label", {"texts": [text]}))
    if status != 200:
      raise RuntimeError("status %d" % status)
  return ask


def compare(name, predictor, batcher, port, texts, clients, rounds, p50):
  """Prints the throughput of the predictor, of its batcher and of HTTP."""
  rates = {"predictor": [], "batcher": [], "HTTP": []}
  times = []
  for round_number in range(rounds + 1):
    started = time.perf_counter()
    predictor.predict(texts)
    seconds = {"predictor": time.perf_counter() - started}
    seconds["batcher"], _ = many_clients(
        lambda: lambda text: batcher.submit(predictor.encode([text])).result(),
        texts, clients)
    seconds["HTTP"], some = many_clients(
        lambda: http_ask(port), texts, clients)
    if round_number:  # The first one is to warm up.
      times.extend(some)
      for way, value in seconds.items():
        rates[way].append(len(texts) / value)
  rate = {way: np.median(values) for way, values in rates.items()}
  print("%s, %d clients: %.0f texts/s in one list, %.0f by the batcher, %.0f "
        "over HTTP (%.2f and %.2f of them); p50 %.1f ms, p99 %.1f ms (%.1f "
        "times one text's p50)" % (
            name, clients, rate["predictor"], rate["batcher"], rate["HTTP"],
            rate["HTTP"] / rate["predictor"], rate["HTTP"] / rate["batcher"],
            1e3 * np.median(times), 1e3 * http_client.percentile(times, .99),
            http_client.percentile(times, .99) / p50))


def main(argv):
  del argv
  from multilabel.inference import micro_batching
  import predict_onnx
  rng = random.Random(1)
  words = FLAGS.text.split()
  short = [" ".join(rng.sample(words, len(words)))
           for _ in range(FLAGS.texts)]
  mixed = http_soak.make_texts(
      http_client.words_of(FLAGS.model_dir), FLAGS.texts, rng)
  with http_client.start_server(
      FLAGS.model_dir, *FLAGS.serve_flags) as (port, _), (
          predict_onnx.open_predictor(FLAGS.model_dir)) as predictor, (
              micro_batching.MicroBatcher(predictor)) as batcher:
    own, http = one_text(predictor, port, FLAGS.text, FLAGS.calls)
    p50 = np.median(http)
    print("One short text: predictor p50 %.2f ms, p99 %.2f ms; HTTP p50 %.2f "
          "ms, p99 %.2f ms; HTTP adds %.2f ms" % (
              1e3 * np.median(own), 1e3 * http_client.percentile(own, .99),
              1e3 * p50, 1e3 * http_client.percentile(http, .99),
              1e3 * (p50 - np.median(own))))
    for name, texts in (("Short texts", short), ("Mixed lengths", mixed)):
      compare(name, predictor, batcher, port, texts, FLAGS.clients,
              FLAGS.rounds, p50)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
