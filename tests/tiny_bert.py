# SPDX-License-Identifier: Apache-2.0
"""A tiny random BERT, small data it can learn, and ways to run the program.

Shared by the tests; holds none itself.

  bert = tiny_bert.make_bert(folder)
  data = tiny_bert.make_data(folder)
  status, stderr = tiny_bert.train(bert, data, output_dir, num_train_epochs=2)

`train` starts a process; `call` runs a script's `main` in this one, which
saves the seconds that TensorFlow takes to be imported.
"""

import contextlib
import glob
import io
import json
import logging as python_logging
import os
import random
import subprocess
import sys

from absl import logging
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from multilabel.common import command_line
from multilabel.training import finetuning
from multilabel.training import loop
from robustness.fuzz import programs
import run_multilabel_classifier


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Each label has words of its own: a text that has one has the label.
WORDS_BY_LABEL = {
    "fruit": ("apple", "pear", "plum"),
    # animals: cat, dog, horse
    u"\u52a8\u7269": (u"\u732b", u"\u72d7", u"\u9a6c"),
    "party time": (u"\U0001f600", u"\U0001f389", u"\U0001f680"),
}
LABELS = ("party time", "fruit", u"\u52a8\u7269")  # not in sorted order
FILLERS = ("the", "a", "is", "of", "and", "un", "##able", "##s", ",", ".", "!",
           u"\u7684", u"\u5f88", "caf", "##e", "we", "see", "one")

CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 16,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
}


def vocabulary():
  """The tokens of vocab.txt, list of str in the order of their ids."""
  words = [word for label in LABELS for word in WORDS_BY_LABEL[label]]
  return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + words + list(FILLERS)


def make_bert(folder, seed=1, **changes):
  """Writes bert_config.json, vocab.txt and bert_model.ckpt.

  Args:
    folder: str or path; made if it is missing.
    seed: int; other seeds, other weights.
    **changes: other values for `CONFIG`; a single layer is built sooner.

  Returns:
    str, the folder.
  """
  folder = str(folder)
  if not os.path.isdir(folder):
    os.makedirs(folder)
  tokens = vocabulary()
  config = dict(CONFIG, vocab_size=len(tokens), **changes)
  write_text(os.path.join(folder, "vocab.txt"),
             u"".join(token + u"\n" for token in tokens))
  write_text(os.path.join(folder, "bert_config.json"), json.dumps(config))
  rng = np.random.RandomState(seed)
  weights = {}
  for name, shape in variable_shapes(len(tokens), config):
    if name.endswith("gamma"):
      value = np.ones(shape)
    elif name.endswith(("beta", "bias")):
      value = np.zeros(shape)
    else:
      # Words that stand out from their positions are quick to learn.
      value = rng.normal(0.0, 0.5 if "/word_" in name else 0.05, shape)
    weights[name] = value.astype(np.float32)
  write_weights(os.path.join(folder, "bert_model.ckpt"), weights)
  return folder


def write_weights(prefix, weights):
  """Writes a checkpoint of {name: numpy array} under a prefix."""
  names = sorted(weights)
  # The operation below a Saver: no variables, which take their time.
  with tf.Graph().as_default(), tf.Session() as session:
    session.run(tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(weights[name]) for name in names]))


def variable_shapes(vocab_size, config=None):
  """[(name, shape)] of a published checkpoint: BERT's, and the LM head's."""
  config = config or CONFIG
  hidden = config["hidden_size"]
  inner = config["intermediate_size"]
  norm = [("LayerNorm/beta", [hidden]), ("LayerNorm/gamma", [hidden])]

  def dense(name, rows, columns):
    return [(name + "/kernel", [rows, columns]), (name + "/bias", [columns])]

  def inside(scope, shapes):
    return [(scope + "/" + name, shape) for name, shape in shapes]

  layer = []
  for name in ("query", "key", "value"):
    layer += dense("attention/self/" + name, hidden, hidden)
  layer += inside("attention/output", dense("dense", hidden, hidden) + norm)
  layer += dense("intermediate/dense", hidden, inner)
  layer += inside("output", dense("dense", inner, hidden) + norm)
  shapes = inside("embeddings", [
      ("word_embeddings", [vocab_size, hidden]),
      ("token_type_embeddings", [config["type_vocab_size"], hidden]),
      ("position_embeddings", [config["max_position_embeddings"], hidden])
  ] + norm)
  for number in range(config["num_hidden_layers"]):
    shapes += inside("encoder/layer_%d" % number, layer)
  shapes += dense("pooler/dense", hidden, hidden)
  return inside("bert", shapes) + [("cls/predictions/output_bias",
                                    [vocab_size])]


def make_data(folder, sizes=(120, 30, 20), seed=2):
  """Writes train.jsonl, dev.jsonl, test.jsonl and labels.txt.

  Args:
    folder: str or path; made if it is missing.
    sizes: how many texts in train, dev and test.
    seed: int; other seeds, other texts.

  Returns:
    str, the folder. The test file has no labels; `make_rows` can make them.
  """
  folder = str(folder)
  if not os.path.isdir(folder):
    os.makedirs(folder)
  for number, (part, size) in enumerate(zip(("train", "dev", "test"), sizes)):
    rows = make_rows(size, seed + 1000 * number, part)
    if part == "test":
      for row in rows:
        del row["labels"]
    write_jsonl(os.path.join(folder, part + ".jsonl"), rows)
  write_text(os.path.join(folder, "labels.txt"),
             u"".join(label + u"\n" for label in LABELS))
  return folder


def make_rows(size, seed, part="train"):
  """Texts of 1 to 20 words whose words tell their labels: list of dict."""
  rng = random.Random(seed)
  plain = [word for word in FILLERS if not word.startswith("##")]
  rows = []
  for number in range(size):
    labels = [label for label in LABELS if rng.random() < 0.4]
    words = [rng.choice(WORDS_BY_LABEL[label]) for label in labels
             for _ in range(rng.randint(1, 3))]
    words += [rng.choice(plain) for _ in range(rng.randint(1, 11))]
    rng.shuffle(words)
    rows.append({"id": "%s-%d" % (part, number), "text": u" ".join(words),
                 "labels": labels})
  return rows


def write_jsonl(path, rows):
  write_text(path, u"".join(
      json.dumps(row, ensure_ascii=False) + u"\n" for row in rows))


def write_text(path, text):
  with io.open(str(path), "w", encoding="utf-8", newline="\n") as writer:
    writer.write(text)


def read_text(path):
  with io.open(str(path), encoding="utf-8", newline="") as reader:
    return reader.read()


def arguments(bert, data, output_dir, **settings):
  """The command line of a short run; with 12 epochs it learns the data well.

  No report is written, which would take longer than the run.

  Args:
    bert: str, folder of `make_bert`.
    data: str, folder of `make_data`.
    output_dir: str.
    **settings: other flags by name; True, False, or a value; None leaves a
      flag out.

  Returns:
    list of str.
  """
  chosen = {
      "task_name": "jsonl",
      "data_dir": data,
      "bert_config_file": os.path.join(str(bert), "bert_config.json"),
      "vocab_file": os.path.join(str(bert), "vocab.txt"),
      "init_checkpoint": os.path.join(str(bert), "bert_model.ckpt"),
      "output_dir": output_dir,
      "do_train": True,
      "max_seq_length": 32,
      "train_batch_size": 8,
      "learning_rate": 0.015,
      "num_train_epochs": 2,
      "pooling": "mean",
      "log_steps": 1000,
      "report": False,
  }
  chosen.update(settings)
  return flag_list(chosen)


def flag_list(settings):
  """["--name=value", "--name", "--noname"] of a dict; None is left out."""
  line = []
  for name in sorted(settings):
    value = settings[name]
    if value is None:
      continue
    if isinstance(value, bool):
      line.append("--%s%s" % ("" if value else "no", name))
    else:
      line.append("--%s=%s" % (name, value))
  return line


def train(bert, data, output_dir, **settings):
  """Runs the program in a process of its own: (exit status, stderr)."""
  status, _, stderr = run_script(
      "run_multilabel_classifier.py",
      arguments(bert, data, output_dir, **settings))
  return status, stderr


def start_script(script, script_arguments, **options):
  """Starts a script of the repository: `subprocess.Popen` with pipes."""
  return subprocess.Popen(
      [sys.executable, os.path.join(ROOT, script)] + list(script_arguments),
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      **options)


def run_script(script, script_arguments, **options):
  """Runs a script of the repository: (exit status, stdout, stderr)."""
  process = start_script(script, script_arguments, **options)
  stdout, stderr = process.communicate(timeout=300)
  return (process.returncode, stdout.decode("utf-8"), stderr.decode("utf-8"))


def call(module, script_arguments):
  """Runs a script's `main` in this process.

  The flags are defined in a `FlagValues` of their own, and TensorFlow's mode
  is left as it is, so nothing of it stays behind.

  Args:
    module: module with `main`, `define_flags` and `FLAGS`.
    script_arguments: list of str.

  Returns:
    (exit status, stdout, stderr, log): what the process would end with and
    print, and the lines it would log.
  """
  values, replaced = programs.own_flags()
  log = _Lines()
  # A script may take another one's flags as well.
  others = [
      other for other in list(sys.modules.values()) if other is not module
      and {"define_flags", "flags"} <= set(getattr(other, "__dict__", ()))]
  changes = [(target, name, value)
             for target in [module, command_line] + others
             for name, value in (("FLAGS", values), ("flags", replaced))
             if hasattr(target, name)]
  changes += [
      (command_line, "_FLAG_GROUPS", []),
      (command_line, "_set_up_logging", lambda: None),
      (tf, "disable_v2_behavior", lambda: None),
      (sys, "argv", [module.__name__.rpartition(".")[2] + ".py"] +
       list(script_arguments)),
      (sys, "stdout", io.StringIO()), (sys, "stderr", io.StringIO())]
  before = [(target, name, getattr(target, name))
            for target, name, _ in changes]
  verbosity = logging.get_verbosity()
  logger = python_logging.getLogger("absl")
  propagate = logger.propagate
  noisy = python_logging.getLogger("tensorflow")
  noise = noisy.level
  logger.addHandler(log)
  logger.propagate = False
  noisy.setLevel(python_logging.ERROR)
  try:
    logging.set_verbosity(logging.INFO)
    for target, name, value in changes:
      setattr(target, name, value)
    try:
      command_line.run(module.main, module.define_flags, module.__doc__)
      status = 0
    except SystemExit as stop:
      status = stop.code
    return status, sys.stdout.getvalue(), sys.stderr.getvalue(), log.lines
  finally:
    for target, name, value in before:
      setattr(target, name, value)
    logging.set_verbosity(verbosity)
    logger.removeHandler(log)
    logger.propagate = propagate
    noisy.setLevel(noise)


def prepare(script_arguments):
  """`call` of the run script that ends well before it builds a graph."""
  def end(unused_self):
    sys.exit(0)

  start = finetuning.Finetuning.start
  finetuning.Finetuning.start = end
  try:
    return call(run_multilabel_classifier, script_arguments)
  finally:
    finetuning.Finetuning.start = start


@contextlib.contextmanager
def ended_before(step):
  """Lets each run in this process fail before it makes a step."""
  make_step = loop._Loop.make_step

  def make_or_fail(self, number):
    if number == step:
      raise RuntimeError("ended before step %d" % step)
    return make_step(self, number)

  loop._Loop.make_step = make_or_fail
  try:
    yield
  finally:
    loop._Loop.make_step = make_step


def check_goes_on_to_equal_bits(start, folder, step=5):
  """A run that ends before a step and one that does not end with equal bits.

  Args:
    start: function of an output_dir that runs the program: its exit status.
    folder: path, for both directories.
    step: int.

  Returns:
    {name: numpy array} of the last checkpoint.
  """
  assert start(folder / "whole") == 0
  with ended_before(step):
    assert start(folder / "ended") == 1
  left = tf.train.latest_checkpoint(str(folder / "ended"))
  assert left is not None and int(left.rpartition("-")[2]) < step
  assert start(folder / "ended") == 0
  expected, found = [read_weights(tf.train.latest_checkpoint(
      str(folder / name))) for name in ("whole", "ended")]
  assert set(found) == set(expected)
  for name, value in expected.items():
    assert found[name].tobytes() == value.tobytes(), name
  return expected


class _Lines(python_logging.Handler):
  """Keeps the lines of a log."""

  def __init__(self):
    super(_Lines, self).__init__()
    self.lines = []

  def emit(self, record):
    self.lines.append(record.getMessage())


def error_of(function, *args, **kwargs):
  """The message of the ValueError that must come, one line."""
  with pytest.raises(ValueError) as raised:
    function(*args, **kwargs)
  message = str(raised.value)
  assert message and "\n" not in message
  return message


def event_points(folder):
  """{tag: [(step, value)]} of the event files as TensorBoard shows them."""
  found = {}
  for path in sorted(glob.glob(os.path.join(str(folder), "events.*"))):
    try:
      for event in tf.train.summary_iterator(path):
        if event.session_log.status == tf.SessionLog.START:
          for tag in found:
            found[tag] = [point for point in found[tag]
                          if point[0] < event.step]
        for value in event.summary.value:
          found.setdefault(value.tag, []).append((
              event.step, value.simple_value if value.HasField("simple_value")
              else tf.make_ndarray(value.tensor).tolist()))
    except tf.errors.DataLossError:
      pass  # a writer that was killed, or still holds something back
  return found


def read_weights(checkpoint):
  """{name: numpy array} of every tensor of a checkpoint."""
  reader = tf.train.load_checkpoint(str(checkpoint))
  return {name: reader.get_tensor(name)
          for name in reader.get_variable_to_shape_map()}
