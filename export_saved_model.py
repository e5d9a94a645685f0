# SPDX-License-Identifier: Apache-2.0
"""Writes a trained directory for other runtimes, or to be handed over.

  python export_saved_model.py --model_dir=DIR --export_dir=EXPORT
  python export_saved_model.py --model_dir=DIR --export_dir=ONNX \
      --format=onnx --weights_dtype=int8
  python export_saved_model.py --model_dir=DIR --export_dir=SMALL \
      --format=model_dir --weights_dtype=float16

With --format=onnx EXPORT itself becomes a folder with model.onnx, which
predict_onnx.py reads without TensorFlow; with --format=model_dir a trained
directory with one checkpoint, no optimizer state and nothing of the training.

Otherwise it writes a SavedModel for TensorFlow Serving: it makes
EXPORT/<version>/ with saved_model.pb, variables/ (or none, with --frozen) and
assets.extra/, from the checkpoint that the predictor takes: the best one on
dev, if training kept account of that, else the newest. It is written beside and
renamed when it has been loaded in a separate process and has given the
predictor's probabilities: a server that polls EXPORT sees a whole model or
none.
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
from multilabel.export import dtype_change
from multilabel.export import export_check
from multilabel.export import export_folder
from multilabel.export import export_manifest
from multilabel.export import graph_tokenizer
from multilabel.storage import half_weights
from multilabel.export import own_folder
from multilabel.export import signatures
from multilabel.export import small_model_dir
from multilabel.export import warmup_requests
from multilabel.features import encoding
from multilabel.features import feature_rows
from multilabel.storage import model_settings
from multilabel.storage import onnx_folder
from multilabel.storage import run_lock
from multilabel.storage import trained_model
import predict_session
import tokenization


FLAGS = flags.FLAGS

# What is written, and how its weights can be stored. What answers is float32,
# with int8 apart from the products.
FORMATS = collections.OrderedDict([
    ("saved_model", ("float32", "float16")),
    ("onnx", ("float32", "float16", "int8")),
    ("model_dir", ("float32", "float16"))])

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


# path: str; form, weights_dtype: str, as they were asked for; checkpoint: str;
# step: int; difference: float, the largest difference from the predictor's
# probabilities with float32 weights; change: dict, what other weights change,
# see `dtype_change.measure`, or None.
FolderResult = collections.namedtuple("FolderResult", [
    "path", "form", "checkpoint", "step", "weights_dtype", "difference",
    "change"])


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
    onnx: bool, assets.extra/model.onnx as well; needs onnx and onnxruntime.
    keep_versions: int, versions to keep, the new one among them; 0: all.
    weights_dtype: str, one of those of `FORMATS`.
    allow_older_checkpoint: bool, see `predict_session.SessionPredictor`.

  Returns:
    `ExportResult`.

  Raises:
    ValueError: the trained directory or an argument is wrong, a weight is not
      finite, the version exists, or a package is missing.
    RuntimeError: the export does not give the predictor's probabilities.
  """
  export_folder.check(export_dir, version, keep_versions)
  _check_weights_dtype("saved_model", weights_dtype)
  if frozen and weights_dtype != "float32":
    raise ValueError("weights_dtype %s needs variables, but frozen turns them "
                     "into constants; use only one of the two." % weights_dtype)
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
      elif trained.settings["weights_dtype"] == "float16":
        source = _as_float32(trained, checkpoint, work.scratch)
      names = _write_saved_model(work.path, trained, source, tokenizer,
                                 in_graph, frozen, rounding is not None)
      _write_extra(work.path, trained, tokenizer, names)
      onnx_difference = None if onnx_export is None else onnx_export.write_file(
          trained, source, os.path.join(
              work.path, warmup_requests.FOLDER, onnx_folder.MODEL_FILE),
          feature_rows.make_batch(expected.rows), expected.of_rows)
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


def export_folder_alone(model_dir, export_dir, form, weights_dtype="float32",
                        allow_older_checkpoint=False, max_f1_loss=0.005,
                        calibration_file=None):
  """Exports the best checkpoint as a folder that a predictor reads.

  Args:
    model_dir: str, `--output_dir` of a training run.
    export_dir: str, missing or empty; becomes that folder.
    form: str, "onnx" or "model_dir".
    weights_dtype: str, one of those of `FORMATS`.
    allow_older_checkpoint: bool, see `predict_session.SessionPredictor`.
    max_f1_loss: float, maximum drop of micro-F1 by `weights_dtype`; for "onnx".
    calibration_file: str, JSON lines on which that is measured; None: the
      examples of dev that the run kept.

  Returns:
    `FolderResult`.

  Raises:
    ValueError: the trained directory or an argument is wrong, a weight is not
      finite, a package is missing, or F1 falls by too much.
    RuntimeError: the export does not give the predictor's probabilities.
  """
  own_folder.check(export_dir)
  _check_weights_dtype(form, weights_dtype)
  onnx_export = _import_onnx() if form == "onnx" else None
  with predict_session.SessionPredictor(
      model_dir, allow_older_checkpoint=allow_older_checkpoint) as predictor:
    checkpoint, step = predictor.checkpoint, predictor.step
    expected = export_check.ask_predictor(
        predictor, predictor.bert_config.max_position_embeddings)
  trained = trained_model.read(model_dir)

  def write_onnx(folder):
    return onnx_export.write_folder(
        folder, trained, {"checkpoint": checkpoint, "step": step,
                          "run": trained.settings["fingerprint"]}, expected,
        dtype_change.Options(weights_dtype, max_f1_loss, calibration_file))

  def write_model_dir(folder):
    small_model_dir.write(folder, trained, checkpoint, weights_dtype)
    with predict_session.SessionPredictor(folder) as predictor:
      return small_model_dir.compare(predictor, expected, weights_dtype)

  difference, change = own_folder.make(
      export_dir, write_onnx if form == "onnx" else write_model_dir)
  return FolderResult(export_dir, form, checkpoint, step, weights_dtype,
                      difference, change)


def _check_weights_dtype(form, weights_dtype):
  """Raises ValueError before any work."""
  if weights_dtype not in FORMATS[form]:
    raise ValueError(
        "weights_dtype is %s; with --format=%s it must be one of %s." % (
            weights_dtype, form, ", ".join(FORMATS[form])))


def _import_onnx():
  """Returns `onnx_export`, all of whose packages are there."""
  from multilabel.export import onnx_export as onnx_export_module
  onnx_export_module.import_packages()
  return onnx_export_module


def _check_conformance(path):
  """RuntimeError if a server would refuse the export."""
  found = conformance.problems(path, check_version=False)
  if found:
    raise RuntimeError("the export cannot be served; nothing was written: %s" %
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
  rounded = _as_float32(trained, checkpoint, folder)
  if trained.settings["weights_dtype"] == "float16":
    return rounded, expected, 0.0
  with predict_session.SessionPredictor(
      model_dir, checkpoint=rounded) as predictor:
    found = export_check.ask_predictor(
        predictor, trained.bert_config.max_position_embeddings)
  return rounded, found, max(
      float(np.abs(found.of_texts - expected.of_texts).max()),
      float(np.abs(found.of_rows - expected.of_rows).max()))


def _as_float32(trained, checkpoint, folder):
  """Writes the weights, rounded to float16, as float32; returns the prefix."""
  with tf.Graph().as_default():
    head.create_inference_graph(
        trained.bert_config, len(trained.labels), trained.settings["pooling"])
    names = [variable.op.name for variable in tf.global_variables()]
  path = os.path.join(folder, os.path.basename(checkpoint))
  half_weights.write_rounded(checkpoint, names, path)
  return path


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
  for name in (model_settings.VOCAB_FILE, model_settings.LABELS_FILE,
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
                        "saved_model: folder of the numbered versions, which a "
                        "server watches; other formats: the folder to create, "
                        "which must be new or empty.")
    flags.DEFINE_enum(
        "format", "saved_model", list(FORMATS),
            "saved_model: for TensorFlow Serving; onnx: for predict_onnx.py, "
            "without TensorFlow; model_dir: a trained directory with one "
            "checkpoint and no training state.")
    flags.DEFINE_integer("version", None,
        "Version number, an integer above 0; default: the time in seconds. "
        "Servers use the highest.")
    flags.DEFINE_integer("keep_versions", 0,
        "After the export, keep only the N highest versions; 0: keep all.")
    flags.DEFINE_bool("allow_older_checkpoint", False,
        "If the best (or newest) checkpoint is broken, use the newest intact "
        "one.")
  with command_line.flag_group("Form"):
    flags.DEFINE_bool("raw_text", False,
        "Add a signature `text` that takes raw text; needs tensorflow-text.")
    flags.DEFINE_bool("frozen", False,
        "Store the weights as constants in saved_model.pb: a single file, "
        "faster for single texts.")
    flags.DEFINE_bool("onnx", False,
        "Also write assets.extra/model.onnx; needs onnx and onnxruntime.")
    flags.DEFINE_enum("weights_dtype", "float32", list(FORMATS["onnx"]),
                      "Data type of the stored weights: float16 takes half the "
                      "space and changes probabilities slightly; int8 (only "
                      "--format=onnx) takes a quarter and runs twice as fast.")
    flags.DEFINE_float("max_f1_loss", 0.005,
        "--format=onnx: fail if micro-F1 on dev drops by more than this.")
    flags.DEFINE_string("calibration_file", None,
        "--format=onnx: labelled texts (JSON lines) to measure the drop on, "
        "instead of dev.")


def main(argv):
  if len(argv) > 1:
    raise ValueError("%s is not a flag." % argv[1])
  for name in ("model_dir", "export_dir"):
    if not FLAGS[name].value:
      raise ValueError("--%s must be given." % name)
  _check_format_flags(FLAGS)
  if FLAGS.format != "saved_model":
    print(describe_folder(export_folder_alone(
        FLAGS.model_dir, FLAGS.export_dir, FLAGS.format, FLAGS.weights_dtype,
        FLAGS.allow_older_checkpoint, FLAGS.max_f1_loss,
        FLAGS.calibration_file)))
    return
  result = export(FLAGS.model_dir, FLAGS.export_dir, FLAGS.version,
                  FLAGS.frozen, FLAGS.raw_text, FLAGS.onnx,
                  FLAGS.keep_versions, FLAGS.weights_dtype,
                  FLAGS.allow_older_checkpoint)
  print(describe(result))


def _check_format_flags(flag_values):
  """Raises ValueError for flags that are not for the format."""
  others = {
      "saved_model": ("max_f1_loss", "calibration_file"),
      "onnx": ("version", "keep_versions", "raw_text", "frozen", "onnx"),
      "model_dir": ("version", "keep_versions", "raw_text", "frozen", "onnx",
                    "max_f1_loss", "calibration_file")}[flag_values.format]
  for name in others:
    if flag_values[name].value != flag_values[name].default:
      raise ValueError("--%s cannot be used with --format=%s; leave it out." % (
          name, flag_values.format))
  if not 0 <= flag_values.max_f1_loss <= 1:
    raise ValueError("--max_f1_loss is %s; it must be from 0 to 1." %
                     flag_values.max_f1_loss)


def describe_folder(result):
  """Says in two lines what a `FolderResult` is."""
  size = sum(os.path.getsize(os.path.join(result.path, name))
             for name in os.listdir(result.path))
  lines = ["Wrote %s: %s (step %d) as %s, %s, %.0f MB." % (
      result.path, os.path.basename(result.checkpoint), result.step,
      result.form, result.weights_dtype, size / 1e6)]
  text = ("With float32 weights its probabilities differ by at most %.2g from "
          "the session's." % result.difference)
  change = result.change
  if change is not None:
    text += " %s changes them by up to %.2g" % (
        result.weights_dtype, change["largest_change"])
    if "examples" in change:
      text += "; micro-F1 on %d examples of %s: %.4f, before %.4f" % (
          change["examples"], change["source"], change["micro_f1"][1],
          change["micro_f1"][0])
    text += "."
  return "\n".join(lines + [text])


def describe(result):
  """Says in two lines what an `ExportResult` is."""
  long_text = result.long_text
  form = long_text.form
  if form == "windows":
    form += " (stride %d, %s)" % (long_text.stride, long_text.pooling)
  differences = ["Loaded back, its probabilities differ by at most %.2g" %
                 result.difference]
  if result.onnx_difference is not None:
    differences.append("those of ONNX by %.2g" % result.onnx_difference)
  if result.rounding is not None:
    differences.append("rounding to float16 changed them by up to %.2g" %
                       result.rounding)
  text = ("Wrote %s: %s (step %d); %s; long texts: %s.\n"
          "Signatures: %s. %s." % (
              result.path, os.path.basename(result.checkpoint), result.step,
              result.decision.describe(), form, ", ".join(result.signatures),
              "; ".join(differences)))
  if result.decision.is_by_text:
    text += (" The signatures have no above_threshold: the graph of a "
             "SavedModel does not choose labels by expected F1, so its clients "
             "must.")
  return text


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
