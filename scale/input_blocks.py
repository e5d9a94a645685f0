# SPDX-License-Identifier: Apache-2.0
"""Splits files into blocks for many workers, with row numbers.

`cut` reads a file once, quickly, and finds blocks of whole rows; `read_block`
reads one of them. A bad row becomes a `BadRow` with the reason, and the
following rows are still read. Independent of Beam.
"""

import collections
import contextlib
import csv
import gzip
import io
import itertools
import re
import zlib

import numpy as np

from processors import delimited
from processors import file_bytes
from processors import jsonl
from processors import table_reader
from processors import text_encoding
from processors import text_lines
from processors import unlabelled


FORMS = ("text", "csv", "tsv", "jsonl", "avro", "parquet")
TABLE_FLAGS = ("text_column", "text_pair_column", "id_column", "delimiter",
               "quoting")

# Bytes of a block, about: hours of a table are minutes of a block.
BLOCK_BYTES = 4 << 20
# Bytes at the beginning of a file that show what it is.
_START = 4096

# `offset` and `size`: where the rows are, bytes and rows, or the number of a
# Parquet row group; None: the whole file. `first_row` and `first_line` count
# from 1. `columns`: positions of text, second text and id, and how many there
# are; names for Avro, Parquet.
Block = collections.namedtuple(
    "Block", ["path", "form", "offset", "size", "first_row", "first_line",
              "columns", "delimiter", "quoting"],
    defaults=[table_reader.AUTO])

# A text to predict; `row` counts the rows of the file from 1.
Row = collections.namedtuple("Row", ["file", "row", "id", "text", "text_pair"])

# `line` and `row` are None where it is the file that is bad.
BadRow = collections.namedtuple("BadRow", ["file", "line", "row", "reason"])


def guess_form(path):
  """Returns one of `FORMS` by a file's ending; "text" for all others.

  Raises:
    ValueError: it is a format that cannot be split into blocks.
  """
  if path.lower().endswith(".avro"):
    return "avro"
  form = unlabelled.guess_form(path)
  if form not in FORMS:
    raise ValueError("%s: .%s cannot be split into blocks: convert it to JSON "
                     "lines, or use predict_session.py." % (path, form))
  return form


def cut(path, form, open_file, options=None, block_bytes=BLOCK_BYTES):
  """Yields the `Block`s of a file.

  Args:
    path: str; a file that ends in .gz, which cannot be entered in its middle,
      is one block.
    form: one of `FORMS`; None: `guess_form`, and then a text whose first line
      looks like another form is an error.
    open_file: function of a path to a binary stream that can seek.
    options: dict, `TABLE_FLAGS` of tables, Avro and Parquet; None in it, or
      absent, is the default.
    block_bytes: int, bytes of a block, about; Parquet's row groups are its
      blocks, as they were written.

  Raises:
    ValueError: the file has no such column, no header, or cannot be read.
  """
  options = {name: value for name, value in (options or {}).items()
             if value is not None}
  is_guessed = form is None
  form = form or guess_form(path)
  processor = delimited.DelimitedProcessor(options)
  if form not in ("avro", "parquet"):
    _check_start(path, open_file, is_guessed and form == "text")
  if form in ("text", "jsonl"):
    if options.get("quoting") == table_reader.AUTO:
      del options["quoting"]
    if options:
      raise ValueError("--%s is for tables, but %s is read as %s: leave it "
                       "out, or say --input_format." % (
                           min(options), path, form))
    return _cut_lines(path, form, open_file, block_bytes)
  if form in ("csv", "tsv"):
    delimiter = processor.options["delimiter"] or (
        "\t" if form == "tsv" else ",")
    return _cut_table(path, form, open_file, processor, delimiter, block_bytes)
  for name, default in (("delimiter", None), ("quoting", table_reader.AUTO)):
    if options.get(name, default) != default:
      raise ValueError("--%s is for .csv and .tsv, but %s is read as %s." %
                       (name, path, form))
  cut_form = _cut_avro if form == "avro" else _cut_parquet
  return cut_form(path, open_file, processor, block_bytes)


def read_block(block, open_file):
  """Yields the `Row`s and `BadRow`s of a block, in their order.

  Args:
    block: `Block`.
    open_file: as for `cut`.
  """
  reader = {"text": _read_text, "jsonl": _read_jsonl, "csv": _read_table,
            "tsv": _read_table, "avro": _read_avro,
            "parquet": _read_parquet}[block.form]
  return reader(block, open_file)


def _check_start(path, open_file, is_guessed):
  """Rejects a file that is not UTF-8 text, or not in the expected format."""
  with file_bytes.unpacking(path), _open(path, open_file) as stream:
    start = stream.read(_START)
  kind = file_bytes.kind(start)
  encoding, mark_size = text_encoding.choose(start, None, path)
  if kind or encoding != "utf-8":
    raise ValueError("%s is %s." % (
        path, kind or encoding.upper() + ": save it as UTF-8"))
  if is_guessed:
    line = re.split(b"[\r\n]", start[mark_size:])[0]
    reason = unlabelled.looks_like(1, line.decode("utf-8", "replace"))
    if reason:
      raise ValueError("%s:1: %s." % (path, reason))


@contextlib.contextmanager
def _open(path, open_file):
  """A stream of a file's bytes, unpacked."""
  with open_file(path) as stream:
    if not path.endswith(".gz"):
      yield stream
      return
    with gzip.GzipFile(fileobj=stream) as unpacked:
      yield unpacked


def _lines(stream):
  """Yields lines with their ends; a byte that is not UTF-8 is a surrogate.

  A line of more than `text_lines.MAX_LINE` characters comes as None.
  """
  text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
  most = text_lines.MAX_LINE
  try:
    for line in iter(lambda: text.readline(most), ""):
      if len(line) < most or line[-1] in "\r\n":
        yield line
        continue
      while line and line[-1] not in "\r\n":
        line = text.readline(most)
      yield None
  finally:
    with contextlib.suppress(ValueError):  # who opened it has closed it
      text.detach()


def _bad_characters(texts):
  """The reason why texts, as `_lines` has them, are bad; None: they are not."""
  for text in texts:
    if text.isascii() and "\0" not in text:
      continue
    for char in text:
      if char == "\0" or "\ud800" <= char <= "\udfff":
        return "byte 0x%02x is not %s" % (
            ord(char) & 0xff, "UTF-8 (convert the file, as iconv does)"
            if ord(char) else "text")
  return None


# --- Lines: text, JSON lines -------------------------------------------------


def _cut_lines(path, form, open_file, block_bytes):
  """Blocks of whole lines."""
  if path.endswith(".gz"):
    yield Block(path, form, None, None, 1, 1, None, None)
    return
  first_line, begin, size = 1, None, 0
  with open_file(path) as stream:
    for start, starts in _line_starts(stream, block_bytes):
      if not len(starts):  # amid a long line
        continue
      if begin is not None:
        yield Block(path, form, begin, size, first_line, first_line,
                    None, None)
        first_line += size
      begin, size = start + int(starts[0]), len(starts)
  if begin is not None:
    yield Block(path, form, begin, size, first_line, first_line, None,
                None)


def _line_starts(stream, block_bytes):
  """Yields (offset, numbers from there on of bytes that begin a line)."""
  start, before = 0, ord("\n")
  data = stream.read(block_bytes)
  while data:
    following = stream.read(block_bytes)
    codes = np.frombuffer(data, np.uint8)
    previous = np.empty_like(codes)
    previous[0], previous[1:] = before, codes[:-1]
    # \r\n is one end of a line.
    begins = (previous == 10) | ((previous == 13) & (codes != 10))
    yield start, np.flatnonzero(begins)
    start += len(data)
    before, data = codes[-1], following


def _block_lines(block, open_file):
  """Yields (line number, line without its end, or None) of a block."""
  with _open(block.path, open_file) as stream:
    if block.offset is not None:
      stream.seek(block.offset)
    for number, line in enumerate(_lines(stream), block.first_line):
      if block.size is not None and number >= block.first_line + block.size:
        return
      if number == 1 and line and line[0] == "\ufeff":
        line = line[1:]
        if not line:  # nothing but the mark
          return
      yield number, line if line is None else line.rstrip("\r\n")


def _line_problem(line):
  if line is None:
    return "the line has more than %d characters" % text_lines.MAX_LINE
  return _bad_characters([line])


def _read_text(block, open_file):
  for number, line in _with_errors(block, _block_lines(block, open_file)):
    reason = number if line is _FAILED else _line_problem(line)
    if line is _FAILED:
      yield BadRow(block.path, None, None, reason)
    elif reason:
      yield BadRow(block.path, number, number, reason)
    else:
      yield Row(block.path, number, str(number), line, None)


def _read_jsonl(block, open_file):
  parse = jsonl.line_parser(require_labels=False)
  for number, line in _with_errors(block, _block_lines(block, open_file)):
    if line is _FAILED:
      yield BadRow(block.path, None, None, number)
      continue
    if line is not None and (not line or line.isspace()):
      continue
    reason = _line_problem(line)
    if reason is None:
      try:
        name, text, pair, _ = parse(line)
      except ValueError as error:
        reason = text_lines.one_line(error)
    if reason:
      yield BadRow(block.path, number, number, reason)
    else:
      yield Row(block.path, number, name or str(number), text, pair)


_FAILED = object()


def _with_errors(block, pairs):
  """Yields pairs; if a packed file is broken, ends with (reason, _FAILED).
  """
  try:
    for pair in pairs:
      yield pair
  except (EOFError, OSError, zlib.error) as error:
    if not block.path.endswith(".gz"):
      raise
    yield ("broken gzip data (%s); what follows is not read" %
           text_lines.one_line(error), _FAILED)


# --- Tables ------------------------------------------------------------------


class _CountedLines(object):
  """Lines for `csv.reader`, which keeps account of bytes and lines."""

  def __init__(self, stream, is_start):
    self._lines = _lines(stream)
    self._is_start = is_start
    self.num_bytes = 0
    self.num_lines = 0
    self.too_long = False

  def __iter__(self):
    return self

  def __next__(self):
    line = next(self._lines)
    if line is None:  # csv is told what it can refuse
      self.too_long = True
      line = "\n"
    self.num_bytes += len(line.encode("utf-8", "surrogateescape"))
    self.num_lines += 1
    if self._is_start:
      self._is_start = False
      line = line[1:] if line[0] == "\ufeff" else line
    return line


def _plain_rows(lines, delimiter):
  """`_table_rows` of a file in which quotation marks are characters."""
  for line in lines:
    line = line.rstrip("\r\n")
    if lines.too_long:
      lines.too_long = False
      yield lines.num_lines - 1, None, (
          "the line has more than %d characters" % text_lines.MAX_LINE)
    else:
      yield lines.num_lines - 1, line.split(delimiter) if line else [], None


def _table_rows(lines, delimiter, quoting):
  """Yields (line within the block from 0 on, row, or None, reason or None)."""
  if quoting == table_reader.NONE:
    for row in _plain_rows(lines, delimiter):
      yield row
    return
  with table_reader.long_fields():
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
      before = lines.num_lines
      try:
        row = next(reader)
        reason = None
      except StopIteration:
        return
      except csv.Error as error:
        row, reason = None, table_reader.explain(error)
      if lines.too_long:
        lines.too_long = False
        row, reason = None, ("a line of the row has more than %d characters" %
                             text_lines.MAX_LINE)
      if (quoting == table_reader.AUTO and lines.num_lines - before > 1 and
          row and table_reader.swallows(row, delimiter)):
        row, reason = None, (
            "a quotation mark joins %d lines into one field: %s" % (
                lines.num_lines - before, table_reader.SWALLOWED))
      yield before, row, reason


def _cut_table(path, form, open_file, processor, delimiter, block_bytes):
  """Blocks of whole rows; finds the columns on the way."""
  quoting = processor.options["quoting"]
  is_packed = path.endswith(".gz")
  with _open(path, open_file) as stream:
    lines = _CountedLines(stream, True)
    rows = _table_rows(lines, delimiter, quoting)
    for _, row, reason in rows:
      if reason or not row:
        raise ValueError("%s:1: %s." % (
            path, reason or "the line is blank, but the first row must name "
            "the columns"))
      header = table_reader.clean_header(path, 1, row)
      break
    else:
      raise ValueError("%s is empty: its first row must name the columns." %
                       path)
    columns = tuple(processor.text_columns(path, header)) + (len(header),)
    begin = (lines.num_bytes, lines.num_lines)
    if is_packed:
      yield Block(path, form, None, None, 1, begin[1] + 1, columns,
                  delimiter, quoting)
      return
    size, first_row, next_row = 0, 1, 1
    for _, row, _ in rows:
      size += 1
      next_row += not _is_blank(row, len(header))
      if lines.num_bytes - begin[0] >= block_bytes:
        yield Block(path, form, begin[0], size, first_row, begin[1] + 1,
                    columns, delimiter, quoting)
        first_row = next_row
        begin, size = (lines.num_bytes, lines.num_lines), 0
    if size:
      yield Block(path, form, begin[0], size, first_row, begin[1] + 1,
                  columns, delimiter, quoting)


def _is_blank(row, width):
  """Whether a row, None for a bad one, is a blank line, to be skipped.
  """
  return row is not None and (not row or (
      width > 1 and len(row) == 1 and row[0].isspace()))


def _read_table(block, open_file):
  """Rows of a table."""
  text, pair, name, width = block.columns
  for number, parsed in _with_errors(
      block, _numbered_table_rows(block, open_file)):
    if parsed is _FAILED:
      yield BadRow(block.path, None, None, number)
      continue
    line, row, reason = parsed
    if reason is None and len(row) != width:
      reason = ("the row has %d fields, the header %d: a field that holds the "
                "delimiter must be quoted" % (len(row), width))
    reason = reason or _bad_characters(
        [row[i] for i in (text, pair, name) if i is not None])
    if reason:
      yield BadRow(block.path, line, number, reason)
    else:
      yield Row(block.path, number,
                (row[name].strip() if name is not None else "") or str(number),
                row[text], None if pair is None else row[pair])


def _numbered_table_rows(block, open_file):
  """Yields (row number, (line, row, reason))."""
  with _open(block.path, open_file) as stream:
    if block.offset is not None:
      stream.seek(block.offset)
    lines = _CountedLines(stream, block.offset is None)
    rows = _table_rows(lines, block.delimiter, block.quoting)
    first_line = block.first_line
    if block.offset is None:  # a packed file from its header on
      next(rows)
      first_line = 1
    number = block.first_row
    for line, row, reason in itertools.islice(rows, block.size):
      if not _is_blank(row, block.columns[-1]):
        yield number, (first_line + line, row, reason)
        number += 1


# --- Avro, Parquet -----------------------------------------------------------


def _named_columns(processor, path, names):
  """Names of the columns of text, second text and id; None if absent."""
  return tuple(None if position is None else names[position]
               for position in processor.text_columns(path, names))


def _cut_avro(path, open_file, processor, block_bytes):
  """Several of Avro's blocks each, found without decoding them."""
  import fastavro  # pylint: disable=g-import-not-at-top
  with open_file(path) as stream:
    try:
      blocks = fastavro.block_reader(stream)
      fields = (blocks.writer_schema or {}).get("fields", ())
      columns = _named_columns(processor, path,
                               [field["name"] for field in fields])
      begin, first_row, size, end = None, 1, 0, 0
      for block in blocks:
        begin = block.offset if begin is None else begin
        size += block.num_records
        end = block.offset + block.size
        if end - begin >= block_bytes:
          yield Block(path, "avro", (begin, end), size, first_row, first_row,
                      False, columns, None)
          begin, first_row, size = None, first_row + size, 0
    except (ValueError, EOFError, KeyError, IndexError) as error:
      raise _broken(path, "Avro", error)
  if size:
    yield Block(path, "avro", (begin, end), size, first_row, first_row,
                columns, None)


def _broken(path, kind, error):
  """The error of a file that cannot be read; one of ours says it itself."""
  text = text_lines.one_line(error)
  if isinstance(error, ValueError) and text.startswith(path):
    return error
  return ValueError("%s is no whole %s file (%s)." % (path, kind, text))


def _read_avro(block, open_file):
  import fastavro  # pylint: disable=g-import-not-at-top
  number = block.first_row
  with open_file(block.path) as stream:
    blocks = fastavro.block_reader(stream)  # which reads the header
    stream.seek(block.offset[0])
    for part in blocks:
      if part.offset >= block.offset[1]:
        return
      for record in part:
        yield _named_row(block, number, record)
        number += 1


def _cut_parquet(path, open_file, processor, unused_block_bytes):
  """A block per row group."""
  import pyarrow  # pylint: disable=g-import-not-at-top
  from pyarrow import parquet  # pylint: disable=g-import-not-at-top
  with open_file(path) as stream:
    try:
      opened = parquet.ParquetFile(stream)
    except (pyarrow.ArrowException, OSError) as error:
      raise _broken(path, "Parquet", error)
    columns = _named_columns(processor, path, opened.schema_arrow.names)
    first_row = 1
    for group in range(opened.metadata.num_row_groups):
      size = opened.metadata.row_group(group).num_rows
      yield Block(path, "parquet", group, size, first_row, first_row,
                  columns, None)
      first_row += size


def _read_parquet(block, open_file):
  from pyarrow import parquet  # pylint: disable=g-import-not-at-top
  with open_file(block.path) as stream:
    number = block.first_row
    for batch in parquet.ParquetFile(stream).iter_batches(
        4096, [block.offset],
        columns=[name for name in block.columns if name is not None]):
      for record in batch.to_pylist():
        yield _named_row(block, number, record)
        number += 1


def _named_row(block, number, record):
  """A record of Avro or Parquet as `Row` or `BadRow`."""
  text_name, pair_name, id_name = block.columns
  text = record[text_name]
  pair = None if pair_name is None else record[pair_name]
  name = None if id_name is None else record[id_name]
  reason = None
  if not isinstance(text, str):
    reason = "column %s is %s, not a string" % (text_name, _kind(text))
  elif pair is not None and not isinstance(pair, str):
    reason = "column %s is %s, not a string" % (pair_name, _kind(pair))
  elif isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
    reason = "column %s is %s, not a string or an integer" % (
        id_name, _kind(name))
  else:
    reason = _bad_characters([text] + ([pair] if pair is not None else []))
  if reason:
    return BadRow(block.path, None, number, reason)
  name = "" if name is None else str(name).strip()
  return Row(block.path, number, name or str(number), text, pair)


def _kind(value):
  return "null" if value is None else "of type %s" % type(value).__name__
