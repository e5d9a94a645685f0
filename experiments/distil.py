# SPDX-License-Identifier: Apache-2.0
"""Lets a trained model label texts that another, smaller one learns from.

  python -m experiments.distil --teacher_dir=LARGE --unlabelled=texts.txt \
      --data_dir=DATA --output_dir=NEW_DATA
  python run_multilabel_classifier.py --data_dir=NEW_DATA --task_name=jsonl ...

NEW_DATA holds the labelled texts of DATA as they are, and in train the other
texts as well, each --samples times. Each time a label is drawn with the
teacher's probability of it. On average over the draws the cross entropy and its
gradient are those of the probabilities themselves, which is knowledge
distillation at temperature 1 (Hinton et al. 2015, "Distilling the Knowledge in
a Neural Network", section 2) of one sigmoid per label; and training needs to
know nothing of it. More samples mean less noise and longer epochs: divide
--num_train_epochs. --hard takes the teacher's labels, by its thresholds,
instead (self-training).

A calibrated teacher (--calibrate) draws the right number of labels.
"""

import json
import os

from absl import flags
import numpy as np

from multilabel.common import atomic_files
from multilabel.common import command_line
from multilabel.features import input_pipeline
import predict_onnx
import processors
from processors import unlabelled


FLAGS = flags.FLAGS


def define_flags():
  """Defines this program's flags; called where the script starts."""
  with command_line.flag_group("Distillation"):
    flags.DEFINE_string("teacher_dir", None,
        "Trained directory or ONNX export that labels the texts.")
    flags.DEFINE_string("unlabelled", None,
        "File of texts: one text per line, JSON lines, or a table with a "
        "column `text`.")
    flags.DEFINE_string("data_dir", None, "Labelled data with the same labels.")
    flags.DEFINE_string("task_name", "jsonl",
        "Format of the labelled data: %s." %
                        ", ".join(sorted(processors.PROCESSORS)))
    flags.DEFINE_string("output_dir", None, "New folder for the created data.")
    flags.DEFINE_integer("samples", 1,
        "Number of times labels are sampled for each text.")
    flags.DEFINE_bool("hard", False,
        "Use the labels that the teacher predicts instead of sampling them.")
    flags.DEFINE_integer("batch_size", 32, "Texts per batch.")
    flags.DEFINE_integer("random_seed", 12345, "Seed of the sampling.")


def draw(probabilities, samples, rng):
  """Draws labels: bool `[samples, n, num_labels]` of `[n, num_labels]`."""
  return rng.uniform(size=(samples,) + probabilities.shape) < probabilities


def labelled_rows(examples):
  """Yields the JSON object of each example."""
  for example in examples:
    yield _row(example.guid, example.text_a, example.text_b, example.labels)


def teacher_rows(predictor, texts, samples, rng, is_hard=False):
  """Yields the JSON objects of texts that a teacher labels.

  Args:
    predictor: `predict_session.SessionPredictor`, or one like it.
    texts: iterable of (id, text_a, text_b or None).
    samples: int, objects per text; with `is_hard` one.
    rng: `np.random.RandomState`.
    is_hard: bool, whether the predictor's decision rule gives the labels.
  """
  window = []

  def finish():
    probabilities = predictor.predict([
        text_a if text_b is None else (text_a, text_b)
        for _, text_a, text_b in window])
    found = (predictor.decision.apply(probabilities)[np.newaxis] if is_hard else
             draw(probabilities, samples, rng))
    for number, chosen in enumerate(found):
      for (name, text_a, text_b), row in zip(window, chosen):
        yield _row("teacher-%s-%d" % (name, number), text_a, text_b, [
            predictor.labels[i] for i in np.flatnonzero(row)])

  for text in texts:
    window.append(text)
    if len(window) == input_pipeline.PREDICT_WINDOW:
      for row in finish():
        yield row
      del window[:]
  if window:
    for row in finish():
      yield row


def _row(name, text_a, text_b, labels):
  row = {"id": str(name), "text": text_a}
  if text_b is not None:
    row["text_pair"] = text_b
  if labels is not None:
    row["labels"] = list(labels)
  return row


def write_rows(path, *parts):
  """Writes iterables of rows as JSON lines; returns the number of each."""
  counts = []
  with atomic_files.replacing(path, text=True) as writer:
    for rows in parts:
      counts.append(0)
      for row in rows:
        writer.write(json.dumps(row, ensure_ascii=False) + u"\n")
        counts[-1] += 1
  return counts


def check_flags():
  """Raises ValueError for invalid flags."""
  for name in ("teacher_dir", "unlabelled", "data_dir", "output_dir"):
    if not FLAGS[name].value:
      raise ValueError("--%s must be given." % name)
  for name in ("samples", "batch_size"):
    if FLAGS[name].value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          name, FLAGS[name].value))
  if FLAGS.hard and FLAGS.samples != 1:
    raise ValueError(
        "--samples and --hard exclude each other; use only one of them.")
  if not 0 <= FLAGS.random_seed < 2 ** 31:
    raise ValueError("--random_seed is %d; it must be from 0 to 2^31 - 1." %
                     FLAGS.random_seed)
  if os.path.lexists(FLAGS.output_dir) and (
      not os.path.isdir(FLAGS.output_dir) or os.listdir(FLAGS.output_dir)):
    raise ValueError("--output_dir %s exists and is not an empty folder; name "
                     "another." % FLAGS.output_dir)


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; flags begin with --." %
                     argv[1])
  check_flags()
  processor = processors.create_processor(task_name=FLAGS.task_name)
  labels = processors.get_labels(processor, FLAGS.data_dir)
  train = list(processor.get_train_examples(FLAGS.data_dir))
  with predict_onnx.open_predictor(FLAGS.teacher_dir,
                                   FLAGS.batch_size) as predictor:
    if sorted(labels) != sorted(predictor.labels):
      raise ValueError(
          "--data_dir %s has different labels from the teacher %s." % (
          FLAGS.data_dir, FLAGS.teacher_dir))
    if not os.path.isdir(FLAGS.output_dir):
      os.makedirs(FLAGS.output_dir)
    num_labelled, num_drawn = write_rows(
        os.path.join(FLAGS.output_dir, "train.jsonl"), labelled_rows(train),
        teacher_rows(predictor, unlabelled.read_texts(FLAGS.unlabelled),
                     FLAGS.samples, np.random.RandomState(FLAGS.random_seed),
                     FLAGS.hard))
    for name, examples in (
        ("dev", processor.get_dev_examples(FLAGS.data_dir)),
        ("test", processor.get_test_examples(FLAGS.data_dir))):
      write_rows(os.path.join(FLAGS.output_dir, name + ".jsonl"),
                 labelled_rows(examples))
    # Last: a folder without it is not complete.
    atomic_files.write_text(os.path.join(FLAGS.output_dir, "labels.txt"),
                            "".join(name + "\n" for name in predictor.labels))
  print("%s: train has %d labelled texts and %d from the teacher" % (
      FLAGS.output_dir, num_labelled, num_drawn))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
