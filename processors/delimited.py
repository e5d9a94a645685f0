# SPDX-License-Identifier: Apache-2.0
"""Tables with a header row: CSV, TSV, Parquet, .xlsx; see `tables`."""

import functools
import itertools
import operator
import os
import re

from absl import logging

from processors import base
from processors import label_cells
from processors import label_columns
from processors import table_reader
from processors import tables
from processors import text_encoding
from processors.text_lines import list_names
from processors.text_lines import shown


TEXT_COLUMNS = ("text", "comment_text", "sentence")
_LABEL_COLUMNS = ("labels", "label")
# pandas' name of a column without one: the row numbers of a table it wrote.
_UNNAMED = re.compile(r"Unnamed: \d+\Z")
# Rows of train that show which columns hold 0 and 1.
_SAMPLE_ROWS = 1000
# Their cells: with tens of thousands of labels, fewer rows are enough.
_SAMPLE_CELLS = 1 << 20


class DelimitedProcessor(base.FileProcessor):
  """`train`, `dev` and `test` as `.csv` or `.tsv`, `.gz` or not, `.parquet`,
  `.xlsx`.

  Columns are found by name. Those that no option names have these defaults:
  the text is `text`, `comment_text` or `sentence`; the second text `text_pair`,
  if there; the id `id`, if there. The labels are in one column, `labels` or
  `label`: names with `label_separator` between them, or lists as Python, numpy
  or JSON write them, or 0 and 1 for a label of the column's name (an empty cell
  is not a label, but of 0 and 1); see `label_columns`. Without such a column
  every other one is a label whose cells are 0 or 1, in the order of the
  columns, except those whose cells in the first rows of train are all words:
  they are logged and left out, and so is what `ignore_columns` names.
  `label_column` may also name several such 0/1 columns; both options are lines
  of CSV. The test file may lack all label columns; a row of it with -1, or with
  nothing but empty 0/1 cells in every row, is not labelled.
  """

  extensions = (".csv", ".tsv", ".parquet", ".xlsx")
  packed_extensions = (".parquet", ".xlsx")

  def __init__(self, options=None):
    super(DelimitedProcessor, self).__init__(options)
    self._meanings = {}  # (path, time, size) -> `label_columns.Meaning`
    for name in ("delimiter", "label_separator"):
      if self.options[name] is not None:
        self.options[name] = label_cells.unescape(self.options[name])
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
    names, meaning = self._label_columns(path, data_dir)
    # Reads one row, so that a wrong header or an empty file is reported here.
    for _ in self.read_rows(path, "train", data_dir):
      break
    else:
      raise ValueError("%s holds no examples." % path)
    if meaning.are_flags:
      return names
    if not meaning.labels:
      raise ValueError("%s: none of its rows has a label in column %s." % (
          path, shown(names[0])))
    return meaning.labels

  def read_rows(self, path, part, data_dir):
    """See `FileProcessor`."""
    table = self._read_table(path)
    line, header = next(table)
    text, pair, identifier = self.text_columns(path, header)
    label_cells_of, parse = self._label_reader(path, line, header, part,
                                               data_dir)
    for line, row in table:
      try:
        labels = parse(label_cells_of(row)) if parse else None
      except ValueError as error:
        raise ValueError("%s:%d: %s." % (path, line, error))
      yield (line,
             "" if identifier is None else row[identifier].strip(),
             tables.used(path, line, row[text]),
             None if pair is None else tables.used(path, line, row[pair]),
             labels)

  def columns_taken(self, data_dir):
    """See `DataProcessor`: the columns of train, or of the first part there.
    """
    paths = [self.find_file(data_dir, part) for part in ("train", "dev",
                                                         "test")]
    path = next(path for path in paths if path)
    header = next(self._read_table(path))[1]
    used = self.text_columns(path, header)
    lines = ["%s from column %s" % (what, shown(header[position]))
             for what, position in zip(("text", "second text", "id"), used)
             if position is not None]
    names, meaning = self._label_columns(path, data_dir)
    if names:
      lines.append("labels from column%s %s (%s)" % (
          "" if len(names) == 1 else "s", list_names(names), meaning.form))
    taken = set(names).union(header[position] for position in used
                             if position is not None)
    rest = [name for name in header if name not in taken]
    if rest:
      lines.append("not read: %s" % list_names(rest))
    return lines

  def _read_table(self, path):
    return tables.read_table(path, self.options, log=self.log_once)

  def text_columns(self, path, header):
    """Returns the positions of text, second text and id, None if absent."""
    positions = []
    for option, defaults in (("text_column", TEXT_COLUMNS),
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
    """A hint about a header with a single column, for a message."""
    if len(header) != 1:
      return ""
    other = table_reader.other_delimiter(header, self.options["delimiter"])
    if other is None:
      return " (one column only, is --delimiter right?)"
    return " (one column only: give --delimiter='%s')" % (
        "\\t" if other == "\t" else other)

  def _label_columns(self, path, data_dir):
    """Returns the names of a file's label columns, and their `Meaning`.

    They may be missing if `label_column` names them.
    """
    names, are_flags = self._choose_columns(path)
    if are_flags:
      return names, label_columns.Meaning(True, None, None, "0 and 1")
    stat = os.stat(path)
    key = (path, stat.st_mtime_ns, stat.st_size)
    if key not in self._meanings:
      self._meanings[key] = self._read_meaning(path, names[0], data_dir)
    return names, self._meanings[key]

  def _read_meaning(self, path, name, data_dir):
    """Reads a label column from top to bottom."""
    table = self._read_table(path)
    header = next(table)[1]
    position = header.index(name) if name in header else None
    cells = () if position is None else (
        (line, tables.used(path, line, row[position])) for line, row in table)
    known = self.known_labels(data_dir)
    return label_columns.read_meaning(
        path, cells, name, self.options["label_separator"],
        self.trained_labels if known is None else known, data_dir)

  def _choose_columns(self, path):
    """Returns the names of the label columns, and whether they are 0/1.

    False of a single one means that it has to be read first.
    """
    table = self._read_table(path)
    header = next(table)[1]
    used = set(self.text_columns(path, header))
    ignored = self._ignored_columns(path, header)
    named = self.options["label_column"]
    if named:
      names = [named] if named in header else label_columns.split_names(
          "label_column", named)
      both = ignored.intersection(names)
      if both:
        raise ValueError("--label_column and --ignore_columns both name %s." %
                         list_names(sorted(both)))
      if set(names).intersection(
          header[position] for position in used if position is not None):
        raise ValueError("%s: a column of --label_column=%s is also that of a "
                         "text or an id." % (path, named))
      return names, len(names) > 1
    found = [name for name in _LABEL_COLUMNS
             if name in header and name not in ignored]
    if len(found) > 1:
      raise ValueError("%s has columns %s: name one with --label_column." % (
          path, list_names(found)))
    if found:
      return found, False
    sample = [row for _, row in itertools.islice(
        table, max(10, min(_SAMPLE_ROWS, _SAMPLE_CELLS // len(header))))]
    names, left_out = [], []
    for position, name in enumerate(header):
      if position not in used and name not in ignored:
        cells = [row[position].strip() for row in sample]
        is_label = not (_are_words(cells) or (
            _UNNAMED.match(name) and _are_row_numbers(cells)))
        (names if is_label else left_out).append(name)
    if left_out and names and (path, "columns") not in self._told:
      self._told.add((path, "columns"))
      logging.warning(
          "%s: columns %s hold no 0 and 1: they are no labels.",
          path, list_names(left_out))
    return names, True

  def _ignored_columns(self, path, header):
    """The columns of --ignore_columns: set of str, all of them there."""
    text = self.options["ignore_columns"]
    if not text:
      return frozenset()
    names = [text] if text in header else label_columns.split_names(
        "ignore_columns", text)
    missing = set(names).difference(header)
    if missing and os.path.basename(path).startswith("train."):
      raise ValueError(
          "%s has no column %s for --ignore_columns; its first row names: %s." %
          (path, list_names(sorted(missing)), list_names(header)))
    return frozenset(names)

  def _label_reader(self, path, line, header, part, data_dir):
    """Returns what gets the label cells of a row, and what parses them.

    Both are None when the file is not labelled.
    """
    train = path if part == "train" else self.find_file(data_dir, "train")
    names, meaning = self._label_columns(train or path, data_dir)
    positions = {name: position for position, name in enumerate(header)}
    missing = [name for name in names if name not in positions]
    other = [name for name in header if name.lower() in _LABEL_COLUMNS]
    if missing and other and not self.options["label_column"] and (
        names[0] in _LABEL_COLUMNS):
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
    cells = operator.itemgetter(*[positions[name] for name in names])
    parse = meaning.parse
    if meaning.are_flags:
      if train and path != train and not self.options["label_column"] and (
          len(names) > 1):
        self._check_same_flags(path, train, names)
      _check_label_names(path, line, names)
      if len(names) == 1:
        cells = _as_one(cells)
      parse = _flag_parser(names, part)
    # Most files have few combinations of cells: each is parsed once. Wide
    # tables have many large ones.
    most = max(16, min(4096, _SAMPLE_CELLS // len(names)))
    return cells, functools.lru_cache(maxsize=most)(parse)

  def _check_same_flags(self, path, train, names):
    """Rejects 0/1 columns of dev or test that train does not have."""
    known = set(next(self._read_table(train))[1]).union(names)
    extra = [name for name in self._choose_columns(path)[0]
             if name not in known]
    if extra:
      raise ValueError(
          "%s has label columns %s, which %s has not: name the label columns "
          "with --label_column, or leave them out with --ignore_columns." % (
              path, list_names(extra), train))


def _are_words(cells):
  """Whether no cell looks like a 0 or a 1."""
  is_filled = False
  for cell in cells:
    if cell:
      if _is_like_flag(cell):
        return False
      is_filled = True
  return is_filled


def _are_row_numbers(cells):
  """Whether cells are 0, 1, 2, ..., as in the index that pandas writes."""
  return all(cell == str(number) for number, cell in enumerate(cells))


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


def _as_one(cell_of):
  """Makes a tuple of the single cell that itemgetter returns for one column."""
  return lambda row: (cell_of(row),)


def _flag_parser(names, part):
  """Returns the function from 0/1 cells to labels; see `parse_flags`.

  A test file whose label cells are all empty is not labelled.
  """
  if part != "test":
    return lambda cells: label_columns.parse_flags(cells, names, False)
  kinds = set()

  def parse(cells):
    is_empty = not any(cell and not cell.isspace() for cell in cells)
    kinds.add(is_empty)
    if len(kinds) > 1:
      raise ValueError(
          "the label cells are %s, others of this file are not: write 0 where "
          "a label does not hold, and -1 where nobody knows" % (
              "empty" if is_empty else "filled"))
    return None if is_empty else label_columns.parse_flags(cells, names, True)
  return parse
