# SPDX-License-Identifier: Apache-2.0
"""Tests of the data processors: what they read, and what they refuse."""

import csv
import gzip
import io
import itertools
import json
import os
import re
import sys
import tracemalloc

import pytest

import processors
from processors import InputExample
from processors import base
from processors import table_reader
from processors import text_lines


CHINESE = u"今天天气很好，我们去公园吧"
ARABIC = u"مرحبا بالعالم"
EMOJI = u"👩‍👩‍👧 🇨🇳 ❤️"


@pytest.fixture
def folder(tmp_path):
  """Returns a function that writes named files and returns their folder."""

  def write(**files):
    for name, content in files.items():
      stem, extension = name.split("_", 1)
      path = tmp_path / ("%s.%s" % (stem, extension.replace("_", ".")))
      if isinstance(content, str):
        content = content.encode("utf-8")
      path.write_bytes(content)
    return str(tmp_path)

  return write


def read(task, data_dir, part="train", **options):
  processor = processors.create_processor(task, options=options)
  return list(getattr(processor, "get_%s_examples" % part)(data_dir))


def rows(examples):
  return [(e.guid, e.text_a, e.text_b, e.labels) for e in examples]


def labels_of(task, data_dir, **options):
  processor = processors.create_processor(task, options=options)
  return processors.get_labels(processor, data_dir)


def error_of(function, *args, **kwargs):
  """Returns the message of the ValueError that must come, in one line."""
  with pytest.raises(ValueError) as raised:
    result = function(*args, **kwargs)
    if hasattr(result, "__next__"):
      list(result)
  assert not isinstance(raised.value, UnicodeError)
  message = str(raised.value)
  assert len(message.splitlines()) == 1
  assert message.endswith(".")
  assert len(message) < 1000
  return message


# Delimited files.


def test_one_label_column(folder):
  data_dir = folder(
      train_csv='id,text,labels\n7,"Hello, ""world""","b, a"\n8,,\n9,x,"a,a"\n')
  examples = read("delimited", data_dir)
  assert rows(examples) == [
      ("7", 'Hello, "world"', None, ("b", "a")), ("8", "", None, ()),
      ("9", "x", None, ("a",))]
  train = os.path.join(data_dir, "train.csv")
  assert [e.source for e in examples] == [
      train + ":2", train + ":3", train + ":4"]
  assert labels_of("delimited", data_dir) == ["a", "b"]


def test_jigsaw_form_needs_no_flags(folder):
  names = ["toxic", "severe_toxic", "obscene", "threat", "insult",
           "identity_hate"]
  header = "id,comment_text," + ",".join(names) + "\n"
  data_dir = folder(
      train_csv=header + '"0000997932d777bf","Explanation\nWhy ""the"" edits",'
      "0,0,0,0,0,0\n0002bcb3da6cb337,\"COCK\",1,1,1,0, 1 ,0\n",
      dev_csv=header + "d1,fine,0,0,0,1,0,0\n",
      test_csv="id,comment_text\nt1,who knows\n")
  assert labels_of("delimited", data_dir) == names
  assert rows(read("delimited", data_dir)) == [
      ("0000997932d777bf", 'Explanation\nWhy "the" edits', None, ()),
      ("0002bcb3da6cb337", "COCK", None,
       ("toxic", "severe_toxic", "obscene", "insult"))]
  assert rows(read("delimited", data_dir, "dev")) == [
      ("d1", "fine", None, ("threat",))]
  assert rows(read("delimited", data_dir, "test")) == [
      ("t1", "who knows", None, None)]


def test_flag_columns_beside_words_and_chosen_ones(folder):
  data_dir = folder(
      train_csv="text,author,b,a\nx,Ann,1,0\ny,Bob,0,1\nz,,1,1\n",
      dev_csv="text,author,b,a\nx,Cid,0,0\n")
  assert labels_of("delimited", data_dir) == ["b", "a"]
  assert [e.labels for e in read("delimited", data_dir)] == [
      ("b",), ("a",), ("b", "a")]
  assert [e.labels for e in read("delimited", data_dir, "dev")] == [()]
  assert labels_of("delimited", data_dir, label_column="a, b") == ["a", "b"]
  assert [e.labels for e in read("delimited", data_dir, label_column="a,b")
         ] == [("b",), ("a",), ("a", "b")]


def test_single_flag_column(folder):
  data_dir = folder(train_csv="text,spam\nx,1\ny,0\n")
  assert labels_of("delimited", data_dir) == ["spam"]
  assert [e.labels for e in read("delimited", data_dir)] == [("spam",), ()]


def test_flag_columns_in_the_order_of_labels_txt(folder):
  data_dir = folder(train_csv="text,b,a\nx,1,1\n", labels_txt="a\nb\n")
  assert labels_of("delimited", data_dir) == ["a", "b"]


def test_named_columns_pairs_and_separator(folder):
  data_dir = folder(
      train_tsv="key\tq1\tq2\ttags\nk1\tone\ttwo\tx | y\n\tthree\t\tz|x\n")
  options = dict(text_column="q1", text_pair_column="q2", id_column="key",
                 label_column="tags", label_separator="|")
  assert rows(read("delimited", data_dir, **options)) == [
      ("k1", "one", "two", ("x", "y")), ("train-2", "three", "", ("z", "x"))]
  assert labels_of("delimited", data_dir, **options) == ["x", "y", "z"]


def test_tsv_is_quoted_like_csv_and_commas_are_text(folder):
  data_dir = folder(
      train_tsv='text\tlabel\n"a\tb"\tx\n5" disk, new\ty\n'
      '"""Hi"" he said"\tx\n')
  assert [e.text_a for e in read("delimited", data_dir)] == [
      "a\tb", '5" disk, new', '"Hi" he said']


@pytest.mark.parametrize("delimiter, character", [
    (";", ";"), ("|", "|"), ("\\t", "\t"), ("tab", "\t"), (u"、", u"、")])
def test_delimiter_option(folder, delimiter, character):
  data_dir = folder(train_csv="text;labels\na,b;x,y\n".replace(";", character))
  examples = read("delimited", data_dir, delimiter=delimiter)
  assert rows(examples) == [("train-1", "a,b", None, ("x", "y"))]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("tail", ["", "\n", "\n\n\n"])
@pytest.mark.parametrize("mark", ["", u"\ufeff"])
def test_line_ends_and_byte_order_mark(folder, end, tail, mark):
  text = mark + 'id,text,labels\n1,one,a\n2,"two\nlines",b' + tail
  data_dir = folder(train_csv=text.replace("\n", end))
  examples = read("delimited", data_dir)
  assert rows(examples) == [("1", "one", None, ("a",)),
                            ("2", "two%slines" % end, None, ("b",))]
  assert [e.source[-2:] for e in examples] == [":2", ":3"]


def test_unicode_of_all_kinds(folder):
  label = u"幸福 😀"
  text = u"%s\u2028%s\x0b\x0c\x1c\x1d\x1e\x85\u2029%s" % (
      CHINESE, ARABIC, EMOJI)
  data_dir = folder(
      train_csv=u"text,labels\n%s,%s\nx,a\u2028b\n" % (text, label),
      dev_jsonl=json.dumps({"text": text, "labels": [label, u"a\u2028b"]},
                           ensure_ascii=False) + "\n")
  examples = read("delimited", data_dir)
  assert rows(examples) == [("train-1", text, None, (label,)),
                            ("train-2", "x", None, (u"a\u2028b",))]
  assert [e.source[-2:] for e in examples] == [":2", ":3"]
  assert rows(read("jsonl", data_dir, "dev")) == [
      ("dev-1", text, None, (label, u"a\u2028b"))]
  assert labels_of("delimited", data_dir) == [u"a\u2028b", label]


def test_gzip(folder):
  text = u"text,labels\n%s,a\n" % CHINESE
  data_dir = folder(
      train_csv_gz=gzip.compress(text.encode("utf-8")),
      dev_tsv_gz=gzip.compress(text.replace(",", "\t").encode("utf-8")),
      test_jsonl_gz=gzip.compress(b'{"text": "x"}'))
  assert rows(read("delimited", data_dir)) == [
      ("train-1", CHINESE, None, ("a",))]
  assert rows(read("delimited", data_dir, "dev")) == [
      ("dev-1", CHINESE, None, ("a",))]
  assert rows(read("jsonl", data_dir, "test")) == [("test-1", "x", None, None)]


def test_ten_megabyte_field_leaves_csv_as_it_was(folder):
  long_text = "word " * 2000000
  data_dir = folder(train_csv='text,labels\n"%s",a\n%s,b\n' % (
      long_text, long_text))
  before = csv.field_size_limit()
  assert [e.text_a == long_text for e in read("delimited", data_dir)] == [
      True, True]
  assert csv.field_size_limit() == before


def test_errors_say_the_line_where_the_row_starts(folder):
  data_dir = folder(train_csv='text,labels\n"a\nb\nc",x\n"d\ne",y,z\n')
  assert "train.csv:5: the row has 3 fields, the header 2" in error_of(
      read, "delimited", data_dir)


@pytest.mark.parametrize("content, parts", [
    ("", ["train.csv is empty"]),
    ("\n\n", ["train.csv is empty"]),
    ("text,labels\n", ["train.csv holds no examples"]),
    ("text,a\n", ["train.csv holds no examples"]),
    ("txt,labels\nx,a\n", ["no column 'text' or", "'txt', 'labels'",
                           "--text_column"]),
    ("text;labels\nx;a\n", ["'text;labels'", "--delimiter"]),
    ("text\nx\n", ["train.csv has no label column", "'text'"]),
    ("text,author\nx,Ann\n", ["train.csv has no label column", "'author'"]),
    ("text,labels,label\nx,a,b\n", ["'labels', 'label'", "--label_column"]),
    ("text,sentence,label\nx,a,b\n", ["'text', 'sentence'", "--text_column"]),
    ("text,labels,text\nx,a,b\n", ["train.csv:1:", "two columns", "'text'"]),
    (",text,labels\nx1,x,a\n", ["train.csv:2: column 1 has no name"]),
    ("text,labels\nx,a\ny\n", ["train.csv:3: the row has 1 fields"]),
    ("text,labels\nx,a,b\n", ["train.csv:2: the row has 3 fields"]),
    ('text,labels\nx,a\n"y,b\nz,c\n', ["train.csv:3:", "nothing closes it"]),
    ('text,labels\n"x"y,a\n', ["train.csv:2:", "must be doubled"]),
    ('text,labels\nx,"a,,b"\n', ["train.csv:2: there is an empty label",
                                 "'a,,b'"]),
    ('text,labels\nx,"a,"\n', ["train.csv:2: there is an empty label"]),
    ('text,labels\nx,"a\nb"\n', ["train.csv:2:", r"'a\nb'", "line break"]),
    ('text,"a\nb"\nx,1\n', ["train.csv:1:", r"'a\nb'", "line break"]),
    ("text,a,b\nx,0,2\n", ["train.csv:2: column 'b' holds '2', not 0 or 1"]),
    ("text,a,b\nx,0,1\ny,1,maybe\n", ["train.csv:3: column 'b' holds 'maybe'"]),
    ("text,a,b\nx,0,1\ny,1,\n", ["train.csv:3: column 'b' is empty here",
                                  "write 0"]),
    ("text,a,b\nx,0,yes\n", ["train.csv:2: column 'b' holds 'yes'"]),
    ("text,a,b\nx,-1,-1\n", ["train.csv:2: column 'a' holds '-1'",
                             "take them out"]),
    ("text,a\nx,1.5\n", ["train.csv:2: column 'a' holds '1.5'"]),
    (b"text,labels\nx,a\n\r\n\xe9t\xe9,a\n", ["train.csv:4: byte 0xe9"]),
    (b'text,labels\n"x\r\n\r\xff",a\n', ["train.csv:4: byte 0xff"]),
    (b"text,labels\nx,a\ny\0,a\n", ["train.csv:3: byte 0x00"]),
    (b"text,labels\nx,\xed\xa0\x80\n", ["train.csv:2: byte 0xed"]),
    (b"text,labels\nx,\xe4\xbd", ["train.csv:2: byte 0xe4"]),
    (u"text,labels\nx,a\n".encode("utf-16-le"), ["train.csv:1: byte 0x00"]),
    # Bytes, not gzip.compress: the time in them would change the test's name.
    (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff", ["train.csv is", ".gz"]),
    (b"PK\x03\x04\x14\0\x06\0", ["train.csv is", "spreadsheet"]),
])
def test_broken_delimited_file(folder, content, parts):
  data_dir = folder(train_csv=content)
  message = error_of(read, "delimited", data_dir)
  assert [part for part in parts if part not in message] == []


def test_undecodable_byte_far_into_a_file(folder):
  content = b"text,labels\n" + b"some text,a\r\n" * 50000 + b"\xc3(,a\n"
  assert "train.csv:50002: byte 0xc3 is not UTF-8" in error_of(
      read, "delimited", folder(train_csv=content))


@pytest.mark.parametrize("options, part", [
    (dict(text_column="nope"), "no column 'nope' for --text_column"),
    (dict(text_pair_column="no"), "no column 'no' for --text_pair_column"),
    (dict(id_column="uid"), "no column 'uid' for --id_column"),
    (dict(label_column="tags"), "no label column 'tags'"),
    (dict(label_column="a,tags"), "no label column 'tags'"),
    (dict(label_column="a,a"), "twice"),
    (dict(label_column="text"), "also that of a text"),
    (dict(text_column="text", text_pair_column="text"), "different columns"),
    (dict(delimiter=";;"), "--delimiter=';;'"),
    (dict(delimiter='"'), "--delimiter"),
    (dict(label_separator=""), "--label_separator"),
    (dict(dev_fraction=1.0), "--dev_fraction=1.0"),
    (dict(dev_fraction=-0.1), "--dev_fraction=-0.1"),
    (dict(dev_fraction=float("nan")), "--dev_fraction=nan"),
    (dict(dev_fraction="ten"), "--dev_fraction=ten"),
    (dict(colour="red"), "'colour'"),
])
def test_wrong_options(folder, options, part):
  data_dir = folder(train_csv="text,a,b\nx,1,0\n")
  assert part in error_of(read, "delimited", data_dir, **options)


def test_missing_column_names_those_present(folder):
  data_dir = folder(train_csv="text,a,b\nx,1,0\n")
  assert "'text', 'a', 'b'" in error_of(
      read, "delimited", data_dir, label_column="tags")


def test_test_file_and_train_file_disagree(folder):
  data_dir = folder(train_csv="text,a,b\nx,1,0\n", test_csv="text,a\ny,1\n")
  assert "test.csv has no label column 'b'" in error_of(
      read, "delimited", data_dir, "test")
  folder(dev_csv="text,a\ny,1\n")
  assert "dev.csv has no label column 'b'" in error_of(
      read, "delimited", data_dir, "dev")
  folder(dev_csv="text,a,b,c\ny,1,0,1\n")
  assert "dev.csv has label columns 'c'" in error_of(
      read, "delimited", data_dir, "dev")
  folder(dev_csv="text\ny\n")
  assert "dev.csv has no label column 'a', 'b'" in error_of(
      read, "delimited", data_dir, "dev")


def test_label_column_under_another_name_in_test(folder):
  data_dir = folder(train_csv="text,labels\nx,a\n",
                    test_csv="text,label\ny,a\n")
  assert "test.csv has column 'label'" in error_of(
      read, "delimited", data_dir, "test")


def test_test_file_alone(folder):
  data_dir = folder(test_csv="text\nx\n\n")
  assert rows(read("delimited", data_dir, "test")) == [
      ("test-1", "x", None, None)]


# Files and folders.


def test_missing_files_name_those_there(folder):
  data_dir = folder(notes_txt="", valid_csv="text,labels\nx,a\n")
  message = error_of(read, "delimited", data_dir)
  assert ("none of train.csv, train.tsv, train.parquet, train.xlsx, "
          "train.csv.gz, train.tsv.gz (") in message
  assert "'notes.txt', 'valid.csv'" in message
  message = error_of(read, "jsonl", data_dir, "test")
  assert "none of test.jsonl, test.ndjson, test.json, test.jsonl.gz" in message
  message = error_of(read, "delimited", data_dir, "dev")
  assert "dev.csv" in message and "--dev_fraction" in message


def test_missing_file_is_an_error_before_the_first_example(folder):
  processor = processors.create_processor("delimited")
  data_dir = folder(notes_txt="")
  with pytest.raises(ValueError):
    processor.get_train_examples(data_dir)
  folder(train_csv="text,labels\nx,a,b\n")
  with pytest.raises(ValueError):
    processor.get_train_examples(data_dir)


@pytest.mark.parametrize("data_dir", [None, "", "no/such/folder"])
def test_wrong_folder(data_dir):
  for task in processors.PROCESSORS:
    assert "--data_dir" in error_of(read, task, data_dir)
  assert "--data_dir" in error_of(labels_of, "delimited", data_dir)


def test_file_where_a_folder_should_be_and_the_reverse(tmp_path):
  (tmp_path / "file").write_text("x")
  assert "not a folder" in error_of(read, "jsonl", str(tmp_path / "file"))
  (tmp_path / "train.jsonl").mkdir()
  (tmp_path / "labels.txt").mkdir()
  assert "train.jsonl is not a file but a folder" in error_of(
      read, "jsonl", str(tmp_path))
  assert "labels.txt is not a file but a folder" in error_of(
      labels_of, "jsonl", str(tmp_path))


def test_two_candidates(folder):
  data_dir = folder(train_csv="text,labels\nx,a\n", train_tsv_gz=b"")
  message = error_of(read, "delimited", data_dir)
  assert "train.csv and train.tsv.gz" in message


@pytest.mark.parametrize("damage", [
    lambda data: data[:-12], lambda data: data[:40], lambda data: b"no gzip",
    lambda data: data[:-6] + b"\1\2\3\4\5\6", lambda data: data + b"junk",
    lambda data: data[:30] + b"\xff" * 20 + data[50:],
    # Undecodable text, and a checksum that does not fit it.
    lambda data: gzip.compress(b"text\xff\n")[:-8] + b"\0" * 8])
def test_broken_gzip(folder, damage):
  data = gzip.compress(("text,labels\n" + "".join(
      "%d,%d\n" % (i, i * i % 97) for i in range(1000))).encode("ascii"))
  assert "train.csv.gz: broken gzip data" in error_of(
      read, "delimited", folder(train_csv_gz=damage(data)))


# A dev set split off train.


def test_dev_fraction_is_a_stable_partition(folder):
  data_dir = folder(train_csv="id,text,labels\n" + "".join(
      "%d,t%d,a\n" % (i, i % 7) for i in range(2000)))
  everything = [e.guid for e in read("delimited", data_dir)]
  train = [e.guid for e in read("delimited", data_dir, dev_fraction=0.2)]
  dev = [e.guid for e in read("delimited", data_dir, "dev", dev_fraction=0.2)]
  assert sorted(train + dev) == sorted(everything)
  assert 330 < len(dev) < 470
  # sha256 of "1" and of "12": the first bytes are 0x6b and 0x6b; of "7": 0x79;
  # of "16": 0xb1; of "39": 0x0b (`printf 39 | sha256sum`).
  assert "39" in dev and not {"1", "12", "7", "16"}.intersection(dev)
  # Another fraction moves rows into dev, none out of it.
  more = [e.guid
          for e in read("delimited", data_dir, "dev", dev_fraction="0.3")]
  assert set(dev) < set(more)


def test_dev_fraction_without_ids_keeps_equal_texts_together(folder):
  data_dir = folder(train_jsonl="".join(
      '{"text": "t%d", "labels": ["a"]}\n' % (i % 50) for i in range(500)))
  train = read("jsonl", data_dir, dev_fraction=0.5)
  dev = read("jsonl", data_dir, "dev", dev_fraction=0.5)
  assert len(train) + len(dev) == 500
  assert not {e.text_a for e in train}.intersection(e.text_a for e in dev)
  assert not {e.guid for e in train}.intersection(e.guid for e in dev)
  assert dev[0].source.endswith(":" + dev[0].guid[len("train-"):])


def test_labels_of_a_split_come_from_all_of_train(folder):
  data_dir = folder(train_jsonl="".join(
      '{"text": "t%d", "labels": ["l%d"]}\n' % (i, i) for i in range(9)))
  assert labels_of("jsonl", data_dir, dev_fraction=0.5) == [
      "l%d" % i for i in range(9)]


def test_dev_fraction_beside_a_dev_file(folder):
  data_dir = folder(train_csv="text,labels\nx,a\n",
                    dev_csv="text,labels\nx,a\n")
  for part in ("train", "dev"):
    message = error_of(read, "delimited", data_dir, part, dev_fraction=0.1)
    assert "--dev_fraction=0.1" in message and "dev.csv" in message
  assert len(read("delimited", data_dir, "dev", dev_fraction=0.0)) == 1


def test_dev_fraction_that_leaves_a_side_empty(folder):
  data_dir = folder(train_csv="id,text,labels\n1,x,a\n")
  assert "--dev_fraction=0.001" in error_of(
      read, "delimited", data_dir, "dev", dev_fraction=0.001)
  assert "--dev_fraction=0.999" in error_of(
      read, "delimited", data_dir, "train", dev_fraction=0.999)


# JSON lines.


def test_jsonl(folder):
  lines = [
      {"text": CHINESE, "labels": ["b", " a ", "b"], "id": 12, "x": [{}]},
      {"text": "", "text_pair": ARABIC, "labels": [], "id": "k"},
      {"text": EMOJI, "text_pair": None, "labels": ["c"], "id": None}]
  data_dir = folder(
      train_jsonl="\r\n".join(json.dumps(line) for line in lines),
      test_jsonl='{"text": "x", "labels": null}\n{"text": "y"}\n\n')
  examples = read("jsonl", data_dir)
  assert rows(examples) == [
      ("12", CHINESE, None, ("b", "a")), ("k", "", ARABIC, ()),
      ("train-3", EMOJI, None, ("c",))]
  assert [e.source[-2:] for e in examples] == [":1", ":2", ":3"]
  assert labels_of("jsonl", data_dir) == ["a", "b", "c"]
  assert rows(read("jsonl", data_dir, "test")) == [
      ("test-1", "x", None, None), ("test-2", "y", None, None)]


def test_lone_surrogates_are_made_valid(folder):
  data_dir = folder(train_jsonl=(
      r'{"text": "a\ud800b\ud83d\ude00\udc00", "text_pair": "\udfff",'
      r' "labels": ["\ud801x"], "id": "\udbff"}'))
  assert rows(read("jsonl", data_dir, dev_fraction=0.0)) == [
      (u"\ufffd", u"a\ufffdb\U0001f600\ufffd", u"\ufffd", (u"\ufffdx",))]


def test_duplicate_ids_are_kept(folder):
  data_dir = folder(train_jsonl='{"text": "x", "labels": [], "id": 1}\n' * 2)
  assert [e.guid for e in read("jsonl", data_dir)] == ["1", "1"]


@pytest.mark.parametrize("line, parts", [
    ('{"text": "x", "labels": ["a"]', ["broken JSON at character 30"]),
    ('{"text": "x" "labels": ["a"]}', ["broken JSON at character 14"]),
    ("{'text': 'x'}", ["broken JSON at character 2"]),
    ('{"text": "x", "labels": ["a"]} {}', ["broken JSON"]),
    ('{"text": "a\tb", "labels": []}', ["broken JSON"]),
    ("[", ["broken JSON", "one whole object"]),
    ("{", ["broken JSON", "one whole object"]),
    ("hello", ["broken JSON"]),
    ("[1]", ["a list, not an object"]),
    ('"x"', ["a string, not an object"]),
    ("null", ["null, not an object"]),
    ("12", ["a number, not an object"]),
    ("true", ["true or false, not an object"]),
    ("{}", ["no key \"text\""]),
    ('{"labels": ["a"], "foo": 1}', ["no key \"text\"", "'labels', 'foo'"]),
    ('{"sentence": "x", "labels": ["a"]}', ["'sentence'", 'no "text"']),
    ('{"text": "x", "label": "a"}', ["'label'", 'no "labels"']),
    ('{"text": "x", "Labels": ["a"]}', ["'Labels'", 'no "labels"']),
    ('{"text": "x", "text_b": "y", "labels": []}', ["'text_b'", "text_pair"]),
    ('{"text": "x"}', ["no key \"labels\""]),
    ('{"text": "x", "labels": null}', ['"labels" is null']),
    ('{"text": "x", "labels": "a"}', ['"labels" is a string, not a list']),
    ('{"text": "x", "labels": {"a": 1}}', ['"labels" is an object']),
    ('{"text": "x", "labels": ["a", 1]}', ["a number (1), not a string"]),
    ('{"text": "x", "labels": [["a"]]}', ["a list (['a']), not a string"]),
    ('{"text": "x", "labels": [null]}', ["null (None), not a string"]),
    ('{"text": "x", "labels": [" "]}', ["an empty label"]),
    ('{"text": "x", "labels": ["a\\nb"]}', ["line break"]),
    ('{"text": "x", "labels": ["a\\u0000"]}', ["NUL"]),
    ('{"text": 1, "labels": []}', ['"text" is a number']),
    ('{"text": null, "labels": []}', ['"text" is null']),
    ('{"text": ["x"], "labels": []}', ['"text" is a list']),
    ('{"text": "x", "text_pair": 1, "labels": []}', ['"text_pair" is a']),
    ('{"text": "x", "labels": [], "id": 1.5}', ['"id" is a number (1.5)']),
    ('{"text": "x", "labels": [], "id": true}', ['"id" is true or false']),
    ('{"text": "x", "labels": [], "id": ["a"]}', ['"id" is a list']),
    ('{"text": "x", "text": "y", "labels": []}', ["'text' stands twice"]),
    ('{"text": "x", "labels": [], "score": NaN}', ["NaN is not JSON"]),
    ('{"text": "x", "labels": [], "score": -Infinity}', ["-Infinity is not"]),
    ('{"text": "x", "labels": ' + "[" * 100000, ["nested too deep"]),
    ('{"text": "x", "labels": [], "y": ' + '{"a":' * 100000, ["nested too"]),
    (b'{"text": "\xff", "labels": []}', ["byte 0xff is not UTF-8"]),
    (b'{"text": "\0", "labels": []}', ["byte 0x00 is not text"]),
])
def test_broken_json_line(folder, line, parts):
  line = line.encode("utf-8") if isinstance(line, str) else line
  good = b'{"text": "x", "labels": ["a"]}\n'
  message = error_of(
      read, "jsonl", folder(train_jsonl=good + line + b"\n" + good))
  assert "train.jsonl:2: " in message
  assert [part for part in parts if part not in message] == []


def test_test_rows_with_labels_and_without(folder):
  data_dir = folder(test_jsonl=(
      '{"text": "x"}\n{"text": "y", "labels": []}\n{"text": "z", "labels": nu'
      'll}\n{"text": "u", "labels": ["a"]}\n'))
  assert [example.labels for example in read("jsonl", data_dir, "test")] == [
      None, (), None, ("a",)]


@pytest.mark.parametrize("task, name, row", [
    ("jsonl", "train.jsonl", '{"text": "x", "labels": ["a"]}\n'),
    ("goemotions", "train.tsv", "x\t0\tk\n")])
def test_blank_lines_are_passed_over_and_told(folder, task, name, row,
                                              monkeypatch):
  said = []
  monkeypatch.setattr(base.logging, "info",
                      lambda form, *values: said.append(form % values))
  data_dir = folder(**{name.replace(".", "_"): row + "\n \n" + row + "\n\n",
                       "emotions_txt": "a\n"})
  assert [(example.text_a, example.labels) for example in read(
      task, data_dir)] == [("x", ("a",))] * 2
  assert said == ["%s/%s: blank lines passed over: 2, the first is line 2." % (
      data_dir, name)]


def test_near_miss_in_a_test_file(folder):
  data_dir = folder(test_jsonl='{"text": "x", "label": ["a"]}\n')
  assert "test.jsonl:1: there is a key 'label'" in error_of(
      read, "jsonl", data_dir, "test")


def test_empty_jsonl(folder):
  assert "train.jsonl holds no examples" in error_of(
      read, "jsonl", folder(train_jsonl=""))
  assert "train.jsonl holds no examples" in error_of(
      labels_of, "jsonl", folder(train_jsonl="\n\n"))


def test_options_that_mean_nothing_are_refused():
  assert "--text_column=body" in error_of(
      processors.create_processor, "jsonl", options={"text_column": "body"})
  processors.create_processor("jsonl", options={
      "text_column": None, "delimiter": "", "label_separator": ","})


# Labels.


@pytest.mark.parametrize("content, part", [
    ("", "labels.txt is empty"),
    ("\n \n", "labels.txt is empty"),
    ("a\n\nb\n", "labels.txt:2: blank line"),
    ("a\nb\n a \n", "labels.txt:3: label 'a' is already on line 1"),
    (b"a\n\xff\n", "labels.txt:2: byte 0xff"),
    (b"a\nb\0\n", "labels.txt:2: byte 0x00"),
])
def test_broken_labels_txt(folder, content, part):
  data_dir = folder(train_csv="text,labels\nx,a\n", labels_txt=content)
  for task in ("delimited", "jsonl", "goemotions", "attack_tactics"):
    assert part in error_of(labels_of, task, data_dir)


@pytest.mark.parametrize("content", [
    u"\ufeffb\na b\n快乐\n", u"b\r\na b\r\n快乐", u" b\t\na b\n快乐\n\n \n",
    u"b\ra b\r快乐\r"])
def test_labels_txt_gives_the_order(folder, content):
  data_dir = folder(train_csv="text,labels\nx,zzz\n", labels_txt=content)
  assert labels_of("delimited", data_dir) == ["b", "a b", u"快乐"]


def test_train_without_any_label(folder):
  data_dir = folder(train_csv="text,labels\nx,\ny, \n")
  assert "none of its rows has a label in column 'labels'" in error_of(
      labels_of, "delimited", data_dir)


class _OriginalStyleProcessor(object):

  def __init__(self, labels):
    self._labels = labels

  def get_labels(self):
    return self._labels


@pytest.mark.parametrize("labels, part", [
    ([], "no labels"), ("ab", "'ab'"), (None, "None"), (["a", 1], "1"),
    (["a", "b", "a"], "'a' twice"), (["a", ""], "empty label"),
    (["a\nb"], "line break"), (["a "], "white space"), ([None], "None")])
def test_get_labels_checks_a_users_list(labels, part):
  message = error_of(
      processors.get_labels, _OriginalStyleProcessor(labels), "folder")
  assert part in message and "_OriginalStyleProcessor.get_labels" in message


def test_get_labels_of_the_original_style():
  assert processors.get_labels(
      _OriginalStyleProcessor(("b", "a")), "folder") == ["b", "a"]


def test_check_labels():
  example = InputExample("g1", "x", labels=["a", "z"], source="dev.csv:7")
  assert processors.check_labels(example, {"a", "z"}) == ("a", "z")
  message = error_of(processors.check_labels, example, frozenset("ab"))
  assert message == (
      "dev.csv:7: example 'g1': label 'z' is not one of the 2 labels "
      "('a', 'b').")
  unlabelled = InputExample("g2", "x", labels=None)
  assert processors.check_labels(unlabelled, {"a"}, False) is None
  assert "example 'g2' is not labelled" in error_of(
      processors.check_labels, unlabelled, {"a"})


def test_examples_of_other_styles():

  class Original(object):
    guid = "o"
    text_a = "x"
    text_b = None
    label = "a"

  class Nothing(object):
    guid = "n"
    text_a = None

  assert processors.example_labels(Original()) == ("a",)
  assert processors.check_example(Original(), {"a"}) == ("a",)
  assert "example 'n' has no labels" in error_of(
      processors.example_labels, Nothing())
  assert "example 'n': text_a must be a str, not None" in error_of(
      processors.check_example, Nothing(), {"a"})
  assert InputExample("g", "x", None, "ab").labels == ("ab",)
  assert "must be a tuple of str, not (1,)" in error_of(
      processors.example_labels, InputExample("g", "x", labels=[1]))


def test_input_example_defaults():
  example = InputExample("g", "x")
  assert (example.guid, example.text_a, example.text_b, example.labels,
          example.source) == ("g", "x", None, (), "")


# GoEmotions.


def test_goemotions(folder):
  data_dir = folder(
      emotions_txt="admiration\namusement\nanger\n",
      train_tsv=u'My "favourite" food\t2\teebbqej\n"unclosed\t0,1\ted00q6i\n'
      u"%s\t\t\n" % CHINESE,
      test_tsv="x\t1,1\tq\r\n")
  assert labels_of("goemotions", data_dir) == [
      "admiration", "amusement", "anger"]
  assert rows(read("goemotions", data_dir)) == [
      ("eebbqej", 'My "favourite" food', None, ("anger",)),
      ("ed00q6i", '"unclosed', None, ("admiration", "amusement")),
      ("train-3", CHINESE, None, ())]
  assert rows(read("goemotions", data_dir, "test")) == [
      ("q", "x", None, ("amusement",))]


def test_goemotions_with_labels_txt(folder):
  data_dir = folder(labels_txt="a\nb\n", dev_tsv="x\t1\tk\n")
  assert [e.labels for e in read("goemotions", data_dir, "dev")] == [("b",)]
  folder(emotions_txt="a\nb")
  assert labels_of("goemotions", data_dir) == ["a", "b"]
  folder(emotions_txt="b\na\n")
  assert "differ" in error_of(labels_of, "goemotions", data_dir)


@pytest.mark.parametrize("content, part", [
    ("x\t3\tk\n", "train.tsv:1: label '3' is not a number from 0 to 2"),
    ("x\t-1\tk\n", "label '-1'"), ("x\tjoy\tk\n", "label 'joy'"),
    ("x\t1,\tk\n", "label ''"), (u"x\t²\tk\n", "label '²'"),
    ("x\t01\tk\n", "label '01'"), ("x\t1.0\tk\n", "label '1.0'"),
    ("x\t%s\tk\n" % ("9" * 9999), "label '999"),
    ("x\t1\tk\nx\t1\n", "train.tsv:2: the row has 2 fields"),
    ("x\t1\tk\nx\ty\t1\tk\n", "train.tsv:2: the row has 4 fields"),
    ("text\tlabels\tid\n", "label 'labels'"),
    ("", "holds no examples"),
])
def test_broken_goemotions(folder, content, part):
  data_dir = folder(emotions_txt="a\nb\nc\n", train_tsv=content)
  assert part in error_of(read, "goemotions", data_dir)


def test_quotation_marks_of_goemotions_are_characters(folder):
  data_dir = folder(train_tsv='"a\t0\tx\nb"\t\ty\n', labels_txt="joy\n")
  for options in ({}, {"quoting": "none"}, {"quoting": "auto"}):
    assert [e.text_a for e in read("goemotions", data_dir, **options)] == [
        '"a', 'b"']
  assert "are not quoted" in error_of(
      read, "goemotions", data_dir, quoting="standard")
  assert "--quoting=none means nothing to JsonlProcessor" in error_of(
      read, "jsonl", data_dir, quoting="none")


def test_chinese_files_of_excel(folder):
  rows = u"text,labels\n今天天气很好,体育\n我们去公园,财经\n"
  data_dir = folder(train_csv=rows.encode("gbk"))
  assert "train.csv:2: byte 0xbd is not UTF-8 (it may be gb18030" in error_of(
      read, "delimited", data_dir)
  for labels in (None, u"体育\n财经\n".encode("gbk"), u"体育\n财经\n"):
    if labels:
      folder(labels_txt=labels)
    assert sorted(labels_of("delimited", data_dir, encoding="gb18030")) == [
        u"体育", u"财经"]
    assert [e.labels for e in read("delimited", data_dir, encoding="gbk")] == [
        (u"体育",), (u"财经",)]
  folder(train_tsv=u"今天天气很好\t0\tx\n".encode("gbk"))
  os.remove(os.path.join(data_dir, "train.csv"))
  assert [(e.text_a, e.labels) for e in read(
      "goemotions", data_dir, encoding="gbk")] == [
          (u"今天天气很好", (u"体育",))]


def test_goemotions_without_names(folder):
  data_dir = folder(train_tsv="x\t1\tk\n")
  assert "no emotions.txt or labels.txt" in error_of(
      read, "goemotions", data_dir)


# ATT&CK.


def test_attack_tactics(folder):
  data_dir = folder(
      train_jsonl='{"text": "x", "labels": ["impact"], "id": "a"}\n')
  labels = labels_of("attack_tactics", data_dir)
  assert (len(labels), labels[0], labels[6], labels[-1]) == (
      14, "reconnaissance", "defense-evasion", "impact")
  assert rows(read("attack_tactics", data_dir)) == [
      ("a", "x", None, ("impact",))]
  assert processors.create_processor("attack_tactics").get_labels() == labels


# The registry, and a user's own class.


def test_registry():
  assert sorted(processors.PROCESSORS) == [
      "attack_tactics", "delimited", "goemotions", "jsonl"]
  assert isinstance(processors.create_processor("JSONL"),
                    processors.JsonlProcessor)
  message = error_of(processors.create_processor, "cola")
  assert "'cola'" in message
  assert "attack_tactics, delimited, goemotions, jsonl" in message
  assert "--task_name" in error_of(processors.create_processor)
  assert "only one" in error_of(
      processors.create_processor, "jsonl", "a.py:B")


OWN = u"""
import helper_beside_it

class Example(object):
  def __init__(self, guid, text_a, text_b=None, label=None):
    self.guid, self.text_a, self.text_b = guid, text_a, text_b
    self.label = label

class Bare(object):
  def get_train_examples(self, data_dir):
    return [Example("1", data_dir, label=helper_beside_it.LABEL)]
  get_dev_examples = get_test_examples = get_train_examples
  def get_labels(self):
    return ["z", "y"]

class Configured(Bare):
  def __init__(self, options):
    self.options = options

class Needy(Bare):
  def __init__(self, path):
    pass

class Failing(Bare):
  def __init__(self):
    raise KeyError("boom")

class Partial(object):
  def get_labels(self):
    return []
  get_dev_examples = 3

NUMBER = 3
"""


def test_own_class_from_a_file(tmp_path):
  (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
  (tmp_path / "helper_beside_it.py").write_text("LABEL = 'z'\n")
  path = str(tmp_path / "own.py")
  create = processors.create_processor
  bare = create(processor=path + ":Bare", options={"dev_fraction": 0.1})
  example = bare.get_train_examples("here")[0]
  labels = processors.get_labels(bare, "here")
  assert labels == ["z", "y"]
  assert processors.check_example(example, set(labels)) == ("z",)
  configured = create(processor=path + ":Configured", options={"a": 1})
  assert configured.options == {"a": 1}
  assert "no argument or `options`" in error_of(
      create, processor=path + ":Needy")
  assert "constructor failed (KeyError: 'boom')" in error_of(
      create, processor=path + ":Failing")
  assert ("the class has no get_train_examples, get_dev_examples, "
          "get_test_examples.") in error_of(create, processor=path + ":Partial")
  message = error_of(create, processor=path + ":Missing")
  assert "no class Missing" in message and "'Bare', 'Configured'" in message
  assert "something else under NUMBER" in error_of(
      create, processor=path + ":NUMBER")


def test_own_class_of_this_base(tmp_path, monkeypatch):
  package = tmp_path / "own_package"
  package.mkdir()
  (package / "__init__.py").write_text("")
  (package / "mine.py").write_text(
      "from processors import DataProcessor, InputExample\n"
      "class Mine(DataProcessor):\n"
      "  def get_train_examples(self, data_dir):\n"
      "    yield InputExample('g', self.options['text_column'])\n")
  monkeypatch.syspath_prepend(str(tmp_path))
  mine = processors.create_processor(
      processor="own_package.mine:Mine", options={"text_column": "body"})
  assert rows(mine.get_train_examples(".")) == [("g", "body", None, ())]
  assert error_of(mine.get_dev_examples, ".") == (
      "Mine defines no get_dev_examples.")
  assert error_of(processors.get_labels, mine, ".") == (
      "Mine defines no get_labels.")


@pytest.mark.parametrize("content, part", [
    ("class A(:\n", "SyntaxError"), ("import no_such_module_x\n",
                                     "No module named 'no_such_module_x'"),
    ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
    ("import sys\nsys.exit(3)\n", "SystemExit: 3"), ("1 / 0\n", "division")])
def test_own_file_that_fails(tmp_path, content, part):
  (tmp_path / "own.py").write_text(content)
  before = set(sys.modules)
  message = error_of(processors.create_processor,
                     processor=str(tmp_path / "own.py") + ":A")
  assert part in message and "cannot be imported" in message
  assert [name for name in sys.modules if name not in before
          and name.startswith("processor_")] == []


@pytest.mark.parametrize("processor, part", [
    ("nocolon", "ClassName"), ("a.py:", "ClassName"), (":A", "ClassName"),
    ("no/such.py:A", "there is no file no/such.py"),
    ("no_such_package.x:A", "No module named 'no_such_package'"),
    ("json:loads", "something else under loads")])
def test_wrong_processor_name(processor, part):
  assert part in error_of(processors.create_processor, processor=processor)


# Against Python's own readers, and growth.


def _written(table, **options):
  text = io.StringIO(newline="")
  csv.writer(text, **options).writerows(table)
  return text.getvalue()


def test_any_table_is_read_as_csv_reads_it(tmp_path):
  hypothesis = pytest.importorskip("hypothesis")
  st = hypothesis.strategies
  cell = st.text(st.one_of(
      st.sampled_from(u"\"',;\t\n\r \\ab\u2028\x85\x1c好م😀"),
      st.characters(blacklist_categories=("Cs",),
                    blacklist_characters=u"\0")), max_size=8)
  path = str(tmp_path / "table.csv")

  @hypothesis.settings(max_examples=150, deadline=None)
  @hypothesis.given(
      st.lists(st.tuples(cell, cell, cell), max_size=6),
      st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n", "\r"]))
  def check(table, delimiter, end):
    text = _written([("x", "y", "z")] + table, delimiter=delimiter,
                    lineterminator=end, quoting=csv.QUOTE_ALL)
    with open(path, "w", encoding="utf-8", newline="") as handle:
      handle.write(text)
    result = list(table_reader.read_table(path, delimiter, "standard"))
    assert [tuple(row) for _, row in result[1:]] == table
    # Line ends inside fields count, whatever their kind.
    breaks = lambda row: len(re.findall("\r\n|\r|\n", "\0".join(row)))
    starts = itertools.accumulate([2] + [1 + breaks(row) for row in table])
    assert [line for line, _ in result[1:]] == list(starts)[:len(table)]

  check()


def test_any_text_is_read_as_csv_reads_it_or_refused(tmp_path):
  hypothesis = pytest.importorskip("hypothesis")
  st = hypothesis.strategies
  path = str(tmp_path / "table.csv")

  @hypothesis.settings(max_examples=300, deadline=None)
  @hypothesis.given(st.text(u'"",,a\n\r 好', max_size=30))
  def check(body):
    text = "x,y\n" + body
    with open(path, "w", encoding="utf-8", newline="") as handle:
      handle.write(text)
    try:
      expected = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
      expected = None
    try:
      result = list(table_reader.read_table(path, ","))
    except ValueError as error:
      result = str(error)
      assert re.search(r"table\.csv:\d+: ", result)
    if "carriage return" in result or "repeats the header" in result:
      return
    if expected is not None:
      expected = [row for row in expected if row and (
          len(row) > 1 or not row[0].isspace())]
      # Delimiters at the end of all rows are no field.
      width = max([len(row) for row in expected[1:]] or [2])
      if all(len(row) == width and not any(row[2:]) for row in expected[1:]):
        expected = [row[:2] for row in expected]
    if expected is None or any(len(row) != 2 for row in expected):
      assert isinstance(result, str)
    else:
      assert [row for _, row in result] == expected

  check()


def test_any_json_is_read_as_json_reads_it(tmp_path):
  hypothesis = pytest.importorskip("hypothesis")
  st = hypothesis.strategies
  text = st.text(st.characters(), max_size=10)
  label = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl",
                                                      "Zp", "Cf")),
                  min_size=1, max_size=5)
  row = st.fixed_dictionaries({
      "text": text, "labels": st.lists(label, unique=True, max_size=4),
      "id": st.integers(0, 10**20), "note": st.one_of(st.none(), text)})

  @hypothesis.settings(max_examples=150, deadline=None)
  @hypothesis.given(st.lists(row, min_size=1, max_size=5))
  def check(records):
    with open(str(tmp_path / "train.jsonl"), "w", encoding="utf-8") as handle:
      for record in records:
        handle.write(json.dumps(record) + "\n")
    valid = lambda s: s.encode("utf-16", "surrogatepass").decode(
        "utf-16", "replace") if re.search(u"[\ud800-\udfff]", s) else s
    assert rows(read("jsonl", str(tmp_path))) == [
        (str(r["id"]), valid(r["text"]), None, tuple(r["labels"]))
        for r in records]

  check()


def test_lines_end_where_python_files_end_them(tmp_path):
  hypothesis = pytest.importorskip("hypothesis")
  path = str(tmp_path / "lines.txt")

  @hypothesis.settings(max_examples=150, deadline=None)
  @hypothesis.given(hypothesis.strategies.text(
      u"a\r\n\u2028\x85\x0b好", max_size=30))
  def check(text):
    with open(path, "wb") as handle:
      handle.write(text.encode("utf-8"))
    lines = list(text_lines.read_lines(path))
    assert "".join(lines) == text
    assert len(lines) == len([
        line for line in re.split("(?<=\n)|(?<=\r)(?!\n)", text) if line])

  check()


@pytest.mark.parametrize("task, name, line", [
    ("delimited", "train.csv", "some text with words,a\n"),
    ("jsonl", "train.jsonl", '{"text": "some text", "labels": ["a"]}\n')])
def test_examples_are_not_collected(tmp_path, task, name, line):
  header = "text,labels\n" if task == "delimited" else ""
  (tmp_path / name).write_text(header + line * 20000)
  examples = processors.create_processor(task).get_train_examples(str(tmp_path))
  tracemalloc.start()
  count = sum(1 for _ in examples)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert count == 20000
  assert peak < 1000000
