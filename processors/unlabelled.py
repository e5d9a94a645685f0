# SPDX-License-Identifier: Apache-2.0
"""Texts to predict, from a file in any format that processors read."""

import re

from absl import logging

from processors import delimited
from processors import json_values
from processors import jsonl
from processors import table_reader
from processors import tables
from processors import text_lines
from processors.text_lines import shown


FORMS = ("text", "jsonl", "csv", "tsv", "json", "parquet", "xlsx")
_TABLES = ("csv", "tsv", "parquet", "xlsx")
_ENDINGS = {"ndjson": "jsonl", "pq": "parquet", "xlsm": "xlsx"}
# Column names that reveal a table in a file read as text.
_TEXT_NAMES = frozenset((
    "text", "texts", "comment_text", "comment", "sentence", "content", "body",
    "review", "title", "tweet"))
_NAME = re.compile(r"\w[\w .-]{0,39}$")
_JSON_START = re.compile(r"\s*(\{\s*([\"'][^\"']*[\"']\s*:|$)|\[\s*(\{|\"|$))")
_MARKUP_START = re.compile(r"\s*<(\?xml|!doctype|html)\b", re.IGNORECASE)


def guess_form(path):
  """Returns one of `FORMS` by a file's ending; "text" for all others."""
  if path.endswith(".gz"):
    path = path[:-3]
  ending = path.rpartition(".")[2].lower()
  ending = _ENDINGS.get(ending, ending)
  return ending if ending in FORMS else "text"


def read_texts(path, form=None, options=None):
  """Yields (id, text_a, text_b) of each text of a file, as it is read.

  Labels in the file are ignored.

  Args:
    path: str; `.gz` is unpacked.
    form: one of `FORMS`: a text per line, a table with a header, objects
      `{"text": ..., "text_pair"?: ..., "id"?: ...}` or strings, one per line or
      in an array. None: by the file's ending, else text; then lines that look
      like another form are errors.
    options: dict, `text_column`, `text_pair_column`, `id_column`, `delimiter`
      and `quoting` for tables, `encoding` for all but Parquet and .xlsx.

  Yields:
    (str, str, str or None); the id is the number of the line or row where the
    file has none.

  Raises:
    ValueError: the file, or a row of it, is broken; says where.
  """
  is_guessed = form is None
  form = form or guess_form(path)
  options = {name: value for name, value in (options or {}).items()
             if value is not None}
  encoding = options.get("encoding")
  if form not in _TABLES:
    wrong = sorted(set(options).difference(["encoding"]))
    if options.get("quoting") == table_reader.AUTO:
      wrong = [name for name in wrong if name != "quoting"]
    if wrong:
      raise ValueError(
          "--%s is for tables, but %s is read as %s: leave it out, or say "
          "--input_format." % (wrong[0], path, form))
  if form == "text":
    return _lines(path, encoding, is_guessed)
  return _numbered(_json_rows(path, form, encoding)
                   if form in ("json", "jsonl") else
                   _table_rows(path, form, options))


def _numbered(rows):
  for number, (name, text_a, text_b) in enumerate(rows, 1):
    yield name or str(number), text_a, text_b


def _lines(path, encoding, is_guessed):
  """A text per line."""
  ends_in_return = None
  for number, line in enumerate(text_lines.read_lines(path, encoding), 1):
    is_return = line[-1] == "\r"
    if ends_in_return is None:
      ends_in_return = is_return
    elif is_return and not ends_in_return:
      raise ValueError(table_reader.lone_return(path, number))
    line = line.rstrip("\r\n")
    if line[:1] == "\ufeff":
      line = line[1:]
    if is_guessed:
      reason = looks_like(number, line)
      if reason:
        raise ValueError("%s:%d: %s." % (path, number, reason))
    yield str(number), line, None


def looks_like(number, line):
  """Says what a line that was assumed to be text looks like instead.

  Args:
    number: int, its number from 1 on.
    line: str, without its end.

  Returns:
    str, a sentence without its full stop, or None: a text.
  """
  looks = None
  if number == 1 and _MARKUP_START.match(line):
    return ("the line looks like HTML or XML (%s): write one text per line, or "
            "give --input_format=text" % shown(line, 40))
  if line[:1] in "{[ " and _JSON_START.match(line):
    if line.lstrip()[0] == "{" and (number == 1 or line.strip() != "{"):
      looks = "JSON lines", "jsonl"
    elif number == 1:
      looks = "JSON", "json"
  elif number == 1:
    delimiter = _header_delimiter(line)
    if delimiter is not None:
      form = {"\t": "tsv"}.get(delimiter, "csv")
      looks = "the header of a table", form + (
          " --delimiter='%s'" % delimiter if delimiter in ";|" else "")
  return looks and (
      "the line looks like %s (%s): give --input_format=%s, or "
      "--input_format=text if it is a text" % (
          looks[0], shown(line, 40), looks[1]))


def _header_delimiter(line):
  """What separates the names of a header; "," of a single one; None: none."""
  for delimiter in ",\t;|":
    names = [name.strip().strip('"') for name in line.split(delimiter)]
    if all(_NAME.match(name) for name in names) and _TEXT_NAMES.intersection(
        name.lower() for name in names) and (
            len(names) > 1 or names[0] in delimited.TEXT_COLUMNS):
      return delimiter
  return None


def _json_rows(path, form, encoding):
  parse = jsonl.text_parser()
  for line, text in json_values.numbered_texts(
      path, encoding, form == "json", logging.info):
    try:
      row = parse(text)
    except ValueError as error:
      raise ValueError("%s:%d: %s." % (path, line, error))
    yield row


def _table_rows(path, form, options):
  processor = delimited.DelimitedProcessor(options)
  table = tables.read_table(path, processor.options, form)
  text, pair, name = processor.text_columns(path, next(table)[1])
  for line, row in table:
    yield (row[name].strip() if name is not None else "",
           tables.used(path, line, row[text]),
           tables.used(path, line, row[pair]) if pair is not None else None)
