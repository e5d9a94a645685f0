# SPDX-License-Identifier: Apache-2.0
"""Tests of the session predictor as a script: arguments, files, pipes.

Most run in children of one process that has imported TensorFlow already,
which saves its seconds; they end as a script of their own would.
"""

import csv
import gzip
import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tiny_bert
import tiny_model

from multilabel import decisions
from multilabel.inference import predict_files
from multilabel.storage import trained_model
import predict_session


SCRIPT = os.path.join(tiny_bert.ROOT, "predict_session.py")

# Reads requests, a JSON object per line, and answers each with an exit status.
SERVER = u"""
import gc, io, json, os, runpy, sys
sys.path.insert(0, %r)
from multilabel.common import command_line
command_line.quiet_tensorflow()
import predict_session
gc.freeze()  # a child need not look through all of TensorFlow at its end
for line in iter(sys.stdin.readline, ""):
  request = json.loads(line)
  child = os.fork()
  if not child:
    for number, path in enumerate(request["files"]):
      flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY
      os.dup2(os.open(path, flags), number)
    encoding = request["encoding"]
    sys.stdin = io.TextIOWrapper(open(0, "rb"), encoding=encoding)
    sys.stdout = io.TextIOWrapper(open(1, "wb"), encoding=encoding)
    sys.stderr = io.TextIOWrapper(
        open(2, "wb"), encoding=encoding, line_buffering=True)
    script = os.path.join(%r, "predict_session.py")
    sys.argv = [script] + [os.fsdecode(bytes(x)) for x in request["arguments"]]
    runpy.run_path(script, run_name="__main__")
  _, status, usage = os.wait4(child, 0)
  print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -status,
        usage.ru_maxrss, flush=True)
""" % (tiny_bert.ROOT, tiny_bert.ROOT)


class Server(object):
  """Runs the script again and again.

  Attributes:
    max_kilobytes: int, the most memory that the last run had at a time.
  """

  def __init__(self, folder, model):
    self._folder = folder
    self._model = model
    self._process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, universal_newlines=True)

  def run(self, *arguments, **options):
    """Runs it: (exit status, stdout, stderr).

    Args:
      *arguments: str, or bytes.
      **options: `stdin`, bytes; `stdout`, the path of a pipe to write to;
        `encoding`, that of the standard streams.
    """
    paths = [str(self._folder / name) for name in ("in", "out", "err")]
    for path, data in zip(paths, (options.get("stdin", b""), b"", b"")):
      with open(path, "wb") as writer:
        writer.write(data)
    arguments = ("--model_dir=" + self._model,) + arguments
    self._process.stdin.write(json.dumps({
        "files": [paths[0], options.get("stdout", paths[1]), paths[2]],
        "encoding": options.get("encoding", "utf-8"),
        "arguments": [list(argument if isinstance(argument, bytes)
                           else argument.encode("utf-8"))
                      for argument in arguments]}) + "\n")
    self._process.stdin.flush()
    status, self.max_kilobytes = map(
        int, self._process.stdout.readline().split())
    return (status, tiny_bert.read_text(paths[1]),
            tiny_bert.read_text(paths[2]))

  def close(self):
    self._process.stdin.close()
    self._process.wait(30)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("script") / "model")
  tiny_model.make(folder)
  return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, model):
  started = Server(tmp_path_factory.mktemp("server"), model)
  yield started
  started.close()


@pytest.fixture(scope="module")
def predictor(model):
  with predict_session.SessionPredictor(model) as loaded:
    yield loaded


def start(model, *arguments, **options):
  environment = dict(os.environ, **options.pop("env", {}))
  for name in options.pop("unset", ()):
    environment.pop(name, None)
  for name in ("stdin", "stdout", "stderr"):
    options.setdefault(name, subprocess.PIPE)
  return subprocess.Popen(
      [sys.executable, SCRIPT, "--model_dir=" + model] + list(arguments),
      env=environment, **options)


def shown(predictor, text, *decision):
  """What a person reads about a text."""
  (labels, everything), = predictor.describe(
      predictor.predict([text]), *decision)
  lines = [text] + ["  %.3f  %s" % (p, label) for label, p in labels]
  if not labels:
    label = max(everything, key=everything.get)
    lines.append("  no label reaches the threshold (nearest: %.3f  %s)" % (
        everything[label], label))
  return u"".join(line + u"\n" for line in lines)


def check_records(records, predictor, rows):
  """Compares JSON records with rows (id, text, pair)."""
  assert [record["id"] for record in records] == [row[0] for row in rows]
  texts = [row[1] if row[2] is None else row[1:] for row in rows]
  for record, row, (labels, everything) in zip(
      records, rows, predictor.describe(predictor.predict(texts))):
    assert record["text"] == row[1]
    assert record.get("text_pair") == row[2]
    assert record["labels"] == [label for label, _ in labels]
    assert list(record["probabilities"]) == list(tiny_bert.LABELS)
    assert record["probabilities"] == pytest.approx(everything, abs=1e-5)


def parse(text):
  return [json.loads(line) for line in text.splitlines()]


# Texts as arguments.


def test_texts(server, predictor):
  texts = [u"the apple", u"\u732b \U0001f680", u"", u"w" * 10000]
  assert server.run(*texts) == (
      0, u"".join(shown(predictor, text) for text in texts), "")


def test_threshold(server, predictor):
  assert server.run("the apple", "--threshold=0") == (
      0, shown(predictor, u"the apple", 0), "decision: threshold 0\n")
  assert server.run("the apple", "--threshold=1") == (
      0, shown(predictor, u"the apple", 1), "decision: threshold 1\n")
  assert "no label reaches the threshold" in shown(predictor, u"the apple", 1)


def test_top_k_and_always_one_label(server, predictor):
  assert server.run("the apple", "--threshold=0", "--top_k=2") == (
      0, shown(predictor, u"the apple", 0, 2),
      "decision: threshold 0, at most 2 labels\n")
  assert server.run("the apple", "--threshold=1", "--always_one_label") == (
      0, shown(predictor, u"the apple", 1, None, True),
      "decision: threshold 1, at least one label\n")
  assert shown(predictor, u"the apple", 0, 2).count("\n") == 3
  assert shown(predictor, u"the apple", 1, None, True).count("\n") == 2


def test_decision_of_the_directory(server, model, tmp_path):
  """It is used and said; what a flag says counts more."""
  folder = str(tmp_path / "model")
  shutil.copytree(model, folder)
  trained_model.update_decision(
      trained_model.read(folder), "tune_per_label", decisions.DecisionRule(
          [0.25, 1.0, 0.0], top_k=1))
  flag = "--model_dir=" + folder
  source = write(tmp_path / "a.txt", u"the apple\n")
  with predict_session.SessionPredictor(folder) as loaded:
    assert server.run(flag, "the apple") == (
        0, shown(loaded, u"the apple"),
        "decision: thresholds per label, 0 to 1, at most 1 labels\n")
    assert server.run(flag, "the apple", "--threshold=0.5") == (
        0, shown(loaded, u"the apple", 0.5),
        "decision: threshold 0.5, at most 1 labels\n")
    status, out, err = server.run(flag, source, "--top_k=2")
    assert (status, err) == (
        0, "decision: thresholds per label, 0 to 1, at most 2 labels\n")
    labels, = loaded.describe(loaded.predict([u"the apple"]), None, 2)
    assert parse(out)[0]["labels"] == [label for label, _ in labels.labels]
    # A table of probabilities has no decision in it.
    assert server.run(flag, source, "--output_file=%s" % (
        tmp_path / "b.tsv")) == (0, "", "")


def test_labels_by_expected_f1(server, predictor):
  """The set of the highest expected F1, of the outcomes of three labels."""
  sets = np.array([[i >> j & 1 for j in range(3)] for i in range(8)])
  for text in (u"the apple", u"the dog", u"sun"):
    row, = predictor.predict([text])
    chance = np.where(sets, row, 1 - row).prod(axis=1)
    sizes = sets.sum(axis=1)
    f1 = 2.0 * sets.dot(sets.T) / np.maximum(sizes[:, None] + sizes, 1)
    f1[0, 0] = 1
    best = sets[f1.dot(chance).argmax()]
    status, out, err = server.run(text, "--threshold=expected_f1")
    assert (status, err) == (
        0, "decision: the highest expected F1 per text\n")
    assert {line.split(None, 1)[1] for line in out.splitlines()[1:]} == {
        predictor.labels[i] for i in np.flatnonzero(best)}


def test_nearest_label_where_each_has_a_threshold(capfdbinary):
  class Two(object):
    """Answers without a model."""
    labels = ["near", "probable"]

    def predict(self, texts):
      return np.array([[0.4, 0.6]] * len(texts), np.float32)

    describe = predict_session.SessionPredictor.describe
    decision_for = predict_session.SessionPredictor.decision_for
    decision = decisions.DecisionRule([0.5, 0.9])

  two = Two()
  predict_files.print_labels(two, u"text", two.decision)
  assert capfdbinary.readouterr().out == (
      b"text\n  no label reaches the threshold (nearest: 0.400  near)\n")


def test_text_that_looks_like_a_flag(server, predictor):
  assert server.run("--", "--apple", "--help", "-h") == (
      0, u"".join(shown(predictor, text)
                  for text in ("--apple", "--help", "-h")), "")
  status, out, err = server.run("--apple")
  assert (status, out) == (2, "")
  assert "Unknown command line flag 'apple'" in err


def test_argument_that_is_not_utf8(server):
  assert server.run("a", b"caf\xe9") == (
      2, "", "predict_session.py: text 2 of the command line is not UTF-8.\n")


def test_help(server):
  status, out, err = server.run("--help")
  assert (status, err) == (0, "")
  for name in ("model_dir", "threshold", "top_k", "always_one_label",
               "batch_size", "input_file",
               "input_format", "text_column", "text_pair_column", "id_column",
               "delimiter", "output_file", "debug"):
    assert "\n  --" + name in out.replace("--[no]", "--")


@pytest.mark.parametrize("arguments, message", [
    (["--threshold=1.5", "a"], "--threshold is 1.5"),
    (["--threshold=nan", "a"], "--threshold is nan"),
    (["--batch_size=0", "a"], "batch_size is 0"),
    (["--top_k=0", "a"], "--top_k is 0; it must be 1 or more."),
    (["--input_file=nowhere.txt"], "--input_file nowhere.txt"),
    (["--input_file="], "--input_file "),
    (["--input_file=/"], "--input_file /"),
    (["--input_file=-", "a"], "not both"),
    (["--output_file=x.jsonl", "a"], "--output_file needs --input_file"),
    (["--text_column=x", "a"], "--text_column needs --input_file"),
    (["--input_file=-", "--output_file=x.txt"],
     "must end in .jsonl, .csv, .tsv or .parquet"),
    (["--input_file=-", "--output_file=x.csv", "--probabilities=labels"],
     "a table has one column per label"),
    (["--input_file=-", "--spreadsheet_safe"], "ends in .csv or .tsv"),
    (["--input_file=-", "--encoding=gbk18"], "--encoding='gbk18'"),
    (["--quoting=none", "a"], "--quoting needs --input_file"),
    (["--input_file=-", "--quoting=none"], "--quoting is for tables"),
    (["--input_file=-", "--input_format=xlsx"], "needs a file"),
    (["--input_file=-", "--output_file=/nowhere/x.tsv"], "/nowhere"),
    (["--input_file=-", "--text_column=x"], "--text_column is for tables"),
    (["--input_file=-", "--input_format=xml"], "should be one of"),
    (["--model_dir=", "a"], "--model_dir must be given"),
    (["--model_dir=/nowhere", "a"], "/nowhere is not a directory"),
])
def test_wrong_flags(arguments, message, server):
  status, out, err = server.run(*arguments)
  assert (status, out) == (2, "")
  assert err.count("\n") == 1
  assert err.startswith("predict_session.py: ")
  assert message in err


# Files.

ROWS = [("1", u"the apple", None), ("2", u"", None),
        ("3", u"\u732b , \U0001f680", None), ("4", u"we see", None)]


def write(path, text):
  data = text if isinstance(text, bytes) else text.encode("utf-8")
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return "--input_file=%s" % path


@pytest.mark.parametrize("name", ["a.txt.gz", "-"])
def test_lines(name, server, predictor, tmp_path):
  text = u"".join(row[1] + u"\n" for row in ROWS)
  if name == "-":
    status, out, err = server.run("--input_file=-", stdin=text.encode("utf-8"))
  else:
    status, out, err = server.run(write(tmp_path / name, text))
  assert (status, err) == (0, "")
  check_records(parse(out), predictor, ROWS)


@pytest.mark.parametrize("name, delimiter", [("a.tsv", "\t"), ("-", ",")])
def test_tables(name, delimiter, server, predictor, tmp_path):
  rows = [("n 1", u"the apple", u"a pear"), ("n 2", u"", u""),
          ("3", u"\u732b", u"one")]
  text = delimiter.join(["key", "b", "a"]) + u"\n" + u"".join(
      delimiter.join([row[0] if row[0] != "3" else "", row[2], row[1]]) + u"\n"
      for row in rows)
  flags = ["--text_column=a", "--text_pair_column=b", "--id_column=key"]
  if name == "-":
    status, out, err = server.run(
        "--input_file=-", "--input_format=csv", *flags,
        stdin=text.encode("utf-8"))
  else:
    status, out, err = server.run(write(tmp_path / name, text), *flags)
  assert (status, err) == (0, "")
  check_records(parse(out), predictor, rows)


def test_jsonl_to_jsonl(server, predictor, tmp_path):
  rows = [("x", u"the apple", None), ("2", u"\ufffd\n\u732b", None),
          ("5", u"a", None)]
  source = write(tmp_path / "a.jsonl", u'{"id": "x", "text": "the apple"}\n'
                 u'{"text": "\\ud800\\n\u732b"}\n{"id": 5, "text": "a"}\n')
  target = tmp_path / "b.jsonl"
  target.write_text(u"of another run")
  assert server.run(source, "--output_file=%s" % target) == (0, "", "")
  check_records(parse(tiny_bert.read_text(target)), predictor, rows)
  assert sorted(os.listdir(str(tmp_path))) == ["a.jsonl", "b.jsonl"]


def test_tsv_output(server, predictor, tmp_path):
  source = write(tmp_path / "a.csv",
                 u'id,text\n"tab\there",the apple\n"line\nbreak",\n\u732b,a\n')
  target = tmp_path / "b.tsv"
  assert server.run(source, "--output_file=%s" % target) == (0, "", "")
  with open(str(target), encoding="utf-8", newline="") as reader:
    table = list(csv.reader(reader, delimiter="\t"))
  assert table[0] == ["id"] + list(tiny_bert.LABELS)
  assert [row[0] for row in table[1:]] == ["tab\there", "line\nbreak",
                                           u"\u732b"]
  for row, want in zip(table[1:], predictor.predict([u"the apple", u"", u"a"])):
    assert [float(cell) for cell in row[1:]] == pytest.approx(want, abs=1e-6)


def read_csv(path):
  with open(str(path), encoding="utf-8-sig", newline="") as reader:
    return list(csv.reader(reader, strict=True))


def check_table(rows, header, predictor, texts):
  """Compares rows of a .csv with what the predictor says of the texts."""
  labels = list(tiny_bert.LABELS)
  assert rows[0] == header + labels
  probabilities = predictor.predict(texts)
  assert len(rows) - 1 == len(texts)
  for row, want, named in zip(rows[1:], probabilities,
                              predictor.predict_labels(texts)):
    assert [float(cell) for cell in row[len(header):]] == pytest.approx(
        want, abs=1e-6)
    assert row[len(header) - 1] == ",".join(label for label, _ in named)


def test_csv_output(server, predictor, tmp_path):
  long_text = u'the "apple",\n\ta ' + u"we see " * 200
  source = write(tmp_path / "a.csv", (
      u'id,text\n1,"%s"\n=x,\n猫,猫\n' % long_text.replace('"', '""')))
  target = tmp_path / "b.csv"
  assert server.run(source, "--output_file=%s" % target)[:2] == (0, "")
  rows = read_csv(target)
  check_table(rows, ["id", "text", "labels"], predictor,
              [long_text, u"", u"猫"])
  assert [row[:2] for row in rows[1:]] == [
      ["1", long_text], ["=x", ""], [u"猫", u"猫"]]
  assert not target.read_bytes().startswith(b"\xef\xbb\xbf")
  # What it wrote it reads again.
  again = tmp_path / "c.csv"
  assert server.run("--input_file=%s" % target,
                    "--output_file=%s" % again)[:2] == (0, "")
  assert again.read_bytes() == target.read_bytes()
  assert server.run(source, "--output_file=%s" % target,
                    "--spreadsheet_safe")[:2] == (0, "")
  assert target.read_bytes().startswith(b"\xef\xbb\xbfid,text,labels,")
  assert [row[0] for row in read_csv(target)[1:]] == ["1", "'=x", u"猫"]


def test_csv_output_of_pairs(server, predictor, tmp_path):
  source = write(tmp_path / "a.jsonl", u'{"text": "a", "text_pair": "b"}\n'
                 u'{"text": "c", "text_pair": ""}\n')
  target = tmp_path / "b.csv"
  assert server.run(source, "--output_file=%s" % target)[:2] == (0, "")
  rows = read_csv(target)
  check_table(rows, ["id", "text", "text_pair", "labels"], predictor,
              [(u"a", u"b"), (u"c", u"")])
  source = write(tmp_path / "a.jsonl", u'{"text": "a"}\n'
                 u'{"text": "c", "id": "x", "text_pair": ""}\n')
  before = target.read_bytes()
  status, out, err = server.run(source, "--output_file=%s" % target)
  assert (status, out) == (2, "")
  assert "row 'x' has two texts, but the first row has one" in err
  assert target.read_bytes() == before


def test_parquet(server, predictor, tmp_path):
  pytest.importorskip("pyarrow")
  from pyarrow import parquet
  texts = [row["text"] for row in tiny_bert.make_rows(1500, 8)]
  source = write(tmp_path / "a.txt", u"".join(t + u"\n" for t in texts))
  target = tmp_path / "b.parquet"
  assert server.run(source, "--output_file=%s" % target)[:2] == (0, "")
  table = parquet.read_table(str(target))
  assert table.column_names == ["id", "text", "text_pair", "labels"] + list(
      tiny_bert.LABELS)
  assert table["id"].to_pylist() == [str(i + 1) for i in range(1500)]
  assert table["text"].to_pylist() == texts
  assert table["text_pair"].null_count == 1500
  found = np.array([table[label].to_pylist() for label in tiny_bert.LABELS]).T
  np.testing.assert_allclose(found, predictor.predict(texts), atol=1e-6)
  assert table["labels"].to_pylist() == [
      [label for label, _ in named]
      for named in predictor.predict_labels(texts)]
  again = tmp_path / "c.csv"
  assert server.run("--input_file=%s" % target,
                    "--output_file=%s" % again)[:2] == (0, "")
  assert [row[1] for row in read_csv(again)[1:]] == texts


@pytest.mark.parametrize("flags, content", [
    (["--input_format=csv"], u"id,text\n1,the apple\n2,\n"),
    (["--input_format=tsv", "--quoting=none"],
     u'id\ttext\n1\tthe apple\n2\t\n'),
    (["--input_format=jsonl"], u'{"text": "the apple"}\n"" \n'),
    (["--input_format=json"], u'["the apple",\n""]'),
    (["--input_format=text"], u"the apple\n\n"), ([], u"the apple\n\n"),
    (["--input_format=csv", "--encoding=utf-16-le"],
     u"text,id\nthe apple,1\n,2\n".encode("utf-16-le"))])
def test_standard_input(flags, content, server, predictor):
  content = content if isinstance(content, bytes) else content.encode("utf-8")
  status, out, err = server.run("--input_file=-", *flags, stdin=content)
  assert (status, err) == (0, "")
  check_records(parse(out), predictor,
                [("1", u"the apple", None), ("2", u"", None)])


@pytest.mark.parametrize("content, part", [
    (b"id,text\n1,a\n", ":1: the line looks like the header of a table"),
    (b'{"text": "a"}\n', ":1: the line looks like JSON lines"),
    (u"今天天气很好\n".encode("gbk"),
     "give --encoding=gb18030")])
def test_standard_input_of_another_form(content, part, server):
  status, out, err = server.run("--input_file=-", stdin=content)
  assert (status, out, err.count("\n")) == (2, "", 1)
  assert err.startswith("predict_session.py: /dev/stdin:1: ") and part in err


def test_files_of_others(server, tmp_path):
  source = write(tmp_path / "a.txt", u"a\n")
  target = tmp_path / "b.jsonl"
  (tmp_path / "b.jsonl.tmp").write_text(u"thesis")
  (tmp_path / "real").mkdir()
  target.symlink_to(tmp_path / "real" / "c.jsonl")
  (tmp_path / "real" / "c.jsonl").write_text(u"old")
  (tmp_path / "real" / "c.jsonl").chmod(0o600)
  assert server.run(source, "--output_file=%s" % target) == (0, "", "")
  assert tiny_bert.read_text(tmp_path / "b.jsonl.tmp") == u"thesis"
  assert target.is_symlink() and '"text": "a"' in tiny_bert.read_text(target)
  assert (tmp_path / "real" / "c.jsonl").stat().st_mode & 0o777 == 0o600
  os.mkfifo(str(tmp_path / "d.jsonl"))
  status, _, err = server.run(
      source, "--output_file=%s" % (tmp_path / "d.jsonl"))
  assert status == 2 and "is a pipe or a device" in err
  assert sorted(os.listdir(str(tmp_path))) == [
      "a.txt", "b.jsonl", "b.jsonl.tmp", "d.jsonl", "real"]


def test_many_windows_keep_the_order(server, predictor, tmp_path):
  texts = [row["text"] for row in tiny_bert.make_rows(2500, 8)]
  source = write(tmp_path / "a.txt", u"".join(t + u"\n" for t in texts))
  status, out, err = server.run(source, "--batch_size=100")
  assert (status, err) == (0, "")
  check_records(parse(out), predictor,
                [(str(i + 1), text, None) for i, text in enumerate(texts)])


def test_empty_input(server, tmp_path):
  target = tmp_path / "b.tsv"
  assert server.run(write(tmp_path / "a.txt", u"")) == (0, "", "")
  assert server.run(write(tmp_path / "a.jsonl", u""),
                    "--output_file=%s" % target) == (0, "", "")
  assert tiny_bert.read_text(target) == u"\t".join(
      ("id",) + tiny_bert.LABELS) + u"\n"


@pytest.mark.parametrize("name, text, where", [
    ("a.txt", b"a\n" * 3000 + b"b\xff\n", ":3001: byte 0xff"),
    ("a.csv", u"text,b\n" + u"a,b\n" * 3000 + u"a,b,c\n", ":3002: "),
    ("a.tsv", u"text\n" + u"a\n" * 3000 + u'"a\n', ":3002: "),
    ("a.jsonl", u'{"text": "a"}\n' * 3000 + u'{"text": 5}\n', ":3001: "),
])
def test_bad_row_leaves_no_file(name, text, where, server, tmp_path):
  source = write(tmp_path / name, text)
  target = tmp_path / "b.jsonl"
  if name == "a.csv":
    target.write_text(u"of another run")
  before = sorted(os.listdir(str(tmp_path)))
  status, out, err = server.run(source, "--output_file=%s" % target)
  assert (status, out) == (2, "")
  assert err.startswith("predict_session.py: %s%s" % (source[13:], where))
  assert err.count("\n") == 1
  assert sorted(os.listdir(str(tmp_path))) == before
  if name == "a.csv":
    assert tiny_bert.read_text(target) == u"of another run"


def test_output_file_that_cannot_be(server, tmp_path):
  source = write(tmp_path / "a.jsonl", u'{"text": "a"}\n')
  status, _, err = server.run(source, "--output_file=%s" % source[13:])
  assert (status, err.count("\n")) == (2, 1)
  assert "--output_file is --input_file" in err
  assert tiny_bert.read_text(source[13:]) == u'{"text": "a"}\n'
  (tmp_path / "b.jsonl").mkdir()
  status, _, err = server.run(
      source, "--output_file=%s" % (tmp_path / "b.jsonl"))
  assert (status, err.count("\n")) == (2, 1)
  assert "is a directory" in err


def test_named_pipe_as_input(server, predictor, tmp_path):
  """As a shell makes one for `--input_file <(command)`."""
  path = str(tmp_path / "pipe")
  os.mkfifo(path)

  def feed():
    with open(path, "wb") as writer:
      writer.write(b"the apple\na\n")

  thread = threading.Thread(target=feed)
  thread.start()
  status, out, err = server.run("--input_file=" + path)
  thread.join(30)
  assert (status, err) == (0, "")
  check_records(parse(out), predictor,
                [("1", u"the apple", None), ("2", u"a", None)])


# The prompt.


def test_prompt_through_a_pipe(server, predictor):
  texts = [u"the apple", u"", u"\u732b", u"last"]
  assert server.run(stdin=u"the apple\n\n\u732b\r\nlast".encode("utf-8")) == (
      0, u"".join(shown(predictor, text) for text in texts), "")
  status, out, err = server.run(stdin=b"a\nb\xff\n")
  assert (status, out) == (2, shown(predictor, u"a"))
  assert err == ("predict_session.py: standard input:2: byte 0xff is not "
                 "UTF-8.\n")


def read_until(descriptor, text, seconds=120):
  """Reads from a terminal until a text comes, and returns all that came."""
  data, end = b"", time.time() + seconds
  while text not in data:
    ready = select.select([descriptor], [], [], max(end - time.time(), 0))[0]
    assert ready, data
    data += os.read(descriptor, 4096)
  return data


def test_prompt_on_a_terminal(model, predictor):
  """Answers come at once; Ctrl-D ends it."""
  controller, terminal = pty.openpty()
  process = start(model, stdin=terminal, stdout=terminal)
  os.close(terminal)
  try:
    seen = read_until(controller, b"> ")
    assert seen == (
        b"One text per line; end with an empty line or Ctrl-D.\r\n> ")
    for text in (u"the apple", u"\u732b"):
      os.write(controller, (text + u"\n").encode("utf-8"))
      want = shown(predictor, text).replace(u"\n", u"\r\n").encode("utf-8")
      assert read_until(controller, b"\r\n> ").endswith(want + b"> ")
    os.write(controller, b"\x04")
    assert read_until(controller, b"\r\n") == b"\r\n"
    _, err = process.communicate(timeout=60)
  finally:
    os.close(controller)
    if process.poll() is None:
      process.kill()
  assert (process.returncode, err) == (0, b"")


def test_empty_line_ends_the_prompt_on_a_terminal(predictor, monkeypatch):
  class Terminal(io.BytesIO):
    """Holds bytes, and says that it is a terminal."""
    encoding = "utf-8"

    def isatty(self):
      return True

    @property
    def buffer(self):
      return self

  out = io.BytesIO()
  stdin = Terminal(b"the apple\n \nnot read\n")
  monkeypatch.setattr(sys, "stdin", stdin)
  monkeypatch.setattr(
      sys, "stdout", io.TextIOWrapper(out, "utf-8", write_through=True))
  predict_files.ask(predictor, predictor.decision)
  assert out.getvalue().decode("utf-8").endswith(
      "> " + shown(predictor, u"the apple") + "> ")
  assert stdin.read() == b"not read\n"


# Pipes, signals, encodings, memory.


def test_head_ends_quietly(server, tmp_path):
  source = write(tmp_path / "a.txt", u"the apple\n" * 5000)
  path = str(tmp_path / "pipe")
  os.mkfifo(path)
  first = []

  def read_one_line():
    with open(path, "rb") as reader:
      first.append(json.loads(reader.readline().decode("utf-8")))

  thread = threading.Thread(target=read_one_line)
  thread.start()
  assert server.run(source, stdout=path) == (0, "", "")
  thread.join(30)
  assert [record["id"] for record in first] == ["1"]


def test_c_locale(model, predictor):
  """Chinese in and out where the locale knows ASCII only."""
  process = start(
      model, u"\u732b".encode("utf-8"), env={"LC_ALL": "C"},
      unset=["PYTHONIOENCODING", "PYTHONUTF8", "LANG"])
  out, err = process.communicate(timeout=120)
  assert (process.returncode, err) == (0, b"")
  assert out.decode("utf-8") == shown(predictor, u"\u732b")


def test_other_encodings(server, predictor):
  """What the standard streams are set to changes no text."""
  assert server.run(stdin=u"\u732b\n".encode("utf-8"),
                    encoding="latin-1") == (0, shown(predictor, u"\u732b"), "")


def test_interrupted_while_it_writes(model, tmp_path):
  target = tmp_path / "b.jsonl"
  process = start(model, "--input_file=-", "--output_file=%s" % target)
  process.stdin.write(b"the apple\n" * 2000)
  process.stdin.flush()
  for _ in range(600):
    if os.listdir(str(tmp_path)):
      break
    time.sleep(0.1)
  time.sleep(0.5)
  process.send_signal(signal.SIGINT)
  assert process.wait(60) == 130
  err = process.stderr.read()
  assert err == b"predict_session.py: interrupted\n"
  assert os.listdir(str(tmp_path)) == []
  process.stdin.close()
  process.stdout.close()


def test_constant_memory(server, tmp_path):
  """30,000 texts take hardly more memory than one window of them."""
  kilobytes = []
  for count in (1024, 30000):
    source = write(tmp_path / "a.txt", u"".join(
        u"the apple number %d\n" % i for i in range(count)))
    status, _, err = server.run(source, "--batch_size=256",
                                "--output_file=%s" % (tmp_path / "b.jsonl"))
    assert (status, err) == (0, "")
    kilobytes.append(server.max_kilobytes)
  with open(str(tmp_path / "b.jsonl"), "rb") as lines:
    assert sum(1 for _ in lines) == 30000
  assert kilobytes[1] - kilobytes[0] < 14000, kilobytes
