# SPDX-License-Identifier: Apache-2.0
"""What many clients of one predictor gain from micro-batching.

  python -m robustness.predictor_clients --model_dir=demo_work/output

Each of that many threads asks for one text after another, as fast as it is
answered: once by a `session.run` of its own, once through a `MicroBatcher`;
for comparison, one client alone asks both ways. All four take turns in slices
of a few seconds, so that other load affects them equally.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import collections
import io
import json
import os
import threading
import time

from absl import flags
import numpy as np


FLAGS = flags.FLAGS

# Seconds a text, CPU seconds of the process and texts of all slices of a way,
# and the texts a second of each slice.
Way = collections.namedtuple("Way", ["seconds", "cpu", "rates"])


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Clients"):
    flags.DEFINE_string("model_dir", "demo_work/output",
                        "--output_dir of a training run.")
    flags.DEFINE_string("texts_file", "demo_work/data/test.jsonl",
                        "JSON lines with the texts to predict.")
    flags.DEFINE_integer("most_words", 0,
        "Use only texts of at most N words; 0: all.")
    flags.DEFINE_integer("clients", 16, "Concurrent clients.")
    flags.DEFINE_float("slice_seconds", 2.0, "Seconds per slice.")
    flags.DEFINE_integer("rounds", 8, "Slices per method.")
    flags.DEFINE_integer("max_batch_size", 32, "Texts per batch.")
    flags.DEFINE_float("max_delay_ms", 2.0,
        "Maximum time a batch waits for more texts, in milliseconds.")


def read_texts(path, most_words):
  """The texts of a file of JSON lines: list of str."""
  with io.open(path, encoding="utf-8") as lines:
    texts = [json.loads(line)["text"] for line in lines]
  texts = [text for text in texts
           if not most_words or len(text.split()) <= most_words]
  if not texts:
    raise ValueError("--texts_file %s has no text of at most %d words." % (
        path, most_words))
  return texts


def run_slice(ask, texts, clients, slice_seconds, way):
  """Runs clients for some seconds and adds the measurements to `way`."""
  end = time.perf_counter() + slice_seconds
  counts = []

  def client(number):
    count = 0
    while time.perf_counter() < end:
      start = time.perf_counter()
      # Each starts at a different text.
      ask(texts[(number * 997 + count) % len(texts)])
      way.seconds.append(time.perf_counter() - start)
      count += 1
    counts.append(count)

  threads = [threading.Thread(target=client, args=(number,))
             for number in range(clients)]
  start, cpu = time.perf_counter(), time.process_time()
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  way.cpu.append(time.process_time() - cpu)
  way.rates.append(sum(counts) / (time.perf_counter() - start))


def main(argv):
  del argv
  from multilabel.inference import micro_batching
  import predict_session
  texts = read_texts(FLAGS.texts_file, FLAGS.most_words)
  with predict_session.SessionPredictor(FLAGS.model_dir) as predictor:
    batchers = {clients: micro_batching.MicroBatcher(
        predictor, FLAGS.max_batch_size, FLAGS.max_delay_ms)
                for clients in (1, FLAGS.clients)}
    predictor.warm_up()
    predictor.predict(texts[:64])

    def shared(batcher):
      return lambda text: batcher.submit(predictor.encode([text])).result()

    ways = collections.OrderedDict()
    for clients, batcher in batchers.items():
      ways["a run each", clients] = (lambda text: predictor.predict([text]),
                                     Way([], [], []))
      ways["micro-batching", clients] = shared(batcher), Way([], [], [])
    for _ in range(FLAGS.rounds):
      for (_, clients), (ask, way) in ways.items():
        run_slice(ask, texts, clients, FLAGS.slice_seconds, way)
    sizes = batchers[FLAGS.clients].stats()["batch_sizes"]
    for batcher in batchers.values():
      batcher.close()
  lengths = [len(windows[0].input_ids) for windows in predictor.encode(texts)]
  print("%d texts of %d to %d ids, %.0f on average; %d cores, load %.1f" % (
      len(texts), min(lengths), max(lengths), np.mean(lengths),
      os.cpu_count(), os.getloadavg()[0]))
  print("%-24s %9s %9s %9s %12s" % ("", "texts/s", "p50 ms", "p99 ms",
                                    "CPU ms/text"))
  for (name, clients), (_, way) in ways.items():
    print("%2d clients, %-13s %9.1f %9.1f %9.1f %12.1f" % (
        clients, name, np.median(way.rates),
        1e3 * np.percentile(way.seconds, 50),
        1e3 * np.percentile(way.seconds, 99),
        1e3 * sum(way.cpu) / len(way.seconds)))
  many = [ways[name, FLAGS.clients][1]
          for name in ("a run each", "micro-batching")]
  ratios = np.array(many[1].rates) / np.array(many[0].rates)
  print("micro-batching gives %.2f times the texts/s (%.2f to %.2f in %d "
        "rounds), %.1f texts per run" % (
            np.median(ratios), ratios.min(), ratios.max(), len(ratios),
            sum(size * times for size, times in sizes.items()) /
            sum(sizes.values())))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
