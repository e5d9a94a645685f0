# SPDX-License-Identifier: Apache-2.0
"""Rows of CSV and TSV files.

Fields are quoted as in RFC 4180, in TSV files too (as spreadsheets and pandas
write them): a field that begins with a quotation mark ends with one, and the
marks inside are doubled; anywhere else a quotation mark is an ordinary
character. Corpora whose files were never quoted need `--quoting=none`. What
looks like the one and is the other is an error with its line, never another
text.
"""

import collections
import contextlib
import csv
import re
import threading

from absl import logging

from processors import text_lines
from processors.text_lines import shown


# `--quoting`: AUTO is STANDARD, but refuses a field of a tab separated file
# that swallows rows, or is quoted without need.
AUTO, STANDARD, NONE = "auto", "standard", "none"
QUOTINGS = (AUTO, STANDARD, NONE)
QUOTING_HELP = (
    "Tables: none, a quotation mark is a character, as in raw TSV corpora; "
    "standard, quoted as by spreadsheets and pandas; auto, the same, and an "
    "error where a .tsv looks raw.")
ENCODING_HELP = (
    "Encoding of the files, such as gb18030 or cp1252; default: UTF-8, or what "
    "a byte order mark says.")

# What Excel writes before the header, to tell itself the delimiter.
_SEPARATOR_LINE = re.compile("\"?sep=(.)\"?[\r\n]*$", re.IGNORECASE)
_ROW_NUMBER = re.compile("[0-9]+$")
_DELIMITERS = ",\t;|"
_LINES = 4096  # of one row that are held as single strings
# A quoted field of a TSV file that no program would have quoted, unless it
# quotes all of them, those of the header, too. Excel does with a comma.
_NEEDLESS = re.compile('(?:^|\t)"[^"\t\r\n,]+"(?=[\t\r\n]|$)')


def read_table(path, delimiter=None, quoting=AUTO, encoding=None, default=None,
               log=logging.info):
  """Yields the header and the rows of a delimited file.

  Args:
    path: str, a text file, as for `text_lines.read_lines`.
    delimiter: str, one character; None: what a line `sep=;` says, as Excel
      writes it, else `default`.
    quoting: one of `QUOTINGS`.
    encoding: str, as for `text_lines.read_lines`.
    default: str, the delimiter where nothing else says it; None: a tab in
      .tsv, a comma in others.
    log: function of a message and its arguments, told of blank lines and of
      columns that are left out.

  Yields:
    (line, fields): int, the 1-based line where the row starts, and a list of
    str. The first one is the header, its names stripped. Left out are blank
    lines, columns without name and content at the end, and a first column
    without a name that numbers the rows.

  Raises:
    ValueError: there is no header, a name in it is empty or double, a row has
      another length than the header or repeats it, a quoted field is not
      closed as it should be, or swallows rows.
  """
  if default is None:
    default = "\t" if path.endswith((".tsv", ".tsv.gz")) else ","
  lines = _Lines(path, encoding)
  delimiter = _skip_separator_line(path, lines, delimiter) or delimiter
  table = _Table(path, delimiter or default, quoting, log)
  rows = _plain_rows if quoting == NONE else _quoted_rows
  for line, row in rows(path, lines, table.delimiter, quoting):
    fields = table.fields(line, row)
    if fields is not None:
      yield line, fields
  table.end()


class _Table(object):
  """What the header and the first row say of the rows that follow."""

  def __init__(self, path, delimiter, quoting, log):
    self._path = path
    self.delimiter = delimiter
    self._quoting = quoting
    self._log = log
    self._header = None
    self._lowered = frozenset()
    self._header_line = 0
    self._width = None  # fields of a row; known from the first row on
    self._unnamed = 0  # columns without a name at the end of the header
    self._first = 0  # 1: the first column is left out
    self._first_blank = 0  # line
    self._blank = 0  # blank rows that nothing has followed yet
    self._passed_over = 0  # blank rows before others

  def fields(self, line, row):
    """Returns the fields of a row, None for a blank one."""
    if self._is_blank(row):
      self._first_blank = self._first_blank or line
      self._blank += 1
      return None
    self._passed_over += self._blank
    self._blank = 0
    if self._header is None:
      return self._read_header(line, row)
    if self._width is None:
      self._width = self._choose_width(row)
    size = self._first + len(self._header)
    if len(row) != self._width:
      raise ValueError("%s:%d: the row has %d fields, the header %d: %s." % (
          self._path, line, len(row), size, self._explain_width(row)))
    if any(row[size:]):
      raise ValueError(
          "%s:%d: the row has something in column %d, which has no name: name "
          "it in line %d." % (
              self._path, line, next(
                  i for i in range(size, len(row)) if row[i]) + 1,
              self._header_line))
    if self._first and not _ROW_NUMBER.match(row[0]):
      raise ValueError(
          "%s:%d: column 1 has no name and holds %s, which is no row number: "
          "name the column in line %d." % (
              self._path, line, shown(row[0]), self._header_line))
    row = row[self._first:size]
    if row[0].strip().lower() in self._lowered and self._is_header(row):
      raise ValueError(
          "%s:%d: the row repeats the header of line %d, were files joined? "
          "Remove it." % (self._path, line, self._header_line))
    return row

  def _is_header(self, row):
    """Whether a row names the columns again, maybe in another order or case.
    """
    if len(row) == 1:  # a text may be the word text
      return row[0].strip() == self._header[0]
    return sorted(cell.strip().lower() for cell in row) == sorted(
        name.lower() for name in self._header)

  def _is_blank(self, row):
    # In a table of one column, white space is a text.
    is_wide = self._header is None or self._first + len(self._header) > 1
    return not row or is_wide and len(row) == 1 and row[0].isspace()

  def _read_header(self, line, row):
    self._header_line = line
    names = [name.strip() for name in row]
    while len(names) > 1 and not names[-1]:
      names.pop()
      self._unnamed += 1
    if len(names) > 1 and not names[0]:
      self._first = 1
    self._header = clean_header(self._path, line, names[self._first:],
                                self._first)
    self._lowered = frozenset(name.lower() for name in self._header)
    if self._first:
      self._log("%s: column 1, which has no name and numbers the rows, is left "
                "out.", self._path)
    if self._unnamed:
      self._log("%s: columns without a name at the end, left out: %d.",
                self._path, self._unnamed)
    return self._header

  def _choose_width(self, row):
    """Fields of all rows: delimiters at the end may be in rows or header alone.
    """
    size = self._first + len(self._header)
    is_fit = len(row) >= size and not any(row[size:])
    return len(row) if is_fit else size + self._unnamed

  def _explain_width(self, row):
    if len(self._header) == 1:
      return ("with one column, is the delimiter %s right? Choose with "
              "--delimiter" % shown(self.delimiter))
    if len(row) < self._width:
      return "a field is missing" + (
          "" if self._quoting == NONE else
          ", or a quotation mark holds two together")
    if len(row) == self._width + 1 and _ROW_NUMBER.match(row[0]):
      return ("a field that holds the delimiter must be quoted, and row "
              "numbers need a column of their own (R: row.names=FALSE)")
    if self._quoting == NONE:
      return "a field must not hold the delimiter"
    if any(cell.startswith(' "') for cell in row):
      return ("a field that holds the delimiter must be quoted, and the "
              "quotation mark stand right behind the delimiter before it")
    return "a field that holds the delimiter must be quoted"

  def end(self):
    """Says what was passed over, or that there was nothing."""
    if self._header is None:
      raise ValueError("%s is empty: its first row must name the columns." %
                       self._path)
    if self._passed_over:
      self._log(text_lines.BLANK_LINES, self._path, self._passed_over,
                self._first_blank)


def clean_header(path, line, row, before=0):
  """Returns the names of a header row, stripped; ValueError if one cannot be.

  Args:
    path: str.
    line: int.
    row: list of str.
    before: int, columns before them that are left out.
  """
  header = [name.strip() for name in row]
  if "" in header:
    raise ValueError(
        "%s:%d: column %d has no name (pandas writes such a column unless told "
        "index=False)." % (path, line, header.index("") + 1 + before))
  if len(set(header)) != len(header):
    double, _ = collections.Counter(header).most_common(1)[0]
    raise ValueError("%s:%d: two columns are called %s." % (
        path, line, shown(double)))
  return header


def other_delimiter(header, delimiter):
  """What else may separate the names of a header of one column, or None."""
  if len(header) != 1:
    return None
  found = [other for other in _DELIMITERS
           if other != delimiter and other in header[0]]
  return max(found, key=header[0].count) if found else None


# --- Lines to rows -----------------------------------------------------------


class _Lines(object):
  """Lines of a file, which keeps those of the row that is being read."""

  def __init__(self, path, encoding):
    self._path = path
    self._lines = text_lines.read_lines(path, encoding)
    self.number = 0  # of the last line
    self.in_row = 0  # lines since `begin`
    self._row = []  # their text
    self._size = 0
    self.pushed_back = None

  def __iter__(self):
    return self

  def __next__(self):
    if self.pushed_back is not None:
      line, self.pushed_back = self.pushed_back, None
    else:
      line = next(self._lines)
      self.number += 1
    if not self.in_row and line[:1] == "\ufeff":
      line = line.lstrip("\ufeff")  # of a file that was joined to another
    self.in_row += 1
    self._row.append(line)
    if not self.in_row % _LINES:  # millions of short ones take much room
      self._row[-_LINES:] = ["".join(self._row[-_LINES:])]
    self._size += len(line)
    if self._size > text_lines.MAX_LINE:
      raise ValueError(
          "%s:%d: the row has more than %d characters: a quotation mark may be "
          "left open." % (self._path, self.number - self.in_row + 1,
                       text_lines.MAX_LINE))
    return line

  def begin(self):
    """A new row begins; returns the number of its first line."""
    self.in_row = 0
    self._row = []
    self._size = 0
    return self.number + 1

  def row_text(self):
    """The text of all lines since `begin`."""
    return "".join(self._row)


def _skip_separator_line(path, lines, delimiter):
  """The delimiter of a first line `sep=;`, which is passed over, or None."""
  for line in lines:
    found = _SEPARATOR_LINE.match(line)
    if not found:
      lines.pushed_back = line
      lines.begin()
      return None
    if delimiter and found.group(1) != delimiter:
      raise ValueError("%s:1: the file says that %s separates its fields, but "
                       "--delimiter is %s." % (
                           path, shown(found.group(1)), shown(delimiter)))
    return found.group(1)
  return None


def _plain_rows(unused_path, lines, delimiter, unused_quoting):
  """Yields (line, fields) where quotation marks are characters."""
  for line in lines:
    number = lines.begin() - 1
    line = line.rstrip("\r\n")
    yield number, line.split(delimiter) if line else []


def _quoted_rows(path, lines, delimiter, quoting):
  """Yields (line, fields) of a file in which fields may be quoted."""
  ends_in_return = is_raw = None
  with long_fields():
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
      start = lines.begin() - (lines.pushed_back is not None)
      try:
        row = next(reader)
      except StopIteration:
        return
      except csv.Error as error:
        raise ValueError(_explain_error(path, start, lines.row_text(),
                                        delimiter, error, quoting))
      if lines.in_row > 1:
        if quoting == AUTO:
          _check_swallowed(path, start, lines.number, row, delimiter)
      else:
        text = lines.row_text()
        is_return = text.endswith("\r")
        if ends_in_return is None:
          ends_in_return = is_return
          is_raw = quoting == AUTO and delimiter == "\t" and '"' not in text
        elif is_return and not ends_in_return:
          raise ValueError(lone_return(path, start))
        if is_raw and _NEEDLESS.search(text):
          raise ValueError(
              "%s:%d: a field stands in quotation marks without need: give "
              "--quoting=none if the marks are characters, --quoting=standard "
              "if they quote." % (path, start))
      yield start, row


def lone_return(path, line):
  """The sentence on a line that ends otherwise than those before it."""
  return ("%s:%d: a carriage return stands alone where other lines end in a "
          "line feed: take it out, or turn all line ends into line feeds." % (
              path, line))


def _check_swallowed(path, first, last, row, delimiter):
  """Refuses a quoted field of a TSV file that looks like several rows."""
  if swallows(row, delimiter):
    raise ValueError(
        "%s:%d: a quotation mark makes one field of the lines %d to %d: %s." % (
            path, first, first, last, SWALLOWED))


SWALLOWED = ("give --quoting=none if the marks are characters, "
             "--quoting=standard if the field is meant")


def swallows(row, delimiter):
  """Whether a field (of a row, list of str) looks like rows of a TSV file."""
  return delimiter == "\t" and any(
      ("\n" in cell or "\r" in cell) and ("\t" in cell or len(row) == 1)
      for cell in row)


def _explain_error(path, start, text, delimiter, error, quoting):
  """The sentence on a row that csv's reader refuses."""
  if "end of data" in str(error):
    start += _open_quote(text, delimiter)
  hint = ("; --quoting=none takes quotation marks for characters"
          if delimiter == "\t" or quoting == STANDARD else "")
  return "%s:%d: %s%s." % (path, start, explain(error), hint)


def _open_quote(text, delimiter):
  """How many lines of a row are before the quotation mark that stays open."""
  between = "[%s\r\n]" % re.escape(delimiter)
  field = re.compile('(?:"[^"]*(?:""[^"]*)*"(?=%s)|(?!")[^%s\r\n]*)%s' % (
      between, re.escape(delimiter), between))
  position = 0
  while True:
    found = field.match(text, position)
    if not found:
      return len(re.findall("\r\n|\r|\n", text[:position]))
    position = found.end()


def explain(error):
  """Says what Python's csv reader means."""
  message = text_lines.one_line(error)
  if "end of data" in message:
    return "a quotation mark opens a field here and nothing closes it"
  if "expected after" in message:
    return ("more text follows the end of a quoted field that starts in this "
            "row: quotation marks inside one must be doubled")
  if "field limit" in message:
    return ("a field of this row is longer than %d characters, is a quotation "
            "mark not closed?" % text_lines.MAX_LINE)
  return message


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
      csv.field_size_limit(max(_FIELD_LIMIT.before, text_lines.MAX_LINE))
    _FIELD_LIMIT.readers += 1
  try:
    yield
  finally:
    with _FIELD_LIMIT.lock:
      _FIELD_LIMIT.readers -= 1
      if not _FIELD_LIMIT.readers:
        csv.field_size_limit(_FIELD_LIMIT.before)
