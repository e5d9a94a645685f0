# SPDX-License-Identifier: Apache-2.0
"""Tests of reading CSV and TSV files: quotation marks, odd headers, lines."""

import csv
import gzip
import io
import tracemalloc

import pytest

from processors import table_reader
from processors import text_lines


def write(tmp_path, content, name="table.csv"):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else
                   content.encode("utf-8"))
  return str(path)


def read(path, *arguments, **options):
  """The rows of a table, header first, without their lines."""
  return [row for _, row in table_reader.read_table(path, *arguments,
                                                    **options)]


def error_of(path, *arguments, **options):
  with pytest.raises(ValueError) as raised:
    read(path, *arguments, **options)
  message = str(raised.value)
  assert message.endswith(".") and "\n" not in message
  assert message.startswith(path)
  return message[len(path):]


# Quotation marks.


RAW = ('id\ttext\tlabel\n1\t"Hello, she said\ta\n2\tfine\tb\n'
       '3\tbye" he said\ta\n')


def test_a_quotation_mark_that_swallows_rows_is_an_error(tmp_path):
  # The mark of line 2 is closed in line 4, and a tab follows it.
  path = write(tmp_path, RAW.replace('bye" he said', 'bye"'), "train.tsv")
  assert error_of(path) == (
      ":2: a quotation mark makes one field of the lines 2 to 4: give "
      "--quoting=none if the marks are characters, --quoting=standard if the "
      "field is meant.")
  assert read(path, quoting="none") == [
      ["id", "text", "label"], ["1", '"Hello, she said', "a"],
      ["2", "fine", "b"], ["3", 'bye"', "a"]]
  assert read(path, quoting="standard") == [
      ["id", "text", "label"],
      ["1", "Hello, she said\ta\n2\tfine\tb\n3\tbye", "a"]]


@pytest.mark.parametrize("content, line", [
    (RAW, 2), ('text\n"one\ntwo"\n', 2), ('text\tid\na\t1\n"b\t2\n', 3),
    ('text\tid\n"a"b\t1\n', 2), ('text\tid\na\t1\n"b c"\t2\n', 3),
    ('id\ttext\n1\t"b"\n', 2), ('text\n"b"', 2)])
def test_raw_tsv_names_the_flag(tmp_path, content, line):
  path = write(tmp_path, content, "train.tsv")
  message = error_of(path)
  assert message.startswith(":%d: " % line) and "--quoting=none" in message
  assert read(path, quoting="none") == [
      text.split("\t") for text in content.splitlines()]


def test_a_quoted_tsv_field_of_lines_without_tabs_is_a_field(tmp_path):
  path = write(tmp_path, 'text\tid\n"one\ntwo ""2"""\t1\n', "train.tsv")
  assert read(path) == [["text", "id"], ['one\ntwo "2"', "1"]]


@pytest.mark.parametrize("content, expected", [
    # The header is quoted, too; a comma, as Excel has it; CSV; an empty field.
    ('"text"\t"id"\n"a"\t"1"\n', ["a", "1"]),
    ('text\tid\n"a, b"\t1\n', ["a, b", "1"]),
    ('text\tid\n"a ""b"""\t1\n', ['a "b"', "1"]),
    ('text\tid\nsay "a" now\t"\n'[:-2] + '1\n', ['say "a" now', "1"]),
    ('text\n""\n', [""])])
def test_tsv_fields_that_are_quoted_with_reason(tmp_path, content, expected):
  assert read(write(tmp_path, content, "train.tsv"))[1:] == [expected]


def test_csv_fields_of_many_lines_are_ordinary(tmp_path):
  path = write(tmp_path, 'text,id\n"Dear,\n\nyes, ""x""\tand\r\nbye",7\nb,8\n')
  assert list(table_reader.read_table(path)) == [
      (1, ["text", "id"]), (2, ['Dear,\n\nyes, "x"\tand\r\nbye', "7"]),
      (6, ["b", "8"])]


@pytest.mark.parametrize("content, line", [
    ('text,id\na,1\n"open,2\nc,3\n', 3),
    # The row begins in line 2, the open field in line 4.
    ('text,pair,id\n"one\ntwo\nthree","four\nfive,1\nsix,2\n', 4),
    ('text,id\nx,"', 2),
    ('text,id\nx,"a""\ny,1\n', 2),
    ('text,id\r"a ""b""\r\rc","d\r', 4)])
def test_an_open_field_is_an_error_where_it_opens(tmp_path, content, line):
  assert error_of(write(tmp_path, content)) == (
      ":%d: a quotation mark opens a field here and nothing closes it." % line)


def test_without_quoting_marks_are_characters(tmp_path):
  path = write(tmp_path, 'text,id\n"a,"1"\n\n""",\'\n')
  assert list(table_reader.read_table(path, quoting="none")) == [
      (1, ["text", "id"]), (2, ['"a', '"1"']), (4, ['"""', "'"])]
  assert "--quoting" not in error_of(write(tmp_path, 'a,b\n"x"y,1\n'))


def test_a_mark_behind_a_space_does_not_quote(tmp_path):
  message = error_of(write(tmp_path, 'text,id\n"a, b", 1\nx, "a, b"\n'))
  assert message.startswith(":3: the row has 3 fields, the header 2")
  assert "right behind the delimiter" in message


# Headers and widths.


@pytest.mark.parametrize("content, expected", [
    # The index that pandas writes.
    (",text,id\n0,a,x\n17,b,y\n", [["text", "id"], ["a", "x"], ["b", "y"]]),
    # Delimiters at the end of lines: of all, of the header, of the rows.
    ("text,id,,\na,x,,\nb,y,,\n", [["text", "id"], ["a", "x"], ["b", "y"]]),
    ("text,id,\na,x\nb,y\n", [["text", "id"], ["a", "x"], ["b", "y"]]),
    ("text,id\na,x,\nb,y,\n", [["text", "id"], ["a", "x"], ["b", "y"]]),
    (",text,id,\n0,a,x,\n", [["text", "id"], ["a", "x"]]),
    # Excel's first line.
    ("sep=;\ntext;id\na,b;x\n", [["text", "id"], ["a,b", "x"]]),
    ('"sep=|"\r\ntext|id\r\na|x\r\n', [["text", "id"], ["a", "x"]]),
    ("sep=\t\ntext\tid\na,b\tx\n", [["text", "id"], ["a,b", "x"]]),
    ("SEP=;\r\ntext;id\r\n\"a;\r\nb\";x\r\n",
     [["text", "id"], ["a;\r\nb", "x"]]),
    # Blank lines, and rows that look blank.
    ("\n\ntext,id\na,x\n\n  \nb,y\n\n", [["text", "id"], ["a", "x"],
                                         ["b", "y"]]),
    ("text,id\n,\n", [["text", "id"], ["", ""]]),
    ('text\n""\n  \n', [["text"], [""], ["  "]]),
    # A byte order mark where a second file begins.
    (u'\ufefftext,id\n\ufeff"a, b",x\n', [["text", "id"], ["a, b", "x"]]),
    (" text , id \r\na,x\r\n", [["text", "id"], ["a", "x"]]),
    ("text,id\ra,x\rb,y", [["text", "id"], ["a", "x"], ["b", "y"]]),
    ("text,id\r\na,x\nb,y\r\n", [["text", "id"], ["a", "x"], ["b", "y"]]),
    ('text,id\n"a\rb",x\n', [["text", "id"], ["a\rb", "x"]]),
])
def test_odd_tables_that_can_be_read(tmp_path, content, expected):
  assert read(write(tmp_path, content)) == expected


@pytest.mark.parametrize("content, start, part", [
    (",text\n0,a\nx7,b\n", ":3: column 1 has no name and holds 'x7'",
     "name the column in line 1"),
    ("text,,id\na,b,c\n", ":1: column 2 has no name", "index=False"),
    (",text,,id\n0,a,b,c\n", ":1: column 3 has no name", ""),
    ("text,id,\na,x,\nb,y,z\n", ":3: the row has something in column 3",
     "name it in line 1"),
    ("text,id\na,x,\nb,y\n", ":3: the row has 2 fields", ""),
    ("text,id\na,x\nb,y,\n", ":3: the row has 3 fields, the header 2",
     "must be quoted"),
    ("text,id\n1,a,x\n", ":2: the row has 3 fields, the header 2",
     "R: row.names=FALSE"),
    ("text,id\na\n", ":2: the row has 1 fields, the header 2", "missing"),
    ("text,id\na,x\n text,id\n", ":3: the row repeats the header of line 1",
     "Remove it"),
    (u"\ufefftext,id\r\na,x\r\n\ufeff\"text\",\"id\"\r\n",
     ":3: the row repeats the header of line 1", ""),
    ("text,id\na,x\rb,y\nc,z\n", ":2: a carriage return stands alone",
     "line feeds"),
    ("text\na\rb\nc\n", ":2: a carriage return stands alone", ""),
    ("text,id,text\n", ":1: two columns are called 'text'", ""),
    ("", " is empty", "name the columns"), (u"\ufeff", " is empty", ""),
    ("\n\n", " is empty", ""), ("sep=;\n", " is empty", "")])
def test_odd_tables_that_are_refused(tmp_path, content, start, part):
  message = error_of(write(tmp_path, content))
  assert message.startswith(start) and part in message


def test_lines_are_counted_from_the_top_of_the_file(tmp_path):
  path = write(tmp_path, "sep=;\n\ntext;id\na;x\n\n\"b\nc\";y\n")
  assert list(table_reader.read_table(path)) == [
      (3, ["text", "id"]), (4, ["a", "x"]), (6, ["b\nc", "y"])]
  path = write(tmp_path, "sep=;\ntext;id\na;x\n")
  assert list(table_reader.read_table(path, quoting="none")) == [
      (2, ["text", "id"]), (3, ["a", "x"])]


def test_a_flag_and_a_file_that_contradict_each_other(tmp_path):
  path = write(tmp_path, "sep=;\ntext;id\na;x\n")
  assert read(path, ";") == [["text", "id"], ["a", "x"]]
  assert error_of(path, ",") == (
      ":1: the file says that ';' separates its fields, but --delimiter is "
      "','.")


def test_what_is_left_out_is_said(tmp_path):
  said = []
  path = write(tmp_path, ",text,,\n0,a,,\n\n\n1,b,,\n\n")
  read(path, log=lambda message, *values: said.append(message % values))
  assert said == [
      path + ": column 1, which has no name and numbers the rows, is left out.",
      path + ": columns without a name at the end, left out: 2.",
      path + ": blank lines passed over: 2, the first is line 3."]


@pytest.mark.parametrize("header, delimiter, other", [
    (["text;labels"], None, ";"), (["text\tlabels"], ",", "\t"),
    (["a,b;c;d"], None, ";"), (["text"], None, None),
    (["a;b", "c"], None, None),
    (["a;b"], ";", None)])
def test_other_delimiter(header, delimiter, other):
  assert table_reader.other_delimiter(header, delimiter) == other


# Memory.


@pytest.mark.parametrize("piece", [
    b"a" * (1 << 20), b'"' + b"a" * (1 << 20), b"a\n" * (1 << 19),
    b'","' * (1 << 19), b"\0" * (1 << 20), b"," * (1 << 20)])
def test_a_row_that_only_grows_when_unpacked(tmp_path, piece, monkeypatch):
  monkeypatch.setattr(text_lines, "MAX_LINE", 1 << 18)
  path = str(tmp_path / "table.csv.gz")
  with gzip.open(path, "wb") as writer:
    writer.write(b'text,id\n"')
    for _ in range(32):
      writer.write(piece)
  tracemalloc.start()
  try:
    message = error_of(path)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert message.startswith(":2: ")
  assert "262144 characters" in message or "byte 0x00" in message or (
      "must be doubled" in message)
  assert peak < 16 << 20


def test_the_limit_of_csv_is_put_back(tmp_path):
  before = csv.field_size_limit()
  path = write(tmp_path, "text\n%s\n" % ("x" * 200000))
  table = table_reader.read_table(path)
  next(table)
  assert [len(row[0]) for _, row in table] == [200000]
  assert csv.field_size_limit() == before


@pytest.mark.parametrize("quoting", table_reader.QUOTINGS)
def test_any_table_without_marks_is_the_same_in_all_ways(tmp_path, quoting):
  rows = [["text", "id"]] + [["some text %d" % i, str(i)] for i in range(50)]
  stream = io.StringIO(newline="")
  csv.writer(stream).writerows(rows)
  assert read(write(tmp_path, stream.getvalue()), quoting=quoting) == rows
