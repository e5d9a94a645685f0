# SPDX-License-Identifier: Apache-2.0
"""The label columns of a table: what all their cells together mean.

`read_meaning` reads one column from top to bottom, once, and says which of
the forms of `label_cells` it has. Several columns are a 0/1 column each.
"""

import collections
import csv

from processors import base
from processors import label_cells
from processors import label_names
from processors.text_lines import list_names
from processors.text_lines import shown


# Distinct cells that are cached while a column is read; repeats add no
# information.
_MOST_CELLS = 1 << 16
_MOST_WORDS = 8

# What a label column means. `are_flags`: its cells are 0 and 1, for the label
# of its name; else `parse` turns a cell (str) into a tuple of labels or raises
# a ValueError without its place. `labels`: sorted list of those that the cells
# have, or None where they were not collected. `form`: str, for the log.
Meaning = collections.namedtuple(
    "Meaning", ["are_flags", "parse", "labels", "form"])


def split_names(flag, text):
  """Column names of a flag, as a line of CSV has them: list of str.

  Args:
    flag: str, the flag's name, for messages.
    text: str, such as `toxic,"hate, threats"`.

  Returns:
    list of distinct str.

  Raises:
    ValueError: a name is empty or there twice, or a quotation mark is left
      open.
  """
  try:
    rows = list(csv.reader([text], skipinitialspace=True, strict=True))
  except csv.Error as error:
    raise ValueError("--%s=%s: %s; a name with a comma stands in quotation "
                     "marks." % (flag, text, error))
  names = [name.strip() for name in rows[0]] if rows else [""]
  if "" in names or len(set(names)) != len(names):
    raise ValueError("--%s=%s names a column twice or an empty one." % (
        flag, text))
  return names


def read_meaning(path, cells, column, separator, known, data_dir):
  """Finds out what a label column means.

  Args:
    path: str, the file, for messages.
    cells: iterable of (line, cell): int from 1 on, and str.
    column: str, its name.
    separator: str, what is between names.
    known: list of str, the labels by `labels.txt`, or None.
    data_dir: str, the folder.

  Returns:
    `Meaning`.

  Raises:
    ValueError: the cells have several formats, or the labels look like
      mistakes; one sentence with the line.
  """
  survey = _Survey(path, column, separator, known, data_dir)
  seen = set()
  for line, cell in cells:
    if cell in seen:
      continue
    if len(seen) < _MOST_CELLS:
      seen.add(cell)
    try:
      survey.add(line, cell)
    except ValueError as error:
      raise ValueError("%s:%d: %s." % (path, line, error))
  return survey.finish()


class _Survey(object):
  """What is known of a column after some of its cells."""

  def __init__(self, path, column, separator, known, data_dir):
    self._path = path
    self._column = column
    self._separator = separator
    self._known = None if known is None else frozenset(known)
    self._data_dir = data_dir
    self._names = label_names.LabelNames(separator)
    self._numbers = None if known is None else label_cells.NumberLists(known)
    # The first line with such a cell, and the cell.
    self._list = self._plain = self._numeric = self._textual = None
    self._empty = self._no_flag = self._empty_list = None
    self._digits = None  # zeros and ones of a cell, where all have as many
    self._words = set()  # a few distinct cells in lower case

  def _is_list(self, cell):
    return label_cells.looks_like_list(cell) and (
        self._known is None or cell.strip() not in self._known)

  def add(self, line, cell):
    """Takes a cell into account; ValueError if it does not fit the others."""
    place = (line, cell.strip())
    if not place[1]:
      self._empty = self._empty or place
      return
    if self._is_list(cell):
      self._list = self._list or place
      self._check_one_form(line, cell)
      self._add_list(place, label_cells.parse_list(cell))
      return
    self._plain = self._plain or place
    self._check_one_form(line, cell)
    if not label_cells.is_flag(cell):
      self._no_flag = self._no_flag or place
    if len(self._words) < _MOST_WORDS:
      self._words.add(place[1].lower())
    if self._digits != 0:
      count = label_cells.count_flags(cell)
      # 0: not all cells are as many zeros and ones as the first one.
      self._digits = count if self._digits in (None, count) else 0
    self._names.add(line, self._parse_names(cell), cell)

  def _check_one_form(self, line, cell):
    if self._list and self._plain:
      first = min(self._list, self._plain)
      raise ValueError(
          "%s of column %s is %s list, %s of line %d is %s: write all cells of "
          "the column in one form" % (
              shown(cell.strip()), shown(self._column),
              "a" if self._is_list(cell) else "no", shown(first[1]), first[0],
              "none" if self._is_list(cell) else "one"))

  def _add_list(self, place, values):
    if not values:
      self._empty_list = self._empty_list or place
      return
    if isinstance(values[0], str):
      self._textual = self._textual or place
      self._names.add(place[0], self._clean(values, place[1]))
    else:
      self._numeric = self._numeric or place
      if self._numbers is None:
        raise ValueError("%s: %s" % (shown(place[1]), (
            label_cells.explain_unknown_numbers(self._data_dir))))
    if self._textual and self._numeric:
      first = min(self._textual, self._numeric)
      raise ValueError(
          "%s holds %s, but %s of line %d does not: write all cells of column "
          "%s in one form" % (
              shown(place[1]), "numbers" if self._numeric == place else "names",
              shown(first[1]), first[0], shown(self._column)))
    if self._numeric:
      self._numbers.add(place[0], values)

  def finish(self):
    """Returns the `Meaning` of the whole column."""
    if self._numeric:
      return self._finish_numbers()
    if self._list:
      return self._finish_names(self._parse_list, "lists of names")
    if self._plain and not self._no_flag and self._are_own_flags():
      if self._empty:
        raise ValueError("%s:%d: %s." % (
            self._path, self._empty[0],
            label_cells.explain_flag("", self._column)))
      return Meaning(True, None, None, "0 and 1")
    if self._plain and self._known is None and self._are_answers():
      raise ValueError("%s:%d: %s; or list %s in labels.txt if they are "
                       "labels." % (
                           self._path, self._no_flag[0],
                           label_cells.explain_flag(
                               self._no_flag[1], self._column),
                           list_names(sorted(self._names.lines))))
    if self._known is None and self._digits and self._digits > 1:
      raise ValueError(
          "%s:%d: %s looks like a 0 or 1 for each label: write lists, such as "
          "[0, 1], and name the labels in %s/labels.txt, one per line." % (
              self._path, self._plain[0], shown(self._plain[1]),
              self._data_dir))
    return self._finish_names(self._parse_plain, "names with %s between" %
                              shown(self._separator))

  def _are_own_flags(self):
    """Whether zeros and ones say that the label of the column's name holds."""
    if self._known is None or self._column in self._known:
      return True
    if self._known.intersection(self._names.lines):
      return False
    raise ValueError(
        "%s:%d: column %s holds 0 and 1, which is for a label %s, but "
        "labels.txt has none of that name: add it, or write label numbers as "
        "lists, [0] and [1]." % (
            self._path, self._plain[0], shown(self._column),
            shown(self._column)))

  def _are_answers(self):
    """Whether words stand for 1 and 0; x may be the name of a label, too."""
    return label_cells.are_answers(self._words) or (
        self._column.lower() not in ("label", "labels") and
        label_cells.are_marks(self._words))

  def _finish_numbers(self):
    if self._empty_list:
      self._numbers.add(self._empty_list[0], ())
    try:
      names_of = self._numbers.settle()
    except ValueError as error:
      raise ValueError("%s: %s." % (self._path, error))
    is_vector = names_of == self._numbers.from_vector

    def parse(cell):
      if not cell.strip():
        return ()
      return names_of(self._read_list(cell))
    return Meaning(False, parse, None, "lists of a 0 or 1 a label" if is_vector
                   else "lists of label numbers")

  def _finish_names(self, parse, form):
    if self._known is None:
      self._names.check(self._path, self._list is not None)
    return Meaning(False, parse, sorted(self._names.lines), form)

  def _read_list(self, cell):
    if not self._is_list(cell):
      raise ValueError("%s is no list, but the cells of %s are: write all "
                       "cells of column %s in one form" % (
                           shown(cell.strip()), self._path,
                           shown(self._column)))
    return label_cells.parse_list(cell)

  def _parse_list(self, cell):
    if not cell.strip():
      return ()
    values = self._read_list(cell)
    if values and not isinstance(values[0], str):
      raise ValueError("%s holds numbers, but the lists of %s hold names" % (
          shown(cell.strip()), self._path))
    return self._clean(values, cell)

  def _parse_plain(self, cell):
    if self._is_list(cell):
      raise ValueError("%s is a list, but %s has none: write all cells of "
                       "column %s in one form" % (
                           shown(cell.strip()), self._path,
                           shown(self._column)))
    return self._parse_names(cell)

  def _parse_names(self, cell):
    return self._clean(label_cells.split_cell(cell, self._separator), cell)

  def _clean(self, names, cell):
    try:
      return base.clean_labels(names)
    except ValueError as error:
      hint = ("; if each line of the cell is a label, give "
              "--label_separator='\\n'" if "\n" in cell.strip() else "")
      raise ValueError("%s in %s%s" % (error, shown(cell), hint))


def parse_flags(cells, names, may_lack):
  """The labels of a row of 0/1 cells.

  Args:
    cells: sequence of str.
    names: sequence of str, the columns.
    may_lack: bool, whether -1, "not annotated", is allowed.

  Returns:
    tuple of str, or None if the row is not annotated: a cell is -1.

  Raises:
    ValueError: a cell is neither 0 nor 1; without its place.
  """
  values = []
  for cell, name in zip(cells, names):
    try:
      values.append(label_cells.parse_flag(cell))
    except ValueError:
      raise ValueError(label_cells.explain_flag(cell, name))
    if values[-1] is None and not may_lack:
      raise ValueError(
          "column %s holds %s, which marks a row that nobody annotated: only a "
          "test file may have such rows, take them out" % (
              shown(name), shown(cell.strip())))
  if None in values:
    return None
  return tuple(name for value, name in zip(values, names) if value)
