# SPDX-License-Identifier: Apache-2.0
"""Tests of tables in Parquet and .xlsx."""

import datetime
import sys
import zipfile

import pytest

import processors
from processors import tables
from processors import unlabelled


OPTIONS = {"delimiter": None, "quoting": "auto", "encoding": None}


def read(path, **options):
  return list(tables.read_table(str(path), dict(OPTIONS, **options)))


def error_of(path, **options):
  with pytest.raises(ValueError) as raised:
    read(path, **options)
  message = str(raised.value)
  assert message.endswith(".") and "\n" not in message
  return message.replace(str(path), "PATH")


def examples(tmp_path, part="train", **options):
  processor = processors.create_processor("delimited", options=options)
  return processors.get_labels(processor, str(tmp_path)), [
      (e.guid, e.text_a, e.labels) for e in
      getattr(processor, "get_%s_examples" % part)(str(tmp_path))]


@pytest.mark.parametrize("value, text", [
    (None, ""), ("", ""), (" a\n", " a\n"), (True, "1"), (False, "0"),
    (7, "7"), (1.0, "1"), (-2.0, "-2"), (0.5, "0.5"), (1e30, "1e+30"),
    (float("nan"), ""), ([], "[]"), (["a", u"\u732b"], u'["a", "\u732b"]'),
    ([0, 1], "[0, 1]"), (b"\0\1", "(2 bytes)"), (b"\xff", "(1 bytes)"),
    (u"caf\xe9".encode("utf-8"), u"caf\xe9"), ({"a": None}, '{"a": null}'),
    (datetime.date(2024, 2, 29), "2024-02-29")])
def test_cells(value, text):
  assert tables.cell_text(value) == text


def test_forms():
  assert [tables.guess_form(name) for name in (
      "a.csv", "a.TSV", "a.tsv.gz", "a.parquet", "a.PQ", "a.xlsx", "a")] == [
          "csv", "tsv", "tsv", "parquet", "parquet", "xlsx", "csv"]


# Parquet.


def write_parquet(path, columns):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet
  parquet.write_table(pyarrow.table(columns), str(path), row_group_size=2)
  return path


def test_parquet(tmp_path):
  path = write_parquet(tmp_path / "a.parquet", {
      "id": [5, 6, None], "text": ["one", u"\u732b\n", None],
      "toxic": [True, False, True], "score": [1.0, 0.25, float("nan")]})
  assert read(path) == [
      (1, ["id", "text", "toxic", "score"]), (1, ["5", "one", "1", "1"]),
      (2, ["6", u"\u732b\n", "0", "0.25"]), (3, ["", "", "1", ""])]
  assert list(unlabelled.read_texts(str(path))) == [
      ("5", "one", None), ("6", u"\u732b\n", None), ("3", "", None)]


def test_parquet_of_pandas_leaves_the_index_out(tmp_path):
  pandas = pytest.importorskip("pandas")
  pytest.importorskip("pyarrow")
  frame = pandas.DataFrame({"text": ["a", "b", "c"], "x": [1, 0, 1]})
  frame[frame.x == 1].to_parquet(str(tmp_path / "train.parquet"))
  assert examples(tmp_path) == (
      ["x"], [("train-1", "a", ("x",)), ("train-2", "c", ("x",))])


def test_training_on_parquet(tmp_path):
  write_parquet(tmp_path / "train.parquet", {
      "text": ["a", "b", "c"], "labels": [["x", "y, z"], [], ["x"]]})
  assert examples(tmp_path) == (["x", "y, z"], [
      ("train-1", "a", ("x", "y, z")), ("train-2", "b", ()),
      ("train-3", "c", ("x",))])


def test_broken_parquet(tmp_path):
  path = write_parquet(tmp_path / "a.parquet", {"text": ["a" * 100] * 100})
  data = path.read_bytes()
  path.write_bytes(data[:-50])
  assert error_of(path).startswith("PATH is no whole Parquet file (")
  path.write_bytes(b"text\na\n")
  assert error_of(path) == (
      "PATH is no Parquet file: if it holds text, end its name in .csv, .tsv "
      "or .jsonl.")
  path.unlink()
  assert error_of(path) == "PATH: cannot be read (No such file or directory)."
  path = write_parquet(tmp_path / "b.parquet", {"text": ["a", "b\0c"]})
  assert error_of(path) == "PATH:2: byte 0x00 is not text."


# Excel.


def write_xlsx(path, rows, **more):
  openpyxl = pytest.importorskip("openpyxl")
  book = openpyxl.Workbook()
  for row in rows:
    book.active.append(row)
  for title, others in more.items():
    sheet = book.create_sheet(title)
    for row in others:
      sheet.append(row)
  book.save(str(path))
  return path


def test_xlsx(tmp_path):
  path = write_xlsx(tmp_path / "a.xlsx", [
      [], ["id", " text ", "toxic", None], [7, "one", True, None],
      [None] * 4, [8, u"\u732b", 0, ""], [9.0, None, 1.0],
      [None, None, None]], Empty=[])
  said = []
  log = lambda message, *values: said.append(message % values)
  assert list(tables.read_table(str(path), OPTIONS, log=log)) == [
          (2, ["id", "text", "toxic"]), (3, ["7", "one", "1"]),
          (5, ["8", u"\u732b", "0"]), (6, ["9", "", "1"])]
  assert said == ["%s: blank rows passed over: 1." % path]
  assert list(unlabelled.read_texts(str(path)))[0] == ("7", "one", None)


def test_training_on_xlsx(tmp_path):
  write_xlsx(tmp_path / "train.xlsx", [
      [None, "text", "labels"], [0, "a", "x,y"], [1, "b", None]])
  write_xlsx(tmp_path / "test.xlsx", [["text"], ["c"]])
  assert examples(tmp_path) == (
      ["x", "y"], [("train-1", "a", ("x", "y")), ("train-2", "b", ())])
  assert examples(tmp_path, "test")[1] == [("test-1", "c", None)]


@pytest.mark.parametrize("rows, more, message", [
    ([["text", "id"], ["a", 1]], {"More": [["text"], ["b"]]},
     "PATH has several sheets ('Sheet', 'More'): keep one of them, or save the "
     "one that is meant as .csv."),
    ([], {}, "PATH is empty: its first row must name the columns."),
    ([["text"], ["a", "b"]], {}, "PATH:2: the row has something in column 2, "
     "which has no name: name it in the first row."),
    ([["text", "id"], ["text", "id"]], {},
     "PATH:2: the row repeats the header: remove it."),
    ([["text", None, "id"]], {}, "PATH:1: column 2 has no name (pandas writes "
     "such a column unless told index=False).")])
def test_xlsx_that_is_refused(tmp_path, rows, more, message):
  assert error_of(write_xlsx(tmp_path / "a.xlsx", rows, **more)) == message


def test_broken_xlsx(tmp_path):
  path = write_xlsx(tmp_path / "a.xlsx", [["text"], ["a"]])
  data = path.read_bytes()
  path.write_bytes(data[:len(data) // 2])
  assert error_of(path).startswith("PATH is no whole Excel file (")
  path.write_bytes(b"text\na\n")
  assert error_of(path).startswith("PATH is no Excel file: if it holds text")
  path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 100)
  assert error_of(path) == (
      "PATH is no Excel file, but an old or encrypted Excel file: save it as "
      ".xlsx without a password.")
  with zipfile.ZipFile(str(path), "w") as archive:
    archive.writestr("a.txt", "text\n")
  assert error_of(path).startswith("PATH is no whole Excel file (")


@pytest.mark.parametrize("ending, package", [
    ("parquet", "pyarrow"), ("xlsx", "openpyxl")])
def test_packages_that_are_missing(tmp_path, ending, package, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  path = tmp_path / ("a." + ending)
  path.write_bytes(b"")
  assert error_of(path).startswith(
      "PATH needs the package %s, which is not installed: pip install %s" % (
          package, package))


@pytest.mark.parametrize("name", ["a.parquet", "a.xlsx"])
def test_flags_of_text_files(tmp_path, name):
  for option, value in (("delimiter", ";"), ("quoting", "none"),
                        ("encoding", "gb18030")):
    assert error_of(tmp_path / name, **{option: value}) == (
        "--%s=%s means nothing to PATH: leave it out." % (option, value))


def test_bytes_that_are_no_text(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet  # pylint: disable=g-import-not-at-top
  path = str(tmp_path / "train.parquet")
  parquet.write_table(pyarrow.table({
      "text": [b"one", u"\u732b".encode("utf-8")], "labels": [b"a", b"b"],
      "picture": [b"\x89PNG\0", b"\xff"]}), path)
  assert examples(tmp_path)[1] == [
      ("train-1", "one", ("a",)), ("train-2", u"\u732b", ("b",))]
  for column in ("text", "labels"):
    cells = {"text": ["one", "two"], "labels": ["a", "b"]}
    cells[column] = [cells[column][0].encode("ascii"), b"\xff\xfe\0"]
    parquet.write_table(pyarrow.table(cells), path)
    with pytest.raises(ValueError, match=r"train.parquet:2: a cell holds bytes "
                       r"that are not UTF-8 text \(3 bytes\)"):
      examples(tmp_path)
  cells = {"text": [b"\xff"]}
  parquet.write_table(pyarrow.table(cells), path)
  with pytest.raises(ValueError, match="train.parquet:1: a cell holds bytes"):
    list(unlabelled.read_texts(path))


def test_formulas_that_nobody_computed(tmp_path):
  openpyxl = pytest.importorskip("openpyxl")
  path = str(tmp_path / "train.xlsx")
  book = openpyxl.Workbook()
  for row in (["text", "labels"], ["one", "a"], ["two", '=IF(1, "a", "b")']):
    book.active.append(row)
  book.save(path)
  with pytest.raises(ValueError, match="train.xlsx: cell B3 holds a formula th"
                     "at was never computed"):
    examples(tmp_path)
