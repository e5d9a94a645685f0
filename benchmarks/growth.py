# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow with the size of the workload.

  python -m benchmarks.growth --output_dir=DIR [--quick]

Time of a prediction against the length of the texts, their number in a batch,
the labels and the layers; time and memory of `predict_files.predict_file`, of
the features and of what training reads at its start against the number of
texts. Models with drawn weights, so nothing has to be there. For each curve
the exponent of the best straight line on logarithmic scales is given (1:
linear), over its upper half, since small works cost what a run costs anyway.
Writes growth.json and growth.txt.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import io
import json
import os
import tempfile
import time
import tracemalloc

from absl import flags
import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks import run
import modeling
from multilabel import head
from multilabel import metrics
from multilabel.common import atomic_files
from multilabel.features import input_pipeline
from multilabel.features import record_file
from multilabel.inference import predict_files
from multilabel.inference import prediction_writers
from multilabel.storage import trained_model
import predict_session
import processors
import tokenization


FLAGS = flags.FLAGS

# What stands for a text where not its length is looked at.
TOKENS, BATCH, LABELS, LAYERS = 32, 8, 16, 2

# Of a small model, so that what is not the model shows.
WIDTH = 128

SIZES = {
    "length": (8, 16, 32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "labels": (1, 10, 100, 1000, 10000, 30000),
    "layers": (1, 2, 4, 8, 16),
    "texts": (1000, 10000, 100000, 1000000),
    "metrics": (10, 100, 1000, 10000, 30000),
}


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Growth"):
    flags.DEFINE_string("output_dir", None, "Output folder.")
    flags.DEFINE_integer("rounds", 7, "Rounds; the sizes are interleaved.")
    flags.DEFINE_integer("most_texts", 100000,
        "Maximum number of texts; 1000000 takes about half an hour.")
    flags.DEFINE_bool("quick", False, "Small sizes and 3 rounds.")
    flags.DEFINE_list("only", [], "Curves: %s." % ", ".join(sorted(SIZES)))


def exponent(sizes, times):
  """The slope of log(time) over log(size), over the upper half, or None."""
  if len(sizes) < 2:
    return None
  half = len(sizes) // 2 if len(sizes) > 3 else 0
  return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def bert_config(layers=LAYERS):
  return modeling.BertConfig(
      vocab_size=1000, hidden_size=WIDTH, num_hidden_layers=layers,
      num_attention_heads=2, intermediate_size=4 * WIDTH,
      max_position_embeddings=512, type_vocab_size=2)


class Model(object):
  """A graph with drawn weights and what runs a batch through it."""

  def __init__(self, labels=LABELS, layers=LAYERS, with_labels=False):
    graph = tf.Graph()
    with graph.as_default():
      tf.set_random_seed(1)
      self._inference = head.create_inference_graph(
          bert_config(layers), labels, "pooler", with_labels=with_labels)
      self._session = tf.Session(graph=graph)
      self._session.run(tf.global_variables_initializer())
    self._labels = labels

  def work(self, batch, tokens):
    """A function that predicts (and takes the loss of) a batch."""
    ids = np.random.RandomState(1).randint(5, 1000, (batch, tokens))
    inference = self._inference
    feed = {inference.input_ids: ids,
            inference.input_mask: np.ones_like(ids),
            inference.segment_ids: np.zeros_like(ids)}
    fetches = [inference.probabilities]
    if inference.labels is not None:
      feed[inference.labels] = np.zeros([batch, self._labels], np.float32)
      fetches.append(inference.per_example_loss)
    return lambda: self._session.run(fetches, feed)


def seconds(work):
  start = time.perf_counter()
  work()
  return time.perf_counter() - start


def by_turns(works, rounds):
  """Seconds of each function in each round, float `[rounds, n]`."""
  for work in works:
    work()
    work()
  return np.array([[seconds(work) for work in works] for _ in range(rounds)])


def curve(name, of, unit, sizes, values):
  """A curve as JSON keeps it; `values` is float `[rounds, len(sizes)]`."""
  values = np.asarray(values, np.float64)
  return {"name": name, "of": of, "unit": unit, "sizes": list(sizes),
          "points": [{"median": float(np.median(column)),
                      "least": float(column.min()),
                      "most": float(column.max())} for column in values.T],
          "exponent": exponent(sizes, np.median(values, axis=0))}


def model_curves(name, sizes, rounds):
  """The curve of a prediction over length, batch, labels or layers."""
  if name == "length":
    model = Model()
    works = [model.work(BATCH, size) for size in sizes]
  elif name == "batch":
    model = Model()
    works = [model.work(size, TOKENS) for size in sizes]
  elif name == "labels":
    works = [Model(labels=size, with_labels=True).work(BATCH, TOKENS)
             for size in sizes]
  else:
    works = [Model(layers=size).work(BATCH, TOKENS) for size in sizes]
  of = {"length": "tokens per text", "batch": "texts per batch",
        "labels": "labels", "layers": "layers"}[name]
  return [curve("prediction", of, "seconds per batch", sizes,
                by_turns(works, rounds))]


def metrics_curves(sizes, rounds):
  """Time and memory of all metrics over labels, 200 texts."""
  rng = np.random.RandomState(1)
  works = []
  for size in sizes:
    labels = rng.uniform(size=(200, size)) < 3 / size
    probabilities = rng.uniform(size=(200, size)).astype(np.float32)
    names = ["l%d" % i for i in range(size)]
    works.append(lambda labels=labels, values=probabilities, names=names:
                 metrics.evaluate(
                     labels, values, label_names=names))
  return [curve("metrics", "labels", "seconds", sizes,
                by_turns(works, max(1, rounds // 2))),
          curve("metrics, memory", "labels", "MB", sizes,
                [[traced_megabytes(work) for work in works]])]


def traced_megabytes(work):
  """The most memory that Python and numpy hold while `work` runs."""
  tracemalloc.start()
  work()
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return max(peak / 1e6, 1e-3)


def make_trained(folder):
  """A trained directory with drawn weights; returns its vocabulary's path."""
  letters = "abcdefghijklmnopqrst"
  tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [
      a + b for a in letters for b in letters]
  tokens += ["w%d" % i for i in range(1000 - len(tokens))]
  vocab_file = os.path.join(folder, "words.txt")
  atomic_files.write_text(vocab_file, "\n".join(tokens) + "\n")
  trained_model.write(folder, bert_config(), vocab_file,
                  ["label %d" % i for i in range(LABELS)],
                  {"do_lower_case": True, "max_seq_length": 64,
                   "pooling": "pooler", "loss": "sigmoid"})
  with tf.Graph().as_default(), tf.Session() as session:
    tf.set_random_seed(1)
    head.create_inference_graph(bert_config(), LABELS, "pooler")
    tf.train.get_or_create_global_step()
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, os.path.join(folder, "model.ckpt"), 0,
                          write_meta_graph=False)
  return vocab_file


def make_rows(count):
  """Yields (id, text, None) of short texts, none of them kept."""
  rng = np.random.RandomState(1)
  letters = "abcdefghijklmnopqrst"
  for number in range(count):
    picked = rng.randint(0, 400, rng.randint(3, 9))
    yield str(number), " ".join(
        letters[i // 20] + letters[i % 20] for i in picked), None


def text_curves(sizes):
  """Time and memory of prediction, features and a record file over texts.

  Each size once: the largest ones take long enough to be steady.
  """
  works = [("predict a file", predict_rows), ("features", write_features),
           ("start of training", open_records)]
  columns = {name: [] for name, _ in works}
  with tempfile.TemporaryDirectory() as folder:
    vocab_file = make_trained(folder)
    with predict_session.SessionPredictor(folder) as predictor:
      for size in sizes:
        for name, work in works:
          start = time.perf_counter()
          megabytes = traced_megabytes(
              lambda: work(size, folder, vocab_file, predictor))
          columns[name].append((time.perf_counter() - start, megabytes))
  curves = []
  for name, _ in works:
    times, megabytes = zip(*columns[name])
    curves.append(curve(name, "texts", "seconds", sizes, [times]))
    curves.append(curve(name + ", memory", "texts", "MB", sizes, [megabytes]))
  return curves


def predict_rows(size, folder, unused_vocab_file, predictor):
  """What predict_session.py does for an --input_file."""
  with io.open(os.path.join(folder, "labels.jsonl"), "wb") as stream:
    predict_files.predict_file(predictor, make_rows(size),
                               prediction_writers.json_writer(stream),
                               predictor.decision_for())


def write_features(size, folder, vocab_file, unused_predictor):
  """Features of that many texts, written to a record file."""
  record_file.file_based_convert_examples_to_features(
      (processors.InputExample(name, text, None, ())
       for name, text, _ in make_rows(size)), ["a"], 64,
      tokenization.FullTokenizer(vocab_file),
      os.path.join(folder, "features.tf_record"))


def open_records(unused_size, folder, unused_vocab_file, unused_predictor):
  """What training does with a record file before its first step."""
  records = record_file.RecordFile(
      os.path.join(folder, "features.tf_record"))
  next(input_pipeline.train_batches(records, 32, 1, 0, 10 ** 9, 1))
  records.close()


def format_curves(curves):
  """Lines of text: a line per curve, its values and its exponent."""
  lines = []
  for found in curves:
    lines.append("%s, %s over %s: exponent %s" % (
        found["name"], found["unit"], found["of"],
        "unknown" if found["exponent"] is None
        else "%.2f" % found["exponent"]))
    lines.append("   " + "  ".join(
        "%d: %.3g" % (size, point["median"])
        for size, point in zip(found["sizes"], found["points"])))
  return "\n".join(lines) + "\n"


def main(argv):
  del argv
  if not FLAGS.output_dir:
    raise ValueError("--output_dir must be given.")
  for name in FLAGS.only:
    if name not in SIZES:
      raise ValueError("--only: there is no curve %s; choose from %s." % (
          name, ", ".join(sorted(SIZES))))
  os.makedirs(FLAGS.output_dir, exist_ok=True)
  rounds = 3 if FLAGS.quick else FLAGS.rounds
  curves = []
  growth = {"commit": run.output_of(["git", "rev-parse", "HEAD"]),
            "cpu": run.cpu_name(), "tensorflow": tf.__version__,
            "rounds": rounds, "curves": curves}
  for name in FLAGS.only or ("length", "batch", "labels", "layers", "metrics",
                             "texts"):
    sizes = SIZES[name]
    if name == "texts":
      sizes = [size for size in sizes if size <= FLAGS.most_texts]
    if FLAGS.quick:
      sizes = sizes[:3]
    if name == "texts":
      curves += text_curves(sizes)
    elif name == "metrics":
      curves += metrics_curves(sizes, rounds)
    else:
      curves += model_curves(name, sizes, rounds)
    # After each: what was measured is there when the rest is interrupted.
    atomic_files.write_text(os.path.join(FLAGS.output_dir, "growth.json"),
                            json.dumps(growth, indent=1) + "\n")
    atomic_files.write_text(os.path.join(FLAGS.output_dir, "growth.txt"),
                            format_curves(curves))
  print(format_curves(curves))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
