# SPDX-License-Identifier: Apache-2.0
"""Rows of tables in any form: CSV and TSV, Parquet, Excel's .xlsx.

Cells of Parquet and Excel become the text that they would have in a CSV file:
true is 1 and false 0, a number without a fraction has none, what is missing is
empty, a list is written as JSON. Parquet needs the package pyarrow, .xlsx
openpyxl; both are imported when they are needed, no sooner.
"""

import datetime
import json
import os
import re
import zipfile

from absl import logging

from processors import table_reader
from processors import text_lines
from processors.text_lines import list_names


# Forms of tables, and the endings of their files.
ENDINGS = {"csv": (".csv", ".csv.gz"), "tsv": (".tsv", ".tsv.gz"),
           "parquet": (".parquet", ".pq"), "xlsx": (".xlsx", ".xlsm")}
# Flags that mean something to text files alone.
# A cell's formula without the value that a spreadsheet program stores with it.
_BARE_FORMULA = re.compile(
    br'<c\s[^>]*?\br="([A-Z]+\d+)"[^>]*>\s*<f(?:\s[^>]*)?(?:/>|>[^<]*</f>)\s*'
    br'(?:<v\s*/>|<v>\s*</v>)?\s*</c>')
_TEXT_FLAGS = (("delimiter", None), ("quoting", table_reader.AUTO),
               ("encoding", None))
_BATCH = 256  # rows of Parquet that are in memory as Python's objects
# Bytes of the strings of an .xlsx file, which are read as one.
_MAX_STRINGS = 1 << 30


def guess_form(path):
  """Returns the form of a table by its file's ending; "csv" for all others."""
  lowered = path.lower()
  for form, endings in ENDINGS.items():
    if lowered.endswith(endings):
      return form
  return "csv"


def read_table(path, options, form=None, log=logging.info):
  """Yields the header and the rows of a table.

  Args:
    path: str.
    options: dict, `delimiter`, `quoting` and `encoding` as for
      `table_reader.read_table`.
    form: one of `ENDINGS`; None: `guess_form`.
    log: function of a message and its arguments.

  Yields:
    (line, fields): int, the line of a text file, the row of a sheet, or the
    number of a row of Parquet from 1 on; and a list of str. The first one is
    the header.

  Raises:
    ValueError: the table is broken, as for `table_reader.read_table`; an
      option means nothing to its form; a package is missing.
  """
  form = form or guess_form(path)
  if form in ("csv", "tsv"):
    return table_reader.read_table(
        path, options["delimiter"], options["quoting"], options["encoding"],
        "\t" if form == "tsv" else ",", log)
  for name, default in _TEXT_FLAGS:
    if options[name] not in (None, default):
      raise ValueError("--%s=%s means nothing to %s: leave it out." % (
          name, options[name], path))
  rows = _parquet_rows if form == "parquet" else _sheet_rows
  return rows(path, log)


def cell_text(value):
  """Returns a value (of any type) as a cell of a CSV file has it: str."""
  if value is None:
    return ""
  if isinstance(value, str):
    return value
  if isinstance(value, bool):
    return "1" if value else "0"
  if isinstance(value, float):
    if value != value:  # NaN, which is how pandas says that nothing is there
      return ""
    return str(int(value)) if value.is_integer() and abs(
        value) < 1e15 else repr(value)
  if isinstance(value, (list, tuple, dict)):
    return json.dumps(value, ensure_ascii=False, default=str)
  if isinstance(value, (datetime.date, datetime.time)):
    return value.isoformat()
  if isinstance(value, bytes):
    return _decoded(value)
  return str(value)


class Bytes(str):
  """Stands for the bytes of a cell that are no text."""


def _decoded(value):
  """The text that bytes are, as some programs store it; else `Bytes`."""
  try:
    text = value.decode("utf-8")
  except UnicodeDecodeError:
    text = "\0"
  return text if "\0" not in text else Bytes("(%d bytes)" % len(value))


def used(path, row, cell):
  """Returns a cell that is read as text or labels.

  Raises:
    ValueError: it holds bytes that are not text.
  """
  if isinstance(cell, Bytes):
    raise ValueError("%s:%d: a cell holds bytes that are not UTF-8 text %s: "
                     "write the column as strings." % (path, row, cell))
  return cell


# --- Parquet -----------------------------------------------------------------


def _parquet_rows(path, unused_log):
  try:
    import pyarrow  # pylint: disable=g-import-not-at-top
    from pyarrow import parquet  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise ValueError("%s needs the package pyarrow, which is not installed: "
                     "pip install pyarrow, or save the table as .csv." % path)
  _check_start(path, b"PAR1", "Parquet")
  number = 0
  try:
    with parquet.ParquetFile(path) as opened:
      names = opened.schema_arrow.names
      kept = [name for name in names if not name.startswith("__index_level_")]
      header = table_reader.clean_header(path, 1, kept)
      yield 1, header
      for batch in opened.iter_batches(_BATCH, columns=kept):
        for row in zip(*[column.to_pylist() for column in batch.columns]):
          number += 1
          yield number, [_checked(path, number, cell_text(value))
                         for value in row]
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError("%s is no whole Parquet file (%s)." % (
        path, text_lines.one_line(error)))


def _checked(path, row, cell):
  """A cell; ValueError if it is too long or holds NUL."""
  if len(cell) > text_lines.MAX_LINE:
    raise ValueError("%s:%d: a field has more than %d characters." % (
        path, row, text_lines.MAX_LINE))
  if "\0" in cell:
    raise ValueError("%s:%d: byte 0x00 is not text." % (path, row))
  return cell


def _check_start(path, magic, kind):
  """Refuses a file that begins otherwise than its form does."""
  if os.path.lexists(path) and not os.path.isfile(path):
    raise ValueError("%s: it is not a file; %s must be one." % (path, kind))
  try:
    with open(path, "rb") as reader:
      start = reader.read(len(magic))
  except OSError as error:
    raise ValueError("%s: cannot be read (%s)." % (path, error.strerror))
  if start == magic:
    return
  raise ValueError("%s is no %s file%s." % (
      path, kind, ", but an old or encrypted Excel file: save it as .xlsx "
      "without a password" if start.startswith(b"\xd0\xcf\x11\xe0"[:len(magic)])
      else ": if it holds text, end its name in .csv, .tsv or .jsonl"))


# --- Excel -------------------------------------------------------------------


def _sheet_rows(path, log):
  try:
    import openpyxl  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise ValueError("%s needs the package openpyxl, which is not installed: "
                     "pip install openpyxl, or save the sheet as .csv." % path)
  _check_start(path, b"PK\x03\x04", "Excel")
  try:
    _check_size(path)
    _check_formulas(path)
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
      sheet = _only_sheet(path, book)
      for line, row in _named_rows(path, sheet, log):
        yield line, row
    finally:
      book.close()
  except _SheetError as error:
    raise ValueError(str(error))
  # What a broken archive makes of a reader's inside is hardly foreseeable.
  except Exception as error:  # pylint: disable=broad-except
    raise ValueError("%s is no whole Excel file (%s: %s)." % (
        path, type(error).__name__, text_lines.one_line(error)))


class _SheetError(Exception):
  """A whole sentence about a sheet."""


def _check_size(path):
  """Refuses an archive whose strings would fill the memory."""
  with zipfile.ZipFile(path) as archive:
    for member in archive.infolist():
      if (member.filename.endswith("sharedStrings.xml") and
          member.file_size > _MAX_STRINGS):
        raise _SheetError(
            "%s holds %d bytes of text, which is too much for .xlsx: save the "
            "sheet as .csv." % (path, member.file_size))


def _check_formulas(path):
  """Refuses formulas without a value, which would be read as empty cells."""
  with zipfile.ZipFile(path) as archive:
    for name in archive.namelist():
      if not name.startswith("xl/worksheets/") or not name.endswith(".xml"):
        continue
      with archive.open(name) as stream:
        before = b""
        for piece in iter(lambda: stream.read(1 << 20), b""):
          found = _BARE_FORMULA.search(before + piece)
          if found:
            raise _SheetError(
                "%s: cell %s holds a formula that was never computed: open the "
                "file in a spreadsheet program and save it, or save the sheet "
                "as .csv." % (path, found.group(1).decode("ascii")))
          before = (before + piece)[-4096:]


def _only_sheet(path, book):
  """The one sheet of a workbook that holds something."""
  filled = []
  for sheet in book.worksheets:
    # The size that some programs write there is wrong.
    sheet.reset_dimensions()
    if any(value is not None for row in sheet.iter_rows(
        values_only=True, max_row=1000) for value in row):
      filled.append(sheet)
  if len(filled) > 1:
    raise _SheetError(
        "%s has several sheets (%s): keep one of them, or save the one that is "
        "meant as .csv." % (path, list_names(
            sheet.title for sheet in filled)))
  if not filled:
    raise _SheetError("%s is empty: its first row must name the columns." %
                      path)
  return filled[0]


def _named_rows(path, sheet, log):
  """Yields (row number, fields) of a sheet, its header first."""
  header, first, blank, passed_over = None, 0, 0, 0
  for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
    row = [cell_text(value) for value in values]
    while row and not row[-1].strip():
      row.pop()
    if not row:
      blank += header is not None
      continue
    if header is None:
      names = [name.strip() for name in row]
      first = 1 if len(names) > 1 and not names[0] else 0
      try:
        header = table_reader.clean_header(path, number, names[first:], first)
      except ValueError as error:
        raise _SheetError(str(error))
      if first:
        log("%s: column 1, which has no name and numbers the rows, is left "
            "out.", path)
      yield number, header
      continue
    passed_over, blank = passed_over + blank, 0
    if len(row) > first + len(header):
      raise _SheetError(
          "%s:%d: the row has something in column %d, which has no name: name "
          "it in the first row." % (path, number, len(row)))
    if first and not row[0].isdigit():
      raise _SheetError(
          "%s:%d: column 1 has no name and holds %s, which is no row number: "
          "name the column." % (path, number, text_lines.shown(row[0])))
    row = row[first:] + [""] * (first + len(header) - len(row))
    if row == header:
      raise _SheetError("%s:%d: the row repeats the header: remove it." % (
          path, number))
    yield number, row
  if passed_over:
    log("%s: blank rows passed over: %d.", path, passed_over)
