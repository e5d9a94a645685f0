# SPDX-License-Identifier: Apache-2.0
"""Texts from files, or typed, to a predictor; its labels to files, or shown."""

import collections
import itertools
import json
import os
import re
import sys
import time

from absl import flags
import numpy as np

from multilabel import decisions
from multilabel.common import atomic_files
from processors import text_lines
from processors import unlabelled


# Texts in memory at a time when a file is predicted, and numbers of them that
# are named.
FILE_WINDOW = 1024
FILE_WINDOW_CELLS = 1 << 21

# What makes a spreadsheet take a cell for a formula: these, also of full width,
# and also behind white space, which some of them skip.
_FORMULA_START = re.compile("\\s*[=+@\uff1d\uff0b\uff0d\uff20-]|[\t\r\n]")
# Control characters and marks of direction: they move a terminal's cursor,
# change its settings, or show a text in another order than it has.
_TERMINAL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f"
                       "\u202a-\u202e\u2066-\u2069]")

TABLE_FLAGS = ("text_column", "text_pair_column", "id_column", "delimiter")


def define_decision_flags():
  """Defines the flags of which labels a text gets."""
  flags.DEFINE_float("threshold", None, "Least probability (0 to 1) of a "
                     "label; default: the model's own.")
  flags.DEFINE_integer("top_k", None, "Most labels of a text; default: the "
                       "model's own, or no limit.")
  flags.DEFINE_bool("always_one_label", None, "Give a text of which no label "
                    "passes its most probable one; default: the model's own, "
                    "or not.")


def check_decision_flags(flag_values):
  """Raises ValueError for a threshold or a top_k that cannot be."""
  if flag_values.threshold is not None and not 0 <= flag_values.threshold <= 1:
    raise ValueError("--threshold is %s; it must be from 0 to 1." %
                     flag_values.threshold)
  if flag_values.top_k is not None and flag_values.top_k < 1:
    raise ValueError("--top_k is %d; it must be 1 or more." %
                     flag_values.top_k)


def define_flags():
  """Defines the flags of files; called where the script starts."""
  flags.DEFINE_string(
      "input_file", None, "Texts to label: lines, .csv, .tsv or .jsonl, "
      "also .gz; - is standard input.")
  flags.DEFINE_enum(
      "input_form", None, list(unlabelled.FORMS),
      "Form of --input_file; default: by its ending, else lines of text.")
  flags.DEFINE_string("text_column", None,
                      "Tables: column of the text; default: text, "
                      "comment_text or sentence.")
  flags.DEFINE_string("text_pair_column", None,
                      "Tables: column of the second text of a pair.")
  flags.DEFINE_string("id_column", None,
                      "Tables: column of the id; default: id.")
  flags.DEFINE_string("delimiter", None, "Tables: between two cells.")
  flags.DEFINE_string(
      "output_file", None, "Where the labels go: .jsonl, or .tsv (id and a "
      "probability a label); default: standard output, as JSON lines.")
  flags.DEFINE_string("probabilities", decisions.ALL,
                      decisions.HELP)
  flags.DEFINE_bool(
      "spreadsheet_safe", False, "Write a ' before ids and label names in a "
      ".tsv that a spreadsheet would take for formulas.")


def check_flags(flag_values, texts):
  """Raises ValueError for flags of files that cannot work."""
  path = flag_values.input_file
  if path is None:
    for name in TABLE_FLAGS + ("input_form", "output_file"):
      if flag_values[name].value is not None:
        raise ValueError("--%s needs --input_file." % name)
  if flag_values.spreadsheet_safe and not (
      flag_values.output_file or "").endswith(".tsv"):
    raise ValueError("--spreadsheet_safe is for an --output_file that ends in "
                     ".tsv.")
  if decisions.parse(
      flag_values.probabilities) != decisions.ALL and (
          flag_values.output_file or "").endswith(".tsv"):
    raise ValueError("--probabilities is for JSON lines; a .tsv file has a "
                     "column a label.")
  if path is None:
    return
  if texts:
    raise ValueError("give texts or --input_file, not both.")
  # A pipe that a shell made, `<(zcat x.gz)`, is no regular file.
  if path != "-" and (not os.path.exists(path) or os.path.isdir(path)):
    raise ValueError("--input_file %s: there is no such file." % path)
  if flag_values.output_file is not None:
    check_output_file(flag_values.output_file, path)


def predict_to_file(predictor, flag_values, decision):
  """`--input_file` to `--output_file` or standard output.

  Args:
    predictor: `predict_session.SessionPredictor`.
    flag_values: the flags.
    decision: `decisions.DecisionRule`.
  """
  path = flag_values.input_file
  rows = unlabelled.read_texts(
      "/dev/stdin" if path == "-" else path,
      flag_values.input_form or unlabelled.guess_form(path),
      {name: flag_values[name].value for name in TABLE_FLAGS})
  which = decisions.parse(flag_values.probabilities)
  output_file = flag_values.output_file
  if output_file is None:
    predict_file(predictor, rows, json_writer(sys.stdout.buffer), decision,
                 which)
    return
  with atomic_files.replacing(output_file) as stream:
    write = (tsv_writer(stream, predictor.labels, flag_values.spreadsheet_safe)
             if output_file.endswith(".tsv") else json_writer(stream))
    predict_file(predictor, rows, write, decision, which)


def window_size(num_labels):
  """Texts that are predicted and named together: fewer with many labels."""
  return max(1, min(FILE_WINDOW, FILE_WINDOW_CELLS // num_labels))


def predict_file(predictor, rows, write, decision,
                 which=decisions.ALL):
  """Labels rows (id, text_a, text_b) window by window, in constant memory.

  Args:
    predictor: `predict_session.SessionPredictor`.
    rows: iterable of (str, str, str or None).
    write: function of (row, `Described`), called in the order of the rows.
    decision: `decisions.DecisionRule`.
    which: the probabilities that are described, see `decisions`.
  """
  rows = iter(rows)
  done, start = 0, time.time()
  size = window_size(len(predictor.labels))
  show = sys.stderr.isatty()
  try:
    for window in iter(lambda: list(itertools.islice(rows, size)), []):
      texts = [text_a if text_b is None else (text_a, text_b)
               for _, text_a, text_b in window]
      for row, described in zip(
          window, predictor.describe(predictor.predict(texts), *decision,
                                     which=which)):
        write(row, described)
      done += len(window)
      if show:
        sys.stderr.write("\r%s texts, %.0f texts/s\033[K" % (
            "{:,}".format(done), done / (time.time() - start)))
  finally:
    # What comes next, maybe an error, has a line of its own.
    if show and done:
      sys.stderr.write("\n")


def json_writer(stream):
  """Returns a `write` for `predict_file` that writes JSON lines."""
  def write(row, described):
    name, text_a, text_b = row
    record = collections.OrderedDict([("id", name), ("text", text_a)])
    if text_b is not None:
      record["text_pair"] = text_b
    record["labels"] = [label for label, _ in described.labels]
    record["probabilities"] = collections.OrderedDict(
        (label, round(value, 6))
        for label, value in described.probabilities.items())
    line = json.dumps(record, ensure_ascii=False) + u"\n"
    stream.write(line.encode("utf-8", "replace"))
  return write


def tsv_writer(stream, labels, spreadsheet_safe=False):
  """Returns a `write` for `predict_file`: a header, then a row a text.

  Args:
    stream: where bytes are written to.
    labels: list of str.
    spreadsheet_safe: bool, whether what a spreadsheet would take for a formula
      gets a ' before it.
  """
  def write_row(names, numbers=()):
    if spreadsheet_safe:
      names = [neutralised(name) for name in names]
    cells = [_quoted(name) for name in names] + ["%.8g" % n for n in numbers]
    stream.write(("\t".join(cells) + "\n").encode("utf-8", "replace"))

  write_row(["id"] + list(labels))
  return lambda row, described: write_row(
      [row[0]], described.probabilities.values())


def neutralised(cell):
  """Returns a cell (str) as one that every spreadsheet shows as text."""
  return "'" + cell if _FORMULA_START.match(cell) else cell


def _quoted(cell):
  """A cell of a table as RFC 4180 has it.

  Python's csv writer quotes carriage returns in newer versions alone.
  """
  if re.search("[\t\r\n\"]", cell):
    return '"%s"' % cell.replace('"', '""')
  return cell


def for_terminal(text):
  """Returns a text (str) with control characters and direction marks shown."""
  return _TERMINAL.sub(
      lambda match: "\\u%04x" % ord(match.group()), text)


def print_labels(predictor, text, decision):
  """Prints one text and its labels for a person."""
  described, = predictor.describe(predictor.predict([text]), *decision)
  shown = for_terminal(text) if sys.stdout.isatty() else text
  lines = [shown] + ["  %.3f  %s" % (probability, label)
                     for label, probability in described.labels]
  if not described.labels:
    # With a threshold a label, the highest probability need not be nearest.
    short = np.array(list(described.probabilities.values())) - np.asarray(
        decision.thresholds)
    label = predictor.labels[int(short.argmax())]
    lines.append("  no label reaches the threshold (nearest: %.3f  %s)" % (
        described.probabilities[label], label))
  sys.stdout.buffer.write("\n".join(lines + [""]).encode("utf-8", "replace"))
  sys.stdout.flush()


def ask(predictor, decision):
  """Reads texts from the terminal, or a pipe, and prints their labels."""
  is_terminal = sys.stdin.isatty()
  if is_terminal:
    print("A text a line; end with an empty line or Ctrl-D.")
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


def check_output_file(output_file, input_file):
  """Raises ValueError for an --output_file that cannot be written."""
  if not output_file.endswith((".jsonl", ".tsv")):
    raise ValueError("--output_file %s must end in .jsonl or .tsv." %
                     output_file)
  folder = os.path.dirname(os.path.abspath(output_file))
  if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
    raise ValueError("--output_file %s: there is no directory %s that can be "
                     "written to." % (output_file, folder))
  if os.path.isdir(output_file):
    raise ValueError("--output_file %s is a directory." % output_file)
  if os.path.exists(output_file) and os.path.exists(
      input_file) and os.path.samefile(input_file, output_file):
    raise ValueError("--output_file is --input_file %s; name another file." %
                     input_file)
