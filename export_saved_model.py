# SPDX-License-Identifier: Apache-2.0
"""Writes a trained directory as a SavedModel for TensorFlow Serving.

  python export_saved_model.py --model_dir=DIR --export_dir=EXPORT

makes EXPORT/<version>/ with saved_model.pb, variables/ (or none, with
--frozen) and assets.extra/, from the checkpoint that the predictor takes: the
best one on dev, if training kept account of that, else the newest. It is
written beside and renamed when it has been loaded in a process of its own and
has given the predictor's probabilities: a server that polls EXPORT sees a whole
model or none.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import collections
import os
import shutil

from absl import flags
import numpy as np
import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel.export import conformance
from multilabel.export import export_check
from multilabel.export import export_folder
from multilabel.export import export_manifest
from multilabel.export import graph_tokenizer
from multilabel.export import half_weights
from multilabel.export import signatures
from multilabel.export import warmup_requests
from multilabel.features import encoding
from multilabel.features import feature_rows
from multilabel.storage import run_lock
from multilabel.storage import trained_model
import predict_session
import tokenization


FLAGS = flags.FLAGS

ONNX_FILE = "model.onnx"
# Largest difference of a probability from the predictor's.
ONNX_TOLERANCE = 1e-5

# How variables are stored; what answers is float32 in any case.
WEIGHTS_DTYPES = ("float32", "float16")

# path: str, the version's folder.
# signatures: list of str, their names.
# checkpoint: str, what was exported; step: int, its training step.
# decision: `decisions.DecisionRule`; long_text:
#   `encoding.LongText`.
# difference, onnx_difference: float, the largest difference from the
#   predictor's probabilities, for one text at a time; the second, None without
#   ONNX, for several.
# rounding: float, the largest change of a probability by rounding weights to
#   float16, with which the predictor is asked then; None for float32.
ExportResult = collections.namedtuple("ExportResult", [
    "path", "signatures", "checkpoint", "step", "decision", "long_text",
    "difference", "onnx_difference", "rounding"])


def export(model_dir, export_dir, version=None, frozen=False, raw_text=False,
           onnx=False, keep_versions=0, weights_dtype="float32",
           allow_older_checkpoint=False):
  """Exports the best checkpoint of a trained directory.

  Args:
    model_dir: str, `--output_dir` of a training run.
    export_dir: str; made if it is missing.
    version: int; None: the time in seconds, or one more than the highest
      version there.
    frozen: bool, weights as constants in the graph.
    raw_text: bool, a signature that takes texts; needs tensorflow-text.
    onnx: bool, assets.extra/model.onnx as well; needs tf2onnx and onnxruntime.
    keep_versions: int, versions to keep, the new one among them; 0: all.
    weights_dtype: str, one of `WEIGHTS_DTYPES`.
    allow_older_checkpoint: bool, see `predict_session.SessionPredictor`.

  Returns:
    `ExportResult`.

  Raises:
    ValueError: the trained directory or an argument is wrong, a weight is not
      finite, the version exists, or a package is missing.
    RuntimeError: the export does not give the predictor's probabilities.
  """
  export_folder.check(export_dir, version, keep_versions)
  _check_weights_dtype(weights_dtype, frozen)
  onnx_export = _import_onnx() if onnx else None
  with export_check.Checker() as checker:
    trained = trained_model.read(model_dir)
    tokenizer = tokenization.FullTokenizer(
        trained.vocab_file, trained.settings["do_lower_case"])
    in_graph = graph_tokenizer.GraphTokenizer(tokenizer) if raw_text else None
    with predict_session.SessionPredictor(
        model_dir, allow_older_checkpoint=allow_older_checkpoint) as predictor:
      checkpoint, step = predictor.checkpoint, predictor.step
      expected = export_check.ask_predictor(
          predictor, trained.bert_config.max_position_embeddings)
    os.makedirs(export_dir, exist_ok=True)
    export_folder.remove_left_over(export_dir)
    with export_folder.WorkFolder(export_dir) as work:
      source, rounding = checkpoint, None
      if weights_dtype == "float16":
        source, expected, rounding = _round(model_dir, trained, checkpoint,
                                            work.scratch, expected)
      names = _write_saved_model(work.path, trained, source, tokenizer,
                                 in_graph, frozen, rounding is not None)
      _write_extra(work.path, trained, tokenizer, names)
      onnx_difference = None if onnx_export is None else onnx_export.export(
          trained, source,
          os.path.join(work.path, warmup_requests.FOLDER, ONNX_FILE),
          feature_rows.make_batch(expected.rows), expected.of_rows,
          ONNX_TOLERANCE)
      export_manifest.write(work.path, {
          "checkpoint": os.path.basename(checkpoint), "step": step,
          "run": trained.settings["fingerprint"]})
      _check_conformance(work.path)
      difference = checker.check(work.path, names, trained.labels,
                                 trained.decision, expected)
      path = work.publish(version)
  if keep_versions:
    export_folder.remove_oldest(export_dir, keep_versions,
                                os.path.basename(path))
  return ExportResult(path, names, checkpoint, step, trained.decision,
                      trained.long_text, difference, onnx_difference, rounding)


def _check_weights_dtype(weights_dtype, frozen):
  """Raises ValueError before any work."""
  if weights_dtype not in WEIGHTS_DTYPES:
    raise ValueError("weights_dtype is %s; it must be one of %s." % (
        weights_dtype, ", ".join(WEIGHTS_DTYPES)))
  if frozen and weights_dtype != "float32":
    raise ValueError("weights_dtype %s is for variables, which frozen makes "
                     "constants of; leave out one of the two." % weights_dtype)


def _import_onnx():
  """Returns `serving.onnx_export`, all of whose packages are there."""
  from multilabel.export import onnx_export as onnx_export_module
  onnx_export_module.import_packages()
  return onnx_export_module


def _check_conformance(path):
  """RuntimeError if a server would refuse the export."""
  found = conformance.problems(path, check_version=False)
  if found:
    raise RuntimeError("the export cannot be served, nothing was written: %s" %
                       found[0])


def _round(model_dir, trained, checkpoint, folder, expected):
  """Rounds the weights to float16.

  Args:
    model_dir: str.
    trained: `trained_model.TrainedModel`.
    checkpoint: str.
    folder: str, where the rounded checkpoint goes.
    expected: `export_check.Expected` of the checkpoint.

  Returns:
    (checkpoint, `Expected`, float): the rounded one, what the predictor says
    with it, and the largest difference of that from `expected`.
  """
  with tf.Graph().as_default():
    head.create_inference_graph(
        trained.bert_config, len(trained.labels), trained.settings["pooling"])
    names = [variable.op.name for variable in tf.global_variables()]
  rounded = os.path.join(folder, os.path.basename(checkpoint))
  half_weights.write_rounded(checkpoint, names, rounded)
  with predict_session.SessionPredictor(
      model_dir, checkpoint=rounded) as predictor:
    found = export_check.ask_predictor(
        predictor, trained.bert_config.max_position_embeddings)
  return rounded, found, max(
      float(np.abs(found.of_texts - expected.of_texts).max()),
      float(np.abs(found.of_rows - expected.of_rows).max()))


def _write_saved_model(path, trained, checkpoint, tokenizer, in_graph, frozen,
                       is_half):
  """Writes saved_model.pb and variables/; returns the signatures' names."""
  with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(
      device_count={"GPU": 0})) as session:
    weights = signatures.Weights(checkpoint if frozen else None)
    found = signatures.SignatureBuilder(
        trained, weights, tokenizer.vocab).build(in_graph)
    variables = tf.global_variables()
    saver = None
    if variables:
      saver = tf.train.Saver(variables)
      saver.restore(session, checkpoint)
    if is_half:
      saver = half_weights.saver(variables)
    builder = tf.saved_model.Builder(path)
    builder.add_meta_graph_and_variables(
        session, [tf.saved_model.tag_constants.SERVING],
        signature_def_map=found, strip_default_attrs=True, saver=saver)
    builder.save()
  return list(found)


def _write_extra(path, trained, tokenizer, names):
  """Writes assets.extra/: what clients need, and the warm-up requests."""
  folder = os.path.join(path, warmup_requests.FOLDER)
  os.makedirs(folder)
  for name in (trained_model.VOCAB_FILE, trained_model.LABELS_FILE,
               run_lock.SETTINGS_FILE):
    shutil.copyfile(os.path.join(trained.path, name),
                    os.path.join(folder, name))
  warmup_requests.write(
      os.path.join(folder, warmup_requests.FILE_NAME),
      _warmup_logs(names, tokenizer.vocab, trained))


def _warmup_logs(names, vocab, trained):
  """`PredictionLog`s: each signature with a text of each of a few lengths."""
  max_seq_length = trained.settings["max_seq_length"]
  lengths = [length for length in (8, 16, 32, 64, 128, 256)
             if length < max_seq_length] + [max_seq_length]
  logs = []
  for length in lengths:
    words = length - 2
    ids = [vocab["[CLS]"]] + [vocab["[UNK]"]] * words + [vocab["[SEP]"]]
    row = encoding.InputFeatures(ids, [1] * length, [0] * length, [])
    arrays = feature_rows.make_batch([row])
    for name in names:
      if name == signatures.CLASSIFY:
        logs.append(warmup_requests.classify_log(
            name, export_check.examples(arrays)))
        continue
      inputs = arrays
      if name == signatures.IDS_ONLY:
        inputs = {"input_ids": arrays["input_ids"]}
      elif name == signatures.TEXT:
        inputs = {"text": np.array([b"x " * words], object)}
      logs.append(warmup_requests.predict_log(name, inputs))
  if signatures.TEXT in names and trained.long_text.form == "windows":
    logs.append(warmup_requests.predict_log(signatures.TEXT, {
        "text": np.array([b"x " * (2 * max_seq_length)], object)}))
  return logs


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
    flags.DEFINE_bool("allow_older_checkpoint", False, "Where the best, or "
                      "newest, checkpoint is broken, take the newest that is "
                      "whole.")
  with command_line.flag_group("Form"):
    flags.DEFINE_bool("raw_text", False, "Also a signature `text` that takes "
                      "texts; needs tensorflow-text.")
    flags.DEFINE_bool("frozen", False, "Weights as constants in "
                      "saved_model.pb: one file, faster for single texts.")
    flags.DEFINE_bool("onnx", False, "Also assets.extra/model.onnx; needs "
                      "tf2onnx and onnxruntime.")
    flags.DEFINE_enum("weights_dtype", "float32", list(WEIGHTS_DTYPES),
                      "How variables are stored: float16 takes half the room "
                      "and changes probabilities a little.")


def main(argv):
  if len(argv) > 1:
    raise ValueError("%s is not a flag." % argv[1])
  for name in ("model_dir", "export_dir"):
    if not FLAGS[name].value:
      raise ValueError("--%s must be given." % name)
  result = export(FLAGS.model_dir, FLAGS.export_dir, FLAGS.version,
                  FLAGS.frozen, FLAGS.raw_text, FLAGS.onnx,
                  FLAGS.keep_versions, FLAGS.weights_dtype,
                  FLAGS.allow_older_checkpoint)
  print(describe(result))


def describe(result):
  """Says in two lines what an `ExportResult` is."""
  long_text = result.long_text
  form = long_text.form
  if form == "windows":
    form += " (stride %d, %s)" % (long_text.stride, long_text.pooling)
  differences = ["Loaded back, its probabilities differ by at most %.2g" %
                 result.difference]
  if result.onnx_difference is not None:
    differences.append("ONNX's by %.2g" % result.onnx_difference)
  if result.rounding is not None:
    differences.append("rounding to float16 changed them by up to %.2g" %
                       result.rounding)
  return ("Wrote %s: %s (step %d); %s; long texts: %s.\n"
          "Signatures: %s. %s." % (
              result.path, os.path.basename(result.checkpoint), result.step,
              result.decision.describe(), form, ", ".join(result.signatures),
              "; ".join(differences)))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
