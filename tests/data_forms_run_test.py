# SPDX-License-Identifier: Apache-2.0
"""Whole runs on data in other forms and encodings, from file to predictions."""

import csv
import io
import os

import pytest
import run_multilabel_classifier
import tiny_bert


def rows_of(part, size):
  return [(row["id"], row["text"] + u", \u5929\u6c14", row["labels"])
          for row in tiny_bert.make_rows(size, 3, part)]


PARTS = (("train", 24), ("test", 6))


def write_gbk(folder):
  """CSV as a Chinese Excel writes it, with a blank line and a sep= line."""
  for part, size in PARTS:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=";")
    writer.writerow(["id", "text", "labels", ""])
    for row in rows_of(part, size):
      writer.writerow([row[0], row[1], ",".join(row[2]), ""])
    lines = stream.getvalue().split("\r\n")
    lines.insert(3, "")
    (folder / (part + ".csv")).write_bytes(
        ("sep=;\r\n" + "\r\n".join(lines)).encode("gb18030"))
  return dict(task_name="delimited", encoding="gb18030")


def write_raw_tsv(folder):
  """TSV whose quotation marks are characters, in UTF-16."""
  for part, size in PARTS:
    lines = ["id\ttext\tlabels"] + [
        u'%s\t"%s\t%s' % (row[0], row[1], ",".join(row[2]))
        for row in rows_of(part, size)]
    (folder / (part + ".tsv")).write_bytes(
        "\n".join(lines).encode("utf-16"))
  return dict(task_name="delimited", quoting="none")


def write_parquet(folder):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet
  for part, size in PARTS:
    ids, texts, labels = zip(*rows_of(part, size))
    parquet.write_table(pyarrow.table(
        {"id": ids, "text": texts, "labels": labels}),
                        str(folder / (part + ".parquet")))
  return dict(task_name="delimited")


def write_xlsx(folder):
  openpyxl = pytest.importorskip("openpyxl")
  for part, size in PARTS:
    book = openpyxl.Workbook()
    book.active.append(["id", "text", "labels"])
    for row in rows_of(part, size):
      book.active.append([row[0], row[1], ",".join(row[2])])
    book.save(str(folder / (part + ".xlsx")))
  return dict(task_name="delimited")


@pytest.mark.parametrize("write", [
    write_gbk, write_raw_tsv, write_parquet, write_xlsx])
def test_a_run(write, bert, tmp_path):
  data = tmp_path / "data"
  data.mkdir()
  settings = write(data)
  (data / "labels.txt").write_text("\n".join(tiny_bert.LABELS),
                                   encoding="utf-8")
  output_dir = str(tmp_path / "out")
  status, _, stderr, log = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, str(data), output_dir, do_test=True, do_predict=True,
          num_train_epochs=1, **settings))
  assert status == 0, stderr
  with io.open(os.path.join(output_dir, "test_predictions.csv"),
               encoding="utf-8", newline="") as reader:
    rows = list(csv.reader(reader, strict=True))
  assert rows[0] == ["id", "text", "labels", "true_labels"] + list(
      tiny_bert.LABELS)
  mark = '"' if write is write_raw_tsv else ""
  assert [(row[0], row[1], row[3]) for row in rows[1:]] == [
      (name, mark + text, ",".join(label for label in tiny_bert.LABELS
                                   if label in labels))
      for name, text, labels in rows_of("test", 6)]
  if write is write_gbk:
    for part in ("train", "test"):
      path = str(data / (part + ".csv"))
      for line in (
          "%s: blank lines passed over: 1, the first is line 5." % path,
          "%s: columns without a name at the end, left out: 1." % path):
        assert log.count(line) == 1
