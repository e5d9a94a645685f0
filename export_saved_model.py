# SPDX-License-Identifier: Apache-2.0
"""Writes a trained directory as a SavedModel for TensorFlow Serving.

  python export_saved_model.py --model_dir=DIR --export_dir=EXPORT

makes EXPORT/<version>/ with saved_model.pb, variables/ (or none, with
--frozen) and assets.extra/. It is written beside and renamed when it has been
loaded in a process of its own and has given the predictor's probabilities: a
server that polls EXPORT sees a whole model or none.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import command_line

if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import base64
import collections
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from absl import flags
from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

import atomic_files
import input_pipeline
import model_dir as trained_directory
import predict_session
from serving import conformance
from serving import graph_tokenizer
from serving import signatures
from serving import warmup_requests
import tokenization

FLAGS = flags.FLAGS

MODEL_FILE = "saved_model.pb"
ONNX_FILE = "model.onnx"

# Largest difference of a probability from the predictor's.
TOLERANCE = 1e-6
ONNX_TOLERANCE = 1e-5

_WORK_PREFIX = ".export-"
_REMOVED_PREFIX = ".removed-"
_MAX_VERSION = (1 << 63) - 1

# What the export is compared on; the last but one is cut at any length.
CHECK_TEXTS = (
    u"The quick brown fox jumps over the lazy dog.",
    u"",
    u"Caf\u00e9 \u4e2d\u6587 \u8f93\u5165 \U0001f600 na\u00efve STRASSE",
    u"An e-mail asked for the password; somebody opened it, and lost $1,000!",
    u"long " * 1000,
    u"\u4f60\u597d\uff0c\u4e16\u754c\u3002",
)

ExportResult = collections.namedtuple(
    "ExportResult", ["path", "signatures", "difference", "onnx_difference"])


def export(model_dir, export_dir, version=None, frozen=False, raw_text=False,
           onnx=False, keep_versions=0):
  """Exports the newest checkpoint of a trained directory.

  Args:
    model_dir: str, `--output_dir` of a training run.
    export_dir: str; made if it is missing.
    version: int; None: the time in seconds, or one more than the highest
      version there.
    frozen: bool, weights as constants in the graph.
    raw_text: bool, a signature that takes texts; needs tensorflow-text.
    onnx: bool, assets.extra/model.onnx as well; needs tf2onnx and onnxruntime.
    keep_versions: int, versions to keep, the new one among them; 0: all.

  Returns:
    `ExportResult(path, signatures, difference, onnx_difference)`: the folder,
    names of the signatures, and the largest differences from the predictor
    (float; None without onnx).

  Raises:
    ValueError: the trained directory or an argument is wrong, the version
      exists, or a package is missing.
    RuntimeError: the export does not give the predictor's probabilities.
  """
  _check_arguments(export_dir, version, keep_versions)
  trained = trained_directory.read(model_dir)
  tokenizer = tokenization.FullTokenizer(
      trained.vocab_file, trained.settings["do_lower_case"])
  in_graph = graph_tokenizer.GraphTokenizer(tokenizer) if raw_text else None
  onnx_export = _import_onnx() if onnx else None
  with predict_session.SessionPredictor(model_dir) as predictor:
    checkpoint = predictor.checkpoint
    expected = predictor.predict(CHECK_TEXTS)
  os.makedirs(export_dir, exist_ok=True)
  _remove_left_over(export_dir)
  with _WorkFolder(export_dir) as work:
    names = _write_saved_model(work.path, trained, checkpoint, tokenizer,
                               in_graph, frozen)
    _write_extra(work.path, trained, tokenizer, names)
    onnx_difference = None
    if onnx:
      onnx_difference = onnx_export.export(
          trained, checkpoint,
          os.path.join(work.path, warmup_requests.FOLDER, ONNX_FILE),
          _check_batch(tokenizer, trained), expected, ONNX_TOLERANCE)
    found = conformance.problems(work.path, check_version=False)
    if found:
      raise RuntimeError("the export cannot be served, nothing was written: %s"
                         % found[0])
    difference = _check(work.path, names, trained, tokenizer, expected)
    path = work.publish(version)
  if keep_versions:
    _remove_oldest(export_dir, keep_versions, os.path.basename(path))
  return ExportResult(path, names, difference, onnx_difference)


def versions(export_dir):
  """The versions in a folder, list of int, lowest first."""
  names = os.listdir(export_dir) if os.path.isdir(export_dir) else []
  return sorted(int(name) for name in names if re.match(r"\d+$", name))


def _check_arguments(export_dir, version, keep_versions):
  """Raises ValueError before any work."""
  if re.search(r"[*?\[\]\\]", os.path.abspath(export_dir)):
    raise ValueError(
        "export_dir %s has one of the characters * ? [ ] \\ in its path, which "
        "TensorFlow takes for a pattern; name another directory." % export_dir)
  if os.path.exists(os.path.join(export_dir, MODEL_FILE)):
    raise ValueError("export_dir %s is itself an export; name the directory "
                     "above it, which holds the versions." % export_dir)
  folder = atomic_files.unwritable_folder(export_dir)
  if folder:
    raise ValueError("export_dir %s: %s is no directory that can be written "
                     "to." % (export_dir, folder))
  if version is not None:
    if not 0 < version <= _MAX_VERSION:
      raise ValueError("version is %d; it must be from 1 to %d." % (
          version, _MAX_VERSION))
    if version in versions(export_dir):
      raise ValueError("version %d is in %s already and is not overwritten; "
                       "give another --version." % (version, export_dir))
  if keep_versions < 0:
    raise ValueError("keep_versions is %d; it must be 0 (keep all) or more." %
                     keep_versions)


def _import_onnx():
  """Returns `serving.onnx_export`, all of whose packages are there."""
  from serving import onnx_export
  onnx_export.import_packages()
  return onnx_export


class _WorkFolder(object):
  """A hidden folder in the export folder, locked, removed unless published."""

  def __init__(self, export_dir):
    self._export_dir = export_dir
    self.path = tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=export_dir)
    self._lock = _lock(self.path)
    # mkdtemp lets nobody else in; a server is somebody else.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(self.path, 0o777 & ~umask)

  def publish(self, version):
    """Renames to the version, or to the next one that is free if None."""
    for folder, _, names in os.walk(self.path, topdown=False):
      for name in names + ["."]:
        _sync(os.path.join(folder, name))
    while True:
      existing = versions(self._export_dir)
      number = version
      if number is None:
        number = max([int(time.time())] + [v + 1 for v in existing[-1:]])
      path = os.path.join(self._export_dir, str(number))
      try:
        # A folder that holds files is never replaced by a rename.
        if number in existing or os.path.lexists(path):
          raise FileExistsError(path)
        atomic_files.replace_file(self.path, path)
        return path
      except OSError:
        if not os.path.lexists(path):
          raise
        if version is not None:
          raise ValueError("version %d has come into %s meanwhile and is not "
                           "overwritten; give another --version." % (
                               version, self._export_dir))

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    shutil.rmtree(self.path, ignore_errors=True)
    if self._lock is not None:
      os.close(self._lock)


def _lock(path):
  """A descriptor that keeps a folder locked; None where it is locked already.

  The lock ends with the process, however that ends.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor
  except OSError:
    os.close(descriptor)
    return None


def _sync(path):
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _remove_left_over(export_dir):
  """Removes what exporters left that were killed, not what others work on."""
  for name in os.listdir(export_dir):
    path = os.path.join(export_dir, name)
    if not name.startswith((_WORK_PREFIX, _REMOVED_PREFIX)):
      continue
    try:
      age = time.time() - os.stat(path).st_ctime
      # One that has just been made may not have been locked yet.
      lock = _lock(path) if age > 60 else None
    except FileNotFoundError:
      continue  # Its exporter has just renamed it.
    if lock is not None:
      logging.info("Removing %s, left by an export that was killed.", path)
      shutil.rmtree(path, ignore_errors=True)
      os.close(lock)


def _remove_oldest(export_dir, keep_versions, newest):
  """Removes the lowest versions, never `newest`, until so many are left."""
  others = [version for version in versions(export_dir) if os.path.exists(
      os.path.join(export_dir, str(version), MODEL_FILE))
            and str(version) != newest]
  for version in others[:max(0, len(others) + 1 - keep_versions)]:
    path = os.path.join(export_dir, str(version))
    hidden = os.path.join(export_dir, "%s%d-%d" % (
        _REMOVED_PREFIX, version, os.getpid()))
    try:
      # Hidden first: a server must not find half of it.
      os.rename(path, hidden)
    except FileNotFoundError:
      continue  # Another exporter was quicker.
    shutil.rmtree(hidden, ignore_errors=True)
    logging.info("Removed %s.", path)


def _write_saved_model(path, trained, checkpoint, tokenizer, in_graph, frozen):
  """Writes saved_model.pb and variables/; returns the signatures' names."""
  with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(
      device_count={"GPU": 0})) as session:
    weights = signatures.Weights(checkpoint if frozen else None)
    found = signatures.SignatureBuilder(
        trained, weights, tokenizer.vocab).build(in_graph)
    variables = tf.global_variables()
    if variables:
      tf.train.Saver(variables).restore(session, checkpoint)
    builder = tf.saved_model.Builder(path)
    builder.add_meta_graph_and_variables(
        session, [tf.saved_model.tag_constants.SERVING],
        signature_def_map=found, strip_default_attrs=True)
    builder.save()
  return list(found)


def _write_extra(path, trained, tokenizer, names):
  """Writes assets.extra/: what clients need, and the warm-up requests."""
  folder = os.path.join(path, warmup_requests.FOLDER)
  os.makedirs(folder)
  for name in (trained_directory.VOCAB_FILE, trained_directory.LABELS_FILE,
               trained_directory.SETTINGS_FILE):
    shutil.copyfile(os.path.join(trained.path, name),
                    os.path.join(folder, name))
  warmup_requests.write(
      os.path.join(folder, warmup_requests.FILE_NAME),
      _warmup_logs(names, tokenizer.vocab, trained.settings["max_seq_length"]))


def _warmup_logs(names, vocab, max_seq_length):
  """`PredictionLog`s: each signature with a text of each of a few lengths."""
  lengths = [length for length in (8, 16, 32, 64, 128, 256)
             if length < max_seq_length] + [max_seq_length]
  logs = []
  for length in lengths:
    words = length - 2
    row = [vocab["[CLS]"]] + [vocab["[UNK]"]] * words + [vocab["[SEP]"]]
    values = {"input_ids": row, "input_mask": [1] * length,
              "segment_ids": [0] * length}
    arrays = {name: np.array([value], np.int32)
              for name, value in values.items()}
    for name in names:
      if name == signatures.CLASSIFY:
        logs.append(warmup_requests.classify_log(name, [_example(values)]))
        continue
      inputs = arrays
      if name == signatures.IDS_ONLY:
        inputs = {"input_ids": arrays["input_ids"]}
      elif name == signatures.TEXT:
        inputs = {"text": np.array([b"x " * words], object)}
      logs.append(warmup_requests.predict_log(name, inputs))
  return logs


def _example(values):
  """A serialized `tf.Example` of lists of int."""
  return tf.train.Example(features=tf.train.Features(feature={
      name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
      for name, value in values.items()})).SerializeToString()


def _check_batch(tokenizer, trained):
  """`CHECK_TEXTS` as the three arrays that the model takes."""
  rows = []
  for text in CHECK_TEXTS:
    ids, segments, _ = input_pipeline.encode_text(
        tokenizer, text, None, trained.settings["max_seq_length"])
    rows.append(input_pipeline.InputFeatures(
        ids, [1] * len(ids), segments, []))
  return input_pipeline.make_batch(rows)


def _check(path, names, trained, tokenizer, expected):
  """Runs every signature in a new process; returns the largest difference."""
  batch = _check_batch(tokenizer, trained)
  requests = []
  for name in names:
    inputs = {key: value.tolist() for key, value in batch.items()}
    if name == signatures.IDS_ONLY:
      inputs = {"input_ids": inputs["input_ids"]}
    elif name == signatures.CLASSIFY:
      inputs = {"inputs": [{"b64": base64.b64encode(_example(
          {key: value[row].tolist() for key, value in batch.items()})
                                                   ).decode("ascii")}
                           for row in range(len(CHECK_TEXTS))]}
    elif name == signatures.TEXT:
      inputs = {"text": list(CHECK_TEXTS)}
    requests.append({"signature_name": name, "inputs": inputs})
  warmups = warmup_requests.read(os.path.join(
      path, warmup_requests.FOLDER, warmup_requests.FILE_NAME))
  requests += [_rest_request(name, inputs) for name, inputs in warmups]
  answers = _ask_new_process(path, requests)
  difference = 0.0
  for name, answer in zip(names, answers):
    difference = max(difference, _compare(
        name, answer["outputs"], expected, trained.labels))
  return difference


def _rest_request(name, inputs):
  """A columnar REST request of arrays."""
  return {"signature_name": name, "inputs": {
      key: [{"b64": base64.b64encode(part).decode("ascii")}
            for part in value] if value.dtype == object else value.tolist()
      for key, value in inputs.items()}}


def _ask_new_process(path, requests):
  """The answers of `serving.run_export`, which knows nothing of this one."""
  root = os.path.dirname(os.path.abspath(__file__))
  environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", PYTHONPATH=(
      os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))))
  process = subprocess.Popen(
      [sys.executable, "-W", "ignore", "-m", "serving.run_export", path],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=environment)
  stdout, stderr = process.communicate("".join(
      json.dumps(request) + "\n" for request in requests).encode("utf-8"))
  if process.returncode:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    raise RuntimeError("the export cannot be loaded, nothing was written: %s" %
                       (lines[-1] if lines else process.returncode))
  answers = [json.loads(line) for line in stdout.decode("utf-8").splitlines()]
  for request, answer in zip(requests, answers):
    if "error" in answer:
      raise RuntimeError(
          "the export fails at its signature %s, nothing was written: %s" % (
              request["signature_name"], answer["error"][:300]))
  return answers


def _compare(name, outputs, expected, labels):
  """The largest difference of a signature's answer; RuntimeError over 1e-6."""
  if name == signatures.CLASSIFY:
    scores, named = outputs["scores"], outputs["classes"]
  elif isinstance(outputs, dict):
    scores, named = outputs["probabilities"], outputs["labels"]
    ordered = [[row[labels.index(label)] for label in line]
               for row, line in zip(scores, named)]
    if outputs["scores"] != ordered or any(
        row != sorted(row, reverse=True) for row in ordered):
      raise RuntimeError("signature %s sorts its labels wrongly, nothing was "
                         "written." % name)
  else:
    scores, named = outputs, []
  if name == signatures.CLASSIFY and any(row != labels for row in named):
    raise RuntimeError("signature %s names other labels, nothing was written." %
                       name)
  difference = float(np.abs(np.array(scores) - expected).max())
  if not difference <= TOLERANCE:  # also when it is NaN
    raise RuntimeError(
        "signature %s differs from the predictor by %.3g, more than %g; "
        "nothing was written." % (name, difference, TOLERANCE))
  return difference


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Export"):
    flags.DEFINE_string("model_dir", None, "--output_dir of a training run.")
    flags.DEFINE_string("export_dir", None,
                        "Where versions go; what a server is pointed at.")
    flags.DEFINE_integer("version", None, "A whole number above 0; default: "
                         "the time in seconds. Servers take the highest.")
    flags.DEFINE_integer("keep_versions", 0, "Remove the lowest versions "
                         "beyond so many, after the export; 0: none.")
  with command_line.flag_group("Form"):
    flags.DEFINE_bool("raw_text", False, "Also a signature `text` that takes "
                      "texts; needs tensorflow-text.")
    flags.DEFINE_bool("frozen", False, "Weights as constants in "
                      "saved_model.pb: one file, faster for single texts.")
    flags.DEFINE_bool("onnx", False, "Also assets.extra/model.onnx; needs "
                      "tf2onnx and onnxruntime.")


def main(argv):
  if len(argv) > 1:
    raise ValueError("%s is not a flag." % argv[1])
  for name in ("model_dir", "export_dir"):
    if not FLAGS[name].value:
      raise ValueError("--%s must be given." % name)
  result = export(FLAGS.model_dir, FLAGS.export_dir, FLAGS.version,
                  FLAGS.frozen, FLAGS.raw_text, FLAGS.onnx,
                  FLAGS.keep_versions)
  print("Wrote %s with the signatures %s; loaded back, its probabilities "
        "differ by at most %.1e%s." % (
            result.path, ", ".join(result.signatures), result.difference,
            "" if result.onnx_difference is None else
            ", ONNX's by %.1e" % result.onnx_difference))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
