# SPDX-License-Identifier: Apache-2.0
"""Strange texts and names of labels, from the data to what is predicted."""

import csv
import io
import json
import os
import random
import types
import unicodedata

import numpy as np
import pytest
import tiny_bert

from multilabel.common import terminal
from multilabel.inference import predict_files
from multilabel.inference import prediction_writers
from multilabel.storage import trained_model
import predict_session
import processors
from processors import text_lines
import run_multilabel_classifier
import tokenization


STRANGE = [
    u"tab\tinside", u'"quoted" \'twice\'', u"../../../escaped", u"/absolute",
    u"..", u".", u"C:\\con", u"=cmd|' /C calc'!A0", u"+1", u"-1", u"@SUM(A1)",
    u"<script>alert(1)</script>", u"</title>&amp;", u"a = b",
    u"%s %d {0} %(x)s",
    u"$(touch escaped)", u"`id`", u"; rm -rf", u"null", u"NaN", u"0", u"[]",
    u"__proto__", u"a,b;c|d", u"\u2028line\u2029", u"\x85", u"a\x0bb\x0cc\x1cd",
    u"\u202egnp.exe", u"\u2066x\u2069", u"\U0001f468\u200d\U0001f469",
    u"\u4e2d\u6587", u"e\u0301", u"\xe9", u"\U0010ffff", u"\U000e0001x",
    u"\ufffe", u"model.ckpt-1", u"#", u"x" * 3000, u"\x1b[2J", u"\x07",
]
NUM_LABELS = 10000
# So few that a text has some of them, among so many that none has.
LABELS = [label for label in dict.fromkeys(label.strip() for label in STRANGE)
          if label]
LABELS += [u"label %d" % number for number in range(NUM_LABELS - len(LABELS))]


def planes():
  """A text with characters of all 17 planes, surrogates left out."""
  return u"".join(chr(code) for code in range(0, 0x110000, 257)
                  if not 0xd800 <= code < 0xe000)


TEXTS = [
    u"", u" ", u"\0", u"a\0b", u"apple " * 20000, u"a" * 100000,
    u"\u202eelppa\u202c \u2067apple\u2069", planes(), u"\ufeffapple",
    u"\x1b[31mapple", u"=cmd|' /C calc'!A0", u"e\u0301" * 1000,
    u"\u0301" * 1000,
    u"\n\r\n", u"\u2028\u2029\x85", u"</script><script>alert(1)</script>",
]


# One text at a time.


def make_tokenizer(folder, lower=True):
  path = os.path.join(str(folder), "vocab.txt")
  tiny_bert.write_text(path, u"".join(
      token + u"\n" for token in tiny_bert.vocabulary()))
  return tokenization.FullTokenizer(path, lower)


@pytest.mark.parametrize("character, count, words", [
    (u"a", 10 ** 6, 1), (u"a ", 10 ** 6, 10 ** 6), (u".", 10 ** 6, 10 ** 6),
    (u"\0", 10 ** 6, 0), (u"\u0301", 10 ** 6, 0), (u"\u4e2d", 10 ** 5, 10 ** 5),
    (u"\u202e", 10 ** 6, 0), (u"\U0001f600", 10 ** 6, 1),
    # Python sorts such marks in quadratic time: two minutes for these.
    (u"\u302e\U0001d165", 2 * 10 ** 5, 1), (u"\u03a3", 2 * 10 ** 5, 1),
])
def test_long_lines(tmp_path, character, count, words):
  text = character * count
  found = make_tokenizer(tmp_path).basic_tokenizer.tokenize(text)
  assert len(found) == words


def test_a_line_of_10_mb(tmp_path):
  text = u"apple \u732b " * (10 ** 7 // 10) + u"pear"
  assert len(text.encode("utf-8")) > 10 ** 7
  tiny_bert.write_jsonl(tmp_path / "train.jsonl",
                        [{"text": text, "labels": ["fruit"]}])
  example, = processors.create_processor("jsonl").get_train_examples(
      str(tmp_path))
  assert example.text_a == text
  ids = make_tokenizer(tmp_path).encode(example.text_a)
  apple, cat, pear = [tiny_bert.vocabulary().index(word)
                      for word in (u"apple", u"\u732b", u"pear")]
  assert len(ids) == 2 * 10 ** 6 + 1
  assert ids[:4] == [apple, cat] * 2 and ids[-1] == pear


def test_long_words_are_decomposed_as_unicode_says(monkeypatch):
  rng = random.Random(5)
  marks = [chr(code) for code in range(0x110000)
           if unicodedata.combining(chr(code))]
  letters = u"ab\u03a3\xe9\u1e69\uac00\uac01\ud7a3\u2260\ud800\U0001d15e\u1fef"
  for _ in range(300):
    text = u"".join(rng.choice(rng.choice((marks, letters)))
                    for _ in range(rng.randint(0, 40)))
    expected = unicodedata.normalize("NFD", text)
    assert tokenization._decompose(text) == expected
    with monkeypatch.context() as patch:
      patch.setattr(tokenization, "_LONG_WORD", 0)
      assert tokenization._decompose(text) == expected, ascii(text)


# From the data to the predictions.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(folder, output_dir, log) of a training on 10,000 labels."""
  folder = tmp_path_factory.mktemp("strange")
  bert = tiny_bert.make_bert(folder / "bert", num_hidden_layers=1)
  data = tiny_bert.make_data(folder / "data", sizes=(1, 1, 1))
  rng = random.Random(3)
  for part, size in (("train", 24), ("dev", 6), ("test", 5)):
    rows = [{"id": u"=%s\t%d\r\"" % (part, number),
             "text": TEXTS[number % len(TEXTS)],
             "labels": sorted(rng.sample(LABELS[:len(STRANGE)], 3))}
            for number in range(size)]
    for row in rows:
      row["text"] = row["text"].replace(u"\0", u"")
    tiny_bert.write_jsonl(os.path.join(data, part + ".jsonl"), rows)
  tiny_bert.write_text(os.path.join(data, "labels.txt"),
                       u"".join(label + u"\n" for label in LABELS))
  output_dir = str(folder / "output")
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, output_dir, num_train_epochs=1, do_eval=True,
          do_predict=True, max_seq_length=16, eval_steps=0))
  assert status == 0, stderr[-2000:]
  return folder, output_dir


@pytest.fixture(scope="module")
def predictor(run):
  with predict_session.SessionPredictor(run[1]) as loaded:
    yield loaded


def read_jsonl(path):
  with io.open(path, encoding="utf-8", newline="\n") as reader:
    return [json.loads(line) for line in reader]


def test_ten_thousand_labels_end_to_end(run):
  output_dir = run[1]
  assert len(LABELS) == NUM_LABELS
  assert trained_model.read(output_dir).labels == LABELS
  table = np.loadtxt(os.path.join(output_dir, "test_results.tsv"))
  assert table.shape == (5, NUM_LABELS)
  rows = read_jsonl(os.path.join(output_dir, "test_predictions.jsonl"))
  assert [row["id"] for row in rows] == [u"=test\t%d\r\"" % n for n in range(5)]
  for row, line in zip(rows, table):
    assert list(row["probabilities"]) == LABELS
    np.testing.assert_allclose(list(row["probabilities"].values()), line,
                               atol=1e-5)


def test_every_label_has_its_line_of_results(run):
  with io.open(os.path.join(run[1], "eval_results.txt"), encoding="utf-8",
               newline="\n") as reader:
    keys = {line.rpartition(u" = ")[0] for line in reader}
  assert {u"f1/" + label for label in LABELS} <= keys


def test_no_name_became_a_path(run):
  folder, output_dir = run
  assert sorted(os.listdir(str(folder))) == ["bert", "data", "output"]
  names = [os.path.join(place, name) for place, _, found in os.walk(output_dir)
           for name in found]
  assert len(names) > 8
  for name in names:
    assert not any(label in os.path.basename(name)
                   for label in (u"escaped", u"script", u"label "))


def test_strange_texts_are_predicted(predictor):
  probabilities = predictor.predict(TEXTS + [u"\ud800 apple"])
  assert probabilities.shape == (len(TEXTS) + 1, NUM_LABELS)
  assert np.isfinite(probabilities).all()
  # A text does not change what others in its batch get.
  alone = predictor.predict([TEXTS[7]])
  np.testing.assert_allclose(probabilities[7], alone[0], atol=1e-6)


def predict_table(predictor, folder, **changes):
  """Runs the files' part of predict_session.py; returns the table's rows."""
  source = str(folder / "texts.csv")
  with io.open(source, "w", encoding="utf-8", newline="") as writer:
    rows = csv.writer(writer)
    rows.writerow(["id", "text"])
    rows.writerows([name, u"an apple"] for name in IDS)
  values = dict(input_file=source, output_file=str(folder / "labels.tsv"),
                input_format=None, text_column=None, text_pair_column=None,
                id_column=None, delimiter=None, spreadsheet_safe=False,
                probabilities="all", quoting="auto", encoding=None)
  values.update(changes)
  predict_files.predict_to_file(predictor, Flags(values), predictor.decision)
  with io.open(values["output_file"], encoding="utf-8", newline="") as reader:
    return list(csv.reader(reader, delimiter="\t", strict=True))


class Flags(types.SimpleNamespace):
  """Values as absl's flags give them: by attribute, and by name."""

  def __init__(self, values):
    super(Flags, self).__init__(**values)
    self.values = values

  def __getitem__(self, name):
    return types.SimpleNamespace(value=self.values[name])


IDS = [u"=1+1", u"+x", u"-2", u"@a", u"a\tb", u"a\rb", u'say "x"', u"a\nb",
       u"\uff1dx", u"plain", u"'=x", u"x=1"]


def test_the_table_is_read_as_it_was_written(predictor, tmp_path):
  header, *rows = predict_table(predictor, tmp_path)
  assert header == ["id"] + LABELS
  assert [row[0] for row in rows] == IDS
  assert all(0 < float(cell) < 1 for row in rows for cell in row[1:50])


def test_a_table_for_a_spreadsheet_has_no_formulas(predictor, tmp_path):
  header, *rows = predict_table(predictor, tmp_path, spreadsheet_safe=True)
  harmful = (u"=", u"+", u"-", u"@", u"\t", u"\r", u"\uff1d")
  assert not any(cell.startswith(harmful) for cell in header)
  assert not any(cell.startswith(harmful) for row in rows for cell in row)
  assert u"'=cmd|' /C calc'!A0" in header and u"'-1" in header
  assert [row[0] for row in rows] == [
      u"'=1+1", u"'+x", u"'-2", u"'@a", u"a\tb", u"a\rb", u'say "x"', u"a\nb",
      u"'\uff1dx", u"plain", u"'=x", u"x=1"]
  assert [cell.lstrip(u"'") for cell in header[1:]] == [
      label.lstrip(u"'") for label in LABELS]


@pytest.mark.parametrize("cell, safe", [
    (u"", u""), (u"a", u"a"), (u"1", u"1"), (u" =a", u"' =a"),
    (u"\xa0=a", u"'\xa0=a"), (u"\ta", u"'\ta"), (u"\na", u"'\na"),
    (u"\uff0d1", u"'\uff0d1"), (u"a=b", u"a=b"), (u" a", u" a")])
def test_neutralised(cell, safe):
  assert prediction_writers.neutralised(cell) == safe


def test_the_flag_for_spreadsheets_needs_a_table(run, tmp_path):
  texts = str(tmp_path / "texts.txt")
  tiny_bert.write_text(texts, u"apple\n")
  for flags in (["apple"], ["--input_file=" + texts],
                ["--input_file=" + texts,
                 "--output_file=" + str(tmp_path / "x.jsonl")]):
    status, _, stderr, _ = tiny_bert.call(
        predict_session,
        ["--model_dir=" + run[1], "--spreadsheet_safe"] + flags)
    assert status == 2
    assert ("--spreadsheet_safe needs an --output_file that ends in .csv or "
            ".tsv") in stderr


def test_a_line_of_standard_input_that_does_not_end(monkeypatch):
  monkeypatch.setattr(text_lines, "MAX_LINE", 100)
  monkeypatch.setattr(predict_files.sys, "stdin", types.SimpleNamespace(
      buffer=io.BytesIO(b"a" * 1000), isatty=lambda: False))
  with pytest.raises(ValueError, match="standard input:1: the line has more "):
    predict_files.ask(None, None)


def test_what_a_terminal_is_shown():
  assert terminal.printable(u"a\x1b[2Jb\x07\r\n\tc") == (
      u"a\\u001b[2Jb\\u0007\\u000d\n\tc")
  assert terminal.printable(u"\u202egnp.exe\x9b1m") == (
      u"\\u202egnp.exe\\u009b1m")
  family = u"\U0001f468\u200d\U0001f469 \u4e2d e\u0301"
  assert terminal.printable(family) == family
