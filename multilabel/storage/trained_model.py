# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the files of a trained directory.

Beside TensorFlow's checkpoints (`model.ckpt-<step>`, `checkpoint`):

  bert_config.json the encoder's configuration vocab.txt the WordPiece
  vocabulary labels.txt one label per line, the order of the probabilities
  model_settings.json how texts become ids, the head, thresholds, the run
  best_checkpoint.json the best checkpoint on dev, if dev was evaluated

so prediction and export need only the directory. A file that was changed or
comes from another run is rejected: model_settings.json has the sha256 of the
others, of the rest of itself, and the run's fingerprint, which the checkpoints
and best_checkpoint.json also have.
"""

import hashlib
import json
import os

import modeling
from multilabel.common import atomic_files
from multilabel.storage import checkpoint_files
from multilabel.storage import model_settings
from multilabel.storage import run_lock


# Settings that define the model: a different value means a different model.
MODEL_SETTINGS = ("do_lower_case", "max_seq_length", "pooling", "loss",
                  "long_text", "stride", "window_pooling")

# Means the previous calibration.
KEPT = object()

list_checkpoints = checkpoint_files.list_checkpoints


class TrainedModel(model_settings.ModelFiles):
  """What `read` returns; `bert_config` is a `modeling.BertConfig`."""

  __slots__ = ()

  @property
  def identity(self):
    """`checkpoint_files.RunIdentity`: which checkpoints belong to it."""
    return checkpoint_files.RunIdentity(self.settings["fingerprint"],
                                        self.settings["earlier_runs"])


def write(output_dir, bert_config, vocab_file, labels, settings,
          earlier_runs=()):
  """Writes all but the checkpoints; model_settings.json comes last.

  Args:
    output_dir: str, an existing directory.
    bert_config: `modeling.BertConfig`.
    vocab_file: str, path of the vocabulary to copy.
    labels: list of str.
    settings: dict that JSON can hold, with the keys of `MODEL_SETTINGS`; with
      `run`, which determines the run's weights, checkpoints are tied to it.
    earlier_runs: `checkpoint_files.RunIdentity.earlier`.

  Returns:
    `TrainedModel`, as `read` would return it.
  """
  settings = dict(
      model_settings.VERSION_1,
      **dict({"threshold": 0.5, "weights_dtype": "float32"}, **settings))
  _write_if_new(os.path.join(output_dir, model_settings.BERT_CONFIG_FILE),
                bert_config.to_json_string())
  target = os.path.join(output_dir, model_settings.VOCAB_FILE)
  if not (os.path.exists(target) and os.path.samefile(vocab_file, target)):
    atomic_files.copy_file(vocab_file, target)
  _write_if_new(os.path.join(output_dir, model_settings.LABELS_FILE),
                "".join(label + "\n" for label in labels))
  settings.update((key, atomic_files.file_sha256(os.path.join(
      output_dir, name))) for key, name in model_settings.HASHED_FILES)
  settings["num_labels"] = len(labels)
  settings["fingerprint"] = _fingerprint(settings)
  settings["earlier_runs"] = [
      part for part in earlier_runs
      if part["fingerprint"] != settings["fingerprint"]]
  settings["format_version"] = _version(settings)
  write_settings(output_dir, settings)
  return TrainedModel(output_dir, bert_config, target, list(labels), settings)


def _write_if_new(path, text):
  """Keeps a file unchanged if its sha256 may be in model_settings.json."""
  data = text.encode("utf-8")
  if not os.path.isfile(path) or atomic_files.file_sha256(
      path) != hashlib.sha256(data).hexdigest():
    atomic_files.write_text(path, text)


def _fingerprint(settings):
  """Hex digest of what determines a run's weights; None if not recorded."""
  if settings.get("run") is None:
    return None
  keys = MODEL_SETTINGS + ("num_labels", "run") + tuple(
      key for key, _ in model_settings.HASHED_FILES)
  return hashlib.sha256(atomic_files.to_json({
      key: settings[key] for key in keys}).encode("utf-8")).hexdigest()


def _version(settings):
  if isinstance(settings["threshold"], str):
    return model_settings.BY_TEXT_VERSION
  return (model_settings.CALIBRATED_VERSION if settings.get("calibration")
          else model_settings.FORMAT_VERSION)


def write_settings(output_dir, settings):
  """Writes model_settings.json, JSON with sorted keys."""
  atomic_files.write_sealed(
      os.path.join(output_dir, run_lock.SETTINGS_FILE), settings)


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
  return TrainedModel(*model_settings.read(
      model_dir, "is it the --output_dir of a training run of "
      "run_multilabel_classifier.py?", modeling.BertConfig.from_json_file))


def update_decision(trained, kind, decision, calibration=KEPT):
  """Stores how logits become probabilities and labels in model_settings.json.

  Args:
    trained: `TrainedModel`.
    kind: str, one of `model_settings.THRESHOLD_KINDS`.
    decision: `decisions.DecisionRule`.
    calibration: `calibration.Calibration`, None for none; default: the previous
      one.

  Returns:
    `TrainedModel`, as `read` would return it now.
  """
  settings = trained.settings
  threshold = decision.thresholds
  if not decision.is_by_text:
    threshold = (float(threshold) if isinstance(threshold, (int, float)) else
                 [float(value) for value in threshold])
  changed = dict(settings)
  if calibration is not KEPT:
    changed.pop("calibration", None)
    if calibration is not None:
      changed["calibration"] = calibration.to_json()
  changed.update(threshold_kind=kind, threshold=threshold, top_k=decision.top_k,
                 always_one_label=decision.always_one_label)
  changed["format_version"] = _version(changed)
  if changed != settings:
    write_settings(trained.path, changed)
  return trained._replace(settings=changed)


def differences(trained, bert_config, vocab_file, labels, settings):
  """Says where a trained directory differs from the settings of a run.

  Args:
    trained: `TrainedModel`.
    bert_config: `modeling.BertConfig` of the run.
    vocab_file: str, vocabulary of the run.
    labels: list of str, labels of the run.
    settings: dict of the run's settings; those with a key in it are compared.

  Returns:
    list of str, one per difference; empty if there are none.
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
    found.append("vocabulary (%s is a different one)" % vocab_file)
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
    return "labels (same labels, different order)"
  return "labels (%d there, %d here%s%s)" % (
      len(there), len(here),
      ", only there: %s" % ", ".join(lost[:3]) if lost else "",
      ", only here: %s" % ", ".join(new[:3]) if new else "")
