# SPDX-License-Identifier: Apache-2.0
"""Tests of results: scores, thresholds found on dev, and their files."""

import builtins
import json
import os

from absl import logging
import numpy as np
import pytest
import tiny_bert

from multilabel import bootstrap
from multilabel import decisions
from multilabel.reporting import report
from multilabel.training import evaluation
import processors
from processors import unlabelled
import run_multilabel_classifier


LABELS = ["a", u"\u4e8c", "c d"]
RULE = decisions.DecisionRule


def make_outputs(size=60, seed=1, labels=3):
  """Outputs that are right more often than not."""
  random = np.random.RandomState(seed)
  truth = random.random_sample([size, labels]) < 0.4
  logits = np.where(truth, 1.0, -1.0) + random.normal(0, 1.5, truth.shape)
  return evaluation.Outputs(0.25, truth, (1 / (1 + np.exp(-logits))).astype(
      np.float32))


def f1(truth, chosen):
  return 2.0 * (truth & chosen).sum() / (truth.sum() + chosen.sum())


@pytest.fixture
def log(monkeypatch):
  """What is logged: list of (level, line)."""
  lines = []
  monkeypatch.setattr(logging, "log", lambda level, form, *args: lines.append(
      (level, form % args)))
  monkeypatch.setattr(logging, "warning", lambda form, *args: lines.append(
      (logging.WARNING, form % args)))
  monkeypatch.setattr(logging, "info", lambda form, *args: lines.append(
      (logging.INFO, form % args)))
  return lines


# Scores.


SCORES = sorted(
    ["num_examples", "num_examples_without_positive", "loss",
     "subset_accuracy", "hamming_loss",
     "weighted_f1", "samples_f1", "samples_f1_present",
     "label_ranking_average_precision",
     "coverage_error", "ranking_loss", "brier_score", "log_loss",
     "ece_equal_width", "ece_equal_mass"] +
    [average + "_" + score for average in ("micro", "macro")
     for score in ("precision", "recall", "f1", "average_precision",
                   "roc_auc")] +
    [score + "_at_%d" % k for score in ("precision", "recall")
     for k in (1, 3, 5)] +
    ["f1/" + label for label in LABELS])

AT_ONE_HALF = sorted(
    [average + "_" + score + "_at_0.5" for average in ("micro", "macro")
     for score in ("precision", "recall", "f1")] +
    ["weighted_f1_at_0.5", "samples_f1_at_0.5", "subset_accuracy_at_0.5",
     "hamming_loss_at_0.5"])

INTERVALS = sorted(
    score + side for score in ("micro_f1", "macro_f1",
                               "macro_average_precision")
    for side in ("_low", "_high"))


def test_results_at_one_half():
  outputs = make_outputs()
  found = evaluation.results(outputs, RULE(0.5), LABELS)
  assert sorted(found) == sorted(SCORES + INTERVALS + ["threshold"])
  assert (found["threshold"], found["loss"]) == (0.5, 0.25)
  assert found["num_examples"] == 60
  chosen = outputs.probabilities >= 0.5
  assert found["micro_f1"] == pytest.approx(f1(outputs.labels, chosen))
  for score in ("micro_f1", "macro_f1", "macro_average_precision"):
    low, high = found[score + "_low"], found[score + "_high"]
    assert low < found[score] < high and high - low < 0.4
  exact = outputs.probabilities.astype(np.float64)
  truth = outputs.labels
  assert found["log_loss"] == pytest.approx(
      -np.mean(np.where(truth, np.log(exact), np.log(1 - exact))))
  assert found["brier_score"] == pytest.approx(np.mean((exact - truth) ** 2))
  top = exact.argmax(axis=1)
  assert found["precision_at_1"] == pytest.approx(
      np.mean([row[i] for row, i in zip(truth, top)]))


def test_results_at_another_threshold():
  outputs = make_outputs()
  found = evaluation.results(outputs, RULE(0.25), LABELS)
  assert sorted(found) == sorted(
      SCORES + INTERVALS + AT_ONE_HALF + ["threshold"])
  assert found["micro_f1"] == pytest.approx(
      f1(outputs.labels, outputs.probabilities >= 0.25))
  plain = evaluation.results(outputs, RULE(0.5), LABELS)
  for key in AT_ONE_HALF:
    assert found[key] == plain[key[:-len("_at_0.5")]]
  for key in ("macro_average_precision", "micro_roc_auc", "ranking_loss"):
    assert found[key] == plain[key]
  assert found["micro_f1"] != found["micro_f1_at_0.5"]
  assert found["micro_f1_low"] < found["micro_f1"] < found["micro_f1_high"]


def test_results_with_a_threshold_a_label():
  outputs = make_outputs()
  thresholds = [0.2, 0.5, 0.75]
  found = evaluation.results(outputs, RULE(thresholds), LABELS)
  assert found["threshold"] == "one per label"
  assert [found["threshold/" + label] for label in LABELS] == thresholds
  assert sorted(found) == sorted(
      SCORES + INTERVALS + AT_ONE_HALF + ["threshold"] +
      ["threshold/" + label for label in LABELS])
  for column, label in enumerate(LABELS):
    assert found["f1/" + label] == pytest.approx(f1(
        outputs.labels[:, column],
        outputs.probabilities[:, column] >= thresholds[column]))


def test_results_of_other_rules():
  outputs = make_outputs()
  one = np.zeros_like(outputs.labels)
  one[np.arange(60), outputs.probabilities.argmax(axis=1)] = True
  # At most one, at least one: the most probable one.
  found = evaluation.results(outputs, RULE(0.5, 1, True), LABELS)
  assert found["micro_f1"] == pytest.approx(f1(outputs.labels, one))
  assert (found["top_k"], found["always_one_label"]) == (1, True)
  found = evaluation.results(outputs, RULE(0.5, 1), LABELS)
  assert found["micro_f1"] == pytest.approx(
      f1(outputs.labels, one & (outputs.probabilities >= 0.5)))
  assert found["top_k"] == 1 and "always_one_label" not in found
  # The interval is that of these decisions, as of any 0 and 1.
  expected = bootstrap.bootstrap_intervals(
      outputs.labels, (one & (outputs.probabilities >= 0.5)).astype(np.float32))
  for key in ("micro_f1", "macro_f1"):
    assert found[key + "_low"] == expected[key]["low"] < found[key]
    assert found[key + "_high"] == expected[key]["high"] > found[key]
  assert found["macro_average_precision_low"] < (
      found["macro_average_precision"])
  assert found["micro_f1_at_0.5"] == pytest.approx(
      f1(outputs.labels, outputs.probabilities >= 0.5))


def test_labels_named_like_scores():
  names = ["x_f1", "high_precision", "hamming_loss"]
  found = evaluation.results(make_outputs(), RULE(0.3), names)
  assert [key for key in sorted(found) if "/" in key] == [
      "f1/hamming_loss", "f1/high_precision", "f1/x_f1"]


def test_undefined_scores_are_named():
  outputs = make_outputs()
  outputs.labels[:, 1] = False
  outputs.labels[:, 2] = True
  found = evaluation.results(outputs, RULE(0.5), LABELS)
  assert found["left_out_of_macro_average_precision"] == LABELS[1]
  assert found["left_out_of_macro_roc_auc"] == ", ".join(LABELS[1:])
  assert found["f1/" + LABELS[1]] == 0


def test_large_results_have_no_intervals(monkeypatch):
  monkeypatch.setattr(bootstrap, "bootstrap_intervals", None)
  outputs = make_outputs(size=evaluation.MAX_BOOTSTRAP_CELLS // 3 + 1)
  found = evaluation.results(outputs, RULE(0.5), LABELS)
  assert sorted(found) == sorted(SCORES + ["threshold"])


def test_write_results(tmp_path, log):
  found = evaluation.results(make_outputs(), RULE(0.5), LABELS)
  for part, name in (("dev", "eval_results.txt"),
                     ("test", "test_eval_results.txt")):
    evaluation.write_results(part, found, 120, str(tmp_path))
    lines = tiny_bert.read_text(tmp_path / name).splitlines()
    assert lines == sorted(lines)
    values = dict(line.rpartition(" = ")[::2] for line in lines)
    assert sorted(values) == sorted(list(found) + ["global_step"])
    assert values["global_step"] == "120"
    assert float(values["micro_f1"]) == found["micro_f1"]
    assert (logging.INFO, "***** Evaluation on %s: %s *****" % (
        part, tmp_path / name)) in log
    content = json.loads(tiny_bert.read_text(
        tmp_path / name.replace(".txt", ".json")))
    assert content == dict(found, global_step=120)
  assert len(log) == 2


def test_undefined_scores_are_null_in_json(tmp_path):
  outputs = make_outputs()
  outputs.labels[:] = False
  found = evaluation.results(outputs, RULE([0.2, 0.5, 0.75], 2, True), LABELS)
  evaluation.write_results("dev", found, 1, str(tmp_path))
  content = json.loads(tiny_bert.read_text(tmp_path / "eval_results.json"))
  assert sorted(content) == sorted(list(found) + ["global_step"])
  assert content["macro_roc_auc"] is None and np.isnan(found["macro_roc_auc"])
  assert content["threshold"] == "one per label"
  assert content["always_one_label"] is True and content["top_k"] == 2
  for key, value in content.items():
    if isinstance(value, float):
      assert value == found[key]


def test_table_of_results(log):
  dev = evaluation.results(make_outputs(), RULE(0.5), LABELS)
  test = evaluation.results(make_outputs(seed=2), RULE([0.1, 0.2, 0.3]), LABELS)
  evaluation.log_table({"test": test, "dev": dev})
  lines = [line for _, line in log]
  assert len(lines) == 10 and max(map(len, lines)) < 80
  assert lines[0].split() == ["dev", "test"]
  assert lines[1].split() == ["micro_f1"] + [
      word for scores in (dev, test) for word in (
          "%.4f (%.4f to %.4f)" % (
              scores["micro_f1"], scores["micro_f1_low"],
              scores["micro_f1_high"])).split()]
  assert lines[-1].split() == ["threshold", "0.5000", "one", "per", "label"]
  assert {line.rindex("%.4f" % test["loss"]) for line in lines
          if line.startswith("  loss")} == {lines[0].index("test")}
  del log[:]
  evaluation.log_table({"dev": dev})
  assert [line[:lines[0].index("test")].rstrip() for line in lines] == [
      line for _, line in log]


def test_scores_on_the_way():
  outputs = make_outputs()
  made = evaluation.dev_scores(outputs, LABELS)
  found = evaluation.results(outputs, RULE(0.5), LABELS)
  assert sorted(made.values) == evaluation.metric_names()
  for name, value in made.values.items():
    assert value == found[name]
  tags = [value.tag for summary in made.summaries for value in summary.value]
  assert sorted(tags) == sorted(
      [evaluation.scalar_tag(name) for name in made.values] +
      ["pr_curves/all"] + ["pr_curves/label/" + label for label in LABELS])
  sample = evaluation.dev_scores(outputs, LABELS, "train_")
  assert sample.values == {
      "train_" + name: value for name, value in made.values.items()}
  assert sorted(value.tag for summary in sample.summaries
                for value in summary.value) == sorted(
                    "train/" + name for name in made.values)


def test_undefined_scores_draw_no_point():
  outputs = make_outputs()
  outputs.labels[:] = False
  made = evaluation.dev_scores(outputs, LABELS)
  assert np.isnan(made.values["macro_roc_auc"])
  tags = [value.tag for summary in made.summaries for value in summary.value]
  assert "more_dev/macro_roc_auc" not in tags and "dev/micro_f1" in tags


def test_many_labels_have_so_many_curves():
  names = ["label %d" % i for i in range(70)]
  made = evaluation.dev_scores(make_outputs(9, labels=70), names)
  curves = [value for summary in made.summaries for value in summary.value
            if value.tag.startswith("pr_curves/")]
  assert len(curves) == 51
  assert curves[50].metadata.display_name == "label 49"


def test_metric_names():
  assert evaluation.full_metric_name("micro_f1") == "micro_f1"
  assert evaluation.full_metric_name("map") == "macro_average_precision"
  assert evaluation.full_metric_name("lrap") == (
      "label_ranking_average_precision")
  with pytest.raises(ValueError) as raised:
    evaluation.full_metric_name("accuracy")
  for name in ("accuracy", "micro_f1", "macro_f1", "loss", "hamming_loss",
               "macro_average_precision", "lrap, map"):
    assert name in str(raised.value)
  assert not [name for name in evaluation.metric_names()
              if "/" in name or name.startswith("num_")]


# Thresholds.


def test_tune_is_the_best_of_all_cuts(log):
  outputs = make_outputs()
  before = RULE(0.9, 2, True)
  found = evaluation.tune(outputs, before, "tune", LABELS)
  assert found[1:] == (2, True) and isinstance(found.thresholds, float)
  best = max(f1(outputs.labels, outputs.probabilities >= cut)
             for cut in outputs.probabilities.ravel())
  assert f1(outputs.labels, outputs.probabilities >= np.float32(
      found.thresholds)) == best
  assert best > f1(outputs.labels, outputs.probabilities >= 0.5)
  assert not log


def test_tune_per_label(log):
  outputs = make_outputs()
  found = evaluation.tune(outputs, RULE(0.5, 1), "tune_per_label", LABELS)
  middle = evaluation.tune(outputs, RULE(), "tune", LABELS).thresholds
  assert found.top_k == 1 and len(found.thresholds) == 3
  for column, threshold in enumerate(found.thresholds):
    truth = outputs.labels[:, column]
    scores = outputs.probabilities[:, column]
    best = max(f1(truth, scores >= cut) for cut in scores)
    # Its own cut, drawn to the global one as by 10 positives.
    own = ((truth.sum() + 10) * threshold - 10 * middle) / truth.sum()
    assert f1(truth, scores >= own) == pytest.approx(best)
  assert json.loads(json.dumps(found.thresholds)) == found.thresholds
  assert not log


def test_tune_without_positives_falls_back_and_says_so(log):
  outputs = make_outputs()
  outputs.labels[:, [0, 2]] = False
  found = evaluation.tune(outputs, RULE(), "tune_per_label", LABELS)
  middle = evaluation.tune(outputs, RULE(), "tune", LABELS).thresholds
  assert found.thresholds[0] == found.thresholds[2] == middle
  assert log == [(logging.WARNING,
                  "Labels with no positive on dev; their threshold is the "
                  "global one, %.4g: a, c d" % middle)]
  del log[:]
  outputs.labels[:] = False
  assert evaluation.tune(outputs, RULE(0.9), "tune", LABELS).thresholds == 0.5
  assert log == [(logging.WARNING,
                  "dev has no labels at all: the threshold stays 0.5")]


def test_tune_to_a_precision(log):
  outputs = make_outputs()
  found = evaluation.tune(outputs, RULE(), "tune", LABELS, 0.8)
  chosen = outputs.probabilities >= np.float32(found.thresholds)
  precision = (chosen & outputs.labels).sum() / float(chosen.sum())
  assert precision >= 0.8
  assert f1(outputs.labels, chosen) == max(
      f1(outputs.labels, decided) for decided in (
          outputs.probabilities >= cut for cut in
          outputs.probabilities.ravel())
      if (decided & outputs.labels).sum() >= 0.8 * decided.sum())
  assert not log
  # The most probable cell of a label is wrong: no cut is right always.
  outputs.labels[outputs.probabilities[:, 1].argmax(), 1] = False
  found = evaluation.tune(outputs, RULE(), "tune_per_label", LABELS, 1.0)
  assert log == [(logging.WARNING,
                  u"Labels with no threshold with --min_precision=1.0; theirs "
                  u"comes nearest: \u4e8c")]
  for column in (0, 2):
    chosen = outputs.probabilities[:, column] >= np.float32(
        found.thresholds[column])
    assert chosen.any() and outputs.labels[chosen, column].all()


def test_tune_to_a_precision_that_none_reaches(log):
  outputs = make_outputs()
  best = np.unravel_index(outputs.probabilities.argmax(), (60, 3))
  outputs.labels[best] = False
  evaluation.tune(outputs, RULE(), "tune", LABELS, 1.0)
  assert len(log) == 1 and log[0][0] == logging.WARNING
  assert "no threshold reaches --min_precision=1.0 on dev" in log[0][1]


# Predictions.


def example(guid, text_a, text_b=None, labels=None):
  return processors.InputExample(guid, text_a, text_b, labels)


def line_of(*args, **keywords):
  chosen = keywords.pop("chosen", [False, True])
  shorten_texts = keywords.pop("shorten_texts", False)
  line = evaluation.prediction_line(
      example(*args, **keywords), np.array([0.25, 0.75], np.float32), chosen,
      ["x", "y"], shorten_texts=shorten_texts)
  assert line.endswith("\n") and line.count("\n") == 1
  return json.loads(line)


def test_prediction_line():
  assert line_of("1", u"\U0001f600", "b") == {
      "id": "1", "text": u"\U0001f600 ||| b", "labels": ["y"],
      "probabilities": {"x": 0.25, "y": 0.75}}
  assert line_of(np.int64(7), u"a\ud800")["id"] == "7"
  assert line_of(7, u"a\ud800")["text"] == "a?"
  assert line_of(7, "t" * 200)["text"] == "t" * 200
  assert line_of(7, "t" * 201)["text"] == "t" * 201
  assert line_of(7, "t" * 200, shorten_texts=True)["text"] == "t" * 200
  assert line_of(7, "t" * 201, shorten_texts=True)["text"] == (
      "t" * 199 + u"\u2026")


def test_prediction_line_with_true_labels():
  # In the order of the outputs, each once.
  assert line_of("1", "a", labels=("y", "x", "y"))["true_labels"] == ["x", "y"]
  assert line_of("1", "a", labels=())["true_labels"] == []
  assert "true_labels" not in line_of("1", "a", labels=None)
  assert list(line_of("1", "a", labels=())) == [
      "id", "text", "labels", "true_labels", "probabilities"]


def write_two(folder, table, fail=False):
  examples = iter([example(str(i), "text %d" % i, None, ("y",))
                   for i in range(3)])
  with evaluation.PredictionWriter("test", RULE(0.6), ["x", "y"], str(folder),
                                   table) as writer:
    writer.write(examples, np.array([[0.7, 0.1], [0.6, 0.5]], np.float32))
    if fail:
      raise ValueError("broken")
    writer.write(examples, np.array([[0.1, 0.2]], np.float32))


def test_prediction_writer(tmp_path):
  write_two(tmp_path, True)
  rows = [json.loads(line) for line in tiny_bert.read_text(
      tmp_path / "test_predictions.jsonl").splitlines()]
  # 0.6 as a float32 is above 0.6; the threshold is rounded likewise.
  assert [(row["id"], row["labels"]) for row in rows] == [
      ("0", ["x"]), ("1", ["x"]), ("2", [])]
  assert tiny_bert.read_text(tmp_path / "test_results.tsv") == (
      "0.69999999\t0.1\n0.60000002\t0.5\n0.1\t0.2\n")
  assert tiny_bert.read_text(tmp_path / "test_predictions.csv") == (
      "id,text,labels,true_labels,x,y\n0,text 0,x,y,0.69999999,0.1\n"
      "1,text 1,x,y,0.60000002,0.5\n2,text 2,,y,0.1,0.2\n")
  assert sorted(os.listdir(str(tmp_path))) == [
      "test_predictions.csv", "test_predictions.jsonl", "test_results.tsv"]


@pytest.mark.parametrize("made, labels, expected", [
    ([("1", u'a "b",\n\u732b', None, None)], ["x", "y"],
     u'id,text,labels,x,y\n1,"a ""b"",\n\u732b",y,0.25,0.75\n'),
    ([(7, "a", "b", ("x", "y")), (8, "t" * 201, "", ())], ["x", "y"],
     u"id,text,text_pair,labels,true_labels,x,y\n7,a,b,y,\"x,y\",0.25,0.75\n"
     u"8,%s\u2026,,y,,0.25,0.75\n" % ("t" * 199)),
    ([("1", "a", None, ("p, q",))], ["p, q", "text"],
     u'id,text,labels,true_labels,"p, q",text (probability)\n'
     u'1,a,"[""text""]","[""p, q""]",0.25,0.75\n')])
def test_table_of_predictions(made, labels, expected, tmp_path):
  with evaluation.PredictionWriter("test", RULE(0.5), labels, str(tmp_path),
                                   True, shorten_texts=True) as writer:
    writer.write((example(*row) for row in made),
                 np.array([[0.25, 0.75]] * len(made), np.float32))
  assert tiny_bert.read_text(tmp_path / "test_predictions.csv") == expected
  rows = list(unlabelled.read_texts(str(tmp_path / "test_predictions.csv")))
  assert [row[0] for row in rows] == [str(row[0]) for row in made]


def test_predictions_that_fail_leave_the_old_ones(tmp_path):
  write_two(tmp_path, False)
  before = tiny_bert.read_text(tmp_path / "test_predictions.jsonl")
  with pytest.raises(ValueError, match="broken"):
    write_two(tmp_path, True, fail=True)
  assert os.listdir(str(tmp_path)) == ["test_predictions.jsonl"]
  assert tiny_bert.read_text(tmp_path / "test_predictions.jsonl") == before


def test_predictions_of_dev(tmp_path):
  outputs = make_outputs(4)
  evaluation.write_predictions(
      "dev", [example(str(i), "t", None, ()) for i in range(4)], outputs,
      RULE([0.1, 0.5, 0.9]), LABELS, str(tmp_path))
  assert os.listdir(str(tmp_path)) == ["eval_predictions.jsonl"]
  rows = [json.loads(line) for line in tiny_bert.read_text(
      tmp_path / "eval_predictions.jsonl").splitlines()]
  for row, values in zip(rows, outputs.probabilities):
    assert list(row["probabilities"].values()) == pytest.approx(
        values.tolist(), abs=1e-6)
    assert row["labels"] == [
        label for label, value, threshold in zip(LABELS, values,
                                                 [0.1, 0.5, 0.9])
        if value >= threshold]


# The report.


@pytest.fixture
def no_matplotlib(monkeypatch):
  """An installation without it."""
  imports = builtins.__import__

  def refuse(name, *args, **keywords):
    if name.split(".")[0] == "matplotlib":
      raise ImportError("No module named 'matplotlib'")
    return imports(name, *args, **keywords)

  monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("wanted,level", [
    (None, logging.INFO), (True, logging.WARNING)])
def test_report_without_matplotlib(tmp_path, log, no_matplotlib, wanted,
                                   level):
  run_multilabel_classifier.write_report(str(tmp_path), wanted)
  (found, line), = log
  assert found == level
  assert line.startswith("No report.html: ") and "pip install" in line
  assert "\n" not in line and "matplotlib" in line
  assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("wanted,count", [(None, 1), (True, 1), (False, 0)])
def test_whether_a_report_is_written(tmp_path, log, monkeypatch, wanted,
                                     count):
  monkeypatch.setattr(report, "write",
                      lambda folder, *unused_args: folder + "/report.html")
  run_multilabel_classifier.write_report(str(tmp_path), wanted)
  assert log == [(logging.INFO, "***** Report: %s/report.html *****" %
                  tmp_path)] * count
