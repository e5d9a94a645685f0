# SPDX-License-Identifier: Apache-2.0
"""Reads what a run left in its directory, for the report.

A missing file is None, or not in its dict; a broken one raises `ValueError`.
"""

import array
import collections
import io
import json
import os

import numpy as np

from multilabel.common import atomic_files
from multilabel.features import record_file
from multilabel.storage import event_files


SETTINGS_FILE = "model_settings.json"
LABELS_FILE = "labels.txt"
BEST_CHECKPOINT_FILE = "best_checkpoint.json"

_MOST_SHOWN = 200  # characters of a text

# Parts of the data that have predictions: name, predictions, results.
PART_FILES = (("test", "test_predictions.jsonl", "test_eval_results.txt"),
              ("dev", "eval_predictions.jsonl", "eval_results.txt"))

RunFiles = collections.namedtuple("RunFiles", [
    "path",         # str, the directory
    "settings",     # dict, {} without model_settings.json
    "labels",       # list of str, the order of the columns; None if unknown
    "predictions",  # {part: Predictions}
    "results",      # {part: {key: str}}
    "best",         # dict, content of best_checkpoint.json; None without
    "scalars",      # events.Scalars
    "lengths"])     # {part: Lengths}

# tokens: int64 [records]; manifest: dict, counts of texts.
Lengths = collections.namedtuple("Lengths", ["tokens", "manifest"])


class Predictions(collections.namedtuple(
    "Predictions", ["ids", "texts", "labels", "true", "decided",
                    "probabilities", "num_unlabelled"])):
  """The texts of one split whose true labels are known.

  Attributes:
    ids: list of N str.
    texts: list of N str.
    labels: list of L str, the order of the columns.
    true: bool [N, L].
    decided: bool [N, L], the labels predicted by the run.
    probabilities: float32 [N, L].
    num_unlabelled: int, further texts whose true labels are not known.
  """

  __slots__ = ()


def read(folder):
  """Reads a run's directory.

  Args:
    folder: str, `--output_dir` of a run.

  Returns:
    `RunFiles`.

  Raises:
    ValueError: it is not a directory, has no files of a run, or a broken one.
  """
  if not os.path.isdir(folder):
    raise ValueError("%s is not a directory; name the --output_dir of a run." %
                     folder)
  settings = _read_json(os.path.join(folder, SETTINGS_FILE))
  labels = _read_labels(os.path.join(folder, LABELS_FILE))
  predictions, results = collections.OrderedDict(), collections.OrderedDict()
  for part, predictions_file, results_file in PART_FILES:
    path = os.path.join(folder, predictions_file)
    if os.path.isfile(path):
      predictions[part] = read_predictions(path, labels)
      labels = predictions[part].labels
    path = os.path.join(folder, results_file)
    if os.path.isfile(path):
      results[part] = read_results(path)
  if settings is None and not predictions and not results:
    raise ValueError(
        "%s has no %s, no predictions and no results; name the --output_dir of "
        "a run of run_multilabel_classifier.py." % (folder, SETTINGS_FILE))
  return RunFiles(
      folder, settings or {}, labels, predictions, results,
      _read_json(os.path.join(folder, BEST_CHECKPOINT_FILE)),
      _read_scalars(folder),
      _read_lengths(folder))


def _read_scalars(folder):
  """Loss and learning rate of the event files, older ones included."""
  scalars = event_files.read_scalars(
      folder, ("loss", "learning_rate", "step/learning_rate"))
  if "step/learning_rate" in scalars.values:
    scalars.values["learning_rate"] = scalars.values.pop("step/learning_rate")
  return scalars


def _read_json(path):
  return atomic_files.read_json(path) if os.path.isfile(path) else None


def _read_labels(path):
  """Returns the lines of labels.txt, or None without it."""
  if not os.path.isfile(path):
    return None
  with io.open(path, encoding="utf-8", newline="\n") as reader:
    labels = reader.read().split("\n")
  if labels[-1] == "":
    labels.pop()
  if not labels or len(set(labels)) != len(labels):
    raise ValueError(
        "%s must hold one label per line without duplicates." % path)
  return labels


def read_results(path):
  """Reads `key = value` lines: OrderedDict of str."""
  results = collections.OrderedDict()
  with io.open(path, encoding="utf-8", newline="\n") as reader:
    for number, line in enumerate(reader, 1):
      # A label may contain " = ", its number does not.
      is_of_label = line.startswith(("f1/", "threshold/"))
      parts = (line.rstrip("\n").rsplit(" = ", 1) if is_of_label else
               line.rstrip("\n").split(" = ", 1))
      if len(parts) != 2:
        raise ValueError("%s:%d: the line must have the form key = value." % (
            path, number))
      results[parts[0]] = parts[1]
  return results


def read_predictions(path, labels=None):
  """Reads a file of predictions, a JSON object per line.

  Args:
    path: str.
    labels: list of str, the order of the columns; None: as in the first line.

  Returns:
    `Predictions`.

  Raises:
    ValueError: a line is not such an object or has other labels; names its
      number.
  """
  reader = _PredictionReader(labels)
  with io.open(path, "rb") as lines:
    for number, line in enumerate(lines, 1):
      try:
        reader.add(json.loads(line.decode("utf-8")))
      except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("%s:%d: %s." % (
            path, number, _describe(error, reader.labels)))
  try:
    return reader.result()
  except ValueError as error:
    raise ValueError("%s: %s." % (path, error))


def _describe(error, labels):
  """Says what is wrong with a line of predictions."""
  if isinstance(error, KeyError):
    key = error.args[0]
    if labels is not None and key not in ("labels", "probabilities"):
      known = key in set(labels)
      return "%s %s" % (json.dumps(key, ensure_ascii=False),
                        "has no probability" if known else
                        "is not a label of the run")
    return "there is no key %s" % json.dumps(key)
  if isinstance(error, (TypeError, AttributeError)):
    return "not a valid prediction (%s)" % error
  return " ".join(str(error).split()).rstrip(".")


class _PredictionReader(object):
  """Collects lines in compact arrays, so that large files fit in memory."""

  def __init__(self, labels):
    self.labels = None
    self._columns = None
    if labels is not None:
      self._set_labels(labels)
    self._ids, self._texts = [], []
    self._probabilities = array.array("f")
    # Places of the ones in a [N, L] array.
    self._true, self._decided = array.array("q"), array.array("q")
    self._num_unlabelled = 0

  def _set_labels(self, labels):
    self.labels = list(labels)
    self._columns = {label: i for i, label in enumerate(self.labels)}

  def add(self, record):
    """Adds a line; raises ValueError, KeyError, TypeError, AttributeError."""
    probabilities = record["probabilities"]
    if self.labels is None:
      self._set_labels(probabilities)
    row = [probabilities[label] for label in self.labels]
    if len(probabilities) != len(row):
      raise ValueError("%d probabilities for %d labels" % (
          len(probabilities), len(row)))
    if not all(0 <= value <= 1 for value in row):
      raise ValueError("a probability is not in 0..1")
    true = record.get("true_labels")
    if true is None:
      self._num_unlabelled += 1
      return
    start = len(self._ids) * len(row)
    true = [start + self._columns[label] for label in true]
    decided = [start + self._columns[label] for label in record["labels"]]
    self._probabilities.extend(row)
    self._true.extend(true)
    self._decided.extend(decided)
    self._ids.append(str(record.get("id", "")))
    text = str(record.get("text", ""))
    self._texts.append(text if len(text) <= _MOST_SHOWN else
                       text[:_MOST_SHOWN - 1] + u"\u2026")

  def result(self):
    """Returns `Predictions`."""
    if not self._ids and not self._num_unlabelled:
      raise ValueError("the file is empty")
    shape = len(self._ids), len(self.labels)
    ones = []
    for places in (self._true, self._decided):
      cells = np.zeros(shape, dtype=bool)
      cells.ravel()[np.array(places, dtype=np.int64)] = True
      ones.append(cells)
    probabilities = np.array(self._probabilities, np.float32).reshape(shape)
    return Predictions(self._ids, self._texts, self.labels, ones[0], ones[1],
                       probabilities, self._num_unlabelled)


def _read_lengths(folder):
  """Returns {part: Lengths} of the existing record files."""
  found = collections.OrderedDict()
  for part in ("train", "dev", "test"):
    manifest_file = os.path.join(folder, part + ".tf_record.json")
    index_file = os.path.join(folder, part + ".tf_record.index.npy")
    if not (os.path.isfile(index_file) and os.path.isfile(manifest_file)):
      continue
    try:
      tokens = np.asarray(record_file.load_index(index_file)[1], np.int64)
    except (ValueError, IndexError) as error:
      raise ValueError("%s is broken: %s." % (
          index_file, " ".join(str(error).split()).rstrip(".")))
    if tokens.size:
      found[part] = Lengths(tokens, atomic_files.read_json(manifest_file))
  return found
