# SPDX-License-Identifier: Apache-2.0
"""Delimited text: CSV and TSV files with a header row.

Fields are quoted as in RFC 4180, in TSV files too (as spreadsheets and pandas
write them): a field that begins with a quotation mark ends with one, and the
marks inside are doubled; anywhere else a quotation mark is an ordinary
character. A field that breaks the rule is an error with its line, never
another text.
"""

import collections
import contextlib
import csv
import functools
import itertools
import operator
import threading

from absl import logging

from processors import base
from processors import text_lines
from processors.text_lines import list_names
from processors.text_lines import shown

_TEXT_COLUMNS = ("text", "comment_text", "sentence")
_LABEL_COLUMNS = ("labels", "label")
_ESCAPES = {"\\t": "\t", "tab": "\t"}
# Rows of train that show which columns hold 0 and 1.
_SAMPLE_ROWS = 1000
# Their cells: a table of tens of thousands of labels shows itself sooner.
_SAMPLE_CELLS = 1 << 20
# Characters; above this a missing quotation mark is likelier than a text.
_MAX_FIELD = 1 << 26
_FLAGS = frozenset(("0", "1"))


class DelimitedProcessor(base.FileProcessor):
  """`train`, `dev` and `test` as `.csv` or `.tsv`, `.gz` or not.

  Columns are found by name. Those that no option names have these defaults:
  the text is `text`, `comment_text` or `sentence`; the second text
  `text_pair`, if there; the id `id`, if there. The labels are in one column,
  `labels` or `label`, separated by `label_separator` (an empty cell is no
  label); without such a column every other one is a label whose cells are 0
  or 1, in the order of the columns, except those whose cells in the first
  rows of train are all words: they are logged and left out. `label_column`
  may also name several such 0/1 columns, separated by commas. The test file
  may lack all label columns.
  """

  extensions = (".csv", ".tsv")

  def __init__(self, options=None):
    super(DelimitedProcessor, self).__init__(options)
    self._warned = set()  # files whose columns were complained about
    for name in ("delimiter", "label_separator"):
      value = self.options[name]
      self.options[name] = _ESCAPES.get(value, value)
    delimiter = self.options["delimiter"]
    if delimiter is not None and (
        len(delimiter) != 1 or delimiter in "\"\r\n\0"):
      raise ValueError(
          "--delimiter=%s must be one character, and no quotation mark or "
          "line break." % shown(delimiter))
    if not self.options["label_separator"]:
      raise ValueError("--label_separator must not be empty.")

  def default_labels(self, data_dir):
    """See `FileProcessor`; of 0/1 columns, the order of the columns."""
    path = self._require_file(data_dir, "train")
    names, are_flags = self._label_columns(path)
    if not are_flags:
      return super(DelimitedProcessor, self).default_labels(data_dir)
    # Reads one row, so that a wrong header or an empty file is said here.
    for _ in self.read_rows(path, "train", data_dir):
      return names
    raise ValueError("%s holds no examples." % path)

  def read_rows(self, path, part, data_dir):
    """See `FileProcessor`."""
    table = self._read_table(path)
    line, header = next(table)
    text, pair, identifier = self.text_columns(path, header)
    label_cells, parse = self._label_reader(path, line, header, part, data_dir)
    for line, row in table:
      try:
        labels = parse(label_cells(row)) if parse else None
      except ValueError as error:
        raise ValueError("%s:%d: %s." % (path, line, error))
      yield (line,
             "" if identifier is None else row[identifier].strip(),
             row[text],
             None if pair is None else row[pair],
             labels)

  def _read_table(self, path):
    delimiter = self.options["delimiter"]
    if delimiter is None:
      delimiter = "\t" if path.endswith((".tsv", ".tsv.gz")) else ","
    return read_table(path, delimiter)

  def text_columns(self, path, header):
    """Returns the positions of text, second text and id, None if absent."""
    positions = []
    for option, defaults in (("text_column", _TEXT_COLUMNS),
                             ("text_pair_column", ("text_pair",)),
                             ("id_column", ("id",))):
      named = self.options[option]
      found = [name for name in ((named,) if named else defaults)
               if name in header]
      if len(found) > 1:
        raise ValueError("%s has columns %s: name one with --%s." % (
            path, list_names(found), option))
      if not found and (named or option == "text_column"):
        raise ValueError(
            "%s has no column %s for --%s; its first row names: %s%s." % (
                path, shown(named) if named else " or ".join(
                    shown(name) for name in defaults),
                option, list_names(header),
                " (one column only, is --delimiter right?)"
                if len(header) == 1 else ""))
      positions.append(header.index(found[0]) if found else None)
    used = [position for position in positions if position is not None]
    if len(used) != len(set(used)):
      raise ValueError(
          "--text_column, --text_pair_column and --id_column must name "
          "different columns, not twice one of %s." % list_names(header))
    return positions

  def _label_columns(self, path):
    """Returns the names of a file's label columns, and whether they are 0/1.

    They need not be there when `label_column` names them.
    """
    table = self._read_table(path)
    header = next(table)[1]
    used = set(self.text_columns(path, header))
    named = self.options["label_column"]
    if named:
      names = [name.strip() for name in named.split(",")]
      if named in header or len(names) == 1:
        return [named], False
      if "" in names or len(set(names)) != len(names):
        raise ValueError("--label_column=%s names a column twice or an empty "
                         "one." % named)
      return names, True
    found = [name for name in _LABEL_COLUMNS if name in header]
    if len(found) > 1:
      raise ValueError("%s has columns %s: name one with --label_column." % (
          path, list_names(found)))
    if found:
      return found, False
    sample = [row for _, row in itertools.islice(
        table, max(10, min(_SAMPLE_ROWS, _SAMPLE_CELLS // len(header))))]
    names, left_out = [], []
    for position, name in enumerate(header):
      if position not in used:
        cells = (row[position].strip() for row in sample)
        (left_out if _are_words(cells) else names).append(name)
    if left_out and names and path not in self._warned:
      self._warned.add(path)
      logging.warning(
          "%s: columns %s hold words, not 0 and 1: they are no labels.",
          path, list_names(left_out))
    return names, True

  def _label_reader(self, path, line, header, part, data_dir):
    """Returns what gets the label cells of a row, and what parses them.

    Both are None when the file is not labelled.
    """
    train = path if part == "train" else self.find_file(data_dir, "train")
    names, are_flags = self._label_columns(train or path)
    positions = {name: position for position, name in enumerate(header)}
    missing = [name for name in names if name not in positions]
    other = [name for name in header if name.lower() in _LABEL_COLUMNS]
    if missing and other and not are_flags and not self.options["label_column"]:
      raise ValueError("%s has column %s where %s has %s: rename one." % (
          path, shown(other[0]), train, shown(names[0])))
    if len(missing) == len(names) and part == "test":
      logging.info("%s has no label column: its examples are not labelled.",
                   path)
      return None, None
    if missing or not names:
      raise ValueError(
          "%s has no label column%s; its first row names: %s (choose with "
          "--label_column)." % (
              path, " " + list_names(missing) if missing else "",
              list_names(header)))
    if set(names).intersection(
        header[position] for position in self.text_columns(path, header)
        if position is not None):
      raise ValueError("%s: a column of --label_column=%s is also that of a "
                       "text or an id." % (path, self.options["label_column"]))
    if not are_flags:
      separator = self.options["label_separator"]
      parse = lambda cell: _parse_list(cell, separator)
    else:
      if train and path != train and not self.options["label_column"]:
        self._check_same_flags(path, train, names)
      _check_label_names(path, line, names)
      parse = lambda cells: _parse_flags(cells, names)
    cells = operator.itemgetter(*[positions[name] for name in names])
    # Few combinations of cells make up most files: each is parsed once. Of
    # wide tables they are many, and each is large.
    most = max(16, min(4096, _SAMPLE_CELLS // len(names)))
    return cells, functools.lru_cache(maxsize=most)(parse)

  def _check_same_flags(self, path, train, names):
    """Refuses 0/1 columns of dev or test that train does not have."""
    known = set(next(self._read_table(train))[1]).union(names)
    extra = [name for name in self._label_columns(path)[0]
             if name not in known]
    if extra:
      raise ValueError(
          "%s has label columns %s, which %s has not: name the label columns "
          "with --label_column." % (path, list_names(extra), train))


def read_table(path, delimiter):
  """Yields the header and the rows of a delimited file.

  Args:
    path: str, a UTF-8 file, as for `text_lines.read_lines`.
    delimiter: str, one character.

  Yields:
    (line, fields): int, the 1-based line where the row starts, and a list of
    str. The first one is the header, its names stripped.

  Raises:
    ValueError: there is no header, a name in it is empty or double, a row has
      another length than the header, a quoted field is not closed as it
      should be, or a blank line stands before the end.
  """
  with long_fields():
    reader = csv.reader(text_lines.read_lines(path), delimiter=delimiter,
                        strict=True)
    line, blank, width = 1, 0, 0
    try:
      for row in reader:
        if not row:
          blank = blank or line
        elif blank:
          raise ValueError("%s:%d: blank line before the end of the file." % (
              path, blank))
        elif not width:
          width = len(row)
          yield line, clean_header(path, line, row)
        elif len(row) != width:
          raise ValueError(
              "%s:%d: the row has %d fields, the header %d: a field that "
              "holds the delimiter must be quoted." % (
                  path, line, len(row), width))
        else:
          yield line, row
        line = reader.line_num + 1
    except csv.Error as error:
      raise ValueError("%s:%d: %s." % (path, line, explain(error)))
  if not width:
    raise ValueError("%s is empty: its first row must name the columns." % path)


def clean_header(path, line, row):
  """Returns the names of a header row, stripped; ValueError if one cannot be.
  """
  header = [name.strip() for name in row]
  if "" in header:
    raise ValueError(
        "%s:%d: column %d has no name (pandas writes such a column unless told "
        "index=False)." % (path, line, header.index("") + 1))
  if len(set(header)) != len(header):
    double, _ = collections.Counter(header).most_common(1)[0]
    raise ValueError("%s:%d: two columns are called %s." % (
        path, line, shown(double)))
  return header


def explain(error):
  """Says what Python's csv reader means."""
  message = text_lines.one_line(error)
  if "end of data" in message:
    return "a quotation mark opens a field of this row and nothing closes it"
  if "expected after" in message:
    return ("more text follows the end of a quoted field that starts in this "
            "row: quotation marks inside one must be doubled")
  if "field limit" in message:
    return ("a field of this row is longer than %d characters, is a quotation "
            "mark not closed?" % _MAX_FIELD)
  return message


def _are_words(cells):
  """Whether no cell looks as if somebody meant a 0 or a 1."""
  is_filled = False
  for cell in cells:
    if cell:
      if _is_like_flag(cell):
        return False
      is_filled = True
  return is_filled


def _is_like_flag(cell):
  try:
    float(cell)
    return True
  except ValueError:
    return cell.lower() in ("true", "false", "yes", "no")


def _check_label_names(path, line, names):
  for name in names:
    try:
      base.clean_labels((name,))
    except ValueError as error:
      raise ValueError("%s:%d: %s." % (path, line, error))


def _parse_list(cell, separator):
  if not cell.strip():
    return ()
  try:
    return base.clean_labels(cell.split(separator))
  except ValueError as error:
    raise ValueError("%s in %s" % (error, shown(cell)))


def _parse_flags(cells, names):
  # itemgetter gives a bare cell when there is one column.
  cells = (cells,) if isinstance(cells, str) else cells
  cells = [cell.strip() for cell in cells]
  for cell, name in zip(cells, names):
    if cell not in _FLAGS:
      raise ValueError(
          "column %s holds %s, not 0 or 1%s" % (
              shown(name), shown(cell),
              " (-1 marks rows that nobody scores: take them out)"
              if cell == "-1" else
              "; if it is no label, name the label columns with "
              "--label_column=A,B"))
  return tuple(name for cell, name in zip(cells, names) if cell == "1")


class _FieldLimit(object):
  """csv's limit of a field, which is one for the process, and its users."""

  def __init__(self):
    self.lock = threading.Lock()
    self.readers = 0
    self.before = 0


_FIELD_LIMIT = _FieldLimit()


@contextlib.contextmanager
def long_fields():
  """Raises csv's limit while any table is read, and puts it back after."""
  with _FIELD_LIMIT.lock:
    if not _FIELD_LIMIT.readers:
      _FIELD_LIMIT.before = csv.field_size_limit()
      csv.field_size_limit(max(_FIELD_LIMIT.before, _MAX_FIELD))
    _FIELD_LIMIT.readers += 1
  try:
    yield
  finally:
    with _FIELD_LIMIT.lock:
      _FIELD_LIMIT.readers -= 1
      if not _FIELD_LIMIT.readers:
        csv.field_size_limit(_FIELD_LIMIT.before)
