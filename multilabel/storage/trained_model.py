# SPDX-License-Identifier: Apache-2.0
"""What a trained directory holds, written and read in one place.

Beside TensorFlow's checkpoints (`model.ckpt-<step>`, `checkpoint`):

  bert_config.json     the encoder's configuration
  vocab.txt            the WordPiece vocabulary
  labels.txt           one label a line, the order of the probabilities
  model_settings.json  how texts become ids, the head, thresholds, the run
  best_checkpoint.json the checkpoint that did best on dev, if that was asked

so that prediction and export need the directory and nothing else. A file that
was changed, or is of another run, is refused: model_settings.json holds the
sha256 of the others, of the rest of itself, and the run's fingerprint, which
the checkpoints and best_checkpoint.json hold, too.
"""

import collections
import hashlib
import json
import os

import modeling
from multilabel import calibration as calibrations
from multilabel import decisions
from multilabel.common import atomic_files
from multilabel.features import encoding
from multilabel.storage import checkpoint_files

from multilabel.storage.run_lock import SETTINGS_FILE
import tokenization


BERT_CONFIG_FILE = "bert_config.json"
VOCAB_FILE = "vocab.txt"
LABELS_FILE = "labels.txt"
# 1 had one threshold and cut every long text at its end; 2 no sha256 of itself.
FORMAT_VERSION = 3
# What has a calibration says so to programs that know of none.
CALIBRATED_VERSION = 4

# Settings that make the model what it is: another value is another model.
MODEL_SETTINGS = ("do_lower_case", "max_seq_length", "pooling", "loss",
                  "long_text", "stride", "window_pooling")

# What version 1 left out, and its meaning there.
_VERSION_1 = {"threshold_kind": "fixed", "top_k": None,
              "always_one_label": False, "long_text": "truncate_head",
              "stride": 0, "window_pooling": "max"}

THRESHOLD_KINDS = ("fixed", "tune", "tune_macro", "tune_per_label")

# Stands for the calibration of before.
KEPT = object()

list_checkpoints = checkpoint_files.list_checkpoints

# Keys of model_settings.json that hold the sha256 of the files beside it.
_HASHED_FILES = (("bert_config_sha256", BERT_CONFIG_FILE),
                 ("labels_sha256", LABELS_FILE),
                 ("vocab_sha256", VOCAB_FILE))


class TrainedModel(collections.namedtuple(
    "TrainedModel", ["path", "bert_config", "vocab_file", "labels",
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
  def identity(self):
    """`checkpoint_files.RunIdentity`: which checkpoints belong to it."""
    return checkpoint_files.RunIdentity(self.settings["fingerprint"],
                                        self.settings["earlier_runs"])

  @property
  def long_text(self):
    """`encoding.LongText`."""
    return encoding.LongText(*[self.settings[key] for key in (
        "long_text", "stride", "window_pooling")])


def write(output_dir, bert_config, vocab_file, labels, settings,
          earlier_runs=()):
  """Writes all but the checkpoints; model_settings.json comes last.

  Args:
    output_dir: str, an existing directory.
    bert_config: `modeling.BertConfig`.
    vocab_file: str, path of the vocabulary to copy.
    labels: list of str.
    settings: dict that JSON can hold, with the keys of `MODEL_SETTINGS`; with
      `run`, what decides a run's weights, checkpoints are tied to it.
    earlier_runs: `checkpoint_files.RunIdentity.earlier`.

  Returns:
    `TrainedModel`, as `read` would return it.
  """
  settings = dict(_VERSION_1, **dict({"threshold": 0.5}, **settings))
  _write_if_new(os.path.join(output_dir, BERT_CONFIG_FILE),
                bert_config.to_json_string())
  target = os.path.join(output_dir, VOCAB_FILE)
  if not (os.path.exists(target) and os.path.samefile(vocab_file, target)):
    atomic_files.copy_file(vocab_file, target)
  _write_if_new(os.path.join(output_dir, LABELS_FILE),
                "".join(label + "\n" for label in labels))
  settings.update((key, atomic_files.file_sha256(os.path.join(
      output_dir, name))) for key, name in _HASHED_FILES)
  settings["num_labels"] = len(labels)
  settings["fingerprint"] = _fingerprint(settings)
  settings["earlier_runs"] = [
      part for part in earlier_runs
      if part["fingerprint"] != settings["fingerprint"]]
  settings["format_version"] = _version(settings)
  write_settings(output_dir, settings)
  return TrainedModel(output_dir, bert_config, target, list(labels), settings)


def _write_if_new(path, text):
  """Leaves a file alone that model_settings.json may hold the sha256 of."""
  data = text.encode("utf-8")
  if not os.path.isfile(path) or atomic_files.file_sha256(
      path) != hashlib.sha256(data).hexdigest():
    atomic_files.write_text(path, text)


def _fingerprint(settings):
  """Hex digest of what decides a run's weights; None if that is not told."""
  if settings.get("run") is None:
    return None
  keys = MODEL_SETTINGS + ("num_labels", "run") + tuple(
      key for key, _ in _HASHED_FILES)
  return hashlib.sha256(atomic_files.to_json({
      key: settings[key] for key in keys}).encode("utf-8")).hexdigest()


def _version(settings):
  return CALIBRATED_VERSION if settings.get("calibration") else FORMAT_VERSION


def write_settings(output_dir, settings):
  """Writes model_settings.json, JSON with sorted keys."""
  atomic_files.write_sealed(os.path.join(output_dir, SETTINGS_FILE), settings)


def read(model_dir):
  """Reads a trained directory.

  Args:
    model_dir: str.

  Returns:
    `TrainedModel(path, bert_config, vocab_file, labels, settings)`.

  Raises:
    ValueError: the directory or one of its files is missing or broken, or
      they do not fit each other.
  """
  if not os.path.isdir(model_dir):
    raise ValueError("model_dir %s is not a directory." % model_dir)
  for name in (SETTINGS_FILE, BERT_CONFIG_FILE, VOCAB_FILE, LABELS_FILE):
    if not os.path.isfile(os.path.join(model_dir, name)):
      raise ValueError(
          "model_dir %s has no %s; is it the --output_dir of a training run of "
          "run_multilabel_classifier.py?" % (model_dir, name))
  settings = _read_settings(os.path.join(model_dir, SETTINGS_FILE))
  labels = read_labels(os.path.join(model_dir, LABELS_FILE))
  if len(labels) != settings["num_labels"]:
    raise ValueError("%s has %d labels, but %s says %s." % (
        os.path.join(model_dir, LABELS_FILE), len(labels), SETTINGS_FILE,
        settings["num_labels"]))
  for key, name in _HASHED_FILES:
    if atomic_files.file_sha256(os.path.join(model_dir, name)) != settings[key]:
      raise ValueError(
          "%s is not the file that the model was trained with (its sha256 "
          "differs from the one in %s); bring that one back." % (
              os.path.join(model_dir, name), SETTINGS_FILE))
  vocab_file = os.path.join(model_dir, VOCAB_FILE)
  bert_config = modeling.BertConfig.from_json_file(
      os.path.join(model_dir, BERT_CONFIG_FILE))
  if not 3 <= settings["max_seq_length"] <= bert_config.max_position_embeddings:
    raise ValueError("%s: max_seq_length is %d; it must be from 3 to %d, the "
                     "max_position_embeddings of %s." % (
                         os.path.join(model_dir, SETTINGS_FILE),
                         settings["max_seq_length"],
                         bert_config.max_position_embeddings,
                         BERT_CONFIG_FILE))
  tokenization.validate_vocab(vocab_file, bert_config.vocab_size)
  return TrainedModel(model_dir, bert_config, vocab_file, labels, settings)


def _read_settings(path):
  """Reads and checks model_settings.json."""
  settings = atomic_files.read_json(path)
  version = settings.get("format_version")
  if _is(version, int) and version > CALIBRATED_VERSION:
    raise ValueError("%s is of format %d, written by a newer version of this "
                     "program (this one reads up to %d)." % (
                         path, version, CALIBRATED_VERSION))
  try:
    settings = atomic_files.read_sealed(
        path, version in (FORMAT_VERSION, CALIBRATED_VERSION))
  except ValueError as error:
    raise ValueError("%s; bring back what was written. Thresholds are changed "
                     "by --threshold, not in the file." % error)
  if version == 1:
    settings = dict(_VERSION_1, **settings)
  for key, value in (("fingerprint", None), ("earlier_runs", [])):
    settings.setdefault(key, value)
  expected = {"do_lower_case": bool, "max_seq_length": int, "pooling": str,
              "loss": str, "num_labels": int, "vocab_sha256": str,
              "labels_sha256": str, "bert_config_sha256": str,
              "threshold": (int, float, list), "format_version": int,
              "threshold_kind": str, "top_k": (int, type(None)),
              "always_one_label": bool, "long_text": str, "stride": int,
              "window_pooling": str, "fingerprint": (str, type(None)),
              "earlier_runs": list}
  for key in sorted(expected):
    if key not in settings or not _is(settings[key], expected[key]):
      raise ValueError("%s: %s is %s; it is missing or of the wrong type." % (
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


def _is(value, types):
  """`isinstance`, but True and False are no numbers."""
  types = types if isinstance(types, tuple) else (types,)
  return isinstance(value, types) and (
      bool in types or not isinstance(value, bool))


def _check_decision(settings):
  """Raises ValueError for thresholds that cannot be."""
  threshold = settings["threshold"]
  values = threshold if isinstance(threshold, list) else [threshold]
  if isinstance(threshold, list) and len(values) != settings["num_labels"]:
    raise ValueError("threshold has %d numbers for %d labels." % (
        len(values), settings["num_labels"]))
  for value in values:
    if not _is(value, (int, float)) or not 0 <= value <= 1:
      raise ValueError("threshold is %s; it must be from 0 to 1." %
                       json.dumps(value))
  if settings["threshold_kind"] not in THRESHOLD_KINDS:
    raise ValueError("threshold_kind is %s; it must be one of %s." % (
        settings["threshold_kind"], ", ".join(THRESHOLD_KINDS)))
  if settings["top_k"] is not None and settings["top_k"] < 1:
    raise ValueError("top_k is %d; it must be 1 or more." % settings["top_k"])


def update_decision(trained, kind, decision, calibration=KEPT):
  """Stores how logits become probabilities and labels in model_settings.json.

  Args:
    trained: `TrainedModel`.
    kind: str, one of `THRESHOLD_KINDS`.
    decision: `decisions.DecisionRule`.
    calibration: `calibration.Calibration`, None for none; default: that of
      before.

  Returns:
    `TrainedModel`, as `read` would return it now.
  """
  settings = trained.settings
  threshold = decision.thresholds
  changed = dict(settings)
  if calibration is not KEPT:
    changed.pop("calibration", None)
    if calibration is not None:
      changed["calibration"] = calibration.to_json()
  changed.update(
      format_version=_version(changed), threshold_kind=kind,
      threshold=float(threshold) if isinstance(threshold, (int, float)) else
      [float(value) for value in threshold],
      top_k=decision.top_k, always_one_label=decision.always_one_label)
  if changed != settings:
    write_settings(trained.path, changed)
  return trained._replace(settings=changed)


def read_labels(path):
  """Reads labels.txt of a trained directory: list of str."""
  try:
    with open(path, "rb") as reader:
      lines = reader.read().decode("utf-8").split("\n")
  except UnicodeDecodeError as error:
    raise ValueError("%s is not UTF-8: %s." % (path, error))
  labels = lines[:-1] if lines[-1] == "" else lines
  if not labels or "" in labels or len(set(labels)) != len(labels):
    raise ValueError("%s must hold one label a line, none empty and none "
                     "twice." % path)
  return labels


def differences(trained, bert_config, vocab_file, labels, settings):
  """Says where a trained directory differs from what a run is asked to do.

  Args:
    trained: `TrainedModel`.
    bert_config: `modeling.BertConfig` of the run.
    vocab_file: str, vocabulary of the run.
    labels: list of str, labels of the run.
    settings: dict of the run's settings; those with a key in it are compared.

  Returns:
    list of str, one a difference; empty where there is none.
  """
  found = []
  if trained.labels != list(labels):
    found.append(_label_difference(trained.labels, list(labels)))
  old, new = trained.bert_config.to_dict(), bert_config.to_dict()
  for key in sorted(set(old) | set(new)):
    if old.get(key) != new.get(key):
      found.append("bert_config %s (there %s, here %s)" % (
          key, json.dumps(old.get(key)), json.dumps(new.get(key))))
  if trained.settings["vocab_sha256"] != atomic_files.file_sha256(vocab_file):
    found.append("vocabulary (%s is not the one there)" % vocab_file)
  for key in sorted(settings):
    if trained.settings.get(key) != settings[key]:
      found.append("%s (there %s, here %s)" % (
          key, json.dumps(trained.settings.get(key)),
          json.dumps(settings[key])))
  return found


def _label_difference(there, here):
  lost = [label for label in there if label not in set(here)]
  new = [label for label in here if label not in set(there)]
  if not lost and not new:
    return "labels (the same, in another order)"
  return "labels (%d there, %d here%s%s)" % (
      len(there), len(here),
      ", only there: %s" % ", ".join(lost[:3]) if lost else "",
      ", only here: %s" % ", ".join(new[:3]) if new else "")
