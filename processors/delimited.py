# SPDX-License-Identifier: Apache-2.0
"""Delimited text: CSV and TSV files with a header row, see `table_reader`."""

import functools
import itertools
import operator

from absl import logging

from processors import base
from processors import table_reader
from processors import text_encoding
from processors.text_lines import list_names
from processors.text_lines import shown

_TEXT_COLUMNS = ("text", "comment_text", "sentence")
_LABEL_COLUMNS = ("labels", "label")
_ESCAPES = {"\\t": "\t", "tab": "\t"}
# Rows of train that show which columns hold 0 and 1.
_SAMPLE_ROWS = 1000
# Their cells: a table of tens of thousands of labels shows itself sooner.
_SAMPLE_CELLS = 1 << 20
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
    if self.options["quoting"] not in table_reader.QUOTINGS:
      raise ValueError("--quoting=%s must be one of %s." % (
          shown(self.options["quoting"]), ", ".join(table_reader.QUOTINGS)))
    text_encoding.check(self.options["encoding"])

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
    return table_reader.read_table(
        path, self.options["delimiter"], self.options["quoting"],
        self.options["encoding"], log=self._log_once)

  def _log_once(self, message, *arguments):
    """Says what a table holds once, however often it is read."""
    if (message, arguments) not in self._warned:
      self._warned.add((message, arguments))
      logging.info(message, *arguments)

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
                self._explain_one_column(header)))
      positions.append(header.index(found[0]) if found else None)
    used = [position for position in positions if position is not None]
    if len(used) != len(set(used)):
      raise ValueError(
          "--text_column, --text_pair_column and --id_column must name "
          "different columns, not twice one of %s." % list_names(header))
    return positions

  def _explain_one_column(self, header):
    """What may be wrong with a header of one column, for a message."""
    if len(header) != 1:
      return ""
    other = table_reader.other_delimiter(header, self.options["delimiter"])
    if other is None:
      return " (one column only, is --delimiter right?)"
    return " (one column only: give --delimiter='%s')" % (
        "\\t" if other == "\t" else other)

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
