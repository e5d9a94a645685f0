# SPDX-License-Identifier: Apache-2.0
"""Measures the effect of storing weights in fewer bits, on labelled examples.

The examples are the dev examples stored by the run, or from a file. The scores
are those of the trained directory's decision rule.
"""

import collections
import os

import numpy as np

from multilabel import metrics
from multilabel.features import encoding
from multilabel.features import record_shards
from processors import jsonl
import tokenization

_DEV_RECORDS = "dev.tf_record"

# Examples held in memory at a time during prediction.
_EXAMPLES_HELD = 1024

# weights_dtype: str; max_f1_loss: float, maximum drop of micro-F1;
# calibration_file: str, JSON lines with `text` and `labels`, or None.
Options = collections.namedtuple("Options", [
    "weights_dtype", "max_f1_loss", "calibration_file"])

# encoded: list, one per text, of lists of `InputFeatures`; labels: float32
# `[texts, num_labels]`; source: str, where they come from.
Examples = collections.namedtuple("Examples", ["encoded", "labels", "source"])


def read_examples(trained, options):
  """Reads what a change is measured on.

  Args:
    trained: `model_settings.ModelFiles`, of a trained directory.
    options: `Options`.

  Returns:
    `Examples`; None if there are none and none are needed.

  Raises:
    ValueError: they are needed and missing, or broken.
  """
  if options.weights_dtype == "float32":
    return None
  if options.calibration_file is not None:
    return _read_file(trained, options.calibration_file)
  path = os.path.join(trained.path, _DEV_RECORDS)
  if os.path.isfile(path):
    return _read_records(trained, path)
  if options.weights_dtype == "int8":
    raise ValueError(
        "model_dir %s has no stored dev examples (%s), on which the effect of "
        "--weights_dtype=int8 is measured; give labelled texts with "
        "--calibration_file=FILE.jsonl." % (trained.path, _DEV_RECORDS))
  return None


def _read_file(trained, path):
  """`Examples` of JSON lines."""
  if not os.path.isfile(path):
    raise ValueError("--calibration_file %s: there is no such file." % path)
  tokenizer = tokenization.FullTokenizer(
      trained.vocab_file, trained.settings["do_lower_case"])
  numbers = {label: number for number, label in enumerate(trained.labels)}
  encoded, rows = [], []
  processor = jsonl.JsonlProcessor()
  for line, _, text_a, text_b, labels in processor.read_rows(
      path, "dev", os.path.dirname(path)):
    unknown = [label for label in labels if label not in numbers]
    if unknown:
      raise ValueError("%s:%d: the model has no label %s." % (
          path, line, unknown[0]))
    windows, _ = encoding.encode_windows(
        tokenizer, text_a, text_b, trained.settings["max_seq_length"],
        trained.long_text)
    encoded.append([encoding.InputFeatures(ids, [1] * len(ids), segments, [])
                    for ids, segments in windows])
    rows.append([numbers[label] for label in labels])
  if not rows:
    raise ValueError("--calibration_file %s has no examples." % path)
  return Examples(encoded, _label_array(rows, len(numbers)),
                  os.path.basename(path))


def _read_records(trained, path):
  """`Examples` of the records of dev."""
  records = record_shards.open_records(path)
  num_labels = len(trained.labels)
  encoded, rows = [[] for _ in range(records.num_texts)], [[]] * (
      records.num_texts)
  for number, text in enumerate(records.texts):
    features = records.read(number, num_labels)
    encoded[text].append(features)
    rows[text] = features.label_ids
  return Examples(encoded, _label_array(rows, num_labels), "dev")


def _label_array(rows, num_labels):
  labels = np.zeros([len(rows), num_labels], np.float32)
  for number, row in enumerate(rows):
    labels[number, row] = 1
  return labels


def probabilities(model, examples):
  """Predicts examples: float32 `[texts, num_labels]`."""
  return np.concatenate([
      model.predict_encoded(examples.encoded[start:start + _EXAMPLES_HELD])
      for start in range(0, len(examples.encoded), _EXAMPLES_HELD)])


def measure(trained, examples, before, model, options, difference):
  """Measures the effect of another data type of the weights.

  Args:
    trained: `model_settings.ModelFiles`.
    examples: `Examples`, or None.
    before: float32 `[texts, num_labels]`, probabilities of float32 weights.
    model: `Predictor` with the other weights.
    options: `Options`.
    difference: float, the largest known change of a probability.

  Returns:
    dict that JSON can hold: `largest_change` of a probability and, with
    examples, `examples`, `source`, and `micro_f1` and `mean_average_precision`,
    each [before, after].

  Raises:
    ValueError: micro-F1 drops by more than `options.max_f1_loss`.
  """
  if examples is None:
    return {"largest_change": difference}
  after = probabilities(model, examples)
  scores = [metrics.evaluate(
      examples.labels, found, decided=trained.decision.apply(found))
            for found in (before, after)]
  change = {
      "largest_change": max(difference, float(np.abs(after - before).max())),
      "mean_change": float(np.abs(after - before).mean()),
      "examples": len(examples.encoded), "source": examples.source,
      "micro_f1": [score["micro_f1"] for score in scores],
      "mean_average_precision": [
          _or_none(score["macro_average_precision"]) for score in scores]}
  loss = change["micro_f1"][0] - change["micro_f1"][1]
  if not loss <= options.max_f1_loss:
    raise ValueError(
        "with --weights_dtype=%s micro-F1 on %d examples of %s drops by %.4f "
        "(%.4f to %.4f), more than --max_f1_loss %g; nothing was written; use "
        "float16 or float32." % (
            options.weights_dtype, change["examples"], change["source"], loss,
            change["micro_f1"][0], change["micro_f1"][1], options.max_f1_loss))
  return change


def _or_none(value):
  """None for NaN, which JSON does not have."""
  return value if np.isfinite(value) else None
