# SPDX-License-Identifier: Apache-2.0
"""Reads and checks the files of a model other than its weights.

  bert_config.json     the encoder's configuration
  vocab.txt            the WordPiece vocabulary
  labels.txt           one label per line, the order of the probabilities
  model_settings.json  how texts become ids, the head, thresholds, the run

A trained directory has them, and so does every export for prediction. A changed
file is rejected: model_settings.json has the sha256 of the others and of the
rest of itself. Needs no TensorFlow.
"""

import collections
import json
import os

from multilabel import calibration as calibrations
from multilabel import decisions
from multilabel.common import atomic_files
from multilabel.features import encoding
from multilabel.storage import run_lock
import tokenization


BERT_CONFIG_FILE = "bert_config.json"
VOCAB_FILE = "vocab.txt"
LABELS_FILE = "labels.txt"
# More than the size of any hashed file.
_MAX_BYTES = 1 << 28
# 1 had one threshold and cut every long text at its end; 2 no sha256 of itself.
FORMAT_VERSION = 3
# What has a calibration, or labels chosen by text, says so to programs that
# know of none.
CALIBRATED_VERSION = 4
BY_TEXT_VERSION = 5

# Keys missing in version 1, and their implicit values.
VERSION_1 = {"threshold_kind": "fixed", "top_k": None,
              "always_one_label": False, "long_text": "truncate_head",
              "stride": 0, "window_pooling": "max"}

THRESHOLD_KINDS = ("fixed",) + decisions.TUNED_THRESHOLDS

# Keys of model_settings.json that hold the sha256 of the files beside it.
HASHED_FILES = (("bert_config_sha256", BERT_CONFIG_FILE),
                 ("labels_sha256", LABELS_FILE),
                 ("vocab_sha256", VOCAB_FILE))

# Keys of a configuration that limit the ids of the model.
EncoderSizes = collections.namedtuple("EncoderSizes", [
    "vocab_size", "type_vocab_size", "max_position_embeddings"])


class ModelFiles(collections.namedtuple(
    "ModelFiles", ["path", "bert_config", "vocab_file", "labels",
                   "settings"])):
  """What `read` returns; `settings` is the content of model_settings.json."""

  __slots__ = ()

  @property
  def decision(self):
    """`decisions.DecisionRule`: from probabilities to labels."""
    return decisions.DecisionRule(
        self.settings["threshold"], self.settings["top_k"],
        self.settings["always_one_label"])

  @property
  def calibration(self):
    """`calibration.Calibration` of the logits, or None."""
    return calibrations.from_json(self.settings.get("calibration"),
                                  len(self.labels))

  @property
  def long_text(self):
    """`encoding.LongText`."""
    return encoding.LongText(*[self.settings[key] for key in (
        "long_text", "stride", "window_pooling")])


def read_sizes(path):
  """`EncoderSizes` of a bert_config.json whose sha256 has been checked."""
  content = atomic_files.read_json(path)
  sizes = EncoderSizes(*[content.get(key) for key in EncoderSizes._fields])
  for key, value in sizes._asdict().items():
    if not is_of(value, int) or value < 1:
      raise ValueError("%s: %s is %s; it must be a positive integer." % (
          path, key, json.dumps(value)))
  return sizes


def read(folder, hint, read_config=read_sizes):
  """Reads a folder.

  Args:
    folder: str.
    hint: str, a question: what the folder might be instead.
    read_config: function of the path of bert_config.json; what it returns has
      the attributes of `EncoderSizes`.

  Returns:
    `ModelFiles`.

  Raises:
    ValueError: the folder or one of its files is missing or broken, or they
      do not fit each other.
  """
  if not os.path.isdir(folder):
    raise ValueError("model_dir %s is not a directory." % folder)
  for name in (run_lock.SETTINGS_FILE, BERT_CONFIG_FILE, VOCAB_FILE,
               LABELS_FILE):
    if not os.path.isfile(os.path.join(folder, name)):
      raise ValueError("model_dir %s has no %s; %s" % (folder, name, hint))
  settings = read_settings(os.path.join(folder, run_lock.SETTINGS_FILE))
  labels = read_labels(os.path.join(folder, LABELS_FILE))
  if len(labels) != settings["num_labels"]:
    raise ValueError("%s has %d labels, but %s says %s." % (
        os.path.join(folder, LABELS_FILE), len(labels), run_lock.SETTINGS_FILE,
        settings["num_labels"]))
  for key, name in HASHED_FILES:
    path = os.path.join(folder, name)
    # A symbolic link is as good as its target.
    if os.path.getsize(path) > _MAX_BYTES or (
        atomic_files.file_sha256(path) != settings[key]):
      raise ValueError(
          "%s%s is not the file used in training (its sha256 differs from the "
          "one in %s); restore it." % (
              path, ", a symbolic link to %s," % os.path.realpath(path)
              if os.path.islink(path) else "", run_lock.SETTINGS_FILE))
  vocab_file = os.path.join(folder, VOCAB_FILE)
  bert_config = read_config(os.path.join(folder, BERT_CONFIG_FILE))
  if not 3 <= settings["max_seq_length"] <= bert_config.max_position_embeddings:
    raise ValueError("%s: max_seq_length is %d; it must be from 3 to %d, the "
                     "max_position_embeddings of %s." % (
                         os.path.join(folder, run_lock.SETTINGS_FILE),
                         settings["max_seq_length"],
                         bert_config.max_position_embeddings,
                         BERT_CONFIG_FILE))
  tokenization.validate_vocab(vocab_file, bert_config.vocab_size)
  return ModelFiles(folder, bert_config, vocab_file, labels, settings)


def read_settings(path):
  """Reads and checks model_settings.json."""
  settings = atomic_files.read_json(path)
  version = settings.get("format_version")
  if is_of(version, int) and version > BY_TEXT_VERSION:
    raise ValueError("%s has format %d, written by a newer version of this "
                     "program (this one reads up to %d)." % (
                         path, version, BY_TEXT_VERSION))
  try:
    settings = atomic_files.read_sealed(
        path, is_of(version, int) and version >= FORMAT_VERSION)
  except ValueError as error:
    raise ValueError("%s; restore the original file. Change thresholds with "
                     "--threshold, not in the file." % error)
  if version == 1:
    settings = dict(VERSION_1, **settings)
  for key, value in (("fingerprint", None), ("earlier_runs", []),
                     ("weights_dtype", "float32")):
    settings.setdefault(key, value)
  expected = {"do_lower_case": bool, "max_seq_length": int, "pooling": str,
              "loss": str, "num_labels": int, "vocab_sha256": str,
              "labels_sha256": str, "bert_config_sha256": str,
              "threshold": (int, float, list, str), "format_version": int,
              "threshold_kind": str, "top_k": (int, type(None)),
              "always_one_label": bool, "long_text": str, "stride": int,
              "window_pooling": str, "fingerprint": (str, type(None)),
              "earlier_runs": list, "weights_dtype": str}
  for key in sorted(expected):
    if key not in settings or not is_of(settings[key], expected[key]):
      raise ValueError("%s: %s is %s; it is missing or has the wrong type." % (
          path, key, json.dumps(settings.get(key))))
  try:
    _check_decision(settings)
    calibrations.from_json(settings.get("calibration"),
                           settings["num_labels"])
    encoding.make_long_text(
        settings["long_text"], settings["stride"], settings["window_pooling"],
        settings["max_seq_length"])
  except ValueError as error:
    raise ValueError("%s: %s" % (path, error))
  return settings


def is_of(value, types):
  """`isinstance`, but True and False are not numbers."""
  types = types if isinstance(types, tuple) else (types,)
  return isinstance(value, types) and (
      bool in types or not isinstance(value, bool))


def _check_decision(settings):
  """Raises ValueError for invalid thresholds."""
  threshold = settings["threshold"]
  values = threshold if isinstance(threshold, list) else [threshold]
  if isinstance(threshold, list) and len(values) != settings["num_labels"]:
    raise ValueError("threshold has %d numbers for %d labels." % (
        len(values), settings["num_labels"]))
  for value in values:
    if threshold != decisions.EXPECTED_F1 and not (
        is_of(value, (int, float)) and 0 <= value <= 1):
      raise ValueError("threshold is %s; it must be from 0 to 1." %
                       json.dumps(value))
  if settings["threshold_kind"] not in THRESHOLD_KINDS:
    raise ValueError("threshold_kind is %s; it must be one of %s." % (
        settings["threshold_kind"], ", ".join(THRESHOLD_KINDS)))
  if settings["top_k"] is not None and settings["top_k"] < 1:
    raise ValueError("top_k is %d; it must be 1 or more." % settings["top_k"])


def read_labels(path):
  """Reads labels.txt of a trained directory: list of str."""
  try:
    with atomic_files.open_regular(path) as reader:
      lines = reader.read().decode("utf-8").split("\n")
  except UnicodeDecodeError as error:
    raise ValueError("%s is not UTF-8: %s." % (path, error))
  labels = lines[:-1] if lines[-1] == "" else lines
  if not labels or "" in labels or len(set(labels)) != len(labels):
    raise ValueError(
        "%s must hold one label per line, none empty and no duplicates." % path)
  return labels
