# SPDX-License-Identifier: Apache-2.0
"""Files of predictions: JSON lines, CSV, TSV, Parquet.

A writer takes a row `(id, text, second text or None)` and what
`SessionPredictor.describe` says of it, in the order of the rows.
"""

import collections
import contextlib
import importlib.util
import json
import os
import re

from multilabel.common import terminal
from processors.text_lines import shown

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
# Those that have a column for each label, and so all probabilities.
TABLES = (".csv", ".tsv", ".parquet")
# Those that a spreadsheet opens.
SHEETS = (".csv", ".tsv")

# Characters that make a spreadsheet treat a cell as a formula, including
# full-width ones, also after white space, which some skip.
_FORMULA_START = re.compile("\\s*[=+@\uff1d\uff0b\uff0d\uff20\t\r\n-]")
# Without it Excel assumes the encoding of the machine's locale.
_MARK = b"\xef\xbb\xbf"
_PARQUET_ROWS = 1024  # of a row group, of few labels
_PARQUET_CELLS = 1 << 20


@contextlib.contextmanager
def open_writer(stream, ending, labels, spreadsheet_safe=False):
  """Opens a writer of predictions.

  Args:
    stream: where bytes are written to.
    ending: one of `ENDINGS`.
    labels: list of str, the order of the probabilities.
    spreadsheet_safe: bool, for `SHEETS`: whether cells that a spreadsheet would
      run as a formula get a leading '; a .csv then also starts with a byte
      order mark.

  Yields:
    function of (row, `Described`).

  Raises:
    ValueError: a later row is a pair, but the first one is not.
  """
  if ending == ".parquet":
    with _parquet_writer(stream, labels) as write:
      yield write
  elif ending == ".csv":
    with _csv_writer(stream, labels, spreadsheet_safe) as write:
      yield write
  elif ending == ".tsv":
    yield tsv_writer(stream, labels, spreadsheet_safe)
  else:
    yield json_writer(stream)


def json_writer(stream, is_terminal=False):
  """Returns a writer of JSON lines, for a terminal without raw characters."""
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
    if is_terminal:
      line = terminal.printable(line)
    stream.write(line.encode("utf-8", "replace"))
  return write


def tsv_writer(stream, labels, spreadsheet_safe=False):
  """Returns a writer of ids and probabilities per label; see `open_writer`."""
  write_cells = cell_writer(stream, "\t", spreadsheet_safe)
  write_cells(["id"] + list(labels))
  return lambda row, described: write_cells(
      [row[0]], described.probabilities.values())


@contextlib.contextmanager
def _csv_writer(stream, labels, spreadsheet_safe):
  """Yields a writer of id, text, labels and a probability per label."""
  write_cells = cell_writer(stream, ",", spreadsheet_safe)
  join = labels_joiner(labels)
  columns = []

  def write_header(is_pair):
    if spreadsheet_safe:
      stream.write(_MARK)
    columns.extend(column_names(labels, is_pair))
    write_cells(columns)

  def write(row, described):
    name, text_a, text_b = row
    if not columns:
      write_header(text_b is not None)
    texts = [text_a]
    if columns[2] == "text_pair":
      texts.append(text_b or "")
    elif text_b is not None:
      raise ValueError(
          "row %s has two texts, but the first row has one: write .jsonl or "
          ".parquet, or give every row two texts." % shown(name))
    write_cells(
        [name] + texts + [join([label for label, _ in described.labels])],
        described.probabilities.values())

  yield write
  if not columns:
    write_header(False)


def column_names(labels, is_pair, has_truth=False):
  """Names of the columns of a table of predictions: list of distinct str.

  A label with the name of another column gets the suffix " (probability)".

  Args:
    labels: list of str.
    is_pair: bool, whether there are second texts.
    has_truth: bool, whether there are true labels.
  """
  names = (["id", "text"] + ["text_pair"] * is_pair + ["labels"] +
           ["true_labels"] * has_truth)
  others = set(names).union(labels)
  for label in labels:
    column = label
    if label in names:
      while column in others:
        column += " (probability)"
      others.add(column)
    names.append(column)
  return names


def labels_joiner(labels):
  """Returns the function from names (list of str) to a cell.

  They are separated by commas, as the task `delimited` reads them; if a label
  contains a comma, it is a JSON list.
  """
  if any("," in label for label in labels):
    return lambda names: json.dumps(names, ensure_ascii=False)
  return ",".join


def cell_writer(stream, delimiter, spreadsheet_safe=False):
  """Returns a function that writes a row: list of str, then numbers.

  Args:
    stream: where bytes are written to.
    delimiter: str, one character.
    spreadsheet_safe: bool, see `open_writer`.
  """
  special = re.compile("[%s\r\n\"]" % delimiter)

  def quoted(cell):
    # Python's csv quotes carriage returns only in newer versions.
    if special.search(cell):
      return '"%s"' % cell.replace('"', '""')
    return cell

  def write_cells(names, numbers=()):
    if spreadsheet_safe:
      names = [neutralised(name) for name in names]
    cells = [quoted(name) for name in names] + ["%.8g" % n for n in numbers]
    stream.write((delimiter.join(cells) + "\n").encode("utf-8", "replace"))
  return write_cells


def neutralised(cell):
  """Returns a cell (str) that every spreadsheet shows as text."""
  return "'" + cell if _FORMULA_START.match(cell) else cell


@contextlib.contextmanager
def _parquet_writer(stream, labels):
  """Yields a writer of Parquet: the labels are a list, the rest as in a .csv.
  """
  import pyarrow  # pylint: disable=g-import-not-at-top
  from pyarrow import parquet  # pylint: disable=g-import-not-at-top
  types = [pyarrow.string()] * 3 + [pyarrow.list_(pyarrow.string())] + [
      pyarrow.float32()] * len(labels)
  schema = pyarrow.schema(list(zip(column_names(labels, True), types)))
  most = max(1, min(_PARQUET_ROWS, _PARQUET_CELLS // len(types)))
  rows = []

  with parquet.ParquetWriter(stream, schema) as writer:
    def flush():
      if rows:
        columns = [pyarrow.array(cells, kind)
                   for cells, kind in zip(zip(*rows), types)]
        writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
        del rows[:]

    def write(row, described):
      rows.append([_valid(cell) for cell in row] +
                  [[label for label, _ in described.labels]] +
                  list(described.probabilities.values()))
      if len(rows) == most:
        flush()

    yield write
    flush()


def _valid(text):
  """A str, or None, without characters that UTF-8 cannot encode."""
  return text and text.encode("utf-8", "replace").decode("utf-8")


def check_output_file(output_file, input_file):
  """Raises ValueError for an --output_file that cannot be written."""
  if not output_file.endswith(ENDINGS):
    raise ValueError("--output_file %s must end in .jsonl, .csv, .tsv or "
                     ".parquet." % output_file)
  folder = os.path.dirname(os.path.abspath(output_file))
  if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
    raise ValueError("--output_file %s: %s is not a writable "
                     "directory." % (output_file, folder))
  if os.path.isdir(output_file):
    raise ValueError("--output_file %s is a directory." % output_file)
  if os.path.exists(output_file):
    if not os.path.isfile(output_file):
      raise ValueError("--output_file %s is a pipe or a device, not a file; "
                       "without the flag, JSON lines go to standard output." %
                       output_file)
    if not os.access(output_file, os.W_OK):
      raise ValueError("--output_file %s exists and is not writable." %
                       output_file)
    if os.path.exists(input_file) and os.path.samefile(input_file, output_file):
      raise ValueError("--output_file is --input_file %s; name another file." %
                       input_file)
  if output_file.endswith(".parquet") and not importlib.util.find_spec(
      "pyarrow"):
    raise ValueError("--output_file %s needs the package pyarrow, which is not "
                     "installed: pip install pyarrow, or write .csv." %
                     output_file)
