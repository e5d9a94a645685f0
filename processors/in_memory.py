# SPDX-License-Identifier: Apache-2.0
"""Examples that a program holds in memory: lists, arrays, tables.

pandas, polars, pyarrow and scipy are never imported; their objects are
recognized by duck typing.
"""

import collections.abc

import numpy as np

from processors import base
from processors.text_lines import list_names
from processors.text_lines import shown


class InMemoryProcessor(base.DataProcessor):
  """A processor with examples in memory; it reads no folder."""

  options_used = ()

  def __init__(self, labels, parts):
    """Takes the examples.

    Args:
      labels: list of str, in the order of the outputs.
      parts: {"train", "dev", "test": (texts, labels)}, as `read_texts` and
        `read_labels` return them; labels None if the part is not labelled.
    """
    super(InMemoryProcessor, self).__init__()
    self._labels = labels
    self._parts = parts

  def get_train_examples(self, data_dir):
    return self._examples("train")

  def get_dev_examples(self, data_dir):
    return self._examples("dev")

  def get_test_examples(self, data_dir):
    return self._examples("test")

  def get_labels(self, data_dir=None):
    return self._labels

  def _examples(self, part):
    texts, labels = self._parts[part]
    for number, text in enumerate(texts):
      text_a, text_b = text if isinstance(text, tuple) else (text, None)
      yield base.InputExample(
          "%s-%d" % (part, number), text_a, text_b,
          None if labels is None else labels[number])


def is_table(value):
  """Whether a value is a table with named columns: pandas', polars', ..."""
  return hasattr(value, "columns") and hasattr(value, "__getitem__")


def column(table, name, what):
  """A column of a table; ValueError lists the existing ones.

  Args:
    table: of pandas, polars or pyarrow.
    name: str.
    what: str, the argument that named it.
  """
  names = column_names(table)
  if name not in names:
    raise ValueError("%s=%s is no column of the table; it has %s." % (
        what, shown(name), list_names([str(there) for there in names])))
  return table[name]


def columns(table, names, what):
  """Some columns of a table, as a table; see `column`."""
  for name in names:
    column(table, name, what)
  return (table.select(list(names)) if hasattr(table, "select") else
          table[list(names)])


def column_names(table):
  """The names of a table's columns: list."""
  if hasattr(table, "column_names"):  # pyarrow, whose columns are the data
    return list(table.column_names)
  return list(table.columns)


def check_index(texts, labels, part="texts"):
  """Raises ValueError if pandas would put other texts and labels together.

  They are taken by their place; pandas goes by the index.

  Args:
    texts: any container; those that pandas made have an index.
    labels: any container.
    part: str, what the message calls them.
  """
  one, other = (getattr(holder, "index", None) for holder in (texts, labels))
  if not (hasattr(one, "equals") and hasattr(other, "equals")) or (
      len(one) != len(other) or one.equals(other)):
    return
  if set(one) == set(other):
    raise ValueError(
        "%s: texts and labels have the same index in different orders: put "
        "both into one order, as sort_index() does." % part)


def read_texts(texts, part="texts"):
  """Checks texts of any container.

  Args:
    texts: list, tuple, array or column of str, or of pairs (str, str).
    part: str, their name in messages.

  Returns:
    list of str and of (str, str).

  Raises:
    ValueError: an invalid text; its number counts from 0.
  """
  if isinstance(texts, (str, bytes)):
    raise ValueError("%s must be a list of texts, not one text." % part)
  if is_table(texts):
    names = column_names(texts)
    if len(names) != 1:
      raise ValueError(
          "%s is a table of %d columns (%s); say which holds the text: "
          "text=\"...\"." % (part, len(names), list_names(
              [str(name) for name in names])))
    texts = texts[names[0]]
  if isinstance(texts, (collections.abc.Mapping, collections.abc.Set)) or (
      not hasattr(texts, "__iter__")):
    raise ValueError("%s must be a list of texts, not %s." % (
        part, type(texts).__name__))
  if hasattr(texts, "to_pylist"):  # pyarrow's columns contain its own scalars
    texts = texts.to_pylist()
  return [_text(text, number, part) for number, text in enumerate(texts)]


def _text(text, number, part):
  """A str, or a tuple of two."""
  if isinstance(text, str):
    return str(text)  # numpy has its own str
  if isinstance(text, (tuple, list, np.ndarray)) and len(text) == 2 and all(
      isinstance(one, str) for one in text):
    return str(text[0]), str(text[1])
  raise ValueError("%s: number %d is %s; it must be a str, or a pair (str, "
                   "str)." % (part, number, _describe(text)))


def _describe(value):
  """What a value is, in a few words."""
  if value is None or isinstance(value, float):
    return "missing (%s)" % value if value != value or value is None else (
        "the number %s" % value)
  return type(value).__name__


def read_labels(labels, label_names=None, part="labels"):
  """Reads the labels of texts, in any common format.

  Args:
    labels: one of
      - a list, array or column whose elements are collections of names;
      - an array, a list of lists or a scipy sparse matrix of 0 and 1,
        `[num_texts, num_labels]`;
      - a table whose columns are labels and whose cells are 0 and 1.
    label_names: list of str, the labels in the order of the outputs; None: the
      table's columns; otherwise all names, sorted; for an array, the numbers of
      its columns.
    part: str, their name in messages.

  Returns:
    (names, rows): list of str; list of tuples of names, one per text.

  Raises:
    ValueError: the format is unknown, or a cell or a name is invalid.
  """
  if label_names is not None:
    label_names = _check_names(label_names)
  if isinstance(labels, (str, bytes, collections.abc.Mapping)) or not (
      hasattr(labels, "__iter__") or hasattr(labels, "tocsr") or
      is_table(labels)):
    raise ValueError("%s must hold a list of names for each text, or 0 and 1 "
                     "for each label, not %s." % (part, type(labels).__name__))
  if is_table(labels):
    names = _check_names([str(name) for name in column_names(labels)])
    matrix = _stack(labels, names, part)
    if label_names is not None and sorted(names) != sorted(label_names):
      raise ValueError("%s: the columns are %s, but the labels are %s." % (
          part, list_names(names), list_names(label_names)))
    return label_names or names, _rows_of_array(matrix, names, part)
  if hasattr(labels, "tocsr"):
    names = _names_of(labels.shape, label_names, part)
    return names, _rows_of_sparse(labels.tocsr(copy=True), names, part)
  if hasattr(labels, "to_pylist"):
    labels = labels.to_pylist()
  if not (isinstance(labels, np.ndarray) and labels.ndim == 2):
    labels = list(labels)
    if not labels or not _are_numbers(labels[0]):
      rows = [_names_of_text(row, number, part)
              for number, row in enumerate(labels)]
      return _known_names(rows, label_names, part), rows
  matrix = _as_matrix(labels, part)
  names = _names_of(matrix.shape, label_names, part)
  return names, _rows_of_array(matrix, names, part)


def to_matrix(rows, names):
  """bool `[num_texts, num_labels]` of what `read_labels` returned."""
  numbers = {name: number for number, name in enumerate(names)}
  matrix = np.zeros([len(rows), len(names)], np.bool_)
  for row, labels in zip(matrix, rows):
    row[[numbers[label] for label in labels]] = True
  return matrix


def _check_names(names):
  """A list of distinct labels that are valid in labels.txt."""
  if isinstance(names, (str, bytes)):
    raise ValueError("label_names must be a list of names, not one.")
  names = list(names)
  for name in names:
    if not isinstance(name, str):
      raise ValueError("label_names: %s is %s; it must be a str." % (
          shown(name), type(name).__name__))
  if not names:
    raise ValueError("there is no label: label_names is empty.")
  names = [_clean(name, "label_names") for name in names]
  twice = sorted(name for name in set(names) if names.count(name) > 1)
  if twice:
    raise ValueError("label %s appears twice." % shown(twice[0]))
  return names


def _clean(name, place):
  """A label that is valid in labels.txt."""
  try:
    return base.clean_labels((str(name),))[0]
  except ValueError as error:
    raise ValueError("%s: %s." % (place, error))


def _are_numbers(row):
  """Whether an element of labels is a row of 0 and 1, not of names."""
  if not isinstance(row, (list, tuple, np.ndarray)) or not len(row):
    return False
  return all(isinstance(cell, (int, float, np.number, np.bool_))
             for cell in row)


def _names_of_text(row, number, part):
  """The labels of a text: tuple of str."""
  if isinstance(row, (str, bytes, collections.abc.Mapping)) or not isinstance(
      row, collections.abc.Iterable):
    hint = ": write [%s] for one label" % shown(row) if isinstance(
        row, str) else ""
    raise ValueError("%s: number %d is %s; it must be a list of names%s." % (
        part, number, shown(row) if isinstance(row, str) else _describe(row),
        hint))
  row = sorted(row, key=str) if isinstance(
      row, collections.abc.Set) else list(row)
  for name in row:
    if not isinstance(name, str):
      raise ValueError("%s: number %d has %s among its labels, which is %s and "
                       "no name." % (part, number, shown(name),
                                     _describe(name)))
  place = "%s: number %d" % (part, number)
  return tuple(dict.fromkeys(_clean(name, place) for name in row))


def _known_names(rows, label_names, part):
  """The list of labels; ValueError for one that is not in `label_names`."""
  if label_names is None:
    return sorted({label for row in rows for label in row})
  known = frozenset(label_names)
  for number, row in enumerate(rows):
    if not known.issuperset(row):
      unknown = [label for label in row if label not in known]
      raise ValueError("%s: number %d has label %s, which is not one of the %d "
                       "labels (%s)." % (part, number, shown(unknown[0]),
                                         len(known), list_names(label_names)))
  return label_names


def _names_of(shape, label_names, part):
  """The names of a matrix's columns."""
  if len(shape) != 2:
    raise ValueError("%s has shape %s; it must be [num_texts, num_labels]." % (
        part, list(shape)))
  if label_names is None:
    return [str(number) for number in range(shape[1])]
  if len(label_names) != shape[1]:
    raise ValueError("%s has %d columns for %d labels (%s)." % (
        part, shape[1], len(label_names), list_names(label_names)))
  return label_names


def _as_matrix(labels, part):
  """`[num_texts, num_labels]` of rows that are as long as each other."""
  lengths = {len(row) for row in labels if hasattr(row, "__len__")}
  if len(lengths) != 1:
    raise ValueError("%s: the rows have different numbers of columns (%s)." % (
        part, list_names([str(length) for length in sorted(lengths)])))
  return np.asarray(labels)


def _stack(table, names, part):
  """The columns of a table side by side: `[num_texts, num_labels]`."""
  columns = [np.asarray(table[name]) for name in column_names(table)]
  for name, cells in zip(names, columns):
    if cells.dtype.kind not in "biuf":
      raise ValueError("%s: column %s holds %s; its cells must be 0 and 1." % (
          part, shown(name), shown(cells[0]) if len(cells) else "nothing"))
  return np.stack(columns, axis=1)


def _rows_of_array(matrix, names, part):
  """The names of the ones in each row: list of tuples of str."""
  if matrix.dtype.kind not in "biuf":
    raise ValueError("%s holds %s; its cells must be 0 and 1." % (
        part, matrix.dtype))
  wrong = np.argwhere((matrix != 0) & (matrix != 1))
  if len(wrong):
    number, place = wrong[0]
    raise ValueError("%s: number %d has %s for label %s; it must be 0 or 1." % (
        part, number, matrix[number, place], shown(names[place])))
  return [tuple(names[place] for place in np.flatnonzero(row))
          for row in matrix]


def _rows_of_sparse(matrix, names, part):
  """`_rows_of_array` of a scipy CSR matrix, which stays sparse."""
  rows = []
  matrix.sum_duplicates()  # and sorts the columns
  for number in range(matrix.shape[0]):
    cells = slice(matrix.indptr[number], matrix.indptr[number + 1])
    ones = []
    for place, value in zip(matrix.indices[cells], matrix.data[cells]):
      if value not in (0, 1):
        raise ValueError("%s: number %d has %s for label %s; it must be 0 or "
                         "1." % (part, number, value, shown(names[place])))
      if value:
        ones.append(names[place])
    rows.append(tuple(ones))
  return rows
