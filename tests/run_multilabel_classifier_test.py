# SPDX-License-Identifier: Apache-2.0
"""Tests of the program: what it writes, what it refuses, how it ends."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

from multilabel.storage import checkpoint_choice
from multilabel.storage import model_settings
from multilabel.storage import trained_model
from multilabel.training import dev_evaluation
from multilabel.training import finetuning
import run_multilabel_classifier


RESULTS = ("eval_results.txt", "eval_results.json", "eval_predictions.jsonl",
           "test_results.tsv", "test_predictions.jsonl",
           "test_predictions.csv")
PROGRAM = "run_multilabel_classifier.py: "


def call(line):
  return tiny_bert.call(run_multilabel_classifier, line)


def run(*args, **flags):
  """Runs in this process and must succeed: the lines of the log."""
  status, stdout, stderr, log = call(tiny_bert.arguments(*args, **flags))
  assert (status, stdout, stderr) == (0, "", "")
  return log


def refused(line, status=2):
  """Runs in this process and must fail with one sentence, which it returns."""
  ended, stdout, stderr, _ = call(line)
  assert ended == status, stderr
  assert stdout == ""
  assert stderr.startswith(PROGRAM) and stderr.endswith("\n")
  assert stderr.count("\n") == 1 and "Traceback" not in stderr
  return stderr[len(PROGRAM):-1]


@pytest.fixture
def copy(learned, tmp_path):
  """A copy of the trained directory that a test may spoil."""
  folder = str(tmp_path / "copy")
  shutil.copytree(learned[0], folder)
  return folder


def again(output_dir, data, **flags):
  """The command line over a trained directory, without flags of the model."""
  return tiny_bert.flag_list(dict(
      {"task_name": "jsonl", "data_dir": data, "output_dir": output_dir},
      **flags))


def read_rows(output_dir):
  return [json.loads(line) for line in tiny_bert.read_text(os.path.join(
      output_dir, "test_predictions.jsonl")).splitlines()]


def read_results(output_dir):
  return [line.rpartition(" = ")[::2] for line in tiny_bert.read_text(
      os.path.join(output_dir, "eval_results.txt")).splitlines()]


# A run from beginning to end.


def test_it_learns(learned):
  results = dict(read_results(learned[0]))
  assert float(results["micro_f1"]) > 0.95
  assert float(results["macro_f1"]) > 0.95
  losses = [float(re.search(r"loss (\S+)", line).group(1))
            for line in learned[1] if line.startswith("step ")]
  assert len(losses) == 12 and losses[0] > 0.6
  assert float(results["loss"]) < 0.2 < losses[0] / 2
  truth = tiny_bert.make_rows(20, 2002, "test")  # those of make_data
  found = read_rows(learned[0])
  right = sum((label in row["labels"]) == (label in expected["labels"])
              for row, expected in zip(found, truth)
              for label in tiny_bert.LABELS)
  assert right >= 57  # of 60


def test_log_says_what_was_read(learned):
  text = "\n".join(learned[1])
  assert "120 texts; 0 longer than 32 tokens and truncated; 0 empty" in (
      text)
  assert "  120 examples, 3 labels, batches of 8, 180 steps" in text
  assert "23 from the checkpoint" in text
  assert "2 newly initialized: output_bias, output_weights" in text
  assert "1 pre-training heads (cls/*)" in text


def test_eval_results(learned):
  lines = read_results(learned[0])
  keys = [key for key, _ in lines]
  assert keys == sorted(keys)
  assert keys == sorted(
      ["f1/" + label for label in tiny_bert.LABELS] +
      [average + "_" + measure for average in ("micro", "macro")
       for measure in ("precision", "recall", "f1", "average_precision",
                       "roc_auc")] +
      [measure + side for side in ("_low", "_high") for measure in (
          "micro_f1", "macro_f1", "macro_average_precision")] +
      ["%s_at_%d" % (measure, k) for measure in ("precision", "recall")
       for k in (1, 3, 5)] +
      ["weighted_f1", "samples_f1", "samples_f1_present",
       "label_ranking_average_precision",
       "coverage_error", "ranking_loss", "brier_score", "log_loss",
       "ece_equal_width", "ece_equal_mass", "num_examples_without_positive",
       "subset_accuracy", "hamming_loss", "num_examples", "loss", "threshold",
       "global_step"])
  results = dict(lines)
  best = json.loads(tiny_bert.read_text(
      os.path.join(learned[0], "best_checkpoint.json")))
  assert results["num_examples"] == "30"
  assert results["global_step"] == str(best["step"])
  assert results["threshold"] == "0.5"


def test_eval_results_are_those_of_scikit_learn(copy, tmp_path):
  metrics = pytest.importorskip("sklearn.metrics")
  # A third of the labels are those of another text: no measure is 0 or 1.
  rows = tiny_bert.make_rows(40, 5)
  for i in range(0, 39, 3):
    rows[i]["labels"] = rows[i + 1]["labels"]
  folder = tiny_bert.make_data(tmp_path / "d")
  for part in ("dev", "test"):
    tiny_bert.write_jsonl(os.path.join(folder, part + ".jsonl"), rows)
  status, _, stderr, _ = call(again(copy, folder, do_eval=True,
                                    do_predict=True))
  assert (status, stderr) == (0, "")
  labels = [[name in row["labels"] for name in tiny_bert.LABELS]
            for row in rows]
  scores = np.loadtxt(os.path.join(copy, "test_results.tsv"))
  truth, chosen = np.array(labels, int), (scores >= 0.5).astype(int)
  expected = {"subset_accuracy": metrics.accuracy_score(truth, chosen),
              "hamming_loss": metrics.hamming_loss(truth, chosen)}
  for average in ("micro", "macro"):
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, chosen, average=average, zero_division=0)
    expected[average + "_precision"] = precision
    expected[average + "_recall"] = recall
    expected[average + "_f1"] = f1
    expected[average + "_average_precision"] = (
        metrics.average_precision_score(truth, scores, average=average))
    expected[average + "_roc_auc"] = metrics.roc_auc_score(
        truth, scores, average=average)
  for average in ("weighted", "samples"):
    expected[average + "_f1"] = metrics.f1_score(
        truth, chosen, average=average, zero_division=0)
  expected["brier_score"] = np.mean((truth - scores) ** 2)
  expected["log_loss"] = np.mean([
      metrics.log_loss(truth[:, i], scores[:, i]) for i in range(3)])
  expected["num_examples_without_positive"] = np.sum(~truth.any(axis=1))
  expected["label_ranking_average_precision"] = (
      metrics.label_ranking_average_precision_score(truth, scores))
  expected["ranking_loss"] = metrics.label_ranking_loss(truth, scores)
  expected["coverage_error"] = metrics.coverage_error(truth, scores)
  for label, f1 in zip(tiny_bert.LABELS, metrics.f1_score(
      truth, chosen, average=None, zero_division=0)):
    expected["f1/" + label] = f1
  results = dict(read_results(copy))
  for key in expected:
    # The table has 8 digits, of which 1 - p may have lost some.
    tolerance = {"brier_score": 1e-7, "log_loss": 1e-5}.get(key, 1e-9)
    assert float(results[key]) == pytest.approx(
        expected[key], abs=tolerance), key
  assert 0.3 < expected["micro_f1"] < 1
  oracle = -np.mean(np.where(truth, np.log(scores), np.log(1 - scores)))
  assert float(results["loss"]) == pytest.approx(oracle, abs=1e-5)


def test_test_results(learned, data):
  table = [line.split("\t") for line in tiny_bert.read_text(os.path.join(
      learned[0], "test_results.tsv")).splitlines()]
  assert [len(row) for row in table] == [3] * 20
  rows = read_rows(learned[0])
  source = [json.loads(line) for line in tiny_bert.read_text(os.path.join(
      data, "test.jsonl")).splitlines()]
  for cells, row, given in zip(table, rows, source):
    assert list(row) == ["id", "text", "labels", "probabilities"]
    assert (row["id"], row["text"]) == (given["id"], given["text"])
    assert list(row["probabilities"]) == list(tiny_bert.LABELS)
    assert [round(float(cell), 6) for cell in cells] == pytest.approx(
        list(row["probabilities"].values()), abs=1.1e-6)
    assert row["labels"] == [
        label for label, cell in zip(tiny_bert.LABELS, cells)
        if float(cell) >= 0.5]


def test_the_trained_directory_explains_itself(learned, bert):
  assert sorted(name for name in os.listdir(learned[0])
                if not name.startswith(
                    ("model.ckpt", "events", ".lock"))) == sorted(
                    RESULTS + ("bert_config.json", "best_checkpoint.json",
                               "checkpoint", "labels.txt", "model_card.md",
                               "model_settings.json", "vocab.txt") + tuple(
                                   part + ".tf_record" + suffix
                                   for part in ("train", "dev", "test")
                                   for suffix in ("", ".index.npy", ".json")))
  model = trained_model.read(learned[0])
  assert model.labels == list(tiny_bert.LABELS)
  assert model.bert_config.hidden_size == 16
  settings = model.settings
  assert (settings["do_lower_case"], settings["max_seq_length"],
          settings["pooling"], settings["loss"], settings["threshold"]) == (
              True, 32, "mean", "sigmoid", 0.5)
  assert (settings["threshold_kind"], settings["top_k"],
          settings["always_one_label"], settings["long_text"],
          settings["stride"], settings["window_pooling"]) == (
              "fixed", None, False, "truncate_head", 0, "max")
  assert settings["run"]["learning_rate"] == 0.015
  assert settings["run"]["num_train_epochs"] == 12
  assert settings["run"]["init_checkpoint"] == "bert_model.ckpt"
  assert settings["versions"]["tensorflow"] == tf.__version__
  assert settings["versions"]["numpy"] == np.__version__
  assert tiny_bert.read_text(model.vocab_file) == tiny_bert.read_text(
      os.path.join(bert, "vocab.txt"))


def test_evaluation_alone_needs_no_flags_of_the_model(copy, data):
  before = tiny_bert.read_text(os.path.join(copy, "eval_results.txt"))
  os.remove(os.path.join(copy, "eval_results.txt"))
  status, _, stderr, log = call(again(copy, data, do_eval=True))
  assert (status, stderr) == (0, "")
  assert tiny_bert.read_text(os.path.join(copy, "eval_results.txt")) == before
  assert any("Features of dev: found in" in line for line in log)


@pytest.mark.newest
def test_changed_data_are_read_anew(copy, tmp_path):
  # Other texts, another number of them, no labels.txt, labels in test.
  folder = tiny_bert.make_data(tmp_path / "d", sizes=(1, 7, 1), seed=9)
  rows = tiny_bert.make_rows(5, 77, "new")
  tiny_bert.write_jsonl(os.path.join(folder, "test.jsonl"), rows)
  os.remove(os.path.join(folder, "labels.txt"))
  os.remove(os.path.join(folder, "train.jsonl"))
  status, _, stderr, log = call(again(copy, folder, do_eval=True,
                                      do_predict=True, eval_batch_size=3))
  assert (status, stderr) == (0, "")
  assert sum("written to" in line for line in log) == 2
  assert dict(read_results(copy))["num_examples"] == "7"
  assert [row["id"] for row in read_rows(copy)] == [row["id"] for row in rows]
  right = sum((label in row["labels"]) == (label in expected["labels"])
              for row, expected in zip(read_rows(copy), rows)
              for label in tiny_bert.LABELS)
  assert right >= 14  # of 15


@pytest.mark.parametrize("name, content, words", [
    ("labels.txt", u"fruit\nfruit\n", "labels.txt:2: label 'fruit' is already"),
    ("labels.txt", u"", "labels.txt is empty"),
    ("labels.txt", None, "labels.txt"),  # a folder
    ("labels.txt", u"fruit\nzebra\n", "only here: zebra"),
    ("train.jsonl", u'{"text": ', "train.jsonl:1: broken JSON"),
])
def test_broken_labels_are_not_those_of_the_model(copy, tmp_path, name,
                                                  content, words):
  folder = tiny_bert.make_data(tmp_path / "d", sizes=(2, 2, 2))
  os.remove(os.path.join(folder, "labels.txt"))
  path = os.path.join(folder, name)
  if content is None:
    os.mkdir(path)
  else:
    tiny_bert.write_text(path, content)
  before = sorted(os.listdir(copy))
  assert words in refused(again(copy, folder, do_predict=True))
  assert sorted(os.listdir(copy)) == before


LABELS_OF_TRAIN = u"""
import processors

class Own(processors.JsonlProcessor):
  def get_labels(self, data_dir=None):
    with open(data_dir + "/%s"):
      raise KeyError("none")
"""


@pytest.mark.parametrize("name, status", [("train.jsonl", 2), ("gone", 0)])
def test_labels_of_a_users_own_processor(copy, tmp_path, name, status):
  # That there is no file is no mistake when nothing is trained; others are.
  folder = tiny_bert.make_data(tmp_path / "d", sizes=(2, 2, 2))
  tiny_bert.write_text(tmp_path / "own.py", LABELS_OF_TRAIN % name)
  line = again(copy, folder, do_predict=True, task_name=None,
               processor=str(tmp_path / "own.py") + ":Own")
  if status:
    assert "get_labels failed (KeyError: 'none')" in refused(line)
  else:
    ended, _, stderr, log = call(line)
    assert (ended, stderr) == (0, "")
    assert any("no list of labels: taking that of output_dir" in said
               for said in log)


# The report.


@pytest.mark.newest
def test_report(copy, data):
  pytest.importorskip("matplotlib")
  status, _, stderr, log = call(again(copy, data, do_eval=True, report=True))
  assert (status, stderr) == (0, "")
  page = tiny_bert.read_text(os.path.join(copy, "report.html"))
  assert page.lower().startswith("<!doctype html>")
  assert all(label in page for label in tiny_bert.LABELS)
  assert "***** Report: %s *****" % os.path.join(copy, "report.html") in log


@pytest.mark.newest
def test_a_run_without_what_the_report_needs(copy, data, monkeypatch):
  for name in list(sys.modules):
    if name.split(".")[0] == "matplotlib":
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  os.remove(os.path.join(copy, "eval_results.txt"))
  status, _, stderr, log = call(again(copy, data, do_eval=True, report=True))
  assert (status, stderr) == (0, "")
  line, = [line for line in log if line.startswith("No report.html: ")]
  assert "pip install" in line and "\n" not in line
  assert os.path.exists(os.path.join(copy, "eval_results.txt"))
  assert not os.path.exists(os.path.join(copy, "report.html"))


# Odd but valid input.


def test_one_example_one_label_and_a_pair(bert, tmp_path):
  folder = tmp_path / "d"
  folder.mkdir()
  row = {"text": u"\u732b", "text_pair": "apple " * 50, "labels": ["a = b\tc"]}
  tiny_bert.write_text(folder / "labels.txt", u"a = b\tc\n")
  for part in ("train", "dev", "test"):
    tiny_bert.write_jsonl(str(folder / (part + ".jsonl")), [row])
  log = run(bert, folder, tmp_path / "o", do_eval=True, do_predict=True,
            train_batch_size=1000, eval_batch_size=999, num_train_epochs=1,
            max_seq_length=4, init_bias_from_prior=True, head_learning_rate=1)
  assert any("1 longer than 4 tokens" in line for line in log)
  results = dict(read_results(str(tmp_path / "o")))
  assert results["f1/a = b\tc"] == "1.0" and results["macro_roc_auc"] == "nan"
  assert tiny_bert.read_text(
      str(tmp_path / "o" / "eval_results.txt")).count(
          "left_out_of_macro_roc_auc = a = b\tc\n") == 1
  found, = read_rows(str(tmp_path / "o"))
  assert found["id"] == "test-1" and found["labels"] == ["a = b\tc"]
  assert found["text"] == u"\u732b ||| " + "apple " * 50


def test_empty_texts_many_labels_from_scratch(bert, tmp_path):
  folder = tmp_path / "d"
  folder.mkdir()
  labels = [u"label %d \U0001f600" % i for i in range(1000)]
  tiny_bert.write_text(folder / "labels.txt", u"\n".join(labels))
  for part in ("train", "dev", "test"):
    tiny_bert.write_jsonl(str(folder / (part + ".jsonl")), [
        {"text": text, "labels": labels[i:i + 2]}
        for i, text in enumerate(["", " ", u"\u200b\x00"])])
  log = run(bert, folder, tmp_path / "o", init_checkpoint=None, do_eval=True,
            do_predict=True, num_train_epochs=1, pooling="cls")
  assert any(line.endswith("; 3 empty") for line in log)
  assert any("training from scratch, from random weights" in line
             for line in log)
  assert any("no train example has the labels label 4" in line for line in log)
  table = np.loadtxt(str(tmp_path / "o" / "test_results.tsv"))
  assert table.shape == (3, 1000)
  assert np.abs(table - table[0]).max() < 1e-6
  assert dict(read_results(str(tmp_path / "o")))["left_out_of_"
      "macro_average_precision"].startswith(u"label 4 \U0001f600, label 5")


@pytest.mark.newest
def test_a_relative_output_dir_and_a_split_dev_set(bert, data, tmp_path,
                                                   monkeypatch):
  folder = tmp_path / "d"
  folder.mkdir()
  shutil.copy(os.path.join(data, "train.jsonl"), str(folder))
  monkeypatch.chdir(tmp_path)
  flags = dict(do_eval=True, dev_fraction=0.25, num_train_epochs=1)
  run(bert, "d", "out", **flags)
  count = int(dict(read_results("out"))["num_examples"])
  assert 15 < count < 45
  model = trained_model.read("out")
  assert model.labels == sorted(tiny_bert.LABELS)
  assert checkpoint_choice.latest_checkpoint("out") == "out/model.ckpt-%d" % (
      -(-(120 - count) // 8))


# A run that is there already.


def test_other_settings_are_refused_by_name(copy, bert, data):
  def times():
    return {name: os.stat(os.path.join(copy, name)).st_mtime_ns
            for name in os.listdir(copy) if name != ".lock"}

  before = times()
  message = refused(tiny_bert.arguments(
      bert, data, copy, num_train_epochs=13, learning_rate=0.01,
      random_seed=7, train_batch_size=16, max_train_examples=100,
      warmup_proportion=0.2, head_learning_rate=0.1))
  for words in (
      "num_train_epochs (there 12.0, here 13.0)", "random_seed (there 12345,",
      "learning_rate (there 0.015, here 0.01)", "train_batch_size (there 8,",
      "train_data (there",
      "warmup_proportion (there 0.1, here 0.2)",
      "head_learning_rate (there null, here 0.1)", "--resume=force"):
    assert words in message
  assert "init_checkpoint" not in message and "pooling" not in message
  # That more epochs are not just more steps is said.
  assert "the learning rate decays to 0 at the end of num_train_epochs" in (
      message)
  assert times() == before


@pytest.mark.newest
def test_resume_never_and_force(copy, bert, data):
  assert "--resume=never" in refused(tiny_bert.arguments(
      bert, data, copy, num_train_epochs=12, resume="never"))
  log = run(bert, data, copy, num_train_epochs=12.5, resume="force",
            do_eval=True)
  assert any("changed: num_train_epochs (there 12.0, here 12.5)" in line
             for line in log)
  assert any("resuming from step 180 of 187" in line for line in log)
  assert checkpoint_choice.latest_checkpoint(copy).endswith("model.ckpt-187")
  assert trained_model.read(copy).settings["run"]["num_train_epochs"] == 12.5


def test_other_labels_config_vocabulary_and_model_are_refused(
    copy, bert, data, tmp_path):
  other = tiny_bert.make_data(tmp_path / "d")
  tiny_bert.write_text(os.path.join(other, "labels.txt"),
                       u"".join(x + u"\n" for x in tiny_bert.LABELS[::-1]))
  for flags in ({"do_eval": True}, {"do_predict": True}):
    assert "labels (same labels, different order)" in refused(
        again(copy, other, **flags))
  message = refused(tiny_bert.arguments(
      bert, other, copy, num_train_epochs=12, pooling="cls", max_seq_length=16,
      do_lower_case=False, resume="force"))
  for words in ("labels (same labels", "pooling (there",
                "max_seq_length (there 32, here 16)", "do_lower_case (there"):
    assert words in message
  config = dict(json.loads(tiny_bert.read_text(
      os.path.join(bert, "bert_config.json"))), num_attention_heads=4)
  tiny_bert.write_text(tmp_path / "c.json", json.dumps(config))
  assert "bert_config num_attention_heads (there 2, here 4)" in refused(
      again(copy, data, do_eval=True, bert_config_file=tmp_path / "c.json"))
  vocab = tiny_bert.read_text(os.path.join(bert, "vocab.txt"))
  tiny_bert.write_text(tmp_path / "v.txt", vocab.replace("pear", "peach"))
  assert "vocabulary" in refused(again(
      copy, data, do_eval=True, vocab_file=tmp_path / "v.txt"))
  assert "max_seq_length (there 32, here 31)" in refused(
      again(copy, data, do_predict=True, max_seq_length=31))


def test_a_checkpoint_that_is_gone_is_no_new_beginning(copy, bert, data):
  os.remove(checkpoint_choice.latest_checkpoint(copy) + ".index")
  best = os.path.join(copy, "best_checkpoint.json")
  if os.path.exists(best):
    os.remove(best)
  assert "model.ckpt-180.index is missing" in refused(
      again(copy, data, do_predict=True))
  for prefix in trained_model.list_checkpoints(copy):
    os.remove(prefix + ".index")
  message = refused(tiny_bert.arguments(bert, data, copy, num_train_epochs=12,
                                        do_eval=True))
  assert "has no intact checkpoint to resume from (model.ckpt-180 is" in message


@pytest.mark.parametrize("part", ["do_eval", "do_predict"])
def test_evaluation_before_training(data, tmp_path, part):
  folder = tmp_path / "o"
  assert "has no trained model; train first (--do_train)" in refused(
      again(folder, data, **{part: True}))
  assert not folder.exists()


def test_foreign_output_dir(bert, data, tmp_path):
  (tmp_path / "mine.txt").write_text(u"precious")
  for folder in (tmp_path, data, bert):
    before = sorted(os.listdir(str(folder)))
    assert "not from a training run" in refused(
        tiny_bert.arguments(bert, data, folder))
    assert sorted(os.listdir(str(folder))) == before
  assert "is a file" in refused(
      tiny_bert.arguments(bert, data, tmp_path / "mine.txt"))
  assert "treats as a pattern" in refused(
      tiny_bert.arguments(bert, data, tmp_path / "run[1]"))


# Mistakes in the flags: found before anything is written.


@pytest.mark.newest
@pytest.mark.parametrize("flags,words", [
    ({"do_train": None}, "at least one of --do_train, --do_eval"),
    ({"data_dir": None}, "--data_dir must be given"),
    ({"output_dir": None}, "--output_dir must be given"),
    ({"output_dir": ""}, "--output_dir must be given"),
    ({"bert_config_file": None}, "--bert_config_file must be given"),
    ({"vocab_file": None}, "--vocab_file must be given"),
    ({"task_name": None}, "Give one of --task_name"),
    ({"task_name": "nonsense"}, "no task 'nonsense'"),
    ({"processor": "nothing.py:X"}, "only one"),
    ({"task_name": None, "processor": "nothing.py:X"}, "no file nothing.py"),
    ({"train_batch_size": 0}, "--train_batch_size is 0; it must be 1"),
    ({"eval_batch_size": -1}, "--eval_batch_size is -1"),
    ({"predict_batch_size": 0}, "--predict_batch_size is 0"),
    ({"save_checkpoints_steps": 0}, "--save_checkpoints_steps is 0"),
    ({"log_steps": -5}, "--log_steps is -5"),
    ({"keep_checkpoint_max": -1}, "--keep_checkpoint_max is -1"),
    ({"max_train_examples": -1}, "--max_train_examples is -1"),
    ({"max_train_examples": 2 ** 31},
        "--max_train_examples is 2147483648; it must be at most 2^31 - 1."),
    ({"num_train_epochs": 1e300},
        "--num_train_epochs is 1e+300; it must be at most 2^31 - 1."),
    ({"num_train_epochs": 2e9},
        "--num_train_epochs is 2000000000.0, which makes 30000000000 steps; "
        "the maximum is 2^31 - 1."),
    ({"train_batch_size": 2 ** 63}, "--train_batch_size is 92233720368547758"),
    ({"learning_rate": 0}, "--learning_rate is 0.0; it must be above 0"),
    ({"learning_rate": "nan"}, "--learning_rate is nan"),
    ({"learning_rate": "inf"}, "--learning_rate is inf"),
    ({"head_learning_rate": -1}, "--head_learning_rate is -1"),
    ({"num_train_epochs": -3}, "--num_train_epochs is -3"),
    ({"warmup_proportion": 1.1}, "--warmup_proportion is 1.1"),
    ({"warmup_proportion": "nan"}, "--warmup_proportion is nan"),
    ({"random_seed": -1}, "--random_seed is -1"),
    ({"eval_steps": -1}, "--eval_steps is -1; it must be 0 or more"),
    ({"top_k": -1}, "--top_k is -1; it must be 0 or more"),
    ({"eval_train_sample": -1}, "--eval_train_sample is -1"),
    ({"early_stopping_patience": -1}, "--early_stopping_patience is -1"),
    ({"early_stopping_patience": 2},
        "--early_stopping_patience needs evaluation during training: "
        "--do_train, --do_eval"),
    ({"early_stopping_patience": 2, "do_eval": True, "eval_steps": 0},
     "--early_stopping_patience needs evaluation"),
    ({"eval_train_sample": 2}, "--eval_train_sample needs evaluation"),
    ({"eval_train_sample": 2, "do_eval": True, "do_train": False},
     "--eval_train_sample needs evaluation"),
    ({"metric_for_best": "accuracy"},
        "there is no metric accuracy; choose from brier_score, coverage_error, "
        "ece_equal_mass, ece_equal_width, "),
    ({"metric_for_best": "f1/fruit"}, "or the short names lrap, map"),
    ({"threshold": 1.5}, "--threshold is 1.5; it must be a number from 0 to "
     "1, or one of tune, "),
    ({"threshold": "abc"}, "--threshold is abc; it must be"),
    ({"threshold": "nan"}, "--threshold is nan; it must be"),
    ({"threshold": ""}, "--threshold is ; it must be"),
    ({"threshold": "tune"}, "--threshold=tune needs --do_eval"),
    ({"threshold": "tune_per_label", "do_test": True},
     "--threshold=tune_per_label needs --do_eval"),
    ({"min_precision": 0.5}, "--min_precision needs --threshold=tune or"),
    ({"min_precision": 0.5, "threshold": 0.5}, "--min_precision needs"),
    ({"min_precision": 1.5, "threshold": "tune", "do_eval": True},
     "--min_precision is 1.5; it must be from 0 to 1"),
    ({"min_precision": "nan", "threshold": "tune", "do_eval": True},
     "--min_precision is nan"),
    ({"dev_fraction": 1.5, "do_eval": True}, "--dev_fraction=1.5"),
    ({"text_column": "x"}, "--text_column=x means nothing"),
    ({"max_seq_length": 65}, "--max_seq_length is 65, but the model takes at "
                             "most 64 tokens"),
    ({"max_seq_length": 2}, "--max_seq_length is 2"),
    ({"use_tpu": True}, "--use_tpu: TPUs are not supported"),
    ({"tpu_name": "x"}, "--tpu_name: TPUs are not supported"),
    ({"num_tpu_cores": 8}, "--num_tpu_cores: TPUs are not supported"),
    ({"iterations_per_loop": 8}, "--iterations_per_loop: TPUs are not"),
    ({"nonsense": 1}, "Unknown command line flag 'nonsense'"),
    ({"pooling": "max"}, "pooling"),
    ({"train_batch_size": "many"}, "train_batch_size"),
    ({"resume": "maybe"}, "resume"),
    ({"flagfile": "/nothing/there"}, "/nothing/there"),
    ({"bert_config_file": "/nothing.json"}, "/nothing.json"),
    ({"vocab_file": "/nothing.txt"}, "/nothing.txt"),
    ({"init_checkpoint": "/nothing.ckpt"}, "no checkpoint /nothing.ckpt"),
    ({"data_dir": "/nothing/data"}, "/nothing/data"),
])
def test_mistakes_in_flags(bert, data, tmp_path, flags, words):
  settings = dict({"data_dir": data}, **flags)
  output_dir = settings.pop("output_dir", str(tmp_path / "o"))
  data_dir = settings.pop("data_dir")
  assert words in refused(tiny_bert.arguments(
      bert, data_dir, output_dir, **settings))
  assert os.listdir(str(tmp_path)) == []


def test_an_argument_that_is_no_flag(bert, data, tmp_path):
  line = tiny_bert.arguments(bert, data, tmp_path / "o", do_train=None)
  assert refused(line + ["--do_train", "True"]) == (
      "unexpected argument True; flags begin with --, and a value follows =, "
      "as in --do_train=true.")
  assert refused(line + ["--do_train=maybe"]) == (
      "flag --do_train=maybe: it must be true or false (--help lists the "
      "flags)")


# Mistakes in the files.


def edit(path, *replacements):
  text = tiny_bert.read_text(path)
  for old, new in replacements:
    assert old in text
    text = text.replace(old, new, 1)
  tiny_bert.write_text(path, text)


@pytest.mark.newest
@pytest.mark.parametrize("name,content,words", [
    ("train.jsonl", None, "none of train.jsonl"),
    ("dev.jsonl", None, "has no dev set"),
    ("test.jsonl", None, "none of test.jsonl"),
    ("train.jsonl", u"", "train.jsonl holds no examples"),
    ("dev.jsonl", u'{"text": "x", "labels": []}\n{"text": ',
     "dev.jsonl:2: broken JSON"),
    ("dev.jsonl", u'{"text": "x", "labels": ["zebra"]}\n',
     "dev.jsonl:1: example 'dev-1': label 'zebra' is not one of the 3"),
    ("test.jsonl", u'{"text": "x", "labels": ["zebra"]}\n',
     "label 'zebra' is not one of"),
    ("dev.jsonl", u'{"text": "x"}\n', 'no key "labels"'),
    ("train.jsonl", u'{"text": 3, "labels": []}\n', '"text" is a number'),
    ("train.jsonl", b'{"text": "\xff", "labels": []}\n', "train.jsonl:1"),
    ("labels.txt", u"", "labels.txt"),
    ("labels.txt", u"fruit\nfruit\n", "labels.txt"),
    ("labels.txt", u"fruit\n\nx\n", "labels.txt"),
])
def test_mistakes_in_the_data(bert, tmp_path, name, content, words):
  folder = tiny_bert.make_data(tmp_path / "d", sizes=(3, 3, 3))
  path = os.path.join(folder, name)
  os.remove(path)
  if content is not None:
    with open(path, "wb") as writer:
      writer.write(content if isinstance(content, bytes) else
                   content.encode("utf-8"))
  assert words in refused(tiny_bert.arguments(
      bert, folder, tmp_path / "o", do_eval=True, do_predict=True))
  assert not (tmp_path / "o").exists()


def test_pairs_need_four_tokens(bert, tmp_path):
  folder = tiny_bert.make_data(tmp_path / "d", sizes=(3, 3, 3))
  tiny_bert.write_jsonl(os.path.join(folder, "train.jsonl"), [
      {"text": "a", "text_pair": "b", "labels": ["fruit"]}])
  assert "--max_seq_length is 3; pairs of texts need at least 4" in refused(
      tiny_bert.arguments(bert, folder, tmp_path / "o", max_seq_length=3))
  assert not (tmp_path / "o").exists()


@pytest.mark.newest
@pytest.mark.parametrize("name,replacement,words", [
    ("vocab.txt", (u"[CLS]\n", u"[cls]\n"), "lacks [CLS]"),
    ("vocab.txt", (u"one\n", u"one\ntwo\n"), "33 tokens"),
    ("bert_config.json", (u', "vocab_size": 32', u""), "vocab_size"),
    ("bert_config.json", (u'"hidden_act"', u'"hiden_act"'),
     'unknown key "hiden_act"'),
    ("bert_config.json", (u'"hidden_size": 16', u'"hidden_size": 17'),
     "hidden"),
    ("bert_config.json", (u'"hidden_size": 16', u'"hidden_size": 32'),
     "[16], but the model needs bert/embeddings/LayerNorm/beta with shape "
     "[32]"),
    ("bert_config.json", (u'"num_hidden_layers": 1',
                          u'"num_hidden_layers": 2'),
     "has 1 layer, but bert_config_file says num_hidden_layers is 2"),
    ("bert_config.json", (u"{", u"["), "bert_config.json"),
    ("bert_model.ckpt.index", None, "bert_model.ckpt"),
])
def test_mistakes_in_the_model(bert, data, tmp_path, name, replacement, words):
  folder = str(tmp_path / "bert")
  shutil.copytree(bert, folder)
  if replacement:
    edit(os.path.join(folder, name), replacement)
  else:
    with open(os.path.join(folder, name), "wb") as writer:
      writer.write(b"nonsense")
  assert words in refused(tiny_bert.arguments(folder, data, tmp_path / "o"))
  assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("factor, words", [
    (np.nan, "has NaN or infinite weights in bert/embeddings/word_"),
    (0, "has only zeros in bert/embeddings/word_embeddings")])
def test_weights_that_nothing_can_start_from(bert, data, tmp_path, factor,
                                             words):
  folder = str(tmp_path / "bert")
  shutil.copytree(bert, folder)
  prefix = os.path.join(folder, "bert_model.ckpt")
  weights = tiny_bert.read_weights(prefix)
  weights["bert/embeddings/word_embeddings"] *= np.float32(factor)
  tiny_bert.write_weights(prefix, weights)
  assert words in refused(tiny_bert.arguments(folder, data, tmp_path / "o"))
  assert not (tmp_path / "o").exists()


# As a process.


def test_the_process(bert, data, tmp_path):
  folder = tmp_path / "elsewhere"
  folder.mkdir()
  lines = tiny_bert.arguments(bert, data, "out", num_train_epochs=1,
                              do_predict=True, log_steps=5)
  tiny_bert.write_text(folder / "flags.txt",
                       u"# my flags\n" + u"\n".join(lines))
  status, stdout, stderr = tiny_bert.run_script(
      "run_multilabel_classifier.py", ["--flagfile=flags.txt"],
      cwd=str(folder))
  assert (status, stdout) == (0, ""), stderr
  assert sorted(os.listdir(str(folder))) == ["flags.txt", "out"]
  # Each line is the program's own: a clock and what it says.
  for line in stderr.splitlines():
    assert re.match(r"\d\d:\d\d:\d\d +\S", line), line
  assert [line.split()[2] for line in stderr.splitlines()
          if " step " in line and "examples/s" in line] == [
              "5/15", "10/15", "15/15"]
  settings = trained_model.read(str(folder / "out")).settings
  assert settings["flags"]["num_train_epochs"] == 1.0
  assert settings["flags"]["data_dir"] == data
  assert "use_tpu" in settings["flags"]


@pytest.mark.newest
def test_the_process_ends_with_2_and_one_line(data, tmp_path):
  status, stdout, stderr = tiny_bert.run_script(
      "run_multilabel_classifier.py", again("o", data, do_predict=True),
      cwd=str(tmp_path))
  assert (status, stdout) == (2, "")
  assert stderr == (
      "run_multilabel_classifier.py: output_dir o has no trained model; train "
      "first (--do_train).\n")
  assert os.listdir(str(tmp_path)) == []


def test_help():
  status, stdout, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, ["--help"])
  assert (status, stderr) == (0, "")
  heads = [line[:-1] for line in stdout.splitlines()
           if line.endswith(":") and not line.startswith(" ")]
  assert heads == ["Data", "Model", "Run", "Loss", "Evaluation and labels",
                   "Of google-research/bert, not supported here", "Other"]
  for flag in (
      "--data_dir", "--bert_config_file", "--task_name", "--vocab_file",
      "--output_dir", "--init_checkpoint", "--[no]do_lower_case=true",
      "--max_seq_length=128", "--[no]do_train=false", "--[no]do_eval=false",
      "--[no]do_predict=false", "--train_batch_size=32",
      "--eval_batch_size=8", "--predict_batch_size=8", "--learning_rate=5e-05",
      "--num_train_epochs=3.0", "--warmup_proportion=0.1",
      "--save_checkpoints_steps=1000", "--[no]use_tpu=false",
      "--[no]do_test=false", "--loss=sigmoid", "--threshold=0.5",
      "--long_text=truncate_head", "--stride", "--window_pooling=max",
      "--eval_steps", "--metric_for_best=micro_f1",
      "--early_stopping_patience=0", "--[no]report"):
    assert "\n  %s\n" % flag in stdout, flag
  assert max(map(len, stdout.splitlines())) <= 80
  assert "alsologtostderr" not in stdout


def test_debug_shows_where_it_failed(bert, data, tmp_path):
  line = tiny_bert.arguments(bert, data, tmp_path / "o", log_steps=0)
  status, _, stderr, _ = call(line + ["--debug"])
  assert status == 2
  assert stderr.startswith("Traceback") and "check_flags" in stderr
  assert stderr.splitlines()[-1] == PROGRAM + refused(line)


# The original's names.


def test_names_of_the_original_are_reachable():
  for name in ("create_model", "model_fn_builder", "InputExample",
               "PaddingInputExample", "InputFeatures", "DataProcessor",
               "convert_single_example", "convert_examples_to_features",
               "file_based_convert_examples_to_features",
               "file_based_input_fn_builder", "input_fn_builder",
               "_truncate_seq_pair", "main"):
    assert callable(getattr(run_multilabel_classifier, name)), name


def test_plan_training():
  class Flags(object):
    train_batch_size, num_train_epochs, warmup_proportion = 32, 3.0, 0.1

  plan = finetuning.plan_training
  assert plan(100, Flags) == (12, 1, 4)
  assert plan(96, Flags) == (9, 0, 3)
  Flags.num_train_epochs = 0.01
  assert plan(1, Flags) == (1, 0, 1)


@pytest.mark.newest
@pytest.mark.parametrize("is_new", [True, False])
def test_the_directory_is_read_once(is_new, bert, data, learned, tmp_path,
                                    monkeypatch):
  output_dir = str(tmp_path / "out")
  if not is_new:
    shutil.copytree(learned[0], output_dir)
  made = {"settings": 0, "plan": 0, "dev": 0}

  def counting(name, function):
    def call_it(*args, **kwargs):
      made[name] += 1
      return function(*args, **kwargs)
    return call_it

  monkeypatch.setattr(
      model_settings, "read_settings",
      counting("settings", model_settings.read_settings))
  monkeypatch.setattr(finetuning, "plan_training",
                      counting("plan", finetuning.plan_training))
  monkeypatch.setattr(dev_evaluation, "DevEvaluation",
                      counting("dev", dev_evaluation.DevEvaluation))
  run(bert, data, output_dir, num_train_epochs=12, do_eval=True,
      do_predict=True, threshold="tune")
  assert made == {"settings": 0 if is_new else 1, "plan": 1, "dev": 1}


@pytest.mark.newest
def test_changed_data_are_told_by_file_and_count(bert, data, tmp_path):
  mine, output_dir = str(tmp_path / "mine"), str(tmp_path / "out")
  shutil.copytree(data, mine)
  assert tiny_bert.prepare(tiny_bert.arguments(
      bert, mine, output_dir, num_train_epochs=0.1))[0] == 0
  path = os.path.join(mine, "train.jsonl")
  lines = tiny_bert.read_text(path).splitlines()
  tiny_bert.write_text(path, u"\n".join(lines[:-1]) + u"\n")
  os.utime(path, (1500000000, 1500000000))
  message = refused(tiny_bert.arguments(
      bert, mine, output_dir, num_train_epochs=0.1))
  assert "train_data (there %d texts, here %d; train.jsonl was " \
      "written 2017-07-1" % (len(lines), len(lines) - 1) in message
