# SPDX-License-Identifier: Apache-2.0
"""Chinese from end to end, in one command.

  python3 -m experiments.chinese --data_dir=DIR

takes a data set of JSON lines (train.jsonl, dev.jsonl, test.jsonl, labels.txt),
builds a vocabulary from its training texts, trains a small BERT (2 layers, 128
wide) from random weights with three seeds, and prints its scores on the test
part beside those of the label prior and of TF-IDF over characters.

It shows that characters, vocabulary, training and scores work in Chinese. A
model without pretraining on so few texts is not a rival to TF-IDF; for a good
one, begin with a pretrained encoder (bert_base.txt beside this file).

Run again, it reuses what is there; stopped, it continues. All it makes is in
`experiments_work/chinese`. Needs no more than a Python from 3.7 on: if that one
lacks TensorFlow or scikit-learn, an environment in `.venvs` is made.
"""

import argparse
import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
import time


HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import environment  # pylint: disable=wrong-import-position


SEEDS = 3
VOCAB_SIZE = 4000

BERT_CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 128,
    "initializer_range": 0.1,  # from scratch, small weights learn slowly
    "intermediate_size": 512,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
}

_MEASURES = ("micro_f1", "macro_f1", "macro_average_precision")


class StepFailure(Exception):
  """A step failed; the message is one sentence, `status` the exit status."""

  def __init__(self, message, status):
    super(StepFailure, self).__init__(message)
    self.status = status


def say(text=""):
  print(text, flush=True)


def run_child(python, module, arguments):
  """Runs a module of the repository; it says what it does by itself."""
  say("  python -m %s %s" % (module, " ".join(arguments)))
  process = subprocess.Popen([python, "-m", module] + arguments, cwd=ROOT)
  stopped = None
  while True:
    try:
      status = process.wait()
      break
    except KeyboardInterrupt as stop:
      # Ctrl-C reaches the child by itself; it saves its work before it ends.
      if isinstance(stop, environment.Terminated):
        process.terminate()
      stopped = stopped or stop
  if stopped:
    raise stopped
  if status:
    raise StepFailure(
        "%s failed (its output is above); when that is fixed, run the same "
        "command again." % module, status)


def find_python():
  """The running Python if it has all that is needed, else an environment's."""
  if all(importlib.util.find_spec(name) for name in
         ("tensorflow", "sklearn", "numpy", "absl", "six")):
    return sys.executable
  return environment.ensure("demo")


def prepare(python, data, work_dir):
  """Makes the vocabulary and the model's configuration."""
  bert = os.path.join(work_dir, "bert")
  vocab = os.path.join(bert, "vocab.txt")
  say("Vocabulary:")
  run_child(python, "experiments.build_vocab", [
      "--data_dir=" + data, "--output_file=" + vocab,
      "--vocab_size=%d" % VOCAB_SIZE])
  with io.open(vocab, encoding="utf-8") as reader:
    config = dict(BERT_CONFIG, vocab_size=len(reader.read().splitlines()))
  with io.open(os.path.join(bert, "bert_config.json"), "w") as writer:
    writer.write(json.dumps(config, indent=2, sort_keys=True) + "\n")


def train(python, data, work_dir):
  """Trains with several seeds, and the baselines."""
  bert = os.path.join(work_dir, "bert")
  say("Training, %d seeds:" % SEEDS)
  run_child(python, "experiments.sweep", [
      "--flagfile=" + os.path.join(HERE, "flags.txt"), "--data_dir=" + data,
      "--bert_config_file=" + os.path.join(bert, "bert_config.json"),
      "--vocab_file=" + os.path.join(bert, "vocab.txt"), "--seeds=%d" % SEEDS,
      "--metric=map", "--output_dir=" + os.path.join(work_dir, "runs")])
  say("Baselines:")
  run_child(python, "experiments.baseline_tfidf", [
      "--data_dir=" + data, "--analyzer=char",
      "--output_dir=" + os.path.join(work_dir, "baseline")])


def score_rows(work_dir):
  """The table of scores on test: list of (title, micro-F1, macro-F1, mAP)."""
  rows = []
  with io.open(os.path.join(work_dir, "baseline", "results.json")) as reader:
    baselines = json.load(reader)
  for title, key in (("Label prior", "label_prior"),
                     ("TF-IDF (1 to 3 characters)", "tfidf")):
    for kind, words in (("fixed", "at 0.5"), ("tuned", "tuned on dev")):
      rows.append(["%s, %s" % (title, words)] + [
          "%.3f" % baselines[key][kind][name] for name in _MEASURES])
  with io.open(os.path.join(work_dir, "runs", "results.csv")) as reader:
    found = next(csv.DictReader(reader))
  for suffix, words in (("_at_0.5", "at 0.5"), ("", "tuned on dev")):
    names = ["test_micro_f1" + suffix, "test_macro_f1" + suffix,
             "test_macro_average_precision"]
    rows.append(["BERT from scratch, %s" % words] + [
        "%.3f +- %.3f" % (float(found[name + "_mean"]),
                          float(found[name + "_std"])) for name in names])
  return rows


def main(argv=None):
  parser = argparse.ArgumentParser(
      prog="python3 -m experiments.chinese",
      description="Trains a small BERT from scratch on Chinese texts.")
  parser.add_argument("--data_dir", required=True,
                      help="folder of train.jsonl, dev.jsonl, test.jsonl and "
                      "labels.txt")
  parser.add_argument(
      "--work_dir", default=os.path.join(ROOT, "experiments_work", "chinese"),
      help="folder for all output (default: experiments_work/chinese in the "
           "repository)")
  options = parser.parse_args(argv)
  data = os.path.abspath(options.data_dir)
  work_dir = os.path.abspath(options.work_dir)
  environment.raise_on_sigterm()
  started = time.time()
  try:
    python = find_python()
    prepare(python, data, work_dir)
    train(python, data, work_dir)
    say("\n"
        "Test set, %d seeds, mean +- standard deviation" % SEEDS)
    for row in [["", "micro-F1", "macro-F1", "mAP"]] + score_rows(work_dir):
      say("%-42s  %-16s  %-16s  %s" % tuple(row))
  except (StepFailure, environment.EnvironmentFailure) as error:
    say(str(error))
    return getattr(error, "status", 1)
  except KeyboardInterrupt as stop:
    say("\n"
        "Stopped; run the same command again to resume.")
    return environment.stop_status(stop)
  say("%.0f seconds" % (time.time() - started))
  return 0


if __name__ == "__main__":
  sys.exit(main())
