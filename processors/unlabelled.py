# SPDX-License-Identifier: Apache-2.0
"""Texts to predict, from a file of any of the forms that processors read."""

from processors import delimited
from processors import jsonl
from processors import table_reader
from processors import text_lines

FORMS = ("text", "csv", "tsv", "jsonl")


def guess_form(path):
  """Returns one of `FORMS` by a file's ending; "text" for all others."""
  if path.endswith(".gz"):
    path = path[:-3]
  ending = path.rpartition(".")[2].lower()
  return ending if ending in FORMS else "text"


def read_texts(path, form, options=None):
  """Yields (id, text_a, text_b) of each text of a file, as it is read.

  Args:
    path: str; `.gz` is unpacked.
    form: one of `FORMS`: a text a line, a table with a header, or
      `{"text": ..., "text_pair"?: ..., "id"?: ...}` a line.
    options: dict, `text_column`, `text_pair_column`, `id_column` and
      `delimiter` for tables.

  Yields:
    (str, str, str or None); the id is the number of the line or row where the
    file has none.

  Raises:
    ValueError: the file, or a row of it, is broken; says where.
  """
  options = {name: value for name, value in (options or {}).items()
             if value is not None}
  if options and form not in ("csv", "tsv"):
    raise ValueError("--%s is for tables, but %s is read as %s: leave it out, "
                     "or say --input_form." % (min(options), path, form))
  if form == "text":
    for number, line in enumerate(text_lines.read_lines(path), 1):
      yield str(number), line.rstrip("\r\n"), None
    return
  if form == "jsonl":
    rows = jsonl.JsonlProcessor().read_rows(path, "test", None)
    rows = ((name, text_a, text_b) for _, name, text_a, text_b, _ in rows)
  else:
    rows = _table_rows(path, form, options)
  for number, (name, text_a, text_b) in enumerate(rows, 1):
    yield name or str(number), text_a, text_b


def _table_rows(path, form, options):
  processor = delimited.DelimitedProcessor(options)
  table = table_reader.read_table(
      path, processor.options["delimiter"], processor.options["quoting"],
      processor.options["encoding"], "\t" if form == "tsv" else ",")
  text, pair, name = processor.text_columns(path, next(table)[1])
  for _, row in table:
    yield (row[name].strip() if name is not None else "", row[text],
           row[pair] if pair is not None else None)
