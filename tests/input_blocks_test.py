# SPDX-License-Identifier: Apache-2.0
"""Blocks of files: each row in one of them, with its number; bad ones told."""

import gzip

import packed_data
import pytest

from processors import unlabelled
from scale import input_blocks


def open_file(path):
  return open(path, "rb")


def read(path, form=None, block_bytes=40, **options):
  """(rows, bad rows, number of blocks) of a file."""
  path = str(path)
  blocks = list(input_blocks.cut(
      path, form, open_file, options, block_bytes))
  found = [row for block in blocks
           for row in input_blocks.read_block(block, open_file)]
  good = [row for row in found if isinstance(row, input_blocks.Row)]
  bad = [row for row in found if isinstance(row, input_blocks.BadRow)]
  assert len(good) + len(bad) == len(found)
  return good, bad, len(blocks)


def same_as_predict_session(path, form, rows, **options):
  """Whether ids and texts are those that predict_session.py reads."""
  assert [(row.id, row.text, row.text_pair) for row in rows] == list(
      unlabelled.read_texts(str(path), form, options))


TEXTS = [u"one", u"", u"two \u592a\u597d\u4e86", u"x" * 130, u"three\u2028four",
         u"", u"a,\"b\"", u"last"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 40, 4096])
@pytest.mark.parametrize("start, close", [(b"", ""), (b"\xef\xbb\xbf", None)])
def test_lines_are_those_of_predict_session(tmp_path, end, block_bytes, start,
                                            close):
  path = tmp_path / "texts.txt"
  path.write_bytes(start + (end.join(TEXTS) + (
      end if close is None else close)).encode("utf-8"))
  rows, bad, num_blocks = read(path, block_bytes=block_bytes)
  assert [row.text for row in rows] == TEXTS and not bad
  assert [row.row for row in rows] == list(range(1, 9))
  assert (num_blocks == 1) == (block_bytes == 4096)
  same_as_predict_session(path, "text", rows)


def test_a_packed_file_is_one_block(tmp_path):
  path = tmp_path / "texts.txt.gz"
  with gzip.open(str(path), "wb") as writer:
    writer.write(u"\n".join(TEXTS).encode("utf-8"))
  rows, bad, num_blocks = read(path, block_bytes=1)
  assert [row.text for row in rows] == TEXTS
  assert not bad and num_blocks == 1


def test_what_breaks_in_a_packed_file_is_told(tmp_path):
  path = tmp_path / "texts.csv.gz"
  with gzip.open(str(path), "wb") as writer:
    writer.write(b"text\n" + b"".join(b"%d\n" % i for i in range(99999)))
  path.write_bytes(path.read_bytes()[:9999])
  rows, bad, _ = read(path)
  assert [row.text for row in rows[:2]] == ["0", "1"]
  assert len(bad) == 1 and bad[0].line is None
  assert "broken gzip data" in bad[0].reason


def test_bad_bytes_are_bad_rows(tmp_path):
  path = tmp_path / "texts.txt"
  path.write_bytes(b"good\n\xff\xfebad\nnul\0\nfine\n")
  rows, bad, _ = read(path)
  assert [(row.row, row.text) for row in rows] == [(1, "good"), (4, "fine")]
  assert [tuple(row[1:]) for row in bad] == [
      (2, 2, "byte 0xff is not UTF-8 (convert the file, as iconv does)"),
      (3, 3, "byte 0x00 is not text")]


def test_a_line_without_end_is_a_bad_row(tmp_path, monkeypatch):
  monkeypatch.setattr(input_blocks.text_lines, "MAX_LINE", 10)
  path = tmp_path / "texts.txt"
  path.write_bytes(b"one\n" + b"x" * 31 + b"\ntwo\n")
  rows, bad, _ = read(path)
  assert [(row.row, row.text) for row in rows] == [(1, "one"), (3, "two")]
  assert [tuple(row[1:]) for row in bad] == [
      (2, 2, "the line has more than 10 characters")]
  path = tmp_path / "texts.csv"
  path.write_bytes(b"text\none\n" + b"x" * 31 + b"\ntwo\n")
  rows, bad, _ = read(path)
  assert [(row.row, row.text) for row in rows] == [(1, "one"), (3, "two")]
  assert [tuple(row[1:]) for row in bad] == [
      (3, 2, "a line of the row has more than 10 characters")]


@pytest.mark.parametrize("block_bytes", [1, 60, 4096])
def test_json_lines(tmp_path, block_bytes):
  path = tmp_path / "texts.jsonl"
  path.write_bytes(
      b'{"text": "one", "id": "a"}\n{"text": "two", "text_pair": "b"}\n'
      b'{"text": 3}\n\n{"sentence": "x"}\n[1]\n{"text": "end", "labels": []}\n'
      b'\n\n')
  rows, bad, _ = read(path, block_bytes=block_bytes)
  assert [row[1:] for row in rows] == [
      (1, "a", "one", None), (2, "2", "two", "b"), (7, "7", "end", None)]
  bad = {row.line: row.reason for row in bad}
  assert set(bad) == {3, 5, 6}  # blank lines are passed over
  assert bad[3] == '"text" is a number, not a string'
  assert "rename it" in bad[5] and "not an object" in bad[6]


TABLE = (u'id,text,text_pair\n'
         u'a,plain,p\n'
         u'b,"two\r\nlines, ""quoted""",\n'
         u',\u592a\u597d\u4e86,q\n'
         u'd,"' + u"long " * 30 + u'",r\n')


@pytest.mark.parametrize("block_bytes", [1, 30, 4096])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_tables_are_those_of_predict_session(tmp_path, block_bytes, start):
  path = tmp_path / "texts.csv"
  path.write_bytes(start + TABLE.encode("utf-8"))
  rows, bad, num_blocks = read(path, block_bytes=block_bytes)
  assert not bad
  assert [row.id for row in rows] == ["a", "b", "3", "d"]
  assert rows[1].text == u'two\r\nlines, "quoted"'
  assert (num_blocks == 1) == (block_bytes == 4096)
  same_as_predict_session(path, "csv", rows)


@pytest.mark.parametrize("block_bytes", [1, 4096])
def test_bad_rows_of_tables(tmp_path, block_bytes):
  path = tmp_path / "texts.tsv"
  path.write_bytes(b"text\tn\none\t1\ntwo\n\"th\"ree\t3\nf\xffour\t4\n"
                   b"five\t5\n\nsix\t\"6\n")
  rows, bad, _ = read(path, block_bytes=block_bytes)
  assert [(row.row, row.text) for row in rows] == [(1, "one"), (5, "five")]
  assert [(row.line, row.row) for row in bad] == [
      (3, 2), (4, 3), (5, 4), (8, 6)]
  reasons = [row.reason for row in bad]
  assert reasons[0].startswith("the row has 1 fields, the header 2")
  assert "must be doubled" in reasons[1]
  assert reasons[2] == (
      "byte 0xff is not UTF-8 (convert the file, as iconv does)")
  assert "nothing closes it" in reasons[3]


@pytest.mark.parametrize("block_bytes", [1, 7, 30, 4096])
@pytest.mark.parametrize("quoting", ["auto", "none"])
def test_blank_lines_of_tables_are_passed_over(tmp_path, block_bytes, quoting):
  path = tmp_path / "texts.csv"
  path.write_bytes(b"text,n\n\none,1\n\n  \ntwo,2\n\n\nthree,3\n\n")
  rows, bad, _ = read(path, block_bytes=block_bytes, quoting=quoting)
  assert [(row.row, row.text) for row in rows] == [
      (1, "one"), (2, "two"), (3, "three")] and not bad
  same_as_predict_session(path, "csv", rows, quoting=quoting)


@pytest.mark.parametrize("name, content, options, message", [
    ("x.csv", b"", {}, "is empty"),
    ("x.csv", b"\ntext\n", {}, "line is blank"),
    ("x.csv", b"words\none\n", {}, "no column 'text'"),
    ("x.csv", b"text\none\n", {"text_column": "t"}, "no column 't'"),
    ("x.txt", b"one\n", {"text_column": "t"}, "--text_column is for tables"),
    ("x.parquet", b"PAR1", {"delimiter": ","}, "--delimiter is for"),
])
def test_files_that_cannot_be_read(tmp_path, name, content, options, message):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    read(path, **options)


@pytest.mark.parametrize("name, form", [
    ("a.csv", "csv"), ("a.TSV.gz", "tsv"), ("a.jsonl", "jsonl"),
    ("a.avro", "avro"), ("a.parquet", "parquet"), ("a", "text"),
    ("csv", "csv"), ("gs://b/a.log", "text")])
def test_the_ending_tells_the_form(name, form):
  assert input_blocks.guess_form(name) == form


ROWS = [{"id": 1, "text": u"one", "pair": u"p"},
        {"id": None, "text": u"two", "pair": None},
        {"id": 3, "text": None, "pair": u"r"},
        {"id": 4, "text": u"four\0", "pair": None}] + [
            {"id": 5 + i, "text": u"word %d" % i, "pair": None}
            for i in range(500)]


def check_records(path):
  """Of a file of `ROWS`, in several blocks."""
  rows, bad, num_blocks = read(path, block_bytes=2000, text_pair_column="pair")
  assert num_blocks > 2
  assert [row[1:] for row in rows[:3]] == [
      (1, "1", "one", "p"), (2, "2", "two", None), (5, "5", "word 0", None)]
  assert [row.row for row in rows] == [1, 2] + list(range(5, 505))
  assert rows[-1].text == "word 499"
  assert [(row.row, row.reason) for row in bad] == [
      (3, "column text is null, not a string"),
      (4, "byte 0x00 is not text")]
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(ValueError, match="is no whole"):
    read(path)


def test_avro(tmp_path):
  fastavro = pytest.importorskip("fastavro")
  path = tmp_path / "texts.avro"
  schema = {"type": "record", "name": "r", "fields": [
      {"name": "id", "type": ["null", "long"]},
      {"name": "text", "type": ["null", "string"]},
      {"name": "pair", "type": ["null", "string"]}]}
  with open(str(path), "wb") as writer:
    fastavro.writer(writer, schema, ROWS, sync_interval=500)
  check_records(path)


def test_parquet(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet
  path = tmp_path / "texts.parquet"
  parquet.write_table(pyarrow.Table.from_pylist(ROWS), str(path),
                      row_group_size=100)
  check_records(path)


# What is not what it seems to be.


RAW = 'id\ttext\n1\t"Hello, she said\n2\tfine\n3\tbye"\n4\tlast\n'


def test_a_quotation_mark_that_swallows_rows(tmp_path):
  path = tmp_path / "a.tsv"
  path.write_text(RAW)
  for block_bytes in (1, 4096):
    rows, bad, _ = read(path, block_bytes=block_bytes)
    assert [row.text for row in rows] == ["last"]
    assert [(row.line, row.row) for row in bad] == [(2, 1)]
    assert "joins 3 lines into one field: give --quoting=none" in bad[0].reason
    rows, bad, _ = read(path, block_bytes=block_bytes, quoting="none")
    assert [(row.id, row.text) for row in rows] == [
        ("1", '"Hello, she said'), ("2", "fine"), ("3", 'bye"'), ("4", "last")]
    assert not bad
    same_as_predict_session(path, "tsv", rows, quoting="none")
    rows, bad, _ = read(path, block_bytes=block_bytes, quoting="standard")
    assert [row.text for row in rows] == [
        "Hello, she said\n2\tfine\n3\tbye", "last"] and not bad


@pytest.mark.parametrize("name, content, words", [
    ("a.txt", b'{"text": "a"}\n', "looks like JSON lines"),
    ("a.txt", b"\xef\xbb\xbfid,text\n1,a\n", "looks like the header"),
    ("a.json", b'["a"]', "cannot be split into blocks"),
    ("a.xlsx", b"PK\x03\x04", "cannot be split into blocks"),
    ("a.csv", u"id,text\n".encode("utf-16"), "is UTF-16-LE: save it as UTF-8"),
    ("a.csv", packed_data.gzipped(b"text\na\n"), "is gzip data"),
    ("a.txt.gz", b"text\n", "broken gzip data"),
    ("a.csv", b"PAR1\x15", "is Parquet"),
    ("a.jsonl.gz", packed_data.gzipped(b"PK\x03\x04"), "is a zip archive")])
def test_files_of_another_form(tmp_path, name, content, words):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(ValueError) as raised:
    read(path)
  assert str(raised.value).startswith(str(path)) and words in str(raised.value)


def test_newline_delimited_json(tmp_path):
  path = tmp_path / "a.ndjson"
  path.write_bytes(b'{"text": "a"}\n')
  assert [row.text for row in read(path)[0]] == ["a"]


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_quoting_means_nothing_to_lines(tmp_path, form):
  path = tmp_path / "a"
  path.write_bytes(b'"a"\n')
  with pytest.raises(ValueError, match="--quoting is for tables"):
    read(path, form, quoting="none")
  read(path, form, quoting="auto")
