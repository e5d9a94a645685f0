# SPDX-License-Identifier: Apache-2.0
"""Compares an export with the predictor, in a separate process.

The process is `run_export`, which loads the export as a server does and knows
nothing about the model; requests use Serving's REST format. It is started
before the export exists, since importing TensorFlow takes most of its time.

TensorFlow rounds differently in batches of different shapes: a probability of
BERT-Base moves by 1.5e-6. So the strict comparison runs one text at a time, in
the shape that the predictor uses; for all texts at once, the tolerance is
larger.
"""

import base64
import collections
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.export import signatures
from multilabel.export import warmup_requests
from multilabel.features import feature_rows


# Largest difference of a probability from the predictor's: of one text, and
# of several in a batch.
TOLERANCE = 1e-6
BATCH_TOLERANCE = 1e-5

_TEXTS = (
    u"The quick brown fox jumps over the lazy dog.",
    u"",
    u"Caf\u00e9 \u4e2d\u6587 \u8f93\u5165 \U0001f600 na\u00efve STRASSE",
    u"An e-mail asked for the password; somebody opened it, and lost $1,000!",
    u"\u4f60\u597d\uff0c\u4e16\u754c\u3002",
)

_PROGRAM = """
import importlib, json, sys
importlib.import_module(sys.argv[1]).main(
    json.loads(sys.stdin.buffer.readline().decode("ascii")))
"""

# What the predictor says: of `texts`, and of `rows` of ids (list of
# `InputFeatures`, and each as padded arrays `[1, seq]` in `batches`);
# `of_texts` and `of_rows` are float32 `[texts or rows, num_labels]`.
Expected = collections.namedtuple(
    "Expected", ["texts", "of_texts", "rows", "batches", "of_rows"])


def ask_predictor(predictor, max_position_embeddings):
  """The predictor's results for a few texts, one at a time.

  For a text read in several windows, the first and the last are rows.

  Args:
    predictor: `predict_session.SessionPredictor`.
    max_position_embeddings: int, maximum number of ids of a row.

  Returns:
    `Expected`.
  """
  words = itertools.cycle(_TEXTS[0].split())
  long_text = u" ".join(itertools.islice(words, 2 * predictor.max_seq_length))
  texts = _TEXTS + (long_text,)
  rows = [row for windows in predictor.encode(texts)
          for row in windows[:1] + windows[1:][-1:]]
  return Expected(
      texts, np.concatenate([predictor.predict([text]) for text in texts]),
      rows, [feature_rows.pad_batch([row], max_position_embeddings)
             for row in rows],
      np.concatenate([predictor.predict_features([row]) for row in rows]))


def examples(batch):
  """Serialized `tf.Example`s of arrays `[batch, seq]`: bytes, object array."""
  return np.array([
      tf.train.Example(features=tf.train.Features(feature={
          name: tf.train.Feature(int64_list=tf.train.Int64List(
              value=batch[name][row].tolist()))
          for name in signatures.FEATURES})).SerializeToString()
      for row in range(len(batch["input_ids"]))], object)


class Checker(object):
  """A process that waits for an export and runs it."""

  def __init__(self):
    root = os.path.dirname(os.path.dirname(os.path.dirname(
        os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # Modules come from its working directory first.
    self._process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM,
         __package__ + ".run_export"], cwd=root,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", PYTHONPATH=path))

  def check(self, path, names, labels, decision, expected):
    """Runs every signature, and every warm-up request.

    Args:
      path: str, the folder of saved_model.pb.
      names: list of str, its signatures.
      labels: list of str.
      decision: `decisions.DecisionRule`.
      expected: `Expected`.

    Returns:
      float, the largest difference of a probability from `expected`, of the
      texts and rows that were asked one at a time.

    Raises:
      RuntimeError: it cannot be loaded, fails, or differs.
    """
    asked = [question for name in names for question in _questions(
        name, expected)]
    requests = [question.request for question in asked]
    requests += [_rest_request(*request) for request in warmup_requests.read(
        os.path.join(path, warmup_requests.FOLDER, warmup_requests.FILE_NAME))]
    difference = 0.0
    for question, answer in zip(asked, self._ask(path, requests)):
      found = compare(question.request["signature_name"], answer["outputs"],
                      labels, decision, question.expected, question.tolerance)
      if question.tolerance == TOLERANCE:
        difference = max(difference, found)
    return difference

  def _ask(self, path, requests):
    """The response bodies for request bodies."""
    lines = "".join(json.dumps(line) + "\n"
                    for line in [os.path.abspath(path)] + requests)
    stdout, stderr = self._process.communicate(lines.encode("ascii"))
    if self._process.returncode:
      lines = stderr.decode("utf-8", "replace").strip().splitlines()
      raise RuntimeError(
          "the export cannot be loaded; nothing was written: %s" % (
              lines[-1] if lines else self._process.returncode))
    answers = [json.loads(line)
               for line in stdout.decode("utf-8").splitlines()]
    for request, answer in zip(requests, answers):
      if "error" in answer:
        raise RuntimeError(
            "the export fails at its signature %s; nothing was written: %s" % (
                request["signature_name"], answer["error"][:300]))
    return answers

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    if self._process.returncode is None:
      self._process.kill()
      self._process.communicate()


_Question = collections.namedtuple(
    "_Question", ["request", "expected", "tolerance"])


def _questions(name, expected):
  """The requests to a signature: each text or row alone, then all at once."""
  if name == signatures.TEXT:
    alone = [{"text": np.array([text.encode("utf-8")], object)}
             for text in expected.texts]
    together = {"text": np.concatenate([inputs["text"] for inputs in alone])}
    answers = expected.of_texts
  else:
    alone = [_inputs_of(name, batch) for batch in expected.batches]
    together = _inputs_of(name, feature_rows.make_batch(expected.rows))
    answers = expected.of_rows
  return [_Question(_rest_request(name, inputs), answers[number:number + 1],
                    TOLERANCE)
          for number, inputs in enumerate(alone)] + [
              _Question(_rest_request(name, together), answers,
                        BATCH_TOLERANCE)]


def _inputs_of(name, batch):
  """The inputs of a signature over ids."""
  if name == signatures.CLASSIFY:
    return {"inputs": examples(batch)}
  if name == signatures.IDS_ONLY:
    return {"input_ids": batch["input_ids"]}
  return batch


def _rest_request(name, inputs):
  """A columnar REST request of arrays."""
  return {"signature_name": name, "inputs": {
      key: [{"b64": base64.b64encode(part).decode("ascii")}
            for part in value] if value.dtype == object else value.tolist()
      for key, value in inputs.items()}}


def compare(name, outputs, labels, decision, expected, tolerance):
  """Checks the response of a signature.

  Args:
    name: str, the signature.
    outputs: what a columnar REST answer has under "outputs".
    labels: list of str.
    decision: `decisions.DecisionRule`.
    expected: float32 `[rows, num_labels]`.
    tolerance: float.

  Returns:
    float, the largest difference of a probability.

  Raises:
    RuntimeError: it is wrong.
  """
  scores = outputs
  if name == signatures.CLASSIFY:
    scores = outputs["scores"]
    if any(row != labels for row in outputs["classes"]):
      raise RuntimeError(
          "signature %s returns other labels; nothing was written." % name)
  elif isinstance(outputs, dict):
    scores = outputs["probabilities"]
    _check_named(name, outputs, labels, decision)
  difference = float(np.abs(np.array(scores) - expected).max())
  if not difference <= tolerance:  # also when it is NaN
    raise RuntimeError(
        "signature %s differs from the predictor by %.3g, more than %g; "
        "nothing was written." % (name, difference, tolerance))
  return difference


def _check_named(name, outputs, labels, decision):
  """RuntimeError unless names, scores and decisions fit the probabilities."""
  scores = outputs["probabilities"]
  numbers = {label: number for number, label in enumerate(labels)}
  if any(set(row) != set(labels) for row in outputs["labels"]):
    raise RuntimeError(
        "signature %s returns other labels; nothing was written." % name)
  columns = [[numbers[label] for label in row] for row in outputs["labels"]]
  ordered = [[row[column] for column in order]
             for row, order in zip(scores, columns)]
  if outputs["scores"] != ordered or any(
      row != sorted(row, reverse=True) for row in ordered):
    raise RuntimeError(
        "signature %s sorts its labels wrongly; nothing was written." % name)
  if decision.is_by_text:
    return
  # As float32, which JSON has kept exactly.
  decided = decision.apply(np.array(scores, np.float32)).tolist()
  if outputs["above_threshold"] != [
      [row[column] for column in order]
      for row, order in zip(decided, columns)]:
    raise RuntimeError("signature %s predicts other labels than the predictor; "
                       "nothing was written." % name)
