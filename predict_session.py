# SPDX-License-Identifier: Apache-2.0
"""Labels texts with a trained directory: load once, predict many times.

  python predict_session.py --model_dir=DIR "a sentence" "another one"
  python predict_session.py --model_dir=DIR --input_file=texts.csv \
      --text_column=text --output_file=labels.jsonl
  python predict_session.py --model_dir=DIR          # asks for texts

From Python:

  with SessionPredictor("DIR") as predictor:
    probabilities = predictor.predict(["a sentence", ("text a", "text b")])
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import command_line

if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import collections
import csv
import io
import itertools
import json
import os
import sys
import time

from absl import flags
import numpy as np
import six
import tensorflow.compat.v1 as tf

import atomic_files
import input_pipeline
import model_dir as trained_directory
import modeling
import multilabel_model
import multilabel_thresholds
from processors import unlabelled
import tokenization

FLAGS = flags.FLAGS

# Texts in memory at a time when a file is predicted.
FILE_WINDOW = 1024

TABLE_FLAGS = ("text_column", "text_pair_column", "id_column", "delimiter")


class SessionPredictor(object):
  """A trained model in a graph and a session of its own.

  Several predictors can live in one process, beside TF 2 code that runs
  eagerly; `predict` may be called from several threads.

  Attributes:
    labels: list of str, the order of the probabilities.
    threshold: float, the trained directory's.
    checkpoint: str, what the weights were restored from.
  """

  def __init__(self, model_dir, batch_size=32):
    """Loads a model.

    Args:
      model_dir: str, `--output_dir` of a training run.
      batch_size: int, texts a `session.run`.

    Raises:
      ValueError: a file is missing or broken, or the checkpoint does not fit.
    """
    if batch_size < 1:
      raise ValueError("batch_size is %d; it must be 1 or more." % batch_size)
    trained = trained_directory.read(model_dir)
    self.labels = trained.labels
    self.threshold = trained.settings["threshold"]
    self.max_seq_length = trained.settings["max_seq_length"]
    self._batch_size = batch_size
    self._tokenizer = tokenization.FullTokenizer(
        trained.vocab_file, trained.settings["do_lower_case"])

    self._graph = tf.Graph()
    with self._graph.as_default():
      self._inference = multilabel_model.create_inference_graph(
          trained.bert_config, len(trained.labels),
          trained.settings["pooling"])
      saver = tf.train.Saver(tf.global_variables())
      self.checkpoint = _check_checkpoint(model_dir, tf.global_variables())
      config = tf.ConfigProto()
      config.gpu_options.allow_growth = True
      self._session = tf.Session(config=config)
      try:
        saver.restore(self._session, self.checkpoint)
      except tf.errors.OpError as error:
        self._session.close()
        raise ValueError("checkpoint %s cannot be restored: %s" % (
            self.checkpoint, error.message.split("\n")[0]))
    self._graph.finalize()

  def predict(self, texts):
    """Returns the probability of each label for each text.

    Args:
      texts: list of str, or of (str, str) for pairs.

    Returns:
      float32 `[len(texts), num_labels]`.

    Raises:
      ValueError: `texts` is no list of texts, or the predictor is closed.
    """
    if isinstance(texts, (str, bytes)):
      raise ValueError("predict takes a list of texts, not one text.")
    if not hasattr(texts, "__iter__"):
      raise ValueError("predict takes a list of texts, not %s." %
                       type(texts).__name__)
    self._open_session()
    texts = list(texts)
    probabilities = np.zeros([len(texts), len(self.labels)], np.float32)
    for start in range(0, len(texts), input_pipeline.PREDICT_WINDOW):
      window = texts[start:start + input_pipeline.PREDICT_WINDOW]
      features = [self._features(start + i, text)
                  for i, text in enumerate(window)]
      lengths = [len(row.input_ids) for row in features]
      # Texts of like length share a batch, so that little is padding.
      for numbers in input_pipeline.batches_by_length(
          lengths, self._batch_size):
        probabilities[start + numbers] = self._run(
            input_pipeline.make_batch([features[i] for i in numbers]))
    return probabilities

  def _run(self, batch):
    """One `session.run`: arrays in, probabilities out."""
    feed_dict = {
        self._inference.input_ids: batch["input_ids"],
        self._inference.input_mask: batch["input_mask"],
        self._inference.segment_ids: batch["segment_ids"],
    }
    session = self._open_session()
    try:
      probabilities, = session.run(
          [self._inference.probabilities], feed_dict=feed_dict)
    except (RuntimeError, tf.errors.CancelledError):
      self._open_session()  # Another thread's close() is no other failure.
      raise
    return probabilities

  def _open_session(self):
    """The session; ValueError if there is none any more."""
    session = self._session
    if session is None:
      raise ValueError("this predictor is closed.")
    return session

  def _features(self, number, text):
    """A text, or a pair, as `InputFeatures` without padding."""
    text_a, text_b = text if isinstance(text, (tuple, list)) and len(
        text) == 2 else (text, None)
    for part in (text_a,) if text_b is None else (text_a, text_b):
      if not isinstance(part, six.string_types):
        raise ValueError(
            "text %d is %s; it must be a str, or a pair (str, str)." % (
                number, type(text).__name__))
    input_ids, segment_ids, _ = input_pipeline.encode_text(
        self._tokenizer, text_a, text_b, self.max_seq_length)
    return input_pipeline.InputFeatures(
        input_ids, [1] * len(input_ids), segment_ids, [])

  def predict_labels(self, texts, threshold=None):
    """Returns the labels of each text.

    Args:
      texts: as for `predict`.
      threshold: float, least probability of a label, or a list of them, one a
        label; default: the trained directory's.

    Returns:
      list, one a text, of lists of (label, probability), most probable first.
    """
    return [result.labels for result in self.describe(
        self.predict(texts), threshold)]

  def describe(self, probabilities, threshold=None):
    """Names what `predict` returned.

    Args:
      probabilities: float32 `[n, num_labels]`.
      threshold: as for `predict_labels`.

    Returns:
      list of `Described(labels, probabilities)`: [(label, probability)] above
      the threshold, most probable first, and {label: probability} of all.
    """
    if threshold is None:
      threshold = self.threshold
    if not len(probabilities):  # pylint: disable=g-explicit-length-test
      return []
    above = multilabel_thresholds.apply_thresholds(probabilities, threshold)
    results = []
    for row, chosen in zip(probabilities, above):
      order = [i for i in np.argsort(-row, kind="mergesort") if chosen[i]]
      results.append(Described(
          [(self.labels[i], float(row[i])) for i in order],
          collections.OrderedDict(zip(self.labels, map(float, row)))))
    return results

  def close(self):
    """Frees the session; calling it twice does no harm."""
    session, self._session = self._session, None
    if session is not None:
      session.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()


Described = collections.namedtuple("Described", ["labels", "probabilities"])


def _check_checkpoint(model_dir, variables):
  """Returns the newest checkpoint, after comparing every shape."""
  checkpoint = trained_directory.latest_checkpoint(model_dir)
  if checkpoint is None:
    raise ValueError("model_dir %s has no checkpoint: training has not got to "
                     "its first one." % model_dir)
  shapes = modeling.read_checkpoint_shapes(checkpoint)
  for var in variables:
    name, shape = var.name[:-2], var.shape.as_list()
    if name not in shapes:
      raise ValueError("checkpoint %s lacks %s, shape %s." % (
          checkpoint, name, shape))
    if list(shapes[name]) != shape:
      raise ValueError(
          "checkpoint %s has %s of shape %s, but %s and %s of the directory "
          "ask for %s." % (
              checkpoint, name, list(shapes[name]),
              trained_directory.BERT_CONFIG_FILE,
              trained_directory.LABELS_FILE, shape))
  return checkpoint


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Model"):
    flags.DEFINE_string("model_dir", None,
                        "--output_dir of a training run.")
    flags.DEFINE_float("threshold", None, "Least probability (0 to 1) of a "
                       "label; default: the model's own.")
    flags.DEFINE_integer("batch_size", 32, "Texts a batch.")
  with command_line.flag_group("Files"):
    flags.DEFINE_string(
        "input_file", None, "Texts to label: lines, .csv, .tsv or .jsonl, "
        "also .gz; - is standard input.")
    flags.DEFINE_enum(
        "input_form", None, list(unlabelled.FORMS),
        "Form of --input_file; default: by its ending, else lines of text.")
    flags.DEFINE_string("text_column", None,
                        "Tables: column of the text; default: text, "
                        "comment_text or sentence.")
    flags.DEFINE_string("text_pair_column", None,
                        "Tables: column of the second text of a pair.")
    flags.DEFINE_string("id_column", None,
                        "Tables: column of the id; default: id.")
    flags.DEFINE_string("delimiter", None, "Tables: between two cells.")
    flags.DEFINE_string(
        "output_file", None, "Where the labels go: .jsonl, or .tsv (id and a "
        "probability a label); default: standard output, as JSON lines.")


def predict_file(predictor, rows, write, threshold):
  """Labels rows (id, text_a, text_b) window by window, in constant memory.

  Args:
    predictor: `SessionPredictor`.
    rows: iterable of (str, str, str or None).
    write: function of (row, `Described`), called in the order of the rows.
    threshold: float or None.
  """
  rows = iter(rows)
  done, start = 0, time.time()
  show = sys.stderr.isatty()
  try:
    for window in iter(lambda: list(itertools.islice(rows, FILE_WINDOW)), []):
      texts = [text_a if text_b is None else (text_a, text_b)
               for _, text_a, text_b in window]
      for row, described in zip(
          window, predictor.describe(predictor.predict(texts), threshold)):
        write(row, described)
      done += len(window)
      if show:
        sys.stderr.write("\r%s texts, %.0f texts/s\033[K" % (
            "{:,}".format(done), done / (time.time() - start)))
  finally:
    # What comes next, maybe an error, has a line of its own.
    if show and done:
      sys.stderr.write("\n")


def json_writer(stream):
  """Returns a `write` for `predict_file` that writes JSON lines."""
  def write(row, described):
    name, text_a, text_b = row
    record = collections.OrderedDict([("id", name), ("text", text_a)])
    if text_b is not None:
      record["text_pair"] = text_b
    record["labels"] = [label for label, _ in described.labels]
    record["probabilities"] = collections.OrderedDict(
        (label, round(value, 6))
        for label, value in described.probabilities.items())
    line = json.dumps(record, ensure_ascii=False) + u"\n"
    stream.write(line.encode("utf-8", "replace"))
  return write


def tsv_writer(stream, labels):
  """Returns a `write` for `predict_file`: a header, then a row a text."""
  text = io.StringIO()
  rows = csv.writer(text, delimiter="\t", lineterminator="\n")

  def write_row(cells):
    rows.writerow(cells)
    stream.write(text.getvalue().encode("utf-8", "replace"))
    text.seek(0)
    text.truncate()

  write_row(["id"] + list(labels))
  return lambda row, described: write_row(
      [row[0]] + ["%.8g" % p for p in described.probabilities.values()])


def print_labels(predictor, text, threshold):
  """Prints one text and its labels for a person."""
  described, = predictor.describe(predictor.predict([text]), threshold)
  lines = [text] + ["  %.3f  %s" % (probability, label)
                    for label, probability in described.labels]
  if not described.labels:
    label, probability = max(described.probabilities.items(),
                             key=lambda item: item[1])
    lines.append("  no label reaches the threshold (nearest: %.3f  %s)" % (
        probability, label))
  sys.stdout.buffer.write("\n".join(lines + [""]).encode("utf-8", "replace"))
  sys.stdout.flush()


def ask(predictor, threshold):
  """Reads texts from the terminal, or a pipe, and prints their labels."""
  is_terminal = sys.stdin.isatty()
  if is_terminal:
    print("A text a line; end with an empty line or Ctrl-D.")
  for number in itertools.count(1):
    if is_terminal:
      sys.stdout.write("> ")
      sys.stdout.flush()
    line = sys.stdin.buffer.readline()
    if is_terminal and not line:
      sys.stdout.write("\n")
    if not line or (is_terminal and not line.strip()):
      return
    try:
      text = line.decode("utf-8")  # as files are, whatever the locale
    except UnicodeDecodeError as error:
      raise ValueError("standard input:%d: byte 0x%02x is not UTF-8." % (
          number, line[error.start]))
    print_labels(predictor, text.rstrip("\r\n"), threshold)


def predict_to_file(predictor, flag_values):
  """`--input_file` to `--output_file` or standard output."""
  path = flag_values.input_file
  form = flag_values.input_form or unlabelled.guess_form(path)
  rows = unlabelled.read_texts(
      "/dev/stdin" if path == "-" else path, form,
      {name: flag_values[name].value for name in TABLE_FLAGS})
  output_file = flag_values.output_file
  if output_file is None:
    predict_file(predictor, rows, json_writer(sys.stdout.buffer),
                 flag_values.threshold)
    return
  temporary = output_file + ".tmp"
  try:
    with open(temporary, "wb") as stream:
      write = (tsv_writer(stream, predictor.labels)
               if output_file.endswith(".tsv") else json_writer(stream))
      predict_file(predictor, rows, write, flag_values.threshold)
  except BaseException:
    if os.path.exists(temporary):
      os.remove(temporary)
    raise
  atomic_files.replace_file(temporary, output_file)


def check_flags(flag_values, texts):
  """Raises ValueError for flags that cannot work."""
  if not flag_values.model_dir:
    raise ValueError("--model_dir must be given.")
  if flag_values.threshold is not None and not 0 <= flag_values.threshold <= 1:
    raise ValueError("--threshold is %s; it must be from 0 to 1." %
                     flag_values.threshold)
  for number, text in enumerate(texts, 1):
    # How Python marks an argument's bytes that are not UTF-8.
    if any("\ud800" <= char <= "\udfff" for char in text):
      raise ValueError("text %d of the command line is not UTF-8." % number)
  path = flag_values.input_file
  if path is None:
    for name in TABLE_FLAGS + ("input_form", "output_file"):
      if flag_values[name].value is not None:
        raise ValueError("--%s needs --input_file." % name)
    return
  if texts:
    raise ValueError("give texts or --input_file, not both.")
  # A pipe that a shell made, `<(zcat x.gz)`, is no regular file.
  if path != "-" and (not os.path.exists(path) or os.path.isdir(path)):
    raise ValueError("--input_file %s: there is no such file." % path)
  if flag_values.output_file is not None:
    check_output_file(flag_values.output_file, path)


def check_output_file(output_file, input_file):
  """Raises ValueError for an --output_file that cannot be written."""
  if not output_file.endswith((".jsonl", ".tsv")):
    raise ValueError("--output_file %s must end in .jsonl or .tsv." %
                     output_file)
  folder = os.path.dirname(os.path.abspath(output_file))
  if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
    raise ValueError("--output_file %s: there is no directory %s that can be "
                     "written to." % (output_file, folder))
  if os.path.isdir(output_file):
    raise ValueError("--output_file %s is a directory." % output_file)
  if os.path.exists(output_file) and os.path.exists(
      input_file) and os.path.samefile(input_file, output_file):
    raise ValueError("--output_file is --input_file %s; name another file." %
                     input_file)


def main(argv):
  texts = argv[1:]
  check_flags(FLAGS, texts)
  with SessionPredictor(FLAGS.model_dir, FLAGS.batch_size) as predictor:
    if FLAGS.input_file:
      predict_to_file(predictor, FLAGS)
    elif texts:
      for text in texts:
        print_labels(predictor, text, FLAGS.threshold)
    else:
      ask(predictor, FLAGS.threshold)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
