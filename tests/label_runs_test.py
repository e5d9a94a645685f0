# SPDX-License-Identifier: Apache-2.0
"""Labels through a whole run: what is read, refused, scored and logged."""

import json
import os
import re

import pytest

import run_multilabel_classifier
import tiny_bert

WORDS = {"fruit": "apple pear", "pet": u"猫 狗", "party": "plum one"}


def write(folder, **files):
  for name, content in files.items():
    tiny_bert.write_text(os.path.join(str(folder), name.replace("_", ".", 1)),
                         content)
  return str(folder)


def run(bert, data, output_dir, **settings):
  """(exit status, the sentence on stderr, lines of the log)."""
  settings = dict({"task_name": "delimited", "num_train_epochs": 1}, **settings)
  status, _, stderr, log = tiny_bert.call(
      run_multilabel_classifier,
      tiny_bert.arguments(bert, data, str(output_dir), **settings))
  assert stderr.count("\n") == (status != 0)
  return status, stderr, log


def table(rows, head="text,fruit,pet"):
  return head + "\n" + "".join("%s\n" % row for row in rows)


FLAGS = table(["apple,1,0", u"猫,0,1", "pear,1,0", u"猫 apple,1,1", "the,0,0"])


def test_log_before_the_first_step(bert, tmp_path):
  data = write(
      tmp_path, train_csv=table(
          ["apple,1,7,0", u"猫,0,9,1", "pear,1,30,0", u"猫 apple,1,2,1",
           "the,0,3,0"], "text,fruit,age,pet"),
      dev_csv=table(["apple,1,1,0"], "text,fruit,age,pet"))
  status, _, log = run(bert, data, tmp_path / "out", do_eval=True,
                       ignore_columns="age")
  assert status == 0
  start = log.index("***** Data *****")
  assert log[start + 1:start + 9] == [
      "  text from column 'text'",
      "  labels from columns 'fruit', 'pet' (0 and 1)",
      "  not read: 'age'",
      "  train: 5 texts, 1 without a label",
      "  dev: 1 text",
      "  2 labels, and texts that have them in train and dev:",
      "    fruit         3         1",
      "    pet           2         0",
  ]
  assert not any("every text of dev" in line for line in log)
  text = "\n".join(log)
  assert re.search(r"  TensorFlow \d\S+, Python 3\S+; (CPU, \d|GPU)", text)
  # Each says what it does before it is done, and all before the first step.
  places = [text.index(words) for words in (
      "Reading the labels ...", "Checking ", "Reading train ...",
      "Reading dev ...", "***** Data", "Writing ", "Building the graph ...",
      "  TensorFlow ", "Starting with step 1 ...")]
  assert places == sorted(places)


def test_rows_that_nobody_annotated_are_not_scored(bert, tmp_path):
  rows = ["apple,1,0", u"猫,0,1", "pear,1,0", "the,0,0"]
  data = write(tmp_path, train_csv=FLAGS, test_csv=table(
      ["we,-1,-1"] + rows[:2] + ["one,-1,-1"] + rows[2:]))
  plain = write(tmp_path / "..", test_csv=table(rows))
  output_dir = tmp_path / "out"
  status, _, log = run(bert, data, output_dir, do_test=True, do_predict=True)
  assert status == 0
  assert any("2 of 6 texts of test have no labels" in line for line in log)
  results = read_results(output_dir)
  assert results.pop("num_texts_left_out") == "2"
  predictions = [json.loads(line) for line in tiny_bert.read_text(
      str(output_dir / "test_predictions.jsonl")).splitlines()]
  assert [row.get("true_labels") for row in predictions] == [
      None, ["fruit"], ["pet"], None, ["fruit"], []]
  # The scores are those of the annotated rows alone.
  os.rename(os.path.join(plain, "test.csv"), os.path.join(data, "test.csv"))
  status, _, _ = run(bert, data, output_dir, do_train=False, do_test=True,
                     init_checkpoint=None)
  assert status == 0
  assert read_results(output_dir) == results


def read_results(output_dir):
  return dict(line.split(" = ") for line in tiny_bert.read_text(
      str(output_dir / "test_eval_results.txt")).splitlines())


NAMES = "text,labels\napple,fruit\n%s,pet\nthe,\n" % u"猫"


@pytest.mark.parametrize("files, flags, parts", [
    # Labels that train has not.
    ({"dev_csv": "text,labels\na,fruit\nb,plum\nc,plum;fig\n" + "".join(
        "x,l%02d\n" % n for n in range(12))}, {"do_eval": True},
     ["dev.csv:3", "label 'plum' is not one of the 2 labels ('fruit', 'pet')",
      "'l07' (1 text)", "... (14 in all)", "labels.txt"]),
    ({"test_csv": "text,labels\na,fig\nb,fig\n"}, {"do_test": True},
     ["test.csv:2", "of test", "'fig' (2 texts)", "labels.txt"]),
    ({"dev_csv": "text,labels\na,fruit|pet\n"}, {"do_eval": True},
     ["dev.csv:2", "--label_separator='|'"]),
    ({"dev_csv": "text,labels\na,Fruit\n"}, {"do_eval": True},
     ["is it 'fruit'?"]),
    ({"labels_txt": "fruit\n"}, {}, ["train.csv:3", "'pet' (1 text)"]),
    # Nothing to score.
    ({"test_csv": "text\na\n"}, {"do_test": True},
     ["test set", "has no labels", "--do_predict"]),
    ({"test_csv": "text,labels\na,\nb, \n"}, {"do_test": True},
     ["none of the 2 texts of the test set", "--do_predict"]),
    ({"dev_csv": "text,labels\na,\n"}, {"do_eval": True},
     ["none of the 1 texts of the dev set"]),
    # What the cells are.
    ({"train_csv": "text,labels\na,\"['x', 'y']\"\nb,x\n"}, {},
     ["train.csv:3", "one form"]),
    ({"train_csv": "text,labels\na,x|y\n"}, {},
     ["train.csv:2", "--label_separator='|'"]),
    ({"train_csv": "text,labels\na,nan\n"}, {}, ["'nan'"]),
    ({"train_csv": "text,labels\na,x\ntext,labels\nb,y\n"}, {},
     ["train.csv:3", "header"]),
])
def test_runs_that_are_refused(bert, tmp_path, files, flags, parts):
  data = write(tmp_path, **dict({"train_csv": NAMES}, **files))
  status, message, _ = run(bert, data, tmp_path / "out", **flags)
  assert status == 2
  assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize("test_csv", [
    "text\nwe\napple\n", "text,labels\nwe,\napple,\n",
    "text,labels\nwe,0\napple,0\n"])
def test_a_test_set_without_labels_is_predicted(bert, tmp_path, test_csv):
  data = write(tmp_path, train_csv=NAMES, test_csv=test_csv)
  assert run(bert, data, tmp_path / "out", do_predict=True)[0] == 0
  lines = tiny_bert.read_text(
      str(tmp_path / "out" / "test_predictions.jsonl")).splitlines()
  assert [("true_labels" in json.loads(line)) for line in lines] == [False] * 2


def test_numbers_to_evaluate_are_of_the_trained_labels(bert, tmp_path):
  data = write(tmp_path, train_jsonl=(
      '{"text": "apple", "labels": [0.0, 1.0]}\n'
      '{"text": "one", "labels": [1.0, 0.0]}\n'), labels_txt="pet\nfruit\n")
  output_dir = tmp_path / "out"
  assert run(bert, data, output_dir, task_name="jsonl")[0] == 0
  other = tmp_path / "other"
  other.mkdir()
  write(other, test_jsonl='{"text": "apple", "labels": [0.0, 1.0]}\n')
  flags = dict(do_train=False, init_checkpoint=None, do_predict=True,
               do_test=True)
  assert run(bert, str(other), output_dir, task_name="jsonl", **flags)[0] == 0
  write(other, test_csv='text,labels\napple,"[1]"\n')
  assert run(bert, str(other), output_dir, **flags)[0] == 0
  row = json.loads(tiny_bert.read_text(
      str(output_dir / "test_predictions.jsonl")))
  assert row["true_labels"] == ["fruit"]


PAIRS = u'''
import os
from run_multilabel_classifier import DataProcessor, InputExample


class PairProcessor(DataProcessor):

  def get_train_examples(self, data_dir):
    return self.make(data_dir, "train")

  def get_dev_examples(self, data_dir):
    return self.make(data_dir, "dev")

  def get_test_examples(self, data_dir):
    return self.make(data_dir, "test")

  def get_labels(self):
    return LABELS

  def make(self, data_dir, name):
    for i, line in enumerate(
        self._read_tsv(os.path.join(data_dir, name + ".tsv"))):
      yield InputExample(guid="%s-%d" % (name, i), text_a=line[1],
                         text_b=line[2],
                         label="0" if name == "test" else line[0])
'''


@pytest.mark.parametrize("labels", [["0", "1"], ["1", "2"]])
def test_a_processor_of_the_original(bert, tmp_path, labels):
  own = tmp_path / "own.py"
  own.write_text(PAIRS.replace("LABELS", repr(labels)), encoding="utf-8")
  data = write(
      tmp_path, train_tsv='%s\ta "b\tapple\n%s\tpear\tone\n' % tuple(labels),
      test_tsv="x\twe\tsee\ny\tthe\tcaf\n")
  flags = dict(task_name=None, processor="%s:PairProcessor" % own)
  status, _, log = run(bert, data, tmp_path / "out", do_predict=True, **flags)
  assert status == 0
  assert "  train: 2 texts, 2 of them pairs" in log
  lines = tiny_bert.read_text(
      str(tmp_path / "out" / "test_predictions.jsonl")).splitlines()
  assert [("true_labels" in json.loads(line)) for line in lines] == [False] * 2
  write(tmp_path, train_tsv="1\tonly two\n")
  status, message, _ = run(bert, data, tmp_path / "new", **flags)
  assert status == 2
  assert re.search(r"own\.py:\d+: get_train_examples failed \(IndexError: ",
                   message)
