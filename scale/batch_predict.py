# SPDX-License-Identifier: Apache-2.0
r"""Labels any number of texts with a trained directory, on Apache Beam.

  python -m scale.batch_predict --model_dir=DIR --input='texts/*.jsonl' \
      --output=labelled/part.jsonl
  python -m scale.batch_predict ... -- --direct_num_workers=4 \
      --direct_running_mode=multi_processing

Arguments after a bare -- are for Beam: the runner and its options. Without a
runner, the pipeline runs in this process. Needs the extra `beam`.

Shards are called labelled/part-00000-of-00004.jsonl. A row of them has `id` (or
the row's number if it has none), `file`, `row` (number in the file, from 1),
`text`, `text_pair` if there is one, `labels` (most probable first) and
`probabilities` (label: probability). Rows that cannot be read are in
labelled/part.bad-00000-of-00001.jsonl: `file`, `line`, `row`, `reason`.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.use_onednn_for_batches()
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import logging as python_logging
import os
import re
import sys
import time

from absl import flags

from multilabel import decisions
from multilabel.inference import predict_files
from processors import table_reader


FLAGS = flags.FLAGS

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_SUFFIXES = (".jsonl", ".avro", ".parquet")

# Beam's "DirectRunner" first looks for another runner on the network.
_RUNNER_HERE = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Model"):
    flags.DEFINE_string("model_dir", None, "--output_dir of a training run.")
    flags.DEFINE_integer("batch_size", 32, "Texts per batch.")
    flags.DEFINE_integer(
        "intra_op_threads", None,
        "Threads per operation; use 1 with one worker per core; default: "
        "TensorFlow's choice.")
    flags.DEFINE_bool(
        "verify_checkpoint", True, "Check that the checkpoint belongs to this "
                                   "run, is unchanged, and has finite weights.")
  with command_line.flag_group("Labels"):
    predict_files.define_decision_flags()
    flags.DEFINE_string("probabilities", decisions.ALL,
                        decisions.HELP)
  with command_line.flag_group("Files"):
    flags.DEFINE_list(
        "input", None, "File patterns of the texts: lines, .csv, .tsv, .jsonl "
                       "(each also .gz), .avro, .parquet, on any file system "
                       "that Beam supports.")
    flags.DEFINE_enum(
        "input_format", None,
        ["text", "csv", "tsv", "jsonl", "avro", "parquet"],
        "Format of --input; default: from each file's extension, otherwise "
        "lines.")
    flags.DEFINE_string("text_column", None, "Tables, Avro, Parquet: column of "
                        "the text; default: text, comment_text or sentence.")
    flags.DEFINE_string("text_pair_column", None,
                        "Likewise for the second text of a pair.")
    flags.DEFINE_string("id_column", None,
                        "Likewise for the id; default: id.")
    flags.DEFINE_string("delimiter", None,
        "Tables: the character that separates cells.")
    flags.DEFINE_enum("quoting", table_reader.AUTO, list(table_reader.QUOTINGS),
                      table_reader.QUOTING_HELP)
    flags.DEFINE_string(
        "output", None, "Output: DIR/NAME.jsonl, .avro or .parquet, written as "
                        "shards DIR/NAME-00000-of-00004.jsonl.")
    flags.DEFINE_integer("num_shards", 0,
        "Number of shards of --output; 0: the runner decides.")


def check_flags(flag_values):
  """Raises ValueError for invalid flags."""
  for name in ("model_dir", "input", "output"):
    if not flag_values[name].value:
      raise ValueError("--%s must be given." % name)
  if not flag_values.output.endswith(_SUFFIXES) or os.path.basename(
      flag_values.output) in _SUFFIXES:
    raise ValueError("--output %s must be a name that ends in .jsonl, .avro or "
                     ".parquet." % flag_values.output)
  predict_files.check_decision_flags(flag_values)
  for name, least in (("batch_size", 1), ("num_shards", 0),
                      ("intra_op_threads", 1)):
    value = flag_values[name].value
    if value is not None and value < least:
      raise ValueError("--%s is %d; it must be %d or more." % (
          name, value, least))
  decisions.parse(flag_values.probabilities)


def import_beam(debug):
  """Imports Beam, ready for workers; ValueError if it is not installed."""
  if not debug:  # Beam's messages about clouds that it cannot reach
    python_logging.getLogger().setLevel(python_logging.ERROR)
  # So that workers in separate processes find our modules.
  os.environ["PYTHONPATH"] = os.pathsep.join(
      [ROOT] + [path for path in [os.environ.get("PYTHONPATH")] if path])
  try:
    import apache_beam
  except ImportError:
    raise ValueError("this needs Apache Beam, which is not installed: pip "
                     "install -e '.[beam]' (Python 3.10 or newer).")
  return apache_beam


def find_files(beam_predict, patterns):
  """Paths that patterns find, each once: list of str.

  Raises:
    ValueError: a pattern finds none.
  """
  paths = []
  for pattern in patterns:
    found = beam_predict.match(pattern)
    if not found:
      raise ValueError("--input %s finds no file." % pattern)
    paths += found
  return sorted(set(paths))


def check_output(beam_predict, prefix, suffix, bad_prefix):
  """Raises ValueError if there are shards of that name."""
  for pattern in (prefix + "-?????-of-?????" + suffix,
                  bad_prefix + "-?????-of-?????.jsonl"):
    found = beam_predict.match(pattern)
    if found:
      raise ValueError("--output: %s already exists; name another output, or "
                       "remove the %d file%s %s." % (
                           found[0], len(found), "s" * (len(found) > 1),
                           pattern))


def pipeline_options(apache_beam, arguments, debug):
  """`PipelineOptions` from the arguments after --; ValueError if Beam rejects
  them."""
  defaults = ["--runner=" + _RUNNER_HERE]
  if not debug:
    defaults.append("--default_sdk_harness_log_level=ERROR")
  given = [argument.partition("=")[0] for argument in arguments]
  arguments = [default for default in defaults
               if default.partition("=")[0] not in given] + list(arguments)
  options = apache_beam.options.pipeline_options.PipelineOptions(arguments)
  try:
    options.get_all_options()
  except SystemExit:  # it has told argparse's reason
    raise ValueError("Beam does not accept the options %s." %
                     " ".join(arguments))
  return options


def counters_of(metrics, namespace):
  """{name: number} of what the workers counted."""
  return {result.key.metric.name: result.result
          for result in metrics.query()["counters"]
          if result.key.metric.namespace == namespace}


def show_counters(metrics, seconds):
  """Prints what the workers counted on stderr; returns the counters."""
  counters = counters_of(metrics, "batch_predict")
  sys.stderr.write(
      "%s rows, %s labels, %s bad rows, %s bad files in %.0f s\n" % (tuple(
          "{:,}".format(counters.get(name, 0))
          for name in ("rows", "labels", "bad_rows", "bad_files")) + (
              seconds,)))
  for result in metrics.query()["distributions"]:
    if result.key.metric.name == "batch_milliseconds" and result.result.count:
      sys.stderr.write("%d batches of at most 1,024 rows: %d to %d ms, %.0f on "
                       "average\n" % (result.result.count, result.result.min,
                                      result.result.max, result.result.mean))
  return counters


def main(argv):
  check_flags(FLAGS)
  own, beam_arguments = split_arguments(argv)
  if own:
    raise ValueError("unexpected argument %s; Beam's options follow a bare --."
                     % own[0])
  apache_beam = import_beam(FLAGS.debug)
  from scale import beam_predict as beam_predict_module
  from scale import output_claim
  prefix, suffix = os.path.splitext(FLAGS.output)
  rows_together = (beam_predict_module.ROWS_TOGETHER if "://" in FLAGS.model_dir
                   else predict_files.window_size(check_model(FLAGS.model_dir)))
  paths = find_files(beam_predict_module, FLAGS.input)
  table_options = {name: FLAGS[name].value for name in (
      "text_column", "text_pair_column", "id_column", "delimiter", "quoting")}
  handler = beam_predict_module.SessionModelHandler(
      FLAGS.model_dir, FLAGS.batch_size,
      {"threshold": decisions.parse_threshold(FLAGS.threshold),
       "top_k": FLAGS.top_k, "always_one_label": FLAGS.always_one_label},
      FLAGS.intra_op_threads, FLAGS.verify_checkpoint,
      decisions.parse(FLAGS.probabilities), rows_together)
  start = time.time()
  with output_claim.claim(prefix):
    check_output(beam_predict_module, prefix, suffix, prefix + ".bad")
    metrics = run_pipeline(
        apache_beam, beam_arguments, FLAGS.debug,
        lambda pipeline: beam_predict_module.build(
            pipeline, paths, FLAGS.input_format, table_options, handler, prefix,
            suffix, prefix + ".bad", FLAGS.num_shards))
  counters = show_counters(metrics, time.time() - start)
  if not counters.get("rows") and (
      counters.get("bad_rows") or counters.get("bad_files")):
    raise ValueError("no row could be read; see %s.bad-*.jsonl for the reasons."
                     % prefix)


def split_arguments(argv):
  """(our arguments, those after a bare --) of `main`'s argv."""
  given = sys.argv[1:]
  behind = given[given.index("--") + 1:] if "--" in given else []
  own = argv[1:len(argv) - len(behind)] if behind else argv[1:]
  return own, behind


def check_model(model_dir):
  """Number of labels; ValueError, before any worker starts, without a model.
  """
  from multilabel.storage import checkpoint_choice
  from multilabel.storage import onnx_folder
  from multilabel.storage import trained_model
  if onnx_folder.is_onnx(model_dir):
    return len(onnx_folder.read(onnx_folder.newest(model_dir)).labels)
  labels = trained_model.read(model_dir).labels
  if checkpoint_choice.prediction_checkpoint(model_dir) is None:
    raise ValueError("model_dir %s has no checkpoint: training has not saved "
                     "its first one yet." % model_dir)
  return len(labels)


def run_pipeline(apache_beam, beam_arguments, debug, build):
  """Runs what `build(pipeline)` adds; returns its metrics.

  Raises:
    RuntimeError: the pipeline failed; the last line of its reason.
    ValueError: Beam refuses the options.
  """
  pipeline = apache_beam.Pipeline(
      options=pipeline_options(apache_beam, beam_arguments, debug))
  build(pipeline)
  try:
    result = pipeline.run()
    result.wait_until_finish()
  except Exception as error:  # pylint: disable=broad-except
    if debug:
      raise
    lines = [line for line in str(error).splitlines() if line.strip()]
    raise RuntimeError("the pipeline failed: %s (--debug shows more)" % (
        _reason(lines) if lines else type(error).__name__))
  return result.metrics()


def _reason(lines):
  """The line of a worker's traceback with the exception."""
  for line in reversed(lines):
    if re.match(r"[A-Za-z_][\w.]*(Error|Exception)\b", line):
      return line.strip()
  return lines[-1].strip()


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
