# SPDX-License-Identifier: Apache-2.0
"""Tests of the losses, as the program trains with them."""

import json
import os

import numpy as np
import pytest
import tiny_bert

import run_multilabel_classifier


# Of 40 texts; all three labels are on in some, none in others.
TRAIN_SIZE = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"),
                             sizes=(TRAIN_SIZE, 20, 1))


def call(*args, **flags):
  return tiny_bert.call(run_multilabel_classifier, tiny_bert.arguments(
      *args, **dict({"do_eval": True, "num_train_epochs": 12}, **flags)))


def refused(*args, **flags):
  """Must fail with one sentence, which it returns."""
  status, stdout, stderr, _ = call(*args, **flags)
  assert (status, stdout) == (2, "") and stderr.count("\n") == 1, stderr
  return stderr


def read_results(output_dir):
  return tiny_bert.read_text(os.path.join(str(output_dir),
                                          "eval_results.txt"))


def read_loss(output_dir):
  return float(dict(line.rpartition(" = ")[::2] for line in read_results(
      output_dir).splitlines())["loss"])


def read_predictions(output_dir):
  rows = [json.loads(line) for line in tiny_bert.read_text(os.path.join(
      str(output_dir), "eval_predictions.jsonl")).splitlines()]
  truth = np.array([[label in row["true_labels"]
                     for label in tiny_bert.LABELS] for row in rows])
  return truth, np.array([[row["probabilities"][label]
                           for label in tiny_bert.LABELS] for row in rows])


def parameters(output_dir):
  settings = json.loads(tiny_bert.read_text(
      os.path.join(str(output_dir), "model_settings.json")))
  return settings["loss"], settings["run"]["loss_parameters"]


def prior_weights(cap):
  """negatives / positives of each label of train."""
  rows = tiny_bert.make_rows(TRAIN_SIZE, 2)  # those of make_data
  counts = [sum(label in row["labels"] for row in rows)
            for label in tiny_bert.LABELS]
  return [min(max((TRAIN_SIZE - count) / float(count), 1.0 / cap), cap)
          for count in counts]


def cross_entropy(y, p):
  return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def smoothed(y, p):
  return cross_entropy(0.8 * y + 0.1, p)


def weighted(weights):
  return lambda y, p: -(y * np.array(weights) * np.log(p) +
                        (1 - y) * np.log(1 - p))


def focal(y, p):
  # gamma 1, alpha 0.3: Lin et al. 2017, equation 5.
  return -(y * 0.3 * (1 - p) * np.log(p) +
           (1 - y) * 0.7 * p * np.log(1 - p))


def asymmetric(y, p):
  # Ridnik et al. 2021, equation 7, with 1, 2 and a shift of 0.1.
  shifted = np.maximum(p - 0.1, 0)
  return -(y * (1 - p) * np.log(p) +
           (1 - y) * shifted ** 2 * np.log(1 - shifted))


FILE_WEIGHTS = {"fruit": 0.2, tiny_bert.LABELS[2]: 0.5, "party time": 1}

LOSSES = {
    "smoothed": ({"label_smoothing": 0.2}, smoothed,
                 ("sigmoid", {"label_smoothing": 0.2})),
    "weighted": ({"loss": "weighted", "pos_weight_cap": 1.8},
                 weighted(prior_weights(1.8)),
                 ("weighted", {"label_smoothing": 0.0,
                               "pos_weight": prior_weights(1.8)})),
    "weighted by a file": (
        {"loss": "weighted", "pos_weight_file": "weights.json"},
        weighted([1, 0.2, 0.5]),
        ("weighted", {"label_smoothing": 0.0, "pos_weight": [1.0, 0.2, 0.5]})),
    "focal": ({"loss": "focal", "focal_gamma": 1, "focal_alpha": 0.3}, focal,
              ("focal", {"label_smoothing": 0.0, "gamma": 1.0,
                         "alpha": 0.3})),
    "asymmetric": (
        {"loss": "asymmetric", "asymmetric_gamma_pos": 1,
         "asymmetric_gamma_neg": 2, "asymmetric_clip": 0.1}, asymmetric,
        ("asymmetric", {"label_smoothing": 0.0, "gamma_pos": 1.0,
                        "gamma_neg": 2.0, "clip": 0.1})),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_falls_and_is_reported(bert, data, tmp_path, name,
                                      monkeypatch):
  flags, formula, stored = LOSSES[name]
  monkeypatch.chdir(tmp_path)
  tiny_bert.write_text("weights.json", json.dumps(FILE_WEIGHTS))
  status, stdout, stderr, _ = call(bert, data, "o",
                                   eval_train_sample=TRAIN_SIZE, **flags)
  assert (status, stdout, stderr) == (0, "", "")
  losses = [row["train_loss"] for row in json.loads(tiny_bert.read_text(
      "o/best_checkpoint.json"))["evaluations"]]
  assert len(losses) == 12 and losses[-1] < 0.7 * losses[0]
  truth, scores = read_predictions("o")
  assert read_loss("o") == pytest.approx(
      np.mean(formula(truth.astype(np.float64), scores)), rel=1e-3)
  assert abs(np.mean(cross_entropy(truth, scores)) / read_loss("o") - 1) > 0.01
  assert parameters("o") == stored
  before = read_results("o")
  os.remove("weights.json")  # what was read from it is in the directory
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list({
          "task_name": "jsonl", "data_dir": data, "output_dir": "o",
          "do_eval": True, "report": False}))
  assert (status, stderr) == (0, "")
  assert read_results("o") == before


def test_another_loss_does_not_go_on(bert, data, tmp_path):
  output_dir = tmp_path / "o"
  flags = dict(num_train_epochs=1, max_train_examples=16, loss="weighted")
  assert call(bert, data, output_dir, **flags)[0] == 0

  def difference(**changes):
    message = refused(bert, data, output_dir, **dict(flags, **changes))
    assert "name another --output_dir" in message
    return message

  assert 'loss (there "weighted", here "focal")' in difference(
      loss="focal")
  assert 'loss (there "weighted", here "sigmoid")' in difference(
      loss=None)
  message = difference(label_smoothing=0.1)
  assert ('loss_parameters (there {"label_smoothing": 0.0, ' in
          message)
  assert 'here {"label_smoothing": 0.1, ' in message
  tiny_bert.write_text(tmp_path / "w.tsv", u"fruit\t1\nparty time\t2\n%s\t3\n" %
                       tiny_bert.LABELS[2])
  assert 'here {"label_smoothing": 0.0, "pos_weight": [2.0, 1.0, 3.0]}' in (
      difference(pos_weight_file=tmp_path / "w.tsv"))
  assert '"pos_weight": [1.0, 1.0, 1.0]}' in difference(pos_weight_cap=1)
  status, _, stderr, log = call(bert, data, output_dir, **flags)
  assert (status, stderr) == (0, "")
  assert any("already finished" in line for line in log)


@pytest.mark.parametrize("flags,words", [
    ({"loss": "hinge"}, "sigmoid|weighted|focal|asymmetric"),
    ({"focal_gamma": 3}, "--focal_gamma needs --loss=focal"),
    ({"focal_alpha": 0.5, "loss": "weighted"},
     "--focal_alpha needs --loss=focal"),
    ({"pos_weight_cap": 3}, "--pos_weight_cap needs --loss=weighted"),
    ({"pos_weight_file": "x", "loss": "focal"},
     "--pos_weight_file needs --loss=weighted"),
    ({"asymmetric_clip": 0.1, "loss": "focal"},
     "--asymmetric_clip needs --loss=asymmetric"),
    ({"asymmetric_gamma_pos": 1}, "--asymmetric_gamma_pos needs"),
    ({"asymmetric_gamma_neg": 1}, "--asymmetric_gamma_neg needs"),
    # Out of range.
    ({"label_smoothing": 1}, "label_smoothing is 1.0; it must be"),
    ({"label_smoothing": -0.1}, "label_smoothing is -0.1; it must be"),
    ({"label_smoothing": "nan"}, "label_smoothing is nan; it must be"),
    ({"loss": "focal", "focal_gamma": -1}, "gamma is -1.0; it must be"),
    ({"loss": "focal", "focal_alpha": 2}, "alpha is 2.0; it must be"),
    ({"loss": "asymmetric", "asymmetric_clip": 1}, "clip is 1.0; it must be"),
    ({"loss": "asymmetric", "asymmetric_gamma_neg": -1},
     "gamma_neg is -1.0; it must be"),
    ({"loss": "weighted", "pos_weight_cap": 0.5}, "pos_weight is 0.5"),
    ({"loss": "weighted", "pos_weight_file": "/nothing"}, "/nothing"),
])
def test_parameters_that_cannot_be(bert, data, tmp_path, flags, words):
  assert words in refused(bert, data, tmp_path / "o", **flags)
  assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("content,words", [
    (u'{"fruit": 1, "party time": 2}', u"no weight for"),
    (u'{"fruit": 1, "party time": 2, "zebra": 3, "\u52a8\u7269": 1}',
     "label 'zebra' is not among the labels"),
    (u"fruit\t1\nfruit\t2\n", "label 'fruit' appears twice"),
    (u"fruit\tmuch\n", "is not a number"),
    (u'{"fruit": 0, "party time": 2, "\u52a8\u7269": 1}', "must be a finite"),
    (u"", "no weight for"),
])
def test_weight_files_that_do_not_fit(bert, data, tmp_path, content, words):
  path = tmp_path / "weights"
  tiny_bert.write_text(path, content)
  message = refused(bert, data, tmp_path / "o", loss="weighted",
                    pos_weight_file=path)
  assert words in message and str(path) in message
  assert not (tmp_path / "o").exists()
