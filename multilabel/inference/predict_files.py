# SPDX-License-Identifier: Apache-2.0
"""Labels texts from files or the terminal with a predictor."""

import itertools
import os
import sys
import time

from absl import flags
import numpy as np

from multilabel import decisions
from multilabel.common import atomic_files
from multilabel.common import terminal
from multilabel.inference import prediction_writers
from processors import table_reader
from processors import text_encoding
from processors import text_lines
from processors import unlabelled


# Texts in memory at a time when a file is predicted, and the number of named
# probabilities.
FILE_WINDOW = 1024
FILE_WINDOW_CELLS = 1 << 21

# Flags that need --input_file, with their defaults.
_INPUT_FLAGS = (("text_column", None), ("text_pair_column", None),
                ("id_column", None), ("delimiter", None),
                ("quoting", table_reader.AUTO), ("encoding", None))


def define_decision_flags():
  """Defines the flags of which labels a text gets."""
  flags.DEFINE_string("threshold", None, decisions.THRESHOLD_HELP)
  flags.DEFINE_integer("top_k", None,
      "Maximum number of labels per text; default: the model's decision rule, "
      "or no limit.")
  flags.DEFINE_bool("always_one_label", None,
      "Give a text without any label its most probable one; default: the "
      "model's decision rule, or no.")


def check_decision_flags(flag_values):
  """Raises ValueError for an invalid threshold or top_k."""
  decisions.parse_threshold(flag_values.threshold)
  if flag_values.top_k is not None and flag_values.top_k < 1:
    raise ValueError("--top_k is %d; it must be 1 or more." %
                     flag_values.top_k)


def define_flags():
  """Defines the flags of files; called where the script starts."""
  flags.DEFINE_string(
      "input_file", None, "Texts to label: lines, .jsonl, .ndjson, .json, .csv "
                          "or .tsv (each also .gz), .parquet, .xlsx; - reads "
                          "standard input.")
  flags.DEFINE_enum(
      "input_format", None, list(unlabelled.FORMS),
      "Format of --input_file; default: from its extension, otherwise lines of "
      "text.")
  flags.DEFINE_string("text_column", None,
                      "Tables: column of the text; default: text, "
                      "comment_text or sentence.")
  flags.DEFINE_string("text_pair_column", None,
                      "Tables: column of the second text of a pair.")
  flags.DEFINE_string("id_column", None,
                      "Tables: column of the id; default: id.")
  flags.DEFINE_string("delimiter", None,
      "Tables: the character that separates cells.")
  flags.DEFINE_enum("quoting", table_reader.AUTO, list(table_reader.QUOTINGS),
                    table_reader.QUOTING_HELP)
  flags.DEFINE_string("encoding", None, table_reader.ENCODING_HELP)
  flags.DEFINE_string(
      "output_file", None, "Output file: .jsonl, .csv or .parquet (id, text, "
                           "labels, one probability per label), .tsv (id and "
                           "probabilities); default: JSON lines on standard "
                           "output.")
  flags.DEFINE_string("probabilities", decisions.ALL,
                      decisions.HELP)
  flags.DEFINE_bool(
      "spreadsheet_safe", False, "Put a ' in front of cells of a .csv or .tsv "
                                 "that a spreadsheet would run as a formula.")


def check_flags(flag_values, texts):
  """Raises ValueError for invalid flags of files."""
  path = flag_values.input_file
  if path is None:
    for name, default in _INPUT_FLAGS + (("input_format", None),
                                         ("output_file", None)):
      if flag_values[name].value != default:
        raise ValueError("--%s needs --input_file." % name)
  output_file = flag_values.output_file or ""
  if flag_values.spreadsheet_safe and not output_file.endswith(
      prediction_writers.SHEETS):
    raise ValueError(
        "--spreadsheet_safe needs an --output_file that ends in .csv or .tsv.")
  if decisions.parse(
      flag_values.probabilities) != decisions.ALL and (
          output_file.endswith(prediction_writers.TABLES)):
    raise ValueError("--probabilities works only for JSON lines; a table has "
                     "one column per label.")
  text_encoding.check(flag_values.encoding)
  if path is None:
    return
  if texts:
    raise ValueError("give texts or --input_file, not both.")
  if path == "-" and flag_values.input_format in ("parquet", "xlsx"):
    raise ValueError("--input_format=%s needs a file; standard input cannot be "
                     "read twice." % flag_values.input_format)
  # A pipe that a shell made, `<(zcat x.gz)`, is not a regular file.
  if path != "-" and (not os.path.exists(path) or os.path.isdir(path)):
    raise ValueError("--input_file %s: there is no such file." % path)
  if flag_values.output_file is not None:
    prediction_writers.check_output_file(flag_values.output_file, path)


def predict_to_file(predictor, flag_values, decision):
  """`--input_file` to `--output_file` or standard output.

  Args:
    predictor: `predict_session.SessionPredictor`.
    flag_values: the flags.
    decision: `decisions.DecisionRule`.
  """
  path = flag_values.input_file
  rows = unlabelled.read_texts(
      "/dev/stdin" if path == "-" else path, flag_values.input_format,
      {name: flag_values[name].value for name, _ in _INPUT_FLAGS})
  which = decisions.parse(flag_values.probabilities)
  output_file = flag_values.output_file
  if output_file is None:
    predict_file(
        predictor, rows, prediction_writers.json_writer(
            sys.stdout.buffer, sys.stdout.isatty()), decision, which,
        # The two would be on one screen.
        not sys.stdout.isatty())
    return
  with atomic_files.replacing(output_file) as stream:
    with prediction_writers.open_writer(
        stream, os.path.splitext(output_file)[1], predictor.labels,
        flag_values.spreadsheet_safe) as write:
      predict_file(predictor, rows, write, decision, which)


def window_size(num_labels):
  """Texts predicted and described together: fewer with many labels."""
  return max(1, min(FILE_WINDOW, FILE_WINDOW_CELLS // num_labels))


def predict_file(predictor, rows, write, decision,
                 which=decisions.ALL, is_counted=True):
  """Labels rows (id, text_a, text_b) window by window, in constant memory.

  Args:
    predictor: `predict_session.SessionPredictor`.
    rows: iterable of (str, str, str or None).
    write: function of (row, `Described`), called in the order of the rows.
    decision: `decisions.DecisionRule`.
    which: the probabilities that are described, see `decisions`.
    is_counted: bool, whether a terminal shows how many there were.
  """
  rows = iter(rows)
  done, start = 0, time.time()
  size = window_size(len(predictor.labels))
  with terminal.Line() as line:
    for window in iter(lambda: list(itertools.islice(rows, size)), []):
      texts = [text_a if text_b is None else (text_a, text_b)
               for _, text_a, text_b in window]
      for row, described in zip(
          window, predictor.describe(predictor.predict(texts), *decision,
                                     which=which)):
        write(row, described)
      done += len(window)
      if line.is_terminal and is_counted:
        line.show("%s texts, %.0f texts/s" % (
            "{:,}".format(done), done / (time.time() - start)))
    line.keep()


def print_labels(predictor, text, decision):
  """Prints one text and its labels in readable form."""
  described, = predictor.describe(predictor.predict([text]), *decision)
  lines = [text] + ["  %.3f  %s" % (probability, label)
                    for label, probability in described.labels]
  if not described.labels:
    short = np.array(list(described.probabilities.values()))
    if not decision.is_by_text:
      # With a threshold per label, the highest probability need not be the
      # closest.
      short -= np.asarray(decision.thresholds)
    label = predictor.labels[int(short.argmax())]
    lines.append("  no label %s (nearest: %.3f  %s)" % (
        "is likely enough" if decision.is_by_text else "reaches the threshold",
        described.probabilities[label], label))
  shown = "\n".join(lines + [""])
  if sys.stdout.isatty():
    shown = terminal.printable(shown)
  sys.stdout.buffer.write(shown.encode("utf-8", "replace"))
  sys.stdout.flush()


def ask(predictor, decision):
  """Reads texts from the terminal, or a pipe, and prints their labels."""
  is_terminal = sys.stdin.isatty()
  if is_terminal:
    print("One text per line; end with an empty line or Ctrl-D.")
  for number in itertools.count(1):
    if is_terminal:
      sys.stdout.write("> ")
      sys.stdout.flush()
    line = sys.stdin.buffer.readline(text_lines.MAX_LINE + 1)
    if len(line) > text_lines.MAX_LINE:
      raise ValueError("standard input:%d: the line has more than %d bytes." % (
          number, text_lines.MAX_LINE))
    if is_terminal and not line:
      sys.stdout.write("\n")
    if not line or (is_terminal and not line.strip()):
      return
    try:
      text = line.decode("utf-8")  # as files are, whatever the locale
    except UnicodeDecodeError as error:
      raise ValueError("standard input:%d: byte 0x%02x is not UTF-8." % (
          number, line[error.start]))
    print_labels(predictor, text.rstrip("\r\n"), decision)
